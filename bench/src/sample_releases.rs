//! Releases of any size, published by the product's own code.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use publisher::announcement::announce;
use publisher::author::Author;
use publisher::build::SourceContent;
use publisher::channel::{Freeze, MoveRequest, Order, move_channel};
use publisher::progress::Silent;
use publisher::publish_cycle::{PublishRequest, store_release};
use publisher::source::SourceTree;
use shared::event::Published;
use shared::identifiers::{BundleName, ChannelName, Tag};
use shared::subjects::EventSubject;
use streams::connection::Connection;
use streams::event_log::{EventLog, Reader};
use streams::release_store::ReleaseStore;

/// How much of a tree differs from one release to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// A few bytes of one file.
    Patch,
    /// Every byte of every file.
    Full,
}

/// Size and form of the releases.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct TreeArguments {
    /// Files of a release.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) files: u32,
    /// Bytes of each file. Half of them repeat, as in real trees, so that an archive is about half as large.
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(16..=1_073_741_824))]
    pub(crate) file_bytes: u64,
    /// How a release differs from the one before it.
    #[arg(long, value_name = "CHANGE", default_value = "patch", value_enum)]
    pub(crate) change: Change,
}

/// Publishes one release after the other and moves a channel.
pub(crate) struct BenchPublisher {
    pub(crate) log: EventLog,
    pub(crate) store: ReleaseStore,
    author: Author,
    tree: TreeArguments,
    made: u64,
}

/// A release in the log.
#[derive(Debug, Clone)]
pub(crate) struct PublishedRelease {
    pub(crate) published: Published,
    /// When the server stored its announcement.
    pub(crate) announced_at: DateTime<Utc>,
    /// Storing, reading back and announcing together.
    pub(crate) took: Duration,
}

/// A channel's move in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    /// When the server stored it.
    pub(crate) stored_at: DateTime<Utc>,
    /// Its stream sequence.
    pub(crate) stream_sequence: u64,
}

pub(crate) fn bundle() -> anyhow::Result<BundleName> {
    "bench".parse().context("a bundle's name")
}

pub(crate) fn channel() -> anyhow::Result<ChannelName> {
    "production".parse().context("a channel's name")
}

impl BenchPublisher {
    pub(crate) fn new(connection: &Connection, tree: TreeArguments) -> anyhow::Result<Self> {
        Ok(Self {
            log: EventLog::new(connection.clone()),
            store: ReleaseStore::new(connection.clone()),
            author: Author::operator("bench".parse().context("an actor's name")?),
            tree,
            made: 0,
        })
    }

    /// Goes on over another connection.
    pub(crate) fn use_connection(&mut self, connection: &Connection) {
        self.log = EventLog::new(connection.clone());
        self.store = ReleaseStore::new(connection.clone());
    }

    /// Builds, stores, reads back and announces the next release; no channel moves.
    pub(crate) async fn publish(&mut self) -> anyhow::Result<PublishedRelease> {
        self.made += 1;
        let tag: Tag = format!("r{}", self.made).parse().context("a tag")?;
        let content = SourceContent::new(&bundle()?, tree(self.tree, self.made)?).context("the tree is no release")?;
        let request = PublishRequest { tag: Some(tag.clone()), ..PublishRequest::new(bundle()?, Utc::now()) };
        let begun = Instant::now();
        let stored = store_release(&self.store, &content, &request, &tag, &Silent::shared()).await;
        let stored = stored.context("a release is not stored")?;
        let announced = announce(&self.log, &mut self.author, &stored).await.context("a release is not announced")?;
        let took = begun.elapsed();
        let event = self.log.at(announced.stream_sequence).await?.context("an announcement is not in the log")?;
        Ok(PublishedRelease { published: announced.published, announced_at: event.stored_at, took })
    }

    /// Moves the channel to a release.
    pub(crate) async fn promote(&mut self, tag: &Tag) -> anyhow::Result<Move> {
        let request = MoveRequest {
            bundle: bundle()?,
            channel: channel()?,
            order: Order::Promote(tag.clone()),
            reason: None,
            freeze: Freeze::Respect,
        };
        move_channel(&self.log, &mut self.author, &request).await.context("the channel does not move")?;
        let head = EventSubject::channel_head(&bundle()?, &channel()?);
        let event = self.log.last(&head, Reader::Leader).await?.context("the channel has no head")?;
        let (_, envelope) = event.envelope()?;
        ensure!(envelope.event.tag() == Some(tag), "the channel points elsewhere");
        Ok(Move { stored_at: event.stored_at, stream_sequence: event.stream_sequence })
    }

    /// Bytes that a node without a base reads for a release.
    pub(crate) async fn wire_bytes(&self, published: &Published) -> anyhow::Result<Vec<u8>> {
        let mut bytes = self.store.read(&published.release).await.context("`release.json` cannot be read")?;
        bytes.extend(self.store.read(&published.archive).await.context("the archive cannot be read")?);
        Ok(bytes)
    }
}

/// The tree of the release with this number.
fn tree(arguments: TreeArguments, number: u64) -> anyhow::Result<SourceTree> {
    let file = |index: u32| {
        let generation = match arguments.change {
            Change::Full => number,
            Change::Patch => 0,
        };
        let mut content = bytes_of(u64::from(index) << 32 | generation, arguments.file_bytes);
        if arguments.change == Change::Patch && index == 0 {
            content[..8].copy_from_slice(&number.to_le_bytes());
        }
        let path = format!("files/{:03}/{index:05}.bin", index / 1000).parse().context("a path")?;
        anyhow::Ok((path, Bytes::from(content)))
    };
    let files = (0..arguments.files).map(file).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(SourceTree::in_memory(files))
}

/// Bytes that a seed determines: every second block of 32 is the same everywhere.
pub(crate) fn bytes_of(seed: u64, length: u64) -> Vec<u8> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(length + 32);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    while bytes.len() < length {
        for _ in 0..4 {
            // xorshift: fast, and no archive gets smaller by it.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.extend_from_slice(b"the quick brown fox jumps over t");
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(change: Change, number: u64) -> Vec<String> {
        let arguments = TreeArguments { files: 4, file_bytes: 1000, change };
        tree(arguments, number).unwrap().files().map(|file| file.sha256.to_string()).collect()
    }

    #[test]
    fn a_patch_changes_one_file_and_a_full_change_all() {
        let changed = |change| {
            let (one, two) = (digests(change, 1), digests(change, 2));
            one.iter().zip(&two).filter(|(one, two)| one != two).count()
        };
        assert_eq!((changed(Change::Patch), changed(Change::Full)), (1, 4));
        assert_eq!(digests(Change::Full, 3), digests(Change::Full, 3), "the same number gives the same tree");
    }

    #[test]
    fn content_has_its_length_and_half_of_it_repeats() {
        let bytes = bytes_of(7, 1001);
        assert_eq!(bytes.len(), 1001);
        assert_eq!(bytes[32..64], bytes[96..128]);
        assert_ne!(bytes[..32], bytes[64..96]);
    }
}
