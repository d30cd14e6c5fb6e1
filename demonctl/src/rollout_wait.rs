//! `--wait`: until the live nodes that follow a channel run the release it points at.
//!
//! What a node runs, the log says. The node table adds who is there, also before a node's first event, and which
//! channel each follows now.

mod followers;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chrono::Utc;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};
use streams::connection::Connection;
use streams::connection_arguments::parse_duration;
use streams::node_table::NodeTable;
use tokio::time::Instant;

pub(crate) use self::followers::Straggler;
use self::followers::{Followers, Goal};
use crate::history_follower::HistoryFollower;
use crate::output::{may_draw, note};

/// Between two looks at the node table: entries of a large fleet are many.
const TABLE_PAUSE: Duration = Duration::from_secs(1);
/// Done, but not every node followed in time.
pub(crate) const NOT_EVERY_NODE: u8 = 3;

/// The options of commands that can wait for the nodes.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArguments {
    /// Wait until all live nodes that follow the channel run the release; exit code 3 where some do not in time.
    #[arg(long, env = "DEMON_WAIT", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) wait: bool,
    /// How long to wait for the nodes: a number with `ms`, `s` or `m`.
    #[arg(
        long,
        env = "DEMON_WAIT_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = parse_duration
    )]
    pub(crate) timeout: Duration,
}

impl WaitArguments {
    /// The effective settings.
    pub(crate) fn settings(&self) -> Value {
        json!({ "wait": self.wait, "timeout": format!("{}ms", self.timeout.as_millis()) })
    }
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WaitOutcome {
    /// Live nodes that verified the release and run it.
    pub(crate) followed: Vec<NodeName>,
    /// Live nodes that did not, and why.
    pub(crate) stragglers: Vec<Straggler>,
}

impl WaitOutcome {
    /// 0 where every live node followed, else 3.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.stragglers.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NOT_EVERY_NODE) }
    }

    /// One sentence for people.
    pub(crate) fn summary(&self, tag: &Tag) -> String {
        match (self.followed.len(), self.stragglers.len()) {
            (0, 0) => "no live node follows the channel".to_owned(),
            (followed, late) => format!("{followed} of {} nodes run {tag}", followed + late),
        }
    }

    /// Names each node that did not follow, on standard error.
    pub(crate) fn note_stragglers(&self) {
        for straggler in &self.stragglers {
            note(&format!("demonctl: {straggler}"));
        }
    }
}

/// Waits until every live node that follows the channel runs the release, for at most `limit`. A node counts once it
/// was seen alive, also where it falls silent meanwhile; one that is told to follow something else does not. Needs
/// operator rights.
pub(crate) async fn wait_for(
    connection: &Connection,
    bundle: &BundleName,
    channel: &ChannelName,
    tag: &Tag,
    tree_digest: Sha256Digest,
    limit: Duration,
) -> anyhow::Result<WaitOutcome> {
    wait_for_at_least(0, connection, bundle, channel, tag, tree_digest, limit).await
}

/// The same, and until at least `minimum` nodes run it.
pub(crate) async fn wait_for_at_least(
    minimum: usize,
    connection: &Connection,
    bundle: &BundleName,
    channel: &ChannelName,
    tag: &Tag,
    tree_digest: Sha256Digest,
    limit: Duration,
) -> anyhow::Result<WaitOutcome> {
    let goal = Goal { bundle, channel, tag, tree_digest };
    let deadline = Instant::now() + limit;
    let table = NodeTable::new(connection.clone());
    let mut follower = HistoryFollower::start(connection).await?;
    let mut followers = Followers::default();
    let mut look_at_table = Instant::now();
    let bar = may_draw().then(progress_bar);
    loop {
        follower.read_on(|events| followers.see_events(&goal, events)).await?;
        if Instant::now() >= look_at_table {
            let entries = table.list().await.context("the live nodes are not known")?;
            followers.see_entries(&goal, &entries);
            look_at_table = Instant::now() + TABLE_PAUSE;
        }
        followers.see_history(&goal, follower.history(), Utc::now());
        let outcome = followers.outcome(&goal, follower.history());
        if let Some(bar) = &bar {
            bar.set_length((outcome.followed.len() + outcome.stragglers.len()) as u64);
            bar.set_position(outcome.followed.len() as u64);
        }
        let complete = outcome.stragglers.is_empty() && outcome.followed.len() >= minimum;
        if complete || !follower.wait_for_more(deadline).await? {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Ok(outcome);
        }
    }
}

/// How far the live nodes are now, without waiting. Needs operator rights.
pub(crate) async fn standing(
    connection: &Connection,
    bundle: &BundleName,
    channel: &ChannelName,
    tag: &Tag,
    tree_digest: Sha256Digest,
) -> anyhow::Result<WaitOutcome> {
    let goal = Goal { bundle, channel, tag, tree_digest };
    let mut follower = HistoryFollower::start(connection).await?;
    let mut followers = Followers::default();
    follower.read_on(|events| followers.see_events(&goal, events)).await?;
    let entries = NodeTable::new(connection.clone()).list().await.context("the live nodes are not known")?;
    followers.see_entries(&goal, &entries);
    followers.see_history(&goal, follower.history(), Utc::now());
    Ok(followers.outcome(&goal, follower.history()))
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0).with_message("nodes run the release");
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} {msg} [{elapsed}]") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
