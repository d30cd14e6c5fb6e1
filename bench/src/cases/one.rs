//! `one`: one node, one small release. Beside it the least that a node can do, and the way of long polling.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::Args;
use shared::digest::Sha256Digest;
use shared::identifiers::Tag;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::fleet::milliseconds;
use crate::CommonArguments;
use crate::agent_fleet::AgentFleet;
use crate::bench_server::{BenchServer, Durability};
use crate::measurement::Samples;
use crate::raw_fleet::{Floor, RawFleet, keep};
use crate::report::{Limit, Report};
use crate::sample_releases::{BenchPublisher, TreeArguments};

/// How often `current` is looked at: what every time here may be too long by.
const LOOK_AGAIN: Duration = Duration::from_micros(100);
const LIMIT: Duration = Duration::from_mins(1);
/// Asks for whatever is newer than what the client has.
const REQUEST: &[u8] =
    b"GET /bundles/bench HTTP/1.1\r\nHost: localhost\r\nPrefer: modes=snapshot,delta;wait=60\r\n\r\n";

#[derive(Debug, Args)]
pub(crate) struct OneArguments {
    #[command(flatten)]
    tree: TreeArguments,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

pub(crate) async fn run(arguments: &OneArguments) -> anyhow::Result<Report> {
    let OneArguments { tree, common } = arguments;
    let mut report = Report::new("one");
    report.setting("files", tree.files);
    report.setting("file_bytes", tree.file_bytes);
    report.setting("rounds", common.rounds);

    let server = BenchServer::start(common.directory.as_deref(), Durability::Synced).await?;
    let mut publisher = BenchPublisher::new(&server.connection("bench publisher").await?, *tree)?;
    let fleet = AgentFleet::start(&server.url(), &server.subdirectory("nodes")?, 1, "30s")?;
    let first = publisher.publish().await?;
    let moved = publisher.promote(&first.published.tag).await?;
    let tree_digest = first.published.tree_digest;
    fleet.switched(&publisher.log, moved.stream_sequence - 1, &first.published.tag, tree_digest, LIMIT).await?;
    let mut raw = RawFleet::connect(&server.url(), &server.subdirectory("raw")?, 1).await?;
    let mut client = LongPoller::start(&server.subdirectory("polled")?).await?;

    let (mut ours, mut announced) = (Samples::default(), Samples::default());
    let (mut floor, mut wire, mut polled) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..common.rounds {
        let release = publisher.publish().await?;
        let (tag, tree_digest) = (release.published.tag.clone(), release.published.tree_digest);
        let seen = watch_current(fleet.cache(0).join("current"), tag.clone());
        let moved = publisher.promote(&tag).await?;
        let seen = seen.await.context("watching was interrupted")??;
        ours.add(milliseconds(moved.stored_at, seen));
        announced.add(milliseconds(release.announced_at, seen));
        fleet.switched(&publisher.log, moved.stream_sequence.saturating_sub(2), &tag, tree_digest, LIMIT).await?;
        let bytes = Bytes::from(publisher.wire_bytes(&release.published).await?);
        floor.extend(&raw.floor(&bytes, Floor::Disk).await?);
        wire.extend(&raw.floor(&bytes, Floor::Wire).await?);
        polled.add_time(client.publish(bytes).await?);
    }
    report.row("ours: promoted → switched", "ms", &ours);
    report.row("ours: announced → switched", "ms", &announced);
    report.row("long polling: changed → kept on disk", "ms", &polled);
    report.row("floor: sent → kept on disk", "ms", &floor);
    report.row("wire floor: sent → received", "ms", &wire);
    report.ratio("ours p99 / long polling p99", ours.p99(), polled.p99(), None);
    report.ratio("ours p99 / 6 ms", ours.p99(), 6.0, Some(Limit::at_most(1.0, 1.0)));
    report.ratio("ours / floor", ours.median(), floor.median(), Some(Limit::at_most(10.0, 2.0)));
    report.fact("switches seen on the node's disk", ours.count());
    report.fact("releases kept by the long poller", polled.count());
    fleet.stop().await?;
    server.stop().await?;
    Ok(report)
}

/// When `current` first names a release, seen from outside as a reader sees it.
fn watch_current(link: PathBuf, tag: Tag) -> tokio::task::JoinHandle<anyhow::Result<DateTime<Utc>>> {
    spawn_blocking(move || {
        let deadline = Instant::now() + LIMIT;
        loop {
            if std::fs::read_link(&link).is_ok_and(|target| target.ends_with(tag.as_str())) {
                return Ok(Utc::now());
            }
            ensure!(Instant::now() < deadline, "`{}` never came to name `{tag}`", link.display());
            std::thread::sleep(LOOK_AGAIN);
        }
    })
}

/// A client that always has a request open, which the server answers once there is news: how OPA is told of bundles.
struct LongPoller {
    news: watch::Sender<Bytes>,
    kept: tokio::sync::mpsc::Receiver<anyhow::Result<()>>,
}

impl LongPoller {
    async fn start(directory: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let (news, heard) = watch::channel(Bytes::new());
        tokio::spawn(async move {
            let (connection, _) = listener.accept().await?;
            serve(connection, heard).await
        });
        let (sender, kept) = tokio::sync::mpsc::channel(1);
        let place = directory.to_owned();
        tokio::spawn(async move {
            let Ok(connection) = TcpStream::connect(address).await else { return };
            let Ok(()) = connection.set_nodelay(true) else { return };
            let mut connection = BufReader::new(connection);
            let mut round = 0;
            loop {
                round += 1;
                let done = poll(&mut connection, &place, round).await;
                let failed = done.is_err();
                if sender.send(done).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self { news, kept })
    }

    /// Changes what the server has; the time until the client has it on its disk.
    async fn publish(&mut self, content: Bytes) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.news.send(content).context("the long polling server has ended")?;
        let kept = tokio::time::timeout(LIMIT, self.kept.recv()).await.context("the long poller hears nothing")?;
        kept.context("the long poller has ended")??;
        Ok(begun.elapsed())
    }
}

async fn serve(connection: TcpStream, mut news: watch::Receiver<Bytes>) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut connection = BufReader::new(connection);
    loop {
        let mut line = String::new();
        while connection.read_line(&mut line).await? > 2 {
            line.clear();
        }
        if line.is_empty() || news.changed().await.is_err() {
            return Ok(());
        }
        let content = news.borrow_and_update().clone();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
        connection.write_all(&[head.as_bytes(), &content].concat()).await?;
        connection.flush().await?;
    }
}

async fn poll(connection: &mut BufReader<TcpStream>, place: &Path, round: u64) -> anyhow::Result<()> {
    connection.write_all(REQUEST).await?;
    connection.flush().await?;
    let (mut line, mut length) = (String::new(), 0);
    loop {
        let read = connection.read_line(&mut line).await?;
        // Otherwise an end would count as an empty answer, and be kept on a disk that is being cleared up.
        ensure!(read > 0, "the long polling server has ended");
        if read <= 2 {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length:") {
            length = value.trim().parse().context("an answer without length")?;
        }
        line.clear();
    }
    let mut content = vec![0; length];
    connection.read_exact(&mut content).await?;
    let place = place.to_owned();
    spawn_blocking(move || {
        // Hashed as a client does that compares it with a signature; what it should be it cannot know here.
        let digest = Sha256Digest::of(&content);
        keep(&place, round, &content, digest)
    })
    .await?
}
