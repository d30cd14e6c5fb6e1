//! `multicast`: one large archive to many nodes at once, read together, beside as many readers each for itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use shared::digest::{DigestBuilder, Sha256Digest};
use shared::event::ObjectReference;
use streams::connection::Connection;
use streams::release_store::{MulticastSettings, ReleaseStore};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::CommonArguments;
use crate::bench_server::{BenchServer, Durability, ServerKind, raise_file_limit};
use crate::measurement::{Samples, as_number, rate};
use crate::process_usage::ProcessUsage;
use crate::raw_fleet::{Floor, RawFleet};
use crate::report::{Limit, Report};
use crate::sample_releases::{BenchPublisher, Change, TreeArguments};

const MEGABYTE: u64 = 1_000_000;
const MEBIBYTE: f64 = 1_048_576.0;
/// Chunks on their way to the disk, as the product has them.
const QUEUE: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct MulticastArguments {
    /// Readers, each with a connection of its own, in this process.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    nodes: u32,
    /// Size of the archive in megabytes, about.
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=4_000))]
    megabytes: u64,
    /// Readers that make it worthwhile, as `demon-runtime --multicast-readers` says.
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    readers: u16,
    /// One server, or a cluster of three with three copies of every stream.
    #[arg(long, value_name = "SERVER", default_value = "local", value_enum)]
    server: ServerKind,
    /// How long one way may take.
    #[arg(long, value_name = "DURATION", default_value = "300s", value_parser = streams::connection_arguments::parse_duration)]
    limit: Duration,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

/// How an archive is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Together,
    Alone,
}

/// The readers and where they write.
struct Readers {
    stores: Vec<ReleaseStore>,
    directory: PathBuf,
    limit: Duration,
}

/// What one reader did.
struct Done {
    took: Duration,
    /// Bytes that came because another one had asked.
    from_others: u64,
    received: u64,
}

pub(crate) async fn run(arguments: &MulticastArguments) -> anyhow::Result<Report> {
    let MulticastArguments { nodes, megabytes, readers, server: kind, limit, common } = arguments;
    let count = usize::try_from(*nodes)?;
    raise_file_limit(u64::from(*nodes) * 8 + 1000)?;
    let mut report = Report::new("multicast");
    report.setting("nodes", *nodes);
    report.setting("megabytes", *megabytes);
    report.setting("readers", *readers);
    report.setting("server", serde_json::to_value(kind)?);
    report.setting("rounds", common.rounds);

    let server = BenchServer::start_as(*kind, common.directory.as_deref(), Durability::Synced).await?;
    // Half of a file compresses away.
    let tree = TreeArguments { files: 2, file_bytes: megabytes * MEGABYTE, change: Change::Full };
    let mut publisher = BenchPublisher::new(&server.connection("bench publisher").await?, tree)?;
    let directory = server.subdirectory("readers")?;
    let mut stores = Vec::with_capacity(count);
    let settings = MulticastSettings { from_bytes: Some(1), readers: usize::from(*readers) };
    for number in 0..count {
        let connection = server.connection(&format!("bench reader {number}")).await?;
        stores.push(ReleaseStore::new(connection).together(settings));
    }
    let fleet = Readers { stores, directory, limit: *limit };
    let mut raw = RawFleet::connect(&server.url(), &server.subdirectory("raw")?, count).await?;

    let (mut together, mut alone, mut floor) = (Samples::default(), Samples::default(), Samples::default());
    let (mut together_rate, mut alone_rate) = (Samples::default(), Samples::default());
    let (mut together_used, mut alone_used) = (Samples::default(), Samples::default());
    let (mut by_others, mut received) = (Samples::default(), Samples::default());
    let (mut peak, mut size) = (0, 0);
    for round in 0..common.rounds {
        let release = publisher.publish().await?;
        let archive = release.published.archive.clone();
        size = archive.size;
        for way in [Way::Together, Way::Alone] {
            let before = server.usage();
            let done = fleet.read(&archive, way).await?;
            let used = processor(server.usage()).saturating_sub(processor(before));
            let last = done.iter().map(|done| done.took).max().unwrap_or_default();
            let (times, rates, usage) = match way {
                Way::Together => (&mut together, &mut together_rate, &mut together_used),
                Way::Alone => (&mut alone, &mut alone_rate, &mut alone_used),
            };
            times.add_time(last);
            rates.add(rate(archive.size * u64::from(*nodes), last) / as_number(MEGABYTE));
            usage.add_time(used);
            if way == Way::Together {
                for done in &done {
                    by_others.add(as_number(done.from_others));
                    received.add(as_number(done.received));
                }
                if round == 0 {
                    peak = server.usage().map_or(0, |usage| usage.peak_resident);
                }
            }
        }
        let bytes = Bytes::from(publisher.store.read(&archive).await.context("the archive cannot be read")?);
        floor.add(raw.floor(&bytes, Floor::Wire).await?.max());
    }
    report.row("together: last node has written and verified all", "ms", &together);
    report.row("each for itself: last node has written and verified all", "ms", &alone);
    report.row("wire floor: last has the bytes", "ms", &floor);
    report.row("together: all nodes", "MB/s", &together_rate);
    report.row("each for itself: all nodes", "MB/s", &alone_rate);
    report.row("together: a node's bytes by others' asking", "bytes", &by_others);
    report.row("together: a node's bytes in all", "bytes", &received);
    report.row("together: server's processor time", "ms", &together_used);
    report.row("each for itself: server's processor time", "ms", &alone_used);
    let limit = Some(Limit::at_least(1.0, 2.0));
    report.ratio("each for itself / together", alone.median(), together.median(), limit);
    report.ratio("together / wire floor", together.median(), floor.median(), None);
    report.fact("bytes of the archive", size);
    report.fact("nodes with the announced digest in every round", *nodes);
    report.fact("connections that were cut", fleet.cuts());
    report.fact("server's peak memory after the first reading together, MiB", as_number(peak) / MEBIBYTE);
    if let Some(usage) = server.usage() {
        report.fact("server's peak memory, MiB", as_number(usage.peak_resident) / MEBIBYTE);
    }
    report.fact("consumers on the server", server.consumers().await?);
    drop(fleet);
    server.stop().await?;
    Ok(report)
}

fn processor(usage: Option<ProcessUsage>) -> Duration {
    usage.map(|usage| usage.processor).unwrap_or_default()
}

impl Readers {
    /// Lets all read an archive at once, and waits for the last.
    async fn read(&self, archive: &ObjectReference, way: Way) -> anyhow::Result<Vec<Done>> {
        let (go, _) = watch::channel(None);
        let mut reading = JoinSet::new();
        for (number, store) in self.stores.iter().enumerate() {
            let (store, archive, mut go) = (store.clone(), archive.clone(), go.subscribe());
            let path = self.directory.join(format!("archive-{number}"));
            reading.spawn(async move {
                let begun: Instant = go.wait_for(Option::is_some).await?.unwrap_or_else(Instant::now);
                let (from_others, received) = match way {
                    Way::Together => read_together(&store, &archive, path).await?,
                    Way::Alone => read_alone(&store, &archive, &path).await?,
                };
                anyhow::Ok(Done { took: begun.elapsed(), from_others, received })
            });
        }
        go.send_replace(Some(Instant::now()));
        let mut all = Vec::with_capacity(self.stores.len());
        while let Some(done) = timeout(self.limit, reading.join_next()).await.context("not all have read in time")? {
            all.push(done.context("a reader was interrupted")??);
        }
        for entry in std::fs::read_dir(&self.directory)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(all)
    }

    /// Connections that were made anew since the beginning.
    fn cuts(&self) -> u64 {
        self.stores.iter().map(|store| cuts(store.connection())).sum()
    }
}

fn cuts(connection: &Connection) -> u64 {
    connection.status().connects.saturating_sub(1)
}

/// Reads together with the others; bytes by others' asking, and in all.
async fn read_together(store: &ReleaseStore, archive: &ObjectReference, path: PathBuf) -> anyhow::Result<(u64, u64)> {
    let mut reading = store.open_together(archive).await?.context("the archive is not read together")?;
    let (chunks, queue) = mpsc::channel::<(u64, Bytes)>(QUEUE);
    let writing = spawn_blocking(move || write_placed(&path, queue));
    let (mut from_others, mut received) = (0, 0);
    while let Some(chunk) = reading.next().await? {
        received += chunk.received;
        if chunk.from_others {
            from_others += chunk.bytes.len() as u64;
        }
        chunks.send((chunk.offset, chunk.bytes)).await.context("the disk does not take it")?;
    }
    drop((reading, chunks));
    ensure!(writing.await?? == archive.sha256, "other bytes were read together");
    Ok((from_others, received))
}

/// Writes parts where they belong and hashes them in order; those that are early wait in memory.
fn write_placed(path: &Path, mut queue: mpsc::Receiver<(u64, Bytes)>) -> anyhow::Result<Sha256Digest> {
    let file = File::create(path)?;
    let (mut digest, mut hashed, mut early) = (DigestBuilder::default(), 0, BTreeMap::new());
    while let Some((offset, bytes)) = queue.blocking_recv() {
        file.write_all_at(&bytes, offset)?;
        early.insert(offset, bytes);
        while let Some(bytes) = early.remove(&hashed) {
            digest.update(&bytes);
            hashed += bytes.len() as u64;
        }
    }
    Ok(digest.finish())
}

/// Reads as if there were no others.
async fn read_alone(store: &ReleaseStore, archive: &ObjectReference, path: &Path) -> anyhow::Result<(u64, u64)> {
    let mut reading = store.open(archive).await?;
    let (chunks, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    let path = path.to_owned();
    let writing = spawn_blocking(move || {
        let (file, mut offset) = (File::create(path)?, 0);
        while let Some(bytes) = queue.blocking_recv() {
            file.write_all_at(&bytes, offset)?;
            offset += bytes.len() as u64;
        }
        anyhow::Ok(())
    });
    // The digest is compared by the reader.
    while let Some(chunk) = reading.next_chunk().await? {
        chunks.send(chunk).await.context("the disk does not take it")?;
    }
    drop(chunks);
    writing.await??;
    Ok((0, reading.received()))
}
