//! The chunks of one object on their way: pipelined, acknowledged in order.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use shared::digest::Sha256Digest;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::background_digest::BackgroundDigest;
use super::object_meta::chunk_subject;
use super::{CHUNK_SIZE, PutError, TransferProgress};
use crate::connection::{Answers, Connection, RequestError};
use crate::jetstream_api::{ApiError, PublishAck, parse_answer};

/// Chunks that may be unacknowledged at one time: 8 MiB under way hide the round trip.
const WINDOW: usize = 32;

/// Chunks that are stored and not yet announced.
pub(super) struct Written {
    pub(super) nuid: String,
    pub(super) size: u64,
    pub(super) chunks: u64,
    pub(super) sha256: Sha256Digest,
}

/// Sends the chunks of one object.
pub(super) struct ChunkWriter<'a> {
    connection: &'a Connection,
    name: &'a str,
    nuid: String,
    /// The chunks' subject.
    subject: String,
    inbox: String,
    /// Index and size of the chunks sent and not yet acknowledged.
    unacknowledged: VecDeque<(u64, u64)>,
    last_sequence: u64,
}

impl<'a> ChunkWriter<'a> {
    pub(super) fn new(connection: &'a Connection, name: &'a str, nuid: String) -> Self {
        let (subject, inbox) = (chunk_subject(&nuid), connection.new_inbox());
        Self {
            connection,
            name,
            nuid,
            subject,
            inbox,
            unacknowledged: VecDeque::with_capacity(WINDOW),
            last_sequence: 0,
        }
    }

    /// Sends the whole content and returns once all of it is stored.
    pub(super) async fn write(
        mut self,
        mut content: impl AsyncRead + Unpin,
        progress: &dyn TransferProgress,
    ) -> Result<Written, PutError> {
        let mut answers = self.subscribe().await?;
        let hashing = BackgroundDigest::start();
        let (mut chunks, mut size) = (0, 0);
        loop {
            let chunk = read_chunk(&mut content)
                .await
                .map_err(|source| PutError::Content { name: self.name.to_owned(), source })?;
            let Some(chunk) = chunk else { break };
            if self.unacknowledged.len() == WINDOW {
                self.await_ack(&mut answers, progress).await?;
            }
            size += chunk.len() as u64;
            hashing.update(chunk.clone()).await;
            self.send(chunks, chunk).await?;
            chunks += 1;
        }
        while !self.unacknowledged.is_empty() {
            self.await_ack(&mut answers, progress).await?;
        }
        let sha256 =
            hashing.finish().await.map_err(|source| PutError::Content { name: self.name.to_owned(), source })?;
        Ok(Written { nuid: self.nuid, size, chunks, sha256 })
    }

    pub(super) async fn subscribe(&self) -> Result<Answers, PutError> {
        let answers = self.connection.answers(&self.subject, format!("{}.*", self.inbox)).await;
        answers.map_err(|error| self.failed(0, ApiError::Request(error)))
    }

    /// Sends one chunk. Its acknowledgement comes back under its number, so that one that is lost is noticed.
    pub(super) async fn send(&mut self, chunk: u64, bytes: Bytes) -> Result<(), PutError> {
        let size = bytes.len() as u64;
        let sent = self.connection.send(&self.subject, format!("{}.{chunk}", self.inbox), bytes).await;
        sent.map_err(|error| self.failed(chunk, ApiError::Request(error)))?;
        self.unacknowledged.push_back((chunk, size));
        Ok(())
    }

    /// Waits for the oldest unacknowledged chunk. Anything else than that chunk, stored behind its predecessor,
    /// ends the put.
    pub(super) async fn await_ack(
        &mut self,
        answers: &mut Answers,
        progress: &dyn TransferProgress,
    ) -> Result<(), PutError> {
        let Some((chunk, size)) = self.unacknowledged.pop_front() else { return Ok(()) };
        let answer = answers.next().await.map_err(|error| self.failed(chunk, ApiError::Request(error)))?;
        if answer.status.is_some() {
            let subject = self.subject.clone();
            return Err(self.failed(chunk, ApiError::Request(RequestError::NoResponders { subject })));
        }
        let ack: PublishAck =
            parse_answer(&self.subject, &answer.payload).map_err(|error| self.failed(chunk, error))?;
        let expected = format!("{}.{chunk}", self.inbox);
        if answer.subject.as_str() != expected || ack.sequence <= self.last_sequence {
            return Err(PutError::OutOfOrder { name: self.name.to_owned(), chunk });
        }
        self.last_sequence = ack.sequence;
        progress.advanced(size);
        Ok(())
    }

    fn failed(&self, chunk: u64, source: ApiError) -> PutError {
        PutError::Chunk { name: self.name.to_owned(), chunk, source }
    }
}

/// The next full chunk, or what is left; `None` at the end. Never empty: other clients count chunks.
async fn read_chunk(content: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut chunk = BytesMut::with_capacity(CHUNK_SIZE);
    while chunk.len() < CHUNK_SIZE {
        let missing = (CHUNK_SIZE - chunk.len()) as u64;
        if content.take(missing).read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok((!chunk.is_empty()).then(|| chunk.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_are_full_whatever_the_reader_gives_and_none_is_empty() {
        let content = vec![7_u8; CHUNK_SIZE * 2 + 5];
        let mut reader = slow_reader(&content);
        let mut sizes = Vec::new();
        while let Some(chunk) = read_chunk(&mut reader).await.unwrap() {
            sizes.push(chunk.len());
        }
        assert_eq!(sizes, [CHUNK_SIZE, CHUNK_SIZE, 5]);
        assert_eq!(read_chunk(&mut &b""[..]).await.unwrap(), None);
    }

    /// Gives at most 4,000 bytes a read.
    fn slow_reader(content: &[u8]) -> impl AsyncRead + Unpin {
        let (mut sender, receiver) = tokio::io::duplex(4000);
        let content = content.to_vec();
        tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut sender, &content).await;
        });
        receiver
    }
}
