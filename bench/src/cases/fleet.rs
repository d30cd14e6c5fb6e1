//! `fleet`: a release is published, and every agent fetches it, verifies it and switches to it.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use clap::Args;
use streams::connection_arguments::parse_duration;

use crate::CommonArguments;
use crate::agent_fleet::{AgentFleet, NodeTimes};
use crate::bench_server::{BenchServer, Durability, ServerKind, raise_file_limit};
use crate::measurement::{Samples, as_number};
use crate::process_usage::ProcessUsage;
use crate::raw_fleet::{Floor, RawFleet};
use crate::report::{Limit, Report};
use crate::sample_releases::{BenchPublisher, TreeArguments};

const MEBIBYTE: f64 = 1_048_576.0;

#[derive(Debug, Args)]
pub(crate) struct FleetArguments {
    /// Agents, each with a connection of its own, in this process.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    nodes: u32,
    /// One server, or a cluster of three with three copies of every stream.
    #[arg(long, value_name = "SERVER", default_value = "local", value_enum)]
    server: ServerKind,
    /// Leave the naive way out: it takes by far the longest.
    #[arg(long)]
    without_naive: bool,
    /// How long one release may take to reach every node: a number with `ms`, `s` or `m`.
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = parse_duration)]
    limit: Duration,
    #[command(flatten)]
    tree: TreeArguments,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

/// Times of every node and round, in milliseconds since the announcement.
#[derive(Default)]
struct Stages {
    notified: Samples,
    staged: Samples,
    switched: Samples,
    /// The last node of each round.
    last: Samples,
    /// Between the first and the last switch of each round.
    skew: Samples,
    wire_bytes: Samples,
}

pub(crate) async fn run(arguments: &FleetArguments) -> anyhow::Result<Report> {
    let FleetArguments { nodes, server: kind, tree, common, .. } = arguments;
    let count = usize::try_from(*nodes)?;
    raise_file_limit(u64::from(*nodes) * 16 + 1000)?;
    let mut report = Report::new("fleet");
    report.setting("nodes", *nodes);
    report.setting("server", serde_json::to_value(kind)?);
    report.setting("change", serde_json::to_value(tree.change)?);
    report.setting("files", tree.files);
    report.setting("file_bytes", tree.file_bytes);
    report.setting("rounds", common.rounds);

    let server = BenchServer::start_as(*kind, common.directory.as_deref(), Durability::Synced).await?;
    let mut publisher = BenchPublisher::new(&server.connection("bench publisher").await?, *tree)?;
    let first = publisher.publish().await?;
    let moved = publisher.promote(&first.published.tag).await?;
    let fleet = AgentFleet::start(&server.url(), &server.subdirectory("nodes")?, count, "30s")?;
    let (tag, tree_digest) = (first.published.tag, first.published.tree_digest);
    fleet.switched(&publisher.log, moved.stream_sequence - 1, &tag, tree_digest, arguments.limit).await?;
    let mut raw = RawFleet::connect(&server.url(), &server.subdirectory("raw")?, count).await?;

    let (mut stages, mut put) = (Stages::default(), Samples::default());
    let (mut floor, mut wire, mut naive) = (Samples::default(), Samples::default(), Samples::default());
    let (mut used, mut consumers) = (Samples::default(), 0);
    for round in 0..common.rounds {
        let before = server.usage();
        let behind = publisher.log.state().await?.last_sequence;
        let release = publisher.publish().await?;
        put.add_time(release.took);
        let (tag, tree_digest) = (release.published.tag.clone(), release.published.tree_digest);
        publisher.promote(&tag).await?;
        let times = fleet.switched(&publisher.log, behind, &tag, tree_digest, arguments.limit).await?;
        stages.take(release.announced_at, &times)?;
        if round == 0 {
            // Later ones would be the naive way's: it makes one for each read.
            consumers = server.consumers().await?;
        }
        used.add_time(processor(server.usage()).saturating_sub(processor(before)));
        let bytes = Bytes::from(publisher.wire_bytes(&release.published).await?);
        floor.add(raw.floor(&bytes, Floor::Disk).await?.max());
        wire.add(raw.floor(&bytes, Floor::Wire).await?.max());
        if !arguments.without_naive {
            naive.add(raw.naive(&release).await?.max());
        }
    }

    report.row("ours: announced → notified", "ms", &stages.notified);
    report.row("ours: announced → staged", "ms", &stages.staged);
    report.row("ours: announced → switched", "ms", &stages.switched);
    report.row("ours: announced → last node switched", "ms", &stages.last);
    report.row("ours: first → last switch", "ms", &stages.skew);
    report.row("ours: build, store, read back, announce", "ms", &put);
    report.row("floor: last has hashed, written, renamed", "ms", &floor);
    report.row("wire floor: last has the bytes", "ms", &wire);
    report.row("ours: bytes read by a node", "bytes", &stages.wire_bytes);
    report.row("ours: server's processor time a release", "ms", &used);
    let last = stages.last.median();
    report.ratio("ours / floor", last, floor.median(), Some(Limit::at_most(3.0, 1.5)));
    report.ratio("all staged / wire floor", stages.staged.max(), wire.median(), Some(Limit::at_most(5.0, 3.0)));
    if !arguments.without_naive {
        report.row("naive: last has got, hashed, unpacked", "ms", &naive);
        report.ratio("ours / naive", last, naive.median(), Some(Limit::at_most(0.2, 0.1)));
    }
    report.fact("nodes switched in every round", fleet.nodes());
    if let Some(usage) = server.usage() {
        report.fact("server's peak memory, MiB", as_number(usage.peak_resident) / MEBIBYTE);
    }
    if let Some(usage) = crate::process_usage::own() {
        report.fact("this process's peak memory, MiB", as_number(usage.peak_resident) / MEBIBYTE);
    }
    report.fact("consumers on the server after our first round", consumers);
    fleet.stop().await?;
    server.stop().await?;
    Ok(report)
}

fn processor(usage: Option<ProcessUsage>) -> Duration {
    usage.map(|usage| usage.processor).unwrap_or_default()
}

impl Stages {
    fn take(&mut self, announced_at: DateTime<Utc>, nodes: &[NodeTimes]) -> anyhow::Result<()> {
        let since = |time: Option<DateTime<Utc>>| time.map(|time| milliseconds(announced_at, time));
        let mut switched = Samples::default();
        for times in nodes {
            self.notified.add_some(since(times.attempted));
            self.staged.add_some(since(times.staged));
            switched.add_some(since(times.switched));
            // A node may have it before it is promoted: its bytes are those of the fetch, whatever the switch says.
            if times.staged.is_some() {
                self.wire_bytes.add(as_number(times.wire_bytes));
            }
        }
        ensure!(switched.count() == nodes.len(), "not every node has switched");
        self.last.add(switched.max());
        self.skew.add(switched.max() - switched.min());
        self.switched.extend(&switched);
        Ok(())
    }
}

/// From one time of this machine's clock to another; events carry whole milliseconds, so a little less than 0 is 0.
pub(crate) fn milliseconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    let microseconds = (to - from).num_microseconds().unwrap_or(i64::MAX).max(0);
    as_number(microseconds.unsigned_abs()) / 1000.0
}
