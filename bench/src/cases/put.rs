//! `put`: one large object into the store, beside the client library's own put and bare pipelined publishes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use async_nats::jetstream::{self, object_store, stream};
use bytes::Bytes;
use clap::Args;
use shared::digest::Sha256Digest;
use streams::release_store::{CHUNK_SIZE, NewObject, ReleaseStore};

use crate::CommonArguments;
use crate::bench_server::{BenchServer, Durability};
use crate::measurement::{Samples, rate};
use crate::report::{Limit, Report};

const MEGABYTE: u64 = 1_000_000;
const BUCKET: &str = "NAIVE";
/// As the product cuts objects: each message is synced on its own, so with smaller ones it would be no floor.
const CHUNK: usize = CHUNK_SIZE;
/// Chunks under way at one time: as many bytes as in the product.
const WINDOW: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct PutArguments {
    /// Size of the object in megabytes.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=4_000))]
    megabytes: u64,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

pub(crate) async fn run(arguments: &PutArguments) -> anyhow::Result<Report> {
    let PutArguments { megabytes, common } = arguments;
    let mut report = Report::new("put");
    report.setting("megabytes", *megabytes);
    report.setting("rounds", common.rounds);

    let server = BenchServer::start(common.directory.as_deref(), Durability::Synced).await?;
    let client = server.client().await?;
    let context = jetstream::new(client.clone());
    let config = object_store::Config { bucket: BUCKET.to_owned(), ..object_store::Config::default() };
    let naive_bucket = context.create_object_store(config).await.context("no bucket for the client library")?;
    let floor_stream = stream::Config {
        name: "FLOOR".to_owned(),
        subjects: vec!["floor".to_owned()],
        max_messages: 100_000,
        ..stream::Config::default()
    };
    context.create_stream(floor_stream).await.context("no stream for the floor")?;
    let store = ReleaseStore::new(server.connection("bench put").await?);
    let (path, digest) = archive(&server.subdirectory("archive")?, megabytes * MEGABYTE)?;

    let (mut ours, mut naive, mut floor) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..common.rounds {
        let name = format!("bench/archive-{round}");
        let begun = Instant::now();
        let mut file = tokio::fs::File::open(&path).await?;
        let put = naive_bucket.put(name.as_str(), &mut file).await.context("the client library cannot put")?;
        naive.add(megabytes_a_second(*megabytes, begun));
        ensure!(put.size as u64 == megabytes * MEGABYTE, "the client library put another size");

        let begun = Instant::now();
        let file = tokio::fs::File::open(&path).await?;
        let stored = store.put(NewObject::named(name.clone()), file, &()).await.context("our put failed")?;
        ours.add(megabytes_a_second(*megabytes, begun));
        ensure!(stored.sha256 == digest, "our put has another digest");

        let begun = Instant::now();
        pipelined(&context, &path).await?;
        floor.add(megabytes_a_second(*megabytes, begun));

        // Room for the next round.
        naive_bucket.delete(&name).await.context("the client library cannot delete")?;
        context.get_stream("FLOOR").await?.purge().await.context("the floor's stream cannot be emptied")?;
    }
    report.row("ours", "MB/s", &ours);
    report.row("client library's put", "MB/s", &naive);
    report.row("floor: bare pipelined publishes", "MB/s", &floor);
    report.ratio("ours / client library", ours.median(), naive.median(), Some(Limit::at_least(2.0, 3.0)));
    report.ratio("ours / floor", ours.median(), floor.median(), Some(Limit::at_least(0.5, 0.9)));
    report.fact("objects with the digest of the file", ours.count());
    server.stop().await?;
    Ok(report)
}

fn megabytes_a_second(megabytes: u64, begun: Instant) -> f64 {
    rate(megabytes, begun.elapsed())
}

/// A file that does not compress, as an archive does not.
fn archive(directory: &Path, bytes: u64) -> anyhow::Result<(PathBuf, Sha256Digest)> {
    let path = directory.join("archive");
    let mut file = File::create(&path)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut left = usize::try_from(bytes)?;
    while left > 0 {
        let mut block = Vec::with_capacity(CHUNK);
        while block.len() < CHUNK {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        let part = left.min(CHUNK);
        file.write_all(&block[..part])?;
        left -= part;
    }
    let mut content = Vec::new();
    File::open(&path)?.read_to_end(&mut content)?;
    Ok((path, Sha256Digest::of(&content)))
}

/// Reads and publishes chunk after chunk, so many unacknowledged at a time. No hash, no description.
async fn pipelined(context: &jetstream::Context, path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut under_way = std::collections::VecDeque::new();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = std::io::Read::by_ref(&mut file).take(CHUNK as u64).read_to_end(&mut chunk)?;
        if read == 0 {
            break;
        }
        if under_way.len() == WINDOW
            && let Some(ack) = under_way.pop_front()
        {
            acknowledged(ack).await?;
        }
        under_way.push_back(context.publish("floor", Bytes::from(chunk)).await.context("a chunk is not sent")?);
    }
    for ack in under_way {
        acknowledged(ack).await?;
    }
    Ok(())
}

async fn acknowledged(ack: jetstream::context::PublishAckFuture) -> anyhow::Result<()> {
    ack.await.context("a chunk is not stored")?;
    Ok(())
}
