//! The chunks of one object on their way: read and hashed ahead, pipelined, acknowledged in order.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use shared::digest::Sha256Digest;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use super::background_digest::BackgroundDigest;
use super::object_meta::chunk_subject;
use super::{CHUNK_SIZE, PutError, TransferProgress};
use crate::connection::{Answers, Connection, RequestError};
use crate::jetstream_api::{ApiError, PublishAck, parse_answer};

/// Bytes that may be unacknowledged at one time: enough to hide the round trip and the sync of each chunk.
const WINDOW: usize = 8 * 1024 * 1024;
/// Chunks that are read before they can be sent.
const READ_AHEAD: usize = 2;
/// What a message may need beside its payload.
const MESSAGE_OVERHEAD: usize = 16 * 1024;
/// No server takes less.
const SMALLEST_CHUNK: usize = 4 * 1024;

/// Chunks that are stored and not yet announced.
pub(super) struct Written {
    pub(super) nuid: String,
    pub(super) size: u64,
    pub(super) chunks: u64,
    /// Bytes of every chunk but the last.
    pub(super) chunk_size: usize,
    pub(super) sha256: Sha256Digest,
}

/// Sends the chunks of one object.
pub(super) struct ChunkWriter<'a> {
    connection: &'a Connection,
    name: &'a str,
    nuid: String,
    chunk_size: usize,
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
            chunk_size: chunk_size(connection.max_payload()),
            subject,
            inbox,
            unacknowledged: VecDeque::new(),
            last_sequence: 0,
        }
    }

    /// Sends the whole content and returns once all of it is stored. Holds the window, what is read ahead, and what waits
    /// to be hashed in memory, whatever the size.
    pub(super) async fn write(
        mut self,
        mut content: impl AsyncRead + Unpin,
        progress: &dyn TransferProgress,
    ) -> Result<Written, PutError> {
        let (name, chunk_size) = (self.name, self.chunk_size);
        let unreadable = |source| PutError::Content { name: name.to_owned(), source };
        let hashing = BackgroundDigest::start();
        let (ahead, chunks) = mpsc::channel(READ_AHEAD);
        let reading = async {
            while let Some(chunk) = read_chunk(&mut content, chunk_size).await.map_err(unreadable)? {
                hashing.update(chunk.clone()).await;
                if ahead.send(chunk).await.is_err() {
                    break;
                }
            }
            drop(ahead);
            hashing.finish().await.map_err(unreadable)
        };
        let (sha256, (chunks, size)) = tokio::try_join!(reading, self.send_all(chunks, progress))?;
        Ok(Written { nuid: self.nuid, size, chunks, chunk_size, sha256 })
    }

    /// Sends what comes until nothing more does and all of it is stored. Returns number and bytes of the chunks.
    async fn send_all(
        &mut self,
        mut chunks: mpsc::Receiver<Bytes>,
        progress: &dyn TransferProgress,
    ) -> Result<(u64, u64), PutError> {
        let mut answers = self.subscribe().await?;
        let (window, mut count, mut size) = ((WINDOW / self.chunk_size).max(2), 0, 0);
        while let Some(chunk) = chunks.recv().await {
            if self.unacknowledged.len() == window {
                self.await_ack(&mut answers, progress).await?;
            }
            size += chunk.len() as u64;
            self.send(count, chunk).await?;
            count += 1;
        }
        while !self.unacknowledged.is_empty() {
            self.await_ack(&mut answers, progress).await?;
        }
        Ok((count, size))
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

/// How large chunks may be for a server that takes messages of this size.
fn chunk_size(max_payload: usize) -> usize {
    CHUNK_SIZE.min(max_payload.saturating_sub(MESSAGE_OVERHEAD)).max(SMALLEST_CHUNK)
}

/// The next full chunk, or what is left; `None` at the end. Never empty: other clients count chunks.
async fn read_chunk(content: &mut (impl AsyncRead + Unpin), size: usize) -> io::Result<Option<Bytes>> {
    let mut chunk = BytesMut::with_capacity(size);
    while chunk.len() < size {
        let missing = (size - chunk.len()) as u64;
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
        while let Some(chunk) = read_chunk(&mut reader, CHUNK_SIZE).await.unwrap() {
            sizes.push(chunk.len());
        }
        assert_eq!(sizes, [CHUNK_SIZE, CHUNK_SIZE, 5]);
        assert_eq!(read_chunk(&mut &b""[..], CHUNK_SIZE).await.unwrap(), None);
    }

    #[test]
    fn chunks_fit_the_server_with_room_for_headers() {
        assert_eq!(chunk_size(1024 * 1024), CHUNK_SIZE);
        assert_eq!(chunk_size(64 * 1024 * 1024), CHUNK_SIZE, "every reader can hold them");
        assert_eq!(chunk_size(256 * 1024), 240 * 1024);
        assert_eq!(chunk_size(0), SMALLEST_CHUNK);
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
