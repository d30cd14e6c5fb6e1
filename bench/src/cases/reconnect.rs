//! `reconnect`: the server is restarted under a fleet, the channel moves at once, and every node comes to it.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use streams::connection_arguments::parse_duration;
use tokio::time::Instant;

use crate::CommonArguments;
use crate::agent_fleet::AgentFleet;
use crate::bench_server::{BenchServer, Durability, raise_file_limit};
use crate::measurement::Samples;
use crate::report::{Limit, Report};
use crate::sample_releases::{BenchPublisher, TreeArguments};

/// What the slowest node may take, in milliseconds.
const MUST: f64 = 10_000.0;

#[derive(Debug, Args)]
pub(crate) struct ReconnectArguments {
    /// Agents, each with a connection of its own, in this process.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    nodes: u32,
    /// How long the fleet may take to come back.
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = parse_duration)]
    limit: Duration,
    #[command(flatten)]
    tree: TreeArguments,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

pub(crate) async fn run(arguments: &ReconnectArguments) -> anyhow::Result<Report> {
    let ReconnectArguments { nodes, tree, common, limit } = arguments;
    let count = usize::try_from(*nodes)?;
    raise_file_limit(u64::from(*nodes) * 16 + 1000)?;
    let mut report = Report::new("reconnect");
    report.setting("nodes", *nodes);
    report.setting("rounds", common.rounds);

    let mut server = BenchServer::start(common.directory.as_deref(), Durability::Synced).await?;
    let mut publisher = BenchPublisher::new(&server.connection("bench publisher").await?, *tree)?;
    let fleet = AgentFleet::start(&server.url(), &server.subdirectory("nodes")?, count, "30s")?;
    let (one, two) = (publisher.publish().await?, publisher.publish().await?);
    for release in [&one, &two] {
        let moved = publisher.promote(&release.published.tag).await?;
        let (tag, tree_digest) = (&release.published.tag, release.published.tree_digest);
        fleet.switched(&publisher.log, moved.stream_sequence - 1, tag, tree_digest, *limit).await?;
    }

    let (mut converged, mut restarts) = (Samples::default(), Samples::default());
    let (mut consumers, mut errors) = (0, 0);
    for round in 0..common.rounds {
        let release = if round % 2 == 0 { &one } else { &two };
        restarts.add_time(server.restart().await?);
        let listening = Instant::now();
        // A connection of its own: the bench's must not wait with the fleet's.
        let connection = server.connection("bench publisher").await?;
        publisher.use_connection(&connection);
        let errors_before = server.api_errors().await?;
        let moved = publisher.promote(&release.published.tag).await?;
        let (tag, tree_digest) = (&release.published.tag, release.published.tree_digest);
        fleet.switched(&publisher.log, moved.stream_sequence, tag, tree_digest, *limit).await?;
        converged.add_time(listening.elapsed());
        consumers += server.consumers().await?;
        errors += server.api_errors().await?.saturating_sub(errors_before);
    }
    ensure!(consumers == 0, "{consumers} consumers were found on the product's streams");

    report.row("server listens → last node runs the new head", "ms", &converged);
    report.row("restart of the server", "ms", &restarts);
    report.ratio("slowest round / 10 s", converged.max(), MUST, Some(Limit::at_most(1.0, 0.5)));
    report.fact("nodes that came back in every round", fleet.nodes());
    report.fact("consumers on the server", consumers);
    report.fact("refused requests of the JetStream API", errors);
    fleet.stop().await?;
    server.stop().await?;
    Ok(report)
}
