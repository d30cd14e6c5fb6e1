//! `fleet-status`: the operator's command over a large fleet, beside its own answer from the whole log.
//!
//! Measured as an operator meets it: the `demonctl` beside this program, from its start to the last line.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use clap::Args;
use serde_json::Value;
use shared::fleet_history::{FleetHistory, StoredMessage};
use shared::identifiers::{Incarnation, Tag};
use shared::subjects::{EVENT_SUBJECTS, NODE_TABLE};
use streams::event_log::EventLog;
use subscriber::node_report::{ActiveReport, LoggedReport, NodeReport};
use tokio::process::Command;

use crate::CommonArguments;
use crate::bench_server::{BenchServer, Durability};
use crate::event_maker::{self, EventMaker, fill, tree_digest};
use crate::measurement::Samples;
use crate::report::{Limit, Report};

/// Milliseconds that an answer may take.
const MUST: f64 = 300.0;
/// Of so many entries of the table one is wrong: the log must win there.
const WRONG_EVERY: usize = 100;
/// Entries sent before the server is asked whether it has them.
const WINDOW: usize = 1000;

#[derive(Debug, Args)]
pub(crate) struct FleetStatusArguments {
    /// Nodes in the table and in the log.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Releases that every node has gone through: three events of each node for each.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    releases: u64,
    /// Every entry of the table is older than the newest release, as while one goes out: what came since is read from the log.
    #[arg(long, env = "DEMON_BENCH_GOING_OUT", value_parser = clap::builder::BoolishValueParser::new())]
    going_out: bool,
    /// The `demonctl` to measure [default: the one beside this program]
    #[arg(long, env = "DEMON_BENCH_DEMONCTL", value_name = "FILE")]
    demonctl: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

pub(crate) async fn run(arguments: &FleetStatusArguments) -> anyhow::Result<Report> {
    let FleetStatusArguments { nodes, releases, going_out, common, .. } = arguments;
    let mut report = Report::new("fleet-status");
    report.setting("nodes", *nodes);
    report.setting("releases", *releases);
    report.setting("going out", *going_out);
    report.setting("rounds", common.rounds);
    ensure!(!going_out || *releases > 1, "--going-out needs a release before the newest: --releases 2");
    let demonctl = demonctl(arguments)?;

    let server = BenchServer::start(common.directory.as_deref(), Durability::Later).await?;
    let client = server.client().await?;
    let count = usize::try_from(*nodes)?;
    let mut maker = EventMaker::new("contracts".parse()?, "production".parse()?, count)?;
    let events = u64::from(*nodes) * 3 * releases;
    let newest = event_maker::tag(releases - 1)?;
    event_maker::store(&client, maker.promoted(&newest)?).await?;
    fill(&client, &mut maker, events).await?;
    let history = fold(&EventLog::new(server.connection("bench fleet status").await?)).await?;
    ensure!(history.nodes.len() == count, "the log knows {} of {count} nodes", history.nodes.len());
    // What a release adds to the log: three events of every node.
    let release_ago = if *going_out { 3 * u64::from(*nodes) } else { 0 };
    let told = if *going_out { event_maker::tag(releases - 2)? } else { newest.clone() };
    fill_table(&client, &history, &told, release_ago).await?;
    let wrong = if *going_out { count } else { count.div_ceil(WRONG_EVERY) };

    let (mut heads, mut full) = (Samples::default(), Samples::default());
    for _ in 0..common.rounds {
        let (answer, time) = status(&demonctl, &server.url(), &[]).await?;
        heads.add(time);
        let (whole, time) = status(&demonctl, &server.url(), &["--full"]).await?;
        full.add(time);
        ensure!(answer == whole, "the heads and the whole log give different answers");
        let rows = answer.as_array().context("no rows")?;
        ensure!(rows.len() == count, "{} rows for {count} nodes", rows.len());
        let current = rows.iter().filter(|row| row["state"] == "ok" && row["tag"] == newest.as_str()).count();
        ensure!(current == count, "{current} of {count} nodes are on the desired release");
        let contradicted = rows.iter().filter(|row| row["contradiction"].is_string()).count();
        ensure!(contradicted == wrong, "{contradicted} of {wrong} contradictions are named");
    }
    report.row("demonctl fleet status", "ms", &heads);
    report.row("demonctl fleet status --full", "ms", &full);
    report.ratio("status / 300 ms", heads.median(), MUST, Some(Limit::at_most(1.0, 0.5)));
    report.ratio("status / whole fold", heads.median(), full.median(), None);
    report.fact("events in the log", history.last_sequence);
    report.fact("rows, equal in both answers", count);
    report.fact("wrong or outdated entries of the table, all named", wrong);
    server.stop().await?;
    Ok(report)
}

fn demonctl(arguments: &FleetStatusArguments) -> anyhow::Result<PathBuf> {
    if let Some(path) = &arguments.demonctl {
        return Ok(path.clone());
    }
    let beside = std::env::current_exe().context("this program cannot be found")?.with_file_name("demonctl");
    ensure!(
        beside.exists(),
        "there is no `{}`: build it with the same profile (`cargo build --release -p demonctl`) or name one with --demonctl",
        beside.display()
    );
    Ok(beside)
}

async fn status(demonctl: &PathBuf, url: &str, options: &[&str]) -> anyhow::Result<(Value, f64)> {
    let mut command = Command::new(demonctl);
    command.args(["fleet", "status", "--output", "json"]).args(options).env("NATS_URL", url).env("RUST_LOG", "error");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let begun = Instant::now();
    let output = command.output().await.with_context(|| format!("`{}` does not start", demonctl.display()))?;
    let mut time = Samples::default();
    time.add_time(begun.elapsed());
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`demonctl fleet status` ended with {}: {words}", output.status);
    Ok((serde_json::from_slice(&output.stdout).context("the answer is no JSON")?, time.median()))
}

async fn fold(log: &EventLog) -> anyhow::Result<FleetHistory> {
    let mut history = FleetHistory::default();
    let mut pages = log.by_subject(EVENT_SUBJECTS, 1);
    while let Some(page) = pages.next_page().await? {
        for event in &page {
            history.apply(StoredMessage {
                stream_sequence: event.stream_sequence,
                stored_at: event.stored_at,
                subject: &event.subject,
                payload: &event.payload,
            });
        }
    }
    Ok(history)
}

/// Every node's entry as its heartbeat would have written it so many events ago, but for a few that are wrong.
async fn fill_table(
    client: &async_nats::Client,
    history: &FleetHistory,
    newest: &Tag,
    events_ago: u64,
) -> anyhow::Result<()> {
    let wrong: Tag = "wrong".parse().context("a tag")?;
    for (place, ((node, bundle), state)) in history.nodes.iter().enumerate() {
        let tag = if place.is_multiple_of(WRONG_EVERY) { &wrong } else { newest };
        let entry = NodeReport {
            node: node.clone(),
            bundle: bundle.clone(),
            channel: Some("production".parse().context("a channel")?),
            pinned: None,
            active: Some(ActiveReport {
                tag: tag.clone(),
                tree_digest: tree_digest(tag),
                content_digest: tree_digest(tag),
                loaded_at: Utc::now(),
            }),
            previous: None,
            desired: Some(newest.clone()),
            last_sequence: state.stream_sequence - events_ago,
            logged: Some(LoggedReport {
                up_to_sequence: history.last_sequence - events_ago,
                last_sequence: state.stream_sequence - events_ago,
            }),
            staged: None,
            waiting_events: 0,
            incarnation: incarnation()?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alarms: Vec::new(),
            started_at: Utc::now(),
        };
        let (subject, value) = (format!("$KV.{NODE_TABLE}.{node}"), serde_json::to_vec(&entry)?);
        if place % WINDOW == WINDOW - 1 || place + 1 == history.nodes.len() {
            client.request(subject, value.into()).await.context("the table takes no entries")?;
        } else {
            client.publish(subject, value.into()).await.context("an entry is not sent")?;
        }
    }
    Ok(())
}

fn incarnation() -> anyhow::Result<Incarnation> {
    uuid::Uuid::new_v4().simple().to_string().parse().context("an incarnation")
}
