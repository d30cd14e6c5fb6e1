//! Altering a stored object on purpose: the drill by which the demo and the tests show that agents notice.
//!
//! Never called by anything that publishes or fetches. Needs operator rights, like any write to the bucket.

use bytes::Bytes;
use shared::digest::{DigestBuilder, Sha256Digest};
use thiserror::Error;

use super::chunk_writer::ChunkWriter;
use super::object_meta::chunk_subject;

use super::{PutError, ReleaseStore, StoreReadError};
use crate::direct_get::{self, DirectGetError, DirectGetRequest, MAX_BATCH_BYTES};
use crate::jetstream_api::ApiError;
use crate::layout::release_stream;

/// What is altered beside the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tampering {
    /// The meta message stays: it describes the content as it was.
    KeepMeta,
    /// The meta message is written anew and describes the altered content.
    RecomputeMeta,
}

/// An object that could not be altered.
#[derive(Debug, Error)]
pub enum TamperError {
    /// There is no such object.
    #[error("object `{object}` is not in the bucket")]
    NotFound {
        /// The object.
        object: String,
    },
    /// The object's description cannot be read.
    #[error("the object cannot be looked up")]
    LookUp(#[source] StoreReadError),
    /// Its chunks cannot be read.
    #[error("the object's chunks cannot be read")]
    Read(#[source] DirectGetError),
    /// The server refuses the change.
    #[error("the object cannot be changed")]
    Change(#[source] ApiError),
    /// The altered chunks could not be written.
    #[error("the altered chunks could not be written")]
    Write(#[source] PutError),
}

impl ReleaseStore {
    /// Replaces every chunk of an object by one of the same size with other bytes, in place. Returns the digest of
    /// the altered content.
    pub async fn tamper(&self, name: &str, tampering: Tampering) -> Result<Sha256Digest, TamperError> {
        let found = self.meta(name).await.map_err(TamperError::LookUp)?;
        let Some((sequence, meta)) = found.filter(|(_, meta)| !meta.deleted) else {
            return Err(TamperError::NotFound { object: name.to_owned() });
        };
        let chunks = self.all_chunks(&meta.nuid).await?;
        self.purge_chunks(&meta.nuid).await.map_err(TamperError::Change)?;

        let mut digest = DigestBuilder::default();
        let mut writer = ChunkWriter::new(&self.connection, name, meta.nuid.clone());
        let mut answers = writer.subscribe().await.map_err(TamperError::Write)?;
        for (index, chunk) in (0..).zip(chunks) {
            let altered = altered(&chunk);
            digest.update(&altered);
            writer.send(index, altered).await.map_err(TamperError::Write)?;
            writer.await_ack(&mut answers, &()).await.map_err(TamperError::Write)?;
        }
        let digest = digest.finish();
        if tampering == Tampering::RecomputeMeta {
            self.write_meta(&meta.with_digest(digest), sequence).await.map_err(TamperError::Change)?;
        }
        Ok(digest)
    }

    async fn all_chunks(&self, nuid: &str) -> Result<Vec<Bytes>, TamperError> {
        let mut chunks = Vec::new();
        let mut from = 1;
        loop {
            let request = DirectGetRequest {
                sequence: Some(from),
                next_by_subj: Some(chunk_subject(nuid)),
                batch: Some(16),
                max_bytes: Some(MAX_BATCH_BYTES),
                ..DirectGetRequest::default()
            };
            let batch =
                direct_get::batch(&self.connection, &release_stream(), &request).await.map_err(TamperError::Read)?;
            from = batch.messages.last().map_or(from, |message| message.sequence + 1);
            let more = batch.more && !batch.messages.is_empty();
            chunks.extend(batch.messages.into_iter().map(|message| message.payload));
            if !more {
                return Ok(chunks);
            }
        }
    }
}

/// The same size, the byte in the middle moved on by one: altering twice does not restore the original.
fn altered(chunk: &Bytes) -> Bytes {
    let mut bytes = chunk.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte = byte.wrapping_add(1);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn altered_bytes_have_the_same_size_and_differ() {
        for original in [&b"x"[..], b"xy", &[0; 1000]] {
            let original = Bytes::copy_from_slice(original);
            let altered = altered(&original);
            assert_eq!(altered.len(), original.len());
            assert_ne!(altered, original);
            assert_ne!(super::altered(&altered), original);
        }
    }
}
