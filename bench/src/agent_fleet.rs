//! Many agents in this process: each the product's whole agent, with a connection, a cache and a state of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use clap::Parser;
use shared::digest::Sha256Digest;
use shared::event::BundleEvent;
use shared::identifiers::{NodeName, Tag};
use shared::source::Source;
use streams::event_log::EventLog;
use subscriber::{AgentArguments, AgentConfig, AgentError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::event_maker::node_name;
use crate::sample_releases::{bundle, channel};

/// How often the log is asked who has switched. The times come from the events, not from here.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Running agents.
pub(crate) struct AgentFleet {
    stop: CancellationToken,
    agents: JoinSet<Result<(), AgentError>>,
    directory: PathBuf,
    nodes: usize,
}

/// What a node said about one release.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NodeTimes {
    pub(crate) attempted: Option<DateTime<Utc>>,
    pub(crate) staged: Option<DateTime<Utc>>,
    pub(crate) switched: Option<DateTime<Utc>>,
    pub(crate) tree_digest: Option<Sha256Digest>,
    pub(crate) wire_bytes: u64,
    /// Whether the release came out of the cache, where a switch costs no fetch.
    pub(crate) from_cache: bool,
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    agent: AgentArguments,
}

impl AgentFleet {
    /// Starts this many agents below a directory. `interval` is the time between two looks without news.
    pub(crate) fn start(url: &str, directory: &Path, nodes: usize, interval: &str) -> anyhow::Result<Self> {
        let mut fleet =
            Self { stop: CancellationToken::new(), agents: JoinSet::new(), directory: directory.to_owned(), nodes };
        for number in 0..nodes {
            let config = config(url, &fleet.cache(number), &node_name(number), interval)?;
            fleet.agents.spawn(subscriber::run(config, fleet.stop.clone()));
        }
        Ok(fleet)
    }

    /// How many agents there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// The cache of the node with this number.
    pub(crate) fn cache(&self, number: usize) -> PathBuf {
        self.directory.join(node_name(number)).join("cache")
    }

    /// Waits until every node has reported the switch to a release behind a place in the log, and checks that each says
    /// it runs this tree and that its `current` names it.
    pub(crate) async fn switched(
        &self,
        log: &EventLog,
        behind: u64,
        tag: &Tag,
        tree_digest: Sha256Digest,
        limit: Duration,
    ) -> anyhow::Result<Vec<NodeTimes>> {
        let nodes = self.until(log, behind, tag, limit, "switched", |times| times.switched.is_some()).await?;
        for (node, times) in &nodes {
            ensure!(times.tree_digest == Some(tree_digest), "node `{node}` runs another tree");
        }
        for number in 0..self.nodes {
            let current = std::fs::read_link(self.cache(number).join("current")).context("a node has no `current`")?;
            ensure!(current.ends_with(tag.as_str()), "`{}` runs `{}`", node_name(number), current.display());
        }
        Ok(nodes.into_values().collect())
    }

    /// Waits until every node has staged a release, or the limit has passed; says how many have.
    pub(crate) async fn staged(
        &self,
        log: &EventLog,
        behind: u64,
        tag: &Tag,
        limit: Duration,
    ) -> anyhow::Result<usize> {
        let mut reports = Reports::new(log, behind, tag)?;
        let deadline = Instant::now() + limit;
        loop {
            reports.read_on().await?;
            let staged = reports.nodes.values().filter(|times| times.staged.is_some()).count();
            if staged >= self.nodes || Instant::now() >= deadline {
                return Ok(staged);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn until(
        &self,
        log: &EventLog,
        behind: u64,
        tag: &Tag,
        limit: Duration,
        what: &str,
        done: impl Fn(&NodeTimes) -> bool,
    ) -> anyhow::Result<BTreeMap<NodeName, NodeTimes>> {
        let mut reports = Reports::new(log, behind, tag)?;
        let deadline = Instant::now() + limit;
        loop {
            reports.read_on().await?;
            let there = reports.nodes.values().filter(|times| done(times)).count();
            if there == self.nodes {
                return Ok(reports.nodes);
            }
            let failure = reports.failure.as_deref().unwrap_or("no node reports a failure");
            ensure!(Instant::now() < deadline, "{there} of {} nodes {what} in time: {failure}", self.nodes);
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Stops all agents and waits until they have ended.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.agents.join_next().await {
            ended.context("an agent panicked")?.context("an agent could not live")?;
        }
        Ok(())
    }
}

/// What nodes report about one release, read as the log grows.
struct Reports<'a> {
    log: &'a EventLog,
    next: u64,
    tag: &'a Tag,
    filter: String,
    nodes: BTreeMap<NodeName, NodeTimes>,
    failure: Option<String>,
}

impl<'a> Reports<'a> {
    fn new(log: &'a EventLog, behind: u64, tag: &'a Tag) -> anyhow::Result<Self> {
        let filter = format!("bundle.*.{}.node.*", bundle()?);
        Ok(Self { log, next: behind + 1, tag, filter, nodes: BTreeMap::new(), failure: None })
    }

    async fn read_on(&mut self) -> anyhow::Result<()> {
        let mut pages = self.log.by_subject(self.filter.clone(), self.next);
        while let Some(page) = pages.next_page().await? {
            for event in &page {
                let (_, envelope) = event.envelope()?;
                let Source::Node(node) = envelope.source else { continue };
                self.take(node, envelope.time, envelope.event);
            }
            self.next = pages.next_sequence();
        }
        Ok(())
    }

    fn take(&mut self, node: NodeName, time: DateTime<Utc>, event: BundleEvent) {
        if event.tag() != Some(self.tag) {
            return;
        }
        if event.event_type().token().contains("failed") {
            self.failure = Some(format!("node `{node}`: {event:?}"));
            return;
        }
        let times = self.nodes.entry(node).or_default();
        if let BundleEvent::RefreshAttempt(_) = event {
            times.attempted = Some(time);
        } else if let BundleEvent::Staged(staged) = event {
            times.staged = Some(time);
            times.wire_bytes = staged.wire_bytes;
        } else if let BundleEvent::Loaded(loaded) = event {
            times.switched = Some(time);
            times.tree_digest = Some(loaded.tree_digest);
            times.from_cache = loaded.source == shared::event::LoadSource::Cache;
        }
    }
}

/// The settings of one agent, as its command line gives them.
pub(crate) fn config(url: &str, cache: &Path, node: &str, interval: &str) -> anyhow::Result<AgentConfig> {
    let program = Program::try_parse_from(arguments(url, cache, node, interval)?)?;
    program.agent.check().map_err(|faults| anyhow::anyhow!("{faults}"))
}

/// An agent's command line.
pub(crate) fn arguments(url: &str, cache: &Path, node: &str, interval: &str) -> anyhow::Result<Vec<String>> {
    let cache = cache.to_str().context("a path is no text")?;
    let (bundle, channel) = (bundle()?, channel()?);
    let words = [
        "agent",
        "--node",
        node,
        "--bundle",
        bundle.as_str(),
        "--channel",
        channel.as_str(),
        "--cache",
        cache,
        "--interval",
        interval,
        "--no-http",
        "--nats-url",
        url,
    ];
    Ok(words.map(str::to_owned).to_vec())
}
