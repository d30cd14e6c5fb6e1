//! As many bare clients as there are agents, and what they do: the floors and the naive way.
//!
//! None of them reports, remembers or verifies more than is said here, so each is less than what an agent does.

use std::fs::{self, File};
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::{Client, Subscriber, jetstream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use shared::digest::Sha256Digest;
use shared::subjects::RELEASE_BUCKET;
use tokio::io::AsyncReadExt as _;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::measurement::Samples;
use crate::sample_releases::PublishedRelease;

/// Bytes in one message: as large as the product's chunks.
const CHUNK: usize = 256 * 1024;
/// What no way may take longer than.
const LIMIT: Duration = Duration::from_mins(10);
const SUBJECT: &str = "bench.raw";

/// What a bare subscriber does with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Receives them.
    Wire,
    /// Receives, hashes, writes, fsyncs and renames them.
    Disk,
}

/// Connected bare clients.
pub(crate) struct RawFleet {
    sender: Client,
    clients: Vec<Client>,
    directory: PathBuf,
    rounds: u64,
}

impl RawFleet {
    /// Connects them, spread over the servers of a comma-separated list.
    pub(crate) async fn connect(url: &str, directory: &Path, clients: usize) -> anyhow::Result<Self> {
        let mut connected = Vec::with_capacity(clients);
        let servers: Vec<&str> = url.split(',').collect();
        for number in 0..clients {
            let server = servers[number % servers.len()];
            connected.push(async_nats::connect(server).await.context("a bare client cannot connect")?);
        }
        let sender = async_nats::connect(servers[0]).await.context("a bare client cannot connect")?;
        Ok(Self { sender, clients: connected, directory: directory.to_owned(), rounds: 0 })
    }

    /// Sends the bytes to all at once; milliseconds from the first send until each was done.
    pub(crate) async fn floor(&mut self, content: &Bytes, floor: Floor) -> anyhow::Result<Samples> {
        self.rounds += 1;
        let digest = Sha256Digest::of(content);
        let (expected, round) = (content.len(), self.rounds);
        let listeners = self.listen().await?;
        let begun = Instant::now();
        let mut done = JoinSet::new();
        for (number, mut messages) in listeners.into_iter().enumerate() {
            let place = self.directory.join(format!("floor-{number}"));
            done.spawn(async move {
                let mut received = Vec::with_capacity(expected);
                while received.len() < expected {
                    let message = timeout(LIMIT, messages.next()).await?.context("a subscription ended")?;
                    received.extend_from_slice(&message.payload);
                }
                if floor == Floor::Disk {
                    spawn_blocking(move || keep(&place, round, &received, digest)).await??;
                } else {
                    ensure!(received.len() == expected, "a bare subscriber got {} bytes", received.len());
                }
                anyhow::Ok(begun.elapsed())
            });
        }
        for chunk in content.chunks(CHUNK) {
            self.sender.publish(SUBJECT, content.slice_ref(chunk)).await?;
        }
        self.sender.flush().await?;
        all(done).await
    }

    /// Tells all at once of a release; each then reads its archive through the client library's object store, hashes,
    /// unpacks and fsyncs it. Milliseconds from the telling until each was done.
    pub(crate) async fn naive(&mut self, release: &PublishedRelease) -> anyhow::Result<Samples> {
        self.rounds += 1;
        let (archive, round) = (release.published.archive.clone(), self.rounds);
        let listeners = self.listen().await?;
        let begun = Instant::now();
        let mut done = JoinSet::new();
        for ((number, mut messages), client) in listeners.into_iter().enumerate().zip(&self.clients) {
            let (client, archive) = (client.clone(), archive.clone());
            let place = self.directory.join(format!("naive-{number}"));
            done.spawn(async move {
                timeout(LIMIT, messages.next()).await?.context("a subscription ended")?;
                let received = library_get(&client, &archive.name).await?;
                ensure!(Sha256Digest::of(&received) == archive.sha256, "the client library gave other bytes");
                spawn_blocking(move || unpack(&place, round, &received)).await??;
                anyhow::Ok(begun.elapsed())
            });
        }
        self.sender.publish(SUBJECT, Bytes::from_static(b"go")).await?;
        self.sender.flush().await?;
        all(done).await
    }

    /// Sends a short message to all; each makes a link and renames it over `current`, durably.
    pub(crate) async fn flip_floor(&mut self, message: &Bytes, floor: Floor) -> anyhow::Result<Samples> {
        self.rounds += 1;
        let round = self.rounds;
        let listeners = self.listen().await?;
        let begun = Instant::now();
        let mut done = JoinSet::new();
        for (number, mut messages) in listeners.into_iter().enumerate() {
            let place = self.directory.join(format!("flip-{number}"));
            done.spawn(async move {
                timeout(LIMIT, messages.next()).await?.context("a subscription ended")?;
                if floor == Floor::Disk {
                    spawn_blocking(move || flip(&place, round)).await??;
                }
                anyhow::Ok(begun.elapsed())
            });
        }
        self.sender.publish(SUBJECT, message.clone()).await?;
        self.sender.flush().await?;
        all(done).await
    }

    /// A subscription of each client that the server knows of.
    async fn listen(&self) -> anyhow::Result<Vec<Subscriber>> {
        let mut listeners = Vec::with_capacity(self.clients.len());
        for client in &self.clients {
            listeners.push(client.subscribe(SUBJECT).await?);
        }
        for client in &self.clients {
            // An answer to a ping comes after the subscription was taken.
            timeout(LIMIT, client.flush()).await??;
            let inbox = client.new_inbox();
            let mut echo = client.subscribe(inbox.clone()).await?;
            client.publish(inbox, Bytes::new()).await?;
            timeout(LIMIT, echo.next()).await?.context("the server does not answer")?;
        }
        Ok(listeners)
    }
}

async fn all(mut done: JoinSet<anyhow::Result<Duration>>) -> anyhow::Result<Samples> {
    let mut times = Samples::default();
    while let Some(ended) = done.join_next().await {
        times.add_time(ended.context("a bare client was interrupted")??);
    }
    Ok(times)
}

/// An object whole, as the client library gives it.
pub(crate) async fn library_get(client: &Client, name: &str) -> anyhow::Result<Vec<u8>> {
    let bucket = jetstream::new(client.clone()).get_object_store(RELEASE_BUCKET).await.context("no bucket")?;
    let mut object = bucket.get(name).await.context("the client library has no such object")?;
    let mut content = Vec::new();
    timeout(LIMIT, object.read_to_end(&mut content)).await?.context("the client library cannot read the object")?;
    Ok(content)
}

/// Hashes, writes, fsyncs and renames.
pub(crate) fn keep(place: &Path, round: u64, content: &[u8], expected: Sha256Digest) -> anyhow::Result<()> {
    ensure!(Sha256Digest::of(content) == expected, "other bytes came than were sent");
    fs::create_dir_all(place)?;
    let (temporary, target) = (place.join(format!("{round}.part")), place.join("content"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, target)?;
    Ok(())
}

/// Unpacks an archive into a directory of its own, fsyncs every file, and points `current` at it.
pub(crate) fn unpack(place: &Path, round: u64, archive: &[u8]) -> anyhow::Result<()> {
    let target = place.join(format!("release-{round}"));
    fs::create_dir_all(&target)?;
    let decoder = zstd::stream::read::Decoder::new(Cursor::new(archive))?;
    let mut files = 0;
    for entry in tar::Archive::new(decoder).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = target.join(entry.path()?);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create(path)?;
        std::io::copy(&mut entry, &mut file)?;
        file.sync_all()?;
        files += 1;
    }
    ensure!(files > 0, "an archive without files");
    flip(place, round)
}

/// Points `current` elsewhere in one rename, durably.
fn flip(place: &Path, round: u64) -> anyhow::Result<()> {
    fs::create_dir_all(place)?;
    let temporary = place.join(format!("current.{round}"));
    std::os::unix::fs::symlink(format!("release-{round}"), &temporary)?;
    fs::rename(&temporary, place.join("current"))?;
    File::open(place)?.sync_all()?;
    Ok(())
}
