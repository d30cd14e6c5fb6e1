//! Hashing beside the network, on a thread that may block.

use std::io;

use bytes::Bytes;
use shared::digest::{DigestBuilder, Sha256Digest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Chunks that may wait to be hashed; a chunk may have a megabyte.
const WAITING: usize = 4;

/// The digest of chunks handed over one by one.
pub(super) struct BackgroundDigest {
    chunks: mpsc::Sender<Bytes>,
    digest: JoinHandle<Sha256Digest>,
}

impl BackgroundDigest {
    pub(super) fn start() -> Self {
        let (chunks, mut received) = mpsc::channel::<Bytes>(WAITING);
        let digest = tokio::task::spawn_blocking(move || {
            let mut digest = DigestBuilder::default();
            while let Some(chunk) = received.blocking_recv() {
                digest.update(&chunk);
            }
            digest.finish()
        });
        Self { chunks, digest }
    }

    pub(super) async fn update(&self, chunk: Bytes) {
        // The thread ends only when this sender is dropped.
        let _ = self.chunks.send(chunk).await;
    }

    pub(super) async fn finish(self) -> io::Result<Sha256Digest> {
        drop(self.chunks);
        self.digest.await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashing_beside_the_transfer_gives_the_digest_of_all() {
        let hashing = BackgroundDigest::start();
        hashing.update(Bytes::from_static(b"a")).await;
        hashing.update(Bytes::from_static(b"bc")).await;
        assert_eq!(hashing.finish().await.unwrap(), Sha256Digest::of(b"abc"));
    }
}
