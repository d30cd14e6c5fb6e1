//! `delta`: a tree of which little changed, onto a node that has the one before, beside a bare copy and beside `rsync`.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::Utc;
use clap::Args;
use publisher::author::Author;
use publisher::build::SourceContent;
use publisher::progress::Silent;
use publisher::publish_cycle::{PublishRequest, publish};
use publisher::source::directory::read_directory;
use shared::event::{FetchStrategy, Published};
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use subscriber::checkout::{Means, Origin, into_cache};
use tokio::task::spawn_blocking;
use zstd::zstd_safe::CParameter;

use crate::CommonArguments;
use crate::bench_server::{BenchServer, Durability};
use crate::measurement::{Samples, as_number};
use crate::process_usage;
use crate::report::{Limit, Report};
use crate::sample_releases::{bundle, bytes_of};

const MEBIBYTE: f64 = 1_048_576.0;
/// Bytes that differ at the beginning of a changed file, and as many in its middle.
const CHANGED_BYTES: usize = 64;
/// The largest window of `zstd --ultra --long`.
const LARGEST_WINDOW: u32 = 27;

#[derive(Debug, Args)]
pub(crate) struct DeltaArguments {
    /// Files of the tree.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    files: u32,
    /// Bytes of each file; about half of them compress away.
    #[arg(long, value_name = "BYTES", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1024..=1_073_741_824))]
    file_bytes: u64,
    /// Files that differ from one release to the next.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changed: u32,
    /// A directory that is the first release, instead of a made one.
    #[arg(long, value_name = "DIRECTORY", requires = "new")]
    old: Option<PathBuf>,
    /// A directory that is the second release.
    #[arg(long, value_name = "DIRECTORY", requires = "old")]
    new: Option<PathBuf>,
    /// Leave out the patch of the whole tar, which needs several times its size in memory.
    #[arg(long)]
    no_whole_patch: bool,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

pub(crate) async fn run(arguments: &DeltaArguments) -> anyhow::Result<Report> {
    let mut report = Report::new("delta");
    report.setting("rounds", arguments.common.rounds);
    let server = BenchServer::start(arguments.common.directory.as_deref(), Durability::Synced).await?;
    let trees = trees(arguments, &server, &mut report)?;
    let connection = server.connection("bench delta").await?;
    let (log, store) = (EventLog::new(connection.clone()), ReleaseStore::new(connection.clone()));
    let mut author = Author::operator("bench".parse().context("an actor's name")?);

    let mut releases = Vec::new();
    for (number, tree) in trees.iter().enumerate() {
        process_usage::forget_peak();
        let before = process_usage::own();
        let begun = Instant::now();
        releases.push(release(&log, &store, &mut author, tree, number + 1).await?);
        let what = if number == 0 { "publish of the first" } else { "publish of the second, with its delta" };
        let mut took = Samples::default();
        took.add_time(begun.elapsed());
        report.row(what, "ms", &took);
        if let (Some(before), Some(after)) = (before, process_usage::own()) {
            let added = after.peak_resident.saturating_sub(before.resident);
            report.fact(format!("{what}: memory at its peak, MiB"), as_number(added) / MEBIBYTE);
        }
    }
    let [old, new] = releases.as_slice() else { anyhow::bail!("two releases were to be published") };
    let delta = new.deltas.first().context("the second release has no delta")?;

    let place = server.subdirectory("nodes")?;
    let (mut ours, mut floor, mut rsync) = (Samples::default(), Samples::default(), Samples::default());
    let mut wire = 0;
    for round in 0..arguments.common.rounds {
        let cache = place.join(format!("ours-{round}"));
        fetch(&store, old, &cache).await?;
        process_usage::forget_peak();
        let before = process_usage::own();
        let begun = Instant::now();
        let means = fetch(&store, new, &cache).await?;
        ours.add_time(begun.elapsed());
        let Means::Fetched { wire_bytes, strategy: FetchStrategy::Delta } = means else {
            anyhow::bail!("the release was not had by its delta: {means:?}");
        };
        wire = wire_bytes;
        if let (0, Some(before), Some(after)) = (round, before, process_usage::own()) {
            let added = after.peak_resident.saturating_sub(before.resident);
            report.fact("node: memory at its peak, MiB", as_number(added) / MEBIBYTE);
        }
        fs::remove_dir_all(&cache)?;

        let (source, target) = (trees[1].clone(), place.join(format!("floor-{round}")));
        floor.add_time(spawn_blocking(move || copied(&source, &target)).await??);
        let (old, new, target) = (trees[0].clone(), trees[1].clone(), place.join(format!("rsync-{round}")));
        if let Some(took) = spawn_blocking(move || synchronised(&old, &new, &target)).await?? {
            rsync.add_time(took);
        }
    }
    report.row("ours: fetch, patch, verify, sync, switch", "ms", &ours);
    report.row("floor: copy of every file and one sync", "ms", &floor);
    report.ratio("ours / floor", ours.median(), floor.median(), None);
    if rsync.count() > 0 {
        report.row("rsync -acz onto the tree before, not synced", "ms", &rsync);
        report.ratio("ours / rsync", ours.median(), rsync.median(), Some(Limit::at_most(1.0, 0.5)));
    } else {
        report.fact("rsync", "not installed: not compared");
    }
    report.fact("bytes of the tree", new.total_bytes);
    report.fact("bytes of the archive", new.archive.size);
    report.fact("bytes of the delta", delta.object.size);
    report.fact("bytes that the node read", wire);
    if !arguments.no_whole_patch {
        let (old, new) = (trees[0].clone(), trees[1].clone());
        let whole = spawn_blocking(move || whole_patch(&old, &new)).await??;
        report.fact("bytes of zstd -19 --patch-from of the whole tar", whole);
        let limit = Some(Limit::at_most(1.0, 0.8));
        report.ratio("bytes that the node read / whole patch", as_number(wire), as_number(whole), limit);
    }
    server.stop().await?;
    Ok(report)
}

/// The directories of both releases.
fn trees(arguments: &DeltaArguments, server: &BenchServer, report: &mut Report) -> anyhow::Result<[PathBuf; 2]> {
    if let (Some(old), Some(new)) = (&arguments.old, &arguments.new) {
        report.setting("old", old.display().to_string());
        report.setting("new", new.display().to_string());
        return Ok([old.clone(), new.clone()]);
    }
    let DeltaArguments { files, file_bytes, changed, .. } = arguments;
    report.setting("files", *files);
    report.setting("file_bytes", *file_bytes);
    report.setting("changed", *changed);
    let place = server.subdirectory("trees")?;
    let [old, new] = ["old", "new"].map(|name| place.join(name));
    for index in 0..*files {
        let mut content = bytes_of(u64::from(index), *file_bytes);
        let path = format!("{:03}/{index:05}.bin", index / 1000);
        write(&old.join(&path), &content)?;
        // Spread over the whole tree.
        if index % (files / changed).max(1) == 0 && index / (files / changed).max(1) < *changed {
            let middle = content.len() / 2;
            for at in [0, middle] {
                content[at..].iter_mut().take(CHANGED_BYTES).for_each(|byte| *byte ^= 0x55);
            }
        }
        write(&new.join(&path), &content)?;
    }
    Ok([old, new])
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().context("a path without a directory")?)?;
    Ok(fs::write(path, content)?)
}

async fn release(
    log: &EventLog,
    store: &ReleaseStore,
    author: &mut Author,
    tree: &Path,
    number: usize,
) -> anyhow::Result<Published> {
    let (directory, limits) = (tree.to_owned(), ReleaseLimits::default());
    let source = spawn_blocking(move || read_directory(&directory, &limits, &Silent)).await?.context("no release")?;
    let content = SourceContent::new(&bundle()?, source).context("the tree is no release")?;
    let tag: Tag = format!("r{number}").parse().context("a tag")?;
    let request = PublishRequest { tag: Some(tag), ..PublishRequest::new(bundle()?, Utc::now()) };
    let report = publish(log, store, author, &content, &request, &Silent::shared()).await;
    Ok(report.context("a release is not published")?.release.published)
}

async fn fetch(store: &ReleaseStore, published: &Published, cache: &Path) -> anyhow::Result<Means> {
    let origin = Origin::Store { store, published, progress: &() };
    let checked_out = into_cache(&origin, cache, None, false).await.context("our fetch failed")?;
    ensure!(checked_out.release.tree_digest() == published.tree_digest, "another tree was fetched");
    Ok(checked_out.means)
}

/// Copies a tree and makes it durable by one sync of its file system: what an update without links costs at least.
fn copied(source: &Path, target: &Path) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    copy_tree(source, target)?;
    rustix::fs::syncfs(File::open(target)?)?;
    let took = begun.elapsed();
    fs::remove_dir_all(target)?;
    Ok(took)
}

fn copy_tree(source: &Path, target: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let to = target.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Brings a copy of the old tree to the new one with `rsync -acz --delete`; `None` where it is not installed.
fn synchronised(old: &Path, new: &Path, target: &Path) -> anyhow::Result<Option<Duration>> {
    if Command::new("rsync").arg("--version").output().is_err() {
        return Ok(None);
    }
    copy_tree(old, target)?;
    rustix::fs::syncfs(File::open(target)?)?;
    let (mut from, mut to) = (new.as_os_str().to_owned(), target.as_os_str().to_owned());
    from.push("/");
    to.push("/");
    let begun = Instant::now();
    let ended = Command::new("rsync").args(["-acz", "--delete"]).arg(from).arg(to).status();
    ensure!(ended.context("rsync")?.success(), "rsync failed");
    let took = begun.elapsed();
    fs::remove_dir_all(target)?;
    Ok(Some(took))
}

/// Size of the patch that turns one tree's tar into the other's.
fn whole_patch(old: &Path, new: &Path) -> anyhow::Result<u64> {
    let [old, new] = [tar_of(old)?, tar_of(new)?];
    let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), 19, old.as_slice())?;
    encoder.window_log((new.len().max(old.len()).ilog2() + 1).clamp(10, LARGEST_WINDOW))?;
    encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
    encoder.write_all(&new)?;
    Ok(encoder.finish()?.len() as u64)
}

/// A tar of a tree in order of its paths.
fn tar_of(tree: &Path) -> anyhow::Result<Vec<u8>> {
    let source = read_directory(tree, &ReleaseLimits::default(), &Silent).context("no tree")?;
    let mut tar = tar::Builder::new(Vec::new());
    for file in source.files() {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(file.size);
        let mut content = Vec::new();
        source.open(&file.path)?.read_to_end(&mut content)?;
        tar.append_data(&mut header, file.path.as_str(), content.as_slice())?;
    }
    Ok(tar.into_inner()?)
}
