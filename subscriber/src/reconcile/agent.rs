//! One bundle on this node: what is known of it. What is done about it: `rounds` and the modules beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::event::Published;
use shared::limits::ReleaseLimits;
use shared::verification::CheckedRelease;
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::outbox::Outbox;
use streams::release_store::ReleaseStore;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::after_switch::AfterSwitch;
use super::log_watch::LogWatch;
use super::node_alarms::NodeAlarms;
use super::pinning::KnownPin;
use super::prefetch::Prefetch;
use super::tamper_check::FileChecks;
use crate::agent_view::{AgentView, ManifestFacts, Trouble};
use crate::alarms::Alarms;
use crate::cache::Cache;
use crate::checkpoint_watch::CheckpointFile;
use crate::config::{AgentConfig, BundleConfig};
use crate::desired::Question;
use crate::metrics::BundleMetrics;
use crate::node_report::{LoggedReport, NodeReport};
use crate::node_state::{LoadedRelease, NodeState, Provenance, ReleaseId};
use crate::plan::{Announcement, Embedded, Withdrawn};
use crate::reports::Reporter;
use crate::state_directory::StateDirectory;

/// What a node knows and holds of one bundle.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and any may hold beside any other")]
pub(super) struct Agent {
    pub(super) config: Arc<AgentConfig>,
    /// The bundle it is about.
    pub(super) target: BundleConfig,
    pub(super) limits: ReleaseLimits,
    pub(super) cache: Cache,
    pub(super) directory: Arc<StateDirectory>,
    pub(super) state: NodeState,
    pub(super) connection: Connection,
    pub(super) log: EventLog,
    pub(super) store: ReleaseStore,
    pub(super) outbox: Outbox,
    pub(super) question: Question,
    pub(super) reporter: Reporter,
    /// What the log named last.
    pub(super) desired: Option<ReleaseId>,
    /// How it was announced, as far as that was looked up.
    pub(super) announced: Option<(u64, Published)>,
    pub(super) withdrawn: Withdrawn,
    pub(super) known_pin: KnownPin,
    /// Whether `current` is the remembered release and not known to be damaged.
    pub(super) intact: bool,
    /// What the last switch began: telling the application, and its release's trial.
    pub(super) after_switch: Option<AfterSwitch>,
    pub(super) deafness: Deafness,
    /// The current release was found in place at the start, and its files are not compared yet.
    pub(super) verifying: bool,
    /// Releases in the cache that are not what they should be.
    pub(super) damaged: BTreeSet<ReleaseId>,
    pub(super) staged: Option<Staged>,
    /// What is fetched before it is promoted.
    pub(super) prefetch: Prefetch,
    pub(super) alarms: Alarms,
    pub(super) node_alarms: Arc<NodeAlarms>,
    pub(super) metrics: BundleMetrics,
    /// When old releases are looked through next.
    pub(super) collect_at: Option<Instant>,
    pub(super) own_last_sequence: u64,
    /// What the log held of this node and bundle when it was last read.
    pub(super) logged: Option<LoggedReport>,
    /// Answers in a row that could not be used.
    pub(super) fruitless: u32,
    /// Looks in a row that did not go as far as a live message said.
    pub(super) behind: u32,
    /// Looks in a row for an announcement that was not there.
    pub(super) unannounced: u32,
    pub(super) outdated_since: Option<Instant>,
    pub(super) log_watch: LogWatch,
    pub(super) unsaved: bool,
    /// Since when the file still holds what was recorded in the outbox.
    pub(super) forgotten: Option<Instant>,
    pub(super) started_at: DateTime<Utc>,
    pub(super) view: watch::Sender<NodeReport>,
    /// The last resort, once it was needed.
    pub(super) embedded: Option<Embedded>,
    /// When the files of the running release are compared with what was announced.
    pub(super) files: FileChecks,
    /// Whether the log has said since the start what is desired.
    pub(super) asked: bool,
    /// Why the desired release does not run.
    pub(super) trouble: Option<Trouble>,
    /// The tag this node is pinned to, where the log does not announce it.
    pub(super) unannounced_pin: Option<shared::identifiers::Tag>,
    /// The manifest of the release that was running when it was last looked for.
    pub(super) manifest: Option<(ReleaseId, Option<ManifestFacts>)>,
    pub(super) shown: watch::Sender<AgentView>,
    pub(super) first_look: CancellationToken,
    /// Whether the log has said what this node should run.
    pub(super) looked: bool,
}

/// What does not get through although a connection may stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Deafness {
    /// Live messages do not arrive.
    pub(super) feed_silent: bool,
    /// The last look at the log failed.
    pub(super) log_unreadable: bool,
}

/// What the agent remembers of its bundle, and where.
pub(super) struct Memory {
    pub(super) directory: Arc<StateDirectory>,
    pub(super) state: NodeState,
}

/// What the agents of one node have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) config: Arc<AgentConfig>,
    pub(super) connection: Connection,
    /// One for the node: its events are numbered by one writer, whichever bundle they are about.
    pub(super) outbox: Outbox,
    pub(super) node_alarms: Arc<NodeAlarms>,
    /// Cancelled once the log was asked for the first time, for whichever bundle.
    pub(super) first_look: CancellationToken,
}

/// A release in its place that may be switched to, and what is to be said about it once it is switched to.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) id: ReleaseId,
    pub(super) release: CheckedRelease,
    pub(super) source: shared::event::LoadSource,
    pub(super) wire_bytes: u64,
    pub(super) git_sha: Option<String>,
    /// When it was decided to go for it.
    pub(super) decided: Instant,
}

/// How a part of a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The log says something new, or much time has passed: read it again first.
    Look,
    /// Nothing to do, for this long at most.
    Rest(Duration),
}

impl Agent {
    pub(super) fn new(common: Common, target: BundleConfig, memory: Memory, reporter: Reporter) -> Self {
        let Common { config, connection, outbox, node_alarms, first_look } = common;
        let started_at = Utc::now();
        let question = Question {
            bundle: target.bundle.clone(),
            follow: target.follow.clone(),
            node: config.node.clone(),
            channel: target.channel.clone(),
            incarnation: outbox.incarnation(),
        };
        let report = NodeReport::at_start(&config, &target, outbox.incarnation(), started_at);
        let shown = watch::Sender::new(AgentView::at_start(report.clone(), &config, &target));
        let log_watch = LogWatch::new(CheckpointFile::at(memory.directory.checkpoint(&target.bundle)));
        let metrics = BundleMetrics::new(&config, &target.bundle);
        Self {
            reporter,
            log: EventLog::new(connection.clone()),
            store: ReleaseStore::new(connection.clone()).together(config.multicast.settings()),
            limits: ReleaseLimits::default(),
            directory: memory.directory,
            state: memory.state,
            cache: Cache::new(&target.cache),
            alarms: Alarms::of(target.bundle.clone()),
            config,
            target,
            node_alarms,
            metrics,
            connection,
            outbox,
            question,
            desired: None,
            announced: None,
            withdrawn: Withdrawn::default(),
            known_pin: KnownPin::default(),
            intact: false,
            after_switch: None,
            deafness: Deafness::default(),
            verifying: false,
            damaged: BTreeSet::new(),
            staged: None,
            prefetch: Prefetch::default(),
            collect_at: None,
            own_last_sequence: 0,
            logged: None,
            fruitless: 0,
            behind: 0,
            unannounced: 0,
            outdated_since: None,
            log_watch,
            unsaved: false,
            forgotten: None,
            started_at,
            view: watch::Sender::new(report),
            embedded: None,
            files: FileChecks::default(),
            asked: false,
            trouble: None,
            unannounced_pin: None,
            manifest: None,
            shown,
            first_look,
            looked: false,
        }
    }

    /// The release that is current, as far as it is known to be intact.
    pub(super) fn active(&self) -> Option<&LoadedRelease> {
        self.state.active.as_ref().filter(|_| self.intact)
    }

    /// What is known of the desired release's announcement.
    pub(super) fn announcement(&self, desired: &ReleaseId) -> Announcement {
        if self.active().is_some_and(|active| &active.id == desired) {
            return Announcement::NotNeeded;
        }
        let pin = self.known_pin.pin.as_ref().filter(|pin| &pin.release() == desired);
        let announced = self.announced.as_ref().filter(|(_, published)| published.tag == desired.tag);
        match (announced, pin) {
            (Some((_, published)), Some(pin)) if published.tree_digest != desired.tree_digest => {
                Announcement::ByHand { content_digest: pin.content_digest }
            }
            (Some((stream_sequence, published)), _) => Announcement::Found {
                stream_sequence: *stream_sequence,
                tree_digest: published.tree_digest,
                content_digest: published.content_digest,
            },
            (None, Some(pin)) => Announcement::ByHand { content_digest: pin.content_digest },
            (None, None) => Announcement::Missing,
        }
    }

    /// The releases loaded so far that are worth returning to, newest first.
    pub(super) fn history(&self) -> Vec<LoadedRelease> {
        let broken = self.state.active.iter().filter(|_| !self.intact);
        let broken = broken.filter(|active| active.provenance != Provenance::Embedded);
        broken.chain(&self.state.previous).cloned().collect()
    }

    /// The releases whose presence in the cache matters for a decision.
    pub(super) fn of_interest(&self) -> BTreeSet<ReleaseId> {
        let runs_well =
            self.active().is_some_and(|active| active.provenance != Provenance::Embedded && !self.must_not_run(active));
        let history = if runs_well { Vec::new() } else { self.history() };
        history.into_iter().map(|release| release.id).chain(self.desired.clone()).collect()
    }

    /// Whether a release is not to run where there is another: it is withdrawn, or failed its health check.
    pub(super) fn must_not_run(&self, release: &LoadedRelease) -> bool {
        self.is_withdrawn(release) || self.state.trials.rejection(release.id.tree_digest).is_some()
    }

    /// Whether a release must never run.
    pub(super) fn is_withdrawn(&self, release: &LoadedRelease) -> bool {
        self.withdrawn.holds(release.id.tree_digest, Some(release.content_digest))
    }
}
