//! Reading an object by batched Direct Get: no consumer on the server, no hang when chunks are gone. The next batch is
//! asked for while the one before it still arrives, so that a line with latency stays full.
//!
//! What is read is hashed on the way and compared with what the caller expects, never with what the bucket claims
//! about itself.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use shared::digest::Sha256Digest;
use shared::event::ObjectReference;
use thiserror::Error;

use super::background_digest::BackgroundDigest;
use super::batches::{Ahead, Batches};
use super::object_meta::chunk_subject;
use super::{ReleaseStore, StoreReadError, StoredObject};
use crate::connection::Connection;
use crate::direct_get::{BatchReading, DirectGetError, DirectGetRequest, MAX_BATCH_BYTES, Part};
use crate::layout::release_stream;

/// An object that could not be read as expected.
#[derive(Debug, Error)]
pub enum FetchError {
    /// There is no such object.
    #[error("object `{object}` is not in the bucket")]
    NotFound {
        /// The object.
        object: String,
    },
    /// The description of the object cannot be read.
    #[error("object `{object}` cannot be looked up")]
    LookUp {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: StoreReadError,
    },
    /// A read failed.
    #[error("object `{object}` cannot be read beyond byte {offset}")]
    Read {
        /// The object.
        object: String,
        /// How much was read.
        offset: u64,
        /// Why.
        #[source]
        source: DirectGetError,
    },
    /// The object has fewer or more bytes than expected.
    #[error("object `{object}` has {} bytes, expected {expected}", actual_size(*.actual, *.expected))]
    SizeMismatch {
        /// The object.
        object: String,
        /// The expected size.
        expected: u64,
        /// How many were found; reading stops at the first chunk beyond the expected size.
        actual: u64,
    },
    /// The object's content is not the expected one.
    #[error("object `{object}` has digest `{actual}`, expected `{expected}`")]
    DigestMismatch {
        /// The object.
        object: String,
        /// The expected digest.
        expected: Sha256Digest,
        /// The digest of what was read.
        actual: Sha256Digest,
    },
    /// The hashing thread ended early.
    #[error("object `{object}` could not be hashed")]
    Hashing {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn actual_size(actual: u64, expected: u64) -> String {
    if actual > expected { format!("at least {actual}") } else { actual.to_string() }
}

impl FetchError {
    /// Whether the content itself is wrong, as opposed to not available: trying again would not help.
    pub fn is_wrong_content(&self) -> bool {
        match self {
            Self::SizeMismatch { .. } | Self::DigestMismatch { .. } => true,
            Self::NotFound { .. } | Self::LookUp { .. } | Self::Read { .. } | Self::Hashing { .. } => false,
        }
    }
}

/// An object on its way. Nothing of it may be used before [`ObjectStream::next_chunk`] has returned `None`.
pub struct ObjectStream {
    connection: Connection,
    described: StoredObject,
    expected: ObjectReference,
    received: u64,
    batches: Batches,
    /// As `batches` counts them: at most two.
    under_way: VecDeque<BatchReading>,
    hashing: Option<BackgroundDigest>,
    compares_digest: bool,
}

impl ObjectStream {
    pub(super) async fn open(store: &ReleaseStore, expected: &ObjectReference) -> Result<Self, FetchError> {
        let described = store
            .info(&expected.name)
            .await
            .map_err(|source| FetchError::LookUp { object: expected.name.clone(), source })?
            .ok_or_else(|| FetchError::NotFound { object: expected.name.clone() })?;
        Ok(Self {
            connection: store.connection.clone(),
            batches: Batches::new(described.size, described.chunks),
            described,
            expected: expected.clone(),
            received: 0,
            under_way: VecDeque::new(),
            hashing: Some(BackgroundDigest::start()),
            compares_digest: true,
        })
    }

    /// The same without comparing the digest at the end. The size still counts.
    pub(super) fn without_digest(self) -> Self {
        Self { compares_digest: false, ..self }
    }

    /// What the bucket says about the object; nothing of it is checked.
    pub fn described(&self) -> &StoredObject {
        &self.described
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next bytes; `None` once all were received and size and digest are as expected.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        if self.hashing.is_none() {
            return Ok(None);
        }
        if self.received < self.expected.size
            && let Some(chunk) = self.receive().await?
        {
            self.received += chunk.len() as u64;
            if self.received > self.expected.size {
                return Err(self.wrong_size());
            }
            if let Some(hashing) = &self.hashing {
                hashing.update(chunk.clone()).await;
            }
            return Ok(Some(chunk));
        }
        self.finish().await.map(|()| None)
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            while let Some(from) = self.batches.to_ask_for() {
                let reading = self.start_batch(from).await?;
                self.under_way.push_back(reading);
                self.batches.asked(from);
            }
            let Some(reading) = self.under_way.front_mut() else { return Ok(None) };
            match reading.next().await.map_err(|source| self.failed(source))? {
                Part::Message(message) => {
                    if self.batches.arrived(message.sequence) {
                        return Ok(Some(message.payload));
                    }
                }
                Part::End { pending, .. } => {
                    self.under_way.pop_front();
                    if self.batches.ended(pending) == Ahead::Useless {
                        self.under_way.clear();
                    }
                }
                Part::Nothing => {
                    self.under_way.clear();
                    self.batches.nothing();
                }
            }
        }
    }

    async fn start_batch(&self, from: u64) -> Result<BatchReading, FetchError> {
        let request = DirectGetRequest {
            sequence: Some(from),
            next_by_subj: Some(chunk_subject(&self.described.nuid)),
            batch: Some(self.batches.length),
            max_bytes: Some(MAX_BATCH_BYTES),
            ..DirectGetRequest::default()
        };
        let reading = BatchReading::start(&self.connection, &release_stream(), &request).await;
        reading.map_err(|source| self.failed(source))
    }

    async fn finish(&mut self) -> Result<(), FetchError> {
        if self.received != self.expected.size {
            return Err(self.wrong_size());
        }
        let Some(hashing) = self.hashing.take() else { return Ok(()) };
        let object = || self.expected.name.clone();
        let actual = hashing.finish().await.map_err(|source| FetchError::Hashing { object: object(), source })?;
        if actual == self.expected.sha256 || !self.compares_digest {
            Ok(())
        } else {
            Err(FetchError::DigestMismatch { object: object(), expected: self.expected.sha256, actual })
        }
    }

    fn wrong_size(&self) -> FetchError {
        FetchError::SizeMismatch {
            object: self.expected.name.clone(),
            expected: self.expected.size,
            actual: self.received,
        }
    }

    fn failed(&self, source: DirectGetError) -> FetchError {
        FetchError::Read { object: self.expected.name.clone(), offset: self.received, source }
    }
}
