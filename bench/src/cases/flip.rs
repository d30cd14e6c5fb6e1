//! `flip`: the channel moves to a release that every node has already, so that only the switch is left.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use clap::Args;
use streams::connection_arguments::parse_duration;

use super::fleet::milliseconds;
use crate::CommonArguments;
use crate::agent_fleet::AgentFleet;
use crate::bench_server::{BenchServer, Durability, raise_file_limit};
use crate::measurement::Samples;
use crate::raw_fleet::{Floor, RawFleet};
use crate::report::{Limit, Report};
use crate::sample_releases::{BenchPublisher, Move, PublishedRelease, TreeArguments};

/// About the size of a channel's head.
const MESSAGE: usize = 900;

#[derive(Debug, Args)]
pub(crate) struct FlipArguments {
    /// Agents, each with a connection of its own, in this process.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    nodes: u32,
    /// How long to wait for nodes to stage what is announced and not yet promoted.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    prefetch: Duration,
    /// How long one move may take to reach every node.
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = parse_duration)]
    limit: Duration,
    #[command(flatten)]
    tree: TreeArguments,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

pub(crate) async fn run(arguments: &FlipArguments) -> anyhow::Result<Report> {
    let FlipArguments { nodes, tree, common, limit, .. } = arguments;
    let count = usize::try_from(*nodes)?;
    raise_file_limit(u64::from(*nodes) * 16 + 1000)?;
    let mut report = Report::new("flip");
    report.setting("nodes", *nodes);
    report.setting("files", tree.files);
    report.setting("file_bytes", tree.file_bytes);
    report.setting("rounds", common.rounds);

    let server = BenchServer::start(common.directory.as_deref(), Durability::Synced).await?;
    let mut publisher = BenchPublisher::new(&server.connection("bench publisher").await?, *tree)?;
    let fleet = AgentFleet::start(&server.url(), &server.subdirectory("nodes")?, count, "30s")?;
    let mut raw = RawFleet::connect(&server.url(), &server.subdirectory("raw")?, count).await?;
    let mut before = publisher.publish().await?;
    let first = publisher.promote(&before.published.tag).await?;
    switch(&fleet, &publisher, &before, first, *limit).await?;

    let (mut announced, mut cached) = (Samples::default(), Samples::default());
    let (mut wire, mut disk) = (Samples::default(), Samples::default());
    let (mut staged, mut from_cache) = (Samples::default(), 0);
    let message = Bytes::from(vec![b'x'; MESSAGE]);
    for _ in 0..common.rounds {
        let next = publisher.publish().await?;
        let event = publisher.log.state().await?.last_sequence;
        let behind = event.saturating_sub(1);
        let ready = fleet.staged(&publisher.log, behind, &next.published.tag, arguments.prefetch).await?;
        staged.add(f64::from(u32::try_from(ready)?));
        let moved = publisher.promote(&next.published.tag).await?;
        announced.add(switch(&fleet, &publisher, &next, moved, *limit).await?.0);
        // Back and forth once more: both are in every cache now.
        for release in [&before, &next] {
            let moved = publisher.promote(&release.published.tag).await?;
            let (last, cached_nodes) = switch(&fleet, &publisher, release, moved, *limit).await?;
            cached.add(last);
            from_cache += cached_nodes;
        }
        wire.add(raw.flip_floor(&message, Floor::Wire).await?.max());
        disk.add(raw.flip_floor(&message, Floor::Disk).await?.max());
        before = next;
    }
    let expected = count * 2 * usize::try_from(common.rounds)?;
    ensure!(from_cache == expected, "{from_cache} of {expected} switches came out of the cache");

    report.row("promoted → last node switched, announced before", "ms", &announced);
    report.row("promoted → last node switched, in every cache", "ms", &cached);
    report.row("nodes that had staged it when it was promoted", "nodes", &staged);
    report.row("floor: last has renamed a link, durably", "ms", &disk);
    report.row("wire floor: last has the message", "ms", &wire);
    report.ratio("in every cache / floor", cached.median(), disk.median(), Some(Limit::at_most(3.0, 1.5)));
    report.ratio("announced before / floor", announced.median(), disk.median(), Some(Limit::at_most(3.0, 1.5)));
    report.fact("switches out of the cache", from_cache);
    fleet.stop().await?;
    server.stop().await?;
    Ok(report)
}

/// Milliseconds until the last node has switched, and how many needed no fetch.
async fn switch(
    fleet: &AgentFleet,
    publisher: &BenchPublisher,
    release: &PublishedRelease,
    moved: Move,
    limit: Duration,
) -> anyhow::Result<(f64, usize)> {
    let (tag, tree_digest) = (&release.published.tag, release.published.tree_digest);
    let nodes = fleet.switched(&publisher.log, moved.stream_sequence, tag, tree_digest, limit).await?;
    let times: Samples =
        nodes.iter().filter_map(|node| node.switched).map(|time| milliseconds(moved.stored_at, time)).collect();
    Ok((times.max(), nodes.iter().filter(|node| node.from_cache).count()))
}
