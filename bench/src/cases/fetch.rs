//! `fetch`: one node gets a whole release, verified and unpacked, beside the client library's get, SHA-256 and untar.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use shared::digest::Sha256Digest;
use streams::release_store::ReleaseStore;
use subscriber::checkout::{Means, Origin, into_cache};
use tokio::task::spawn_blocking;

use crate::CommonArguments;
use crate::bench_server::{BenchServer, Durability};
use crate::measurement::{Samples, as_number};
use crate::process_usage;
use crate::raw_fleet::{keep, library_get, unpack};
use crate::report::{Limit, Report};
use crate::sample_releases::{BenchPublisher, Change, TreeArguments};

const MEBIBYTE: f64 = 1_048_576.0;

#[derive(Debug, Args)]
pub(crate) struct FetchArguments {
    /// Files of the release.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files: u32,
    /// Bytes of each file; about half of them compress away.
    #[arg(long, value_name = "BYTES", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(16..=1_073_741_824))]
    file_bytes: u64,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

pub(crate) async fn run(arguments: &FetchArguments) -> anyhow::Result<Report> {
    let FetchArguments { files, file_bytes, common } = arguments;
    let mut report = Report::new("fetch");
    report.setting("files", *files);
    report.setting("file_bytes", *file_bytes);
    report.setting("rounds", common.rounds);

    let server = BenchServer::start(common.directory.as_deref(), Durability::Synced).await?;
    let connection = server.connection("bench fetch").await?;
    let tree = TreeArguments { files: *files, file_bytes: *file_bytes, change: Change::Full };
    let mut publisher = BenchPublisher::new(&connection, tree)?;
    let release = publisher.publish().await?;
    let archive = &release.published.archive;
    let (store, client) = (ReleaseStore::new(connection), server.client().await?);
    let place = server.subdirectory("fetched")?;

    let (mut ours, mut naive, mut floor, mut read) = Default::default();
    let names: [&mut Samples; 4] = [&mut ours, &mut naive, &mut floor, &mut read];
    let [ours, naive, floor, read] = names;
    process_usage::forget_peak();
    let resident = process_usage::own().map_or(0, |usage| usage.resident);
    for round in 0..u64::from(common.rounds) {
        let begun = Instant::now();
        let origin = Origin::Store { store: &store, published: &release.published, progress: &() };
        let cache = place.join(format!("ours-{round}"));
        let checked_out = into_cache(&origin, &cache, None, false).await.context("our fetch failed")?;
        ours.add_time(begun.elapsed());
        ensure!(checked_out.release.tree_digest() == release.published.tree_digest, "another tree was fetched");
        ensure!(matches!(checked_out.means, Means::Fetched { .. }), "the release was there already");
        std::fs::remove_dir_all(&cache)?;
    }
    let ours_peak = process_usage::own().map(|usage| usage.peak_resident.saturating_sub(resident));
    process_usage::forget_peak();
    for round in 0..u64::from(common.rounds) {
        let begun = Instant::now();
        let got = library_get(&client, &archive.name).await?;
        ensure!(Sha256Digest::of(&got) == archive.sha256, "the client library gave other bytes");
        let target = place.join(format!("naive-{round}"));
        let unpacked = target.clone();
        let content = spawn_blocking(move || unpack(&unpacked, round, &got).map(|()| got)).await??;
        naive.add_time(begun.elapsed());

        let begun = Instant::now();
        let target_file = target.join("floor");
        let expected = archive.sha256;
        spawn_blocking(move || keep(&target_file, round, &content, expected)).await??;
        floor.add_time(begun.elapsed());
        std::fs::remove_dir_all(&target)?;

        let begun = Instant::now();
        let bytes = store.read(archive).await.context("the archive cannot be read")?;
        read.add_time(begun.elapsed());
        ensure!(bytes.len() as u64 == archive.size, "the archive has another size");
    }
    report.row("ours: fetch, verify, unpack, switch", "ms", ours);
    report.row("client library: get, SHA-256, untar", "ms", naive);
    report.row("ours: reading the archive alone", "ms", read);
    report.row("floor: SHA-256 and write of the archive's bytes", "ms", floor);
    report.ratio("client library / ours", naive.median(), ours.median(), Some(Limit::at_least(1.5, 3.0)));
    report.ratio("ours / floor", ours.median(), floor.median(), None);
    report.fact("bytes of the archive", archive.size);
    report.fact("bytes of the tree", release.published.total_bytes);
    if let Some(peak) = ours_peak {
        report.fact("memory that our fetch added at its peak, MiB", as_number(peak) / MEBIBYTE);
    }
    report.fact("releases with the announced tree digest", ours.count());
    server.stop().await?;
    Ok(report)
}
