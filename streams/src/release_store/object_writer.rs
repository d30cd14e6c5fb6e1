//! Putting an object: chunks pipelined, acknowledged in order, then a meta message that only creates.
//!
//! The order of the chunks on their subject *is* the content, so a put is never resumed: any failure ends it, and its
//! chunks are removed. A crash leaves chunks that nothing refers to, never a visible object that is not whole.

use std::io;

use chrono::Utc;
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use shared::daemon::ErrorChain;
use shared::digest::Sha256Digest;
use thiserror::Error;
use tokio::io::AsyncRead;

use super::chunk_writer::{ChunkWriter, Written};
use super::object_meta::{NewObject, ObjectMeta, StoredObject};
use super::{ReleaseStore, StoreReadError, TransferProgress};
use crate::connection::RequestError;
use crate::jetstream_api::{ApiError, code};

/// Attempts to write the meta message, each bounded by the request time.
const META_ATTEMPTS: usize = 3;

/// An object that was not put.
#[derive(Debug, Error)]
pub enum PutError {
    /// The name is taken. Nothing was changed.
    #[error("object `{}` exists already", existing.name)]
    NameTaken {
        /// What stands there.
        existing: Box<StoredObject>,
    },
    /// The name was used and deleted. Names are written once.
    #[error("object `{name}` existed and was deleted; names are written once")]
    NameDeleted {
        /// The name.
        name: String,
    },
    /// A repair was given other content than the object had.
    #[error("a repair of object `{name}` needs digest `{expected}` but its content has `{actual}`")]
    NotIdentical {
        /// The name.
        name: String,
        /// Digest of the object.
        expected: Sha256Digest,
        /// Digest of the content.
        actual: Sha256Digest,
    },
    /// The content could not be read.
    #[error("the content of object `{name}` cannot be read")]
    Content {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A chunk was not stored. The object does not exist.
    #[error("chunk {chunk} of object `{name}` was not stored")]
    Chunk {
        /// The name.
        name: String,
        /// Which chunk, from 0.
        chunk: u64,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// A chunk was lost on the way, or two were stored in the wrong order: the connection was cut in between.
    /// The object does not exist.
    #[error("chunk {chunk} of object `{name}` was not stored in its order")]
    OutOfOrder {
        /// The name.
        name: String,
        /// Which chunk, from 0.
        chunk: u64,
    },
    /// The meta message was refused. The object does not exist.
    #[error("object `{name}` cannot be announced in the bucket")]
    Meta {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// The meta message got no answer: the object may exist, now or a moment later.
    #[error("whether object `{name}` was stored is unknown")]
    Unknown {
        /// The name.
        name: String,
        /// What ended the last attempt.
        #[source]
        source: ApiError,
    },
    /// What stands under the name cannot be read.
    #[error("what stands under object name `{name}` cannot be read")]
    Existing {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: StoreReadError,
    },
}

impl ReleaseStore {
    /// Stores an object under a new name. Returns only after the server has stored everything; on any error but
    /// [`PutError::Unknown`] the object does not exist.
    pub async fn put(
        &self,
        object: NewObject,
        content: impl AsyncRead + Unpin + Send,
        progress: &dyn TransferProgress,
    ) -> Result<StoredObject, PutError> {
        // The create-only meta message decides; asking first only saves sending everything for nothing.
        self.refuse_taken(&object.name).await?;
        let name = object.name.clone();
        let written = self.write_chunks(&name, content, progress).await?;
        let meta = ObjectMeta::new(object, written, Utc::now());
        self.announce(meta, 0).await
    }

    /// Stores the identical content of an existing object anew, for one whose chunks were lost or altered.
    pub async fn repair(
        &self,
        expected: &StoredObject,
        content: impl AsyncRead + Unpin + Send,
        progress: &dyn TransferProgress,
    ) -> Result<StoredObject, PutError> {
        let name = expected.name.clone();
        let existing = self.meta(&name).await;
        let in_place_of = existing.map_err(|source| PutError::Existing { name: name.clone(), source })?;
        let written = self.write_chunks(&name, content, progress).await?;
        if (written.size, written.sha256) != (expected.size, expected.sha256) {
            self.forget(&written.nuid).await;
            let (expected, actual) = (expected.sha256, written.sha256);
            return Err(PutError::NotIdentical { name, expected, actual });
        }
        let object = NewObject { name, description: expected.description.clone(), metadata: expected.metadata.clone() };
        let replaced = in_place_of.as_ref().map(|(_, meta)| meta.nuid.clone());
        let sequence = in_place_of.map_or(0, |(sequence, _)| sequence);
        let stored = self.announce(ObjectMeta::new(object, written, Utc::now()), sequence).await?;
        if let Some(replaced) = replaced.filter(|nuid| *nuid != stored.nuid) {
            self.forget(&replaced).await;
        }
        Ok(stored)
    }

    async fn refuse_taken(&self, name: &str) -> Result<(), PutError> {
        let existing = self.meta(name).await;
        match existing.map_err(|source| PutError::Existing { name: name.to_owned(), source })? {
            Some((_, meta)) => Err(taken(meta)),
            None => Ok(()),
        }
    }

    async fn write_chunks(
        &self,
        name: &str,
        content: impl AsyncRead + Unpin + Send,
        progress: &dyn TransferProgress,
    ) -> Result<Written, PutError> {
        let nuid = new_nuid();
        let written = ChunkWriter::new(&self.connection, name, nuid.clone()).write(content, progress).await;
        if written.is_err() {
            self.forget(&nuid).await;
        }
        written
    }

    /// Writes the meta message in place of the one with this sequence, and finds out whether it landed.
    async fn announce(&self, meta: ObjectMeta, in_place_of: u64) -> Result<StoredObject, PutError> {
        let name = meta.name.clone();
        let mut uncertain = false;
        let mut attempts_left = META_ATTEMPTS;
        loop {
            let Err(error) = self.write_meta(&meta, in_place_of).await else { return Ok(meta.into_stored()) };
            match &error {
                ApiError::Refused(refusal) if refusal.err_code == code::WRONG_LAST_SEQUENCE => {
                    return self.settle_taken(meta).await;
                }
                ApiError::Refused(_)
                | ApiError::Request(RequestError::PermissionDenied { .. } | RequestError::NoResponders { .. })
                    if !uncertain =>
                {
                    self.forget(&meta.nuid).await;
                    return Err(PutError::Meta { name, source: error });
                }
                ApiError::Refused(_) | ApiError::Request(_) | ApiError::NoLeader(_) | ApiError::Malformed { .. } => {
                    uncertain = true;
                }
            }
            let limit = self.connection.request_timeout();
            attempts_left -= 1;
            if attempts_left == 0 || !self.connection.wait_until_connected(limit).await {
                return Err(PutError::Unknown { name, source: error });
            }
        }
    }

    /// Something stands under the name: ours from an earlier attempt, or somebody else's.
    async fn settle_taken(&self, meta: ObjectMeta) -> Result<StoredObject, PutError> {
        let name = meta.name.clone();
        let existing = self.meta(&name).await;
        match existing.map_err(|source| PutError::Existing { name: name.clone(), source })? {
            Some((_, existing)) if existing.nuid == meta.nuid => Ok(meta.into_stored()),
            Some((_, existing)) => {
                self.forget(&meta.nuid).await;
                Err(taken(existing))
            }
            None => {
                self.forget(&meta.nuid).await;
                Err(PutError::NameDeleted { name })
            }
        }
    }

    /// Removes chunks that nothing refers to; where that fails, they stay and cost only room.
    async fn forget(&self, nuid: &str) {
        if let Err(error) = self.purge_chunks(nuid).await {
            tracing::warn!(nuid, error = %ErrorChain(&error), "chunks of an unfinished object stay in the bucket");
        }
    }
}

fn taken(meta: ObjectMeta) -> PutError {
    if meta.deleted {
        PutError::NameDeleted { name: meta.name }
    } else {
        PutError::NameTaken { existing: Box::new(meta.into_stored()) }
    }
}

/// 22 letters and digits, as the standard's writers use.
fn new_nuid() -> String {
    rand::rng().sample_iter(Alphanumeric).take(22).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_writes_are_subject_tokens() {
        let nuid = new_nuid();
        assert!(nuid.len() == 22 && nuid.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(nuid, new_nuid());
    }
}
