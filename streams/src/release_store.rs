//! The object store bucket that holds releases: names written once, read without consumers, every byte hashed.
//!
//! The layout is the standard one (ADR-20), so that `nats object ls/info/get` and other clients read it. An object
//! becomes visible only with its meta message, which is written after all its chunks are stored.

mod background_digest;
mod batches;
mod chunk_writer;
mod multicast;
mod object_meta;
mod object_reader;
mod object_writer;
mod orphans;
mod repeated_put;
mod tamper;

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use shared::daemon::ErrorChain;
use shared::event::ObjectReference;
use shared::verification::EmergencyFlag;
use thiserror::Error;

use self::multicast::Multicast;
pub use self::multicast::{MulticastSettings, PlacedChunk, SharedReadError, SharedReading};
use self::object_meta::ObjectMeta;
pub use self::object_meta::{MetaError, NewObject, StoredObject};
pub use self::object_reader::{FetchError, ObjectStream};
pub use self::object_writer::PutError;
pub use self::orphans::{OrphanError, OrphanedWrite, OrphanedWrites};
pub use self::tamper::{TamperError, Tampering};
use crate::connection::Connection;
use crate::direct_get::{self, DirectGetError, DirectGetRequest, MAX_BATCH, MAX_BATCH_BYTES};
use crate::jetstream_api::{ApiError, PublishAck, api_request_once, publish};
use crate::layout::release_stream;

/// Size of every chunk but an object's last, where the server takes messages of that size. Each is synced on its own, so
/// large ones are stored fastest; 64 KiB below the usual limit of a message leave room for headers on every way.
pub const CHUNK_SIZE: usize = 960 * 1024;

/// A question about the bucket without answer.
#[derive(Debug, Error)]
pub enum StoreReadError {
    /// The bucket cannot be read.
    #[error("the release bucket cannot be read")]
    Read(#[source] DirectGetError),
    /// What stands under the name is no valid description of an object.
    #[error("the meta message of object `{name}` is not valid")]
    Meta {
        /// The object.
        name: String,
        /// Why.
        #[source]
        source: MetaError,
    },
}

/// Hears of bytes as they are confirmed (put) or received (read).
pub trait TransferProgress: Send + Sync {
    /// So many more bytes are through.
    fn advanced(&self, bytes: u64);
}

/// Nobody listens.
impl TransferProgress for () {
    fn advanced(&self, _bytes: u64) {}
}

/// The release bucket. Clones share the connection.
#[derive(Debug, Clone)]
pub struct ReleaseStore {
    connection: Connection,
    /// How large objects are read together with other nodes, where they are.
    multicast: Option<Arc<Multicast>>,
}

impl ReleaseStore {
    /// The bucket behind a connection. Sends nothing.
    pub fn new(connection: Connection) -> Self {
        Self { connection, multicast: None }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What is stored under a name. Any replica may answer.
    pub async fn info(&self, name: &str) -> Result<Option<StoredObject>, StoreReadError> {
        Ok(self.meta(name).await?.filter(|(_, meta)| !meta.deleted).map(|(_, meta)| meta.into_stored()))
    }

    /// Everything whose name begins with a prefix, by age. Any replica may answer. What is no object is left out and
    /// logged.
    pub async fn list(&self, prefix: &str) -> Result<Vec<StoredObject>, StoreReadError> {
        let mut objects = Vec::new();
        let mut from = 1;
        loop {
            let request = DirectGetRequest {
                sequence: Some(from),
                next_by_subj: Some(object_meta::all_subjects()),
                batch: Some(MAX_BATCH),
                max_bytes: Some(MAX_BATCH_BYTES),
                ..DirectGetRequest::default()
            };
            let batch =
                direct_get::batch(&self.connection, &release_stream(), &request).await.map_err(StoreReadError::Read)?;
            let last = batch.messages.last().map(|message| message.sequence);
            for message in batch.messages {
                match ObjectMeta::parse(&message.payload) {
                    Ok(meta) if !meta.deleted && meta.name.starts_with(prefix) => objects.push(meta.into_stored()),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(
                            subject = %message.subject,
                            error = %ErrorChain(&error),
                            "what stands in the release bucket is no object"
                        );
                    }
                }
            }
            match last {
                Some(last) if batch.more => from = last + 1,
                Some(_) | None => return Ok(objects),
            }
        }
    }

    /// Begins to read an object that must have this size and digest. Nothing is handed out beyond the size; a wrong
    /// digest shows at the end, so what was read until then must not be used.
    pub async fn open(&self, expected: &ObjectReference) -> Result<ObjectStream, FetchError> {
        ObjectStream::open(self, expected).await
    }

    /// Begins to read an object that must have this size, whatever its digest. For the emergency flag alone, which is why
    /// it is asked for.
    pub async fn open_without_digest(
        &self,
        expected: &ObjectReference,
        _flag: EmergencyFlag,
    ) -> Result<ObjectStream, FetchError> {
        Ok(ObjectStream::open(self, expected).await?.without_digest())
    }

    /// Reads a small object whole, checked like [`ReleaseStore::open`].
    pub async fn read(&self, expected: &ObjectReference) -> Result<Vec<u8>, FetchError> {
        let mut stream = self.open(expected).await?;
        let mut content = Vec::new();
        while let Some(chunk) = stream.next_chunk().await? {
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    }

    /// Reads an object whole and keeps nothing: succeeds where it has the expected size and digest.
    pub async fn check(&self, expected: &ObjectReference, progress: &dyn TransferProgress) -> Result<(), FetchError> {
        let mut stream = self.open(expected).await?;
        while let Some(chunk) = stream.next_chunk().await? {
            progress.advanced(chunk.len() as u64);
        }
        Ok(())
    }

    /// The meta message of a name, deleted or not, with its stream sequence.
    async fn meta(&self, name: &str) -> Result<Option<(u64, ObjectMeta)>, StoreReadError> {
        let subject = object_meta::meta_subject(name);
        let message = direct_get::last_message(&self.connection, &release_stream(), &subject)
            .await
            .map_err(StoreReadError::Read)?;
        let Some(message) = message else { return Ok(None) };
        let meta = ObjectMeta::parse(&message.payload)
            .map_err(|source| StoreReadError::Meta { name: name.to_owned(), source })?;
        Ok(Some((message.sequence, meta)))
    }

    /// Writes a meta message in place of the one with this sequence; 0 stands for none.
    async fn write_meta(&self, meta: &ObjectMeta, in_place_of: u64) -> Result<PublishAck, ApiError> {
        let subject = object_meta::meta_subject(&meta.name);
        let body =
            serde_json::to_vec(meta).map_err(|source| ApiError::Malformed { subject: subject.clone(), source })?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        headers.insert("Nats-Expected-Last-Subject-Sequence", in_place_of.to_string());
        publish(&self.connection, &subject, headers, Bytes::from(body)).await
    }

    /// Removes all chunks of one write.
    async fn purge_chunks(&self, nuid: &str) -> Result<(), ApiError> {
        #[derive(Deserialize)]
        struct Purged {}
        let operation = format!("STREAM.PURGE.{}", release_stream());
        let filter = serde_json::json!({ "filter": object_meta::chunk_subject(nuid) });
        api_request_once::<Purged>(&self.connection, &operation, &filter).await.map(|Purged {}| ())
    }
}

impl StoredObject {
    /// How events name this object.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference { name: self.name.clone(), size: self.size, sha256: self.sha256 }
    }
}
