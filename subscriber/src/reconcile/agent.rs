//! One bundle on this node: what is known of it, and the round in which that is compared with the log. Each bundle has
//! such a loop of its own; none waits for another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::daemon::ErrorChain;
use shared::daemon::crash_point::CrashPoint;
use shared::event::{BundleEvent, Published};
use shared::limits::ReleaseLimits;
use shared::verification::CheckedRelease;
use streams::connection::{Connection, ConnectionState};
use streams::event_log::EventLog;
use streams::outbox::Outbox;
use streams::release_store::ReleaseStore;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::after_switch::AfterSwitch;
use super::heartbeat::jittered;
use super::log_watch::LogWatch;
use super::look::catch_up_pause;
use super::node_alarms::NodeAlarms;
use super::pinning::KnownPin;
use super::resume::is_current;
use super::tamper_check::FileChecks;
use super::wake_ups::{Wake, WakeUps};
use crate::agent_view::{AgentView, ManifestFacts, Trouble};
use crate::alarms::{Alarms, Subject};
use crate::cache::Cache;
use crate::checkpoint_watch::CheckpointFile;
use crate::config::{AgentConfig, BundleConfig};
use crate::desired::Question;
use crate::failures::FailureKind;
use crate::metrics::BundleMetrics;
use crate::node_report::NodeReport;
use crate::node_state::{LoadedRelease, NodeState, Provenance, ReleaseId, UnreportedSwitch};
use crate::plan::{Announcement, Embedded, Withdrawn};
use crate::reports::Reporter;
use crate::state_directory::StateDirectory;

/// Going back takes two steps, and each may be followed by a wish to look at the log first.
const MOST_STEPS_BACK: u32 = 6;

/// What a node knows and holds of one bundle.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and any may hold beside any other")]
pub(super) struct Agent {
    pub(super) config: Arc<AgentConfig>,
    /// The bundle it is about.
    pub(super) target: BundleConfig,
    pub(super) limits: ReleaseLimits,
    pub(super) cache: Cache,
    directory: Arc<StateDirectory>,
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
    pub(super) alarms: Alarms,
    pub(super) node_alarms: Arc<NodeAlarms>,
    pub(super) metrics: BundleMetrics,
    /// When old releases are looked through next.
    pub(super) collect_at: Option<Instant>,
    pub(super) own_last_sequence: u64,
    /// Answers in a row that could not be used.
    pub(super) fruitless: u32,
    /// Looks in a row that did not go as far as a live message said.
    behind: u32,
    /// Looks in a row for an announcement that was not there.
    pub(super) unannounced: u32,
    pub(super) outdated_since: Option<Instant>,
    pub(super) log_watch: LogWatch,
    pub(super) unsaved: bool,
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
            store: ReleaseStore::new(connection.clone()),
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
            collect_at: None,
            own_last_sequence: 0,
            fruitless: 0,
            behind: 0,
            unannounced: 0,
            outdated_since: None,
            log_watch,
            unsaved: false,
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

    /// Lives for ever; ends by being dropped.
    pub(super) async fn live(&mut self, wake_ups: &mut WakeUps) {
        self.refresh_pin().await;
        // What ran before serves on while its files are compared.
        self.recognise().await;
        self.read_manifest().await;
        self.show();
        self.resume().await;
        self.read_manifest().await;
        self.show();
        // Offline, the last good release is put back in place if it is here.
        self.converge(wake_ups).await;
        wake_ups.listen().await;
        loop {
            let rest = self.round(wake_ups).await;
            self.read_manifest().await;
            self.note_conditions().await;
            self.show();
            wake_ups.expect_in_cache(self.active().map(|active| &active.id.tag), self.pin_stamp()).await;
            self.watch_files(wake_ups).await;
            let timer = Instant::now() + rest;
            loop {
                let wake = tokio::select! {
                    biased;
                    () = self.after_switch_changed() => Wake::AfterSwitch,
                    wake = wake_ups.next(timer) => wake,
                };
                match wake {
                    Wake::Outbox | Wake::Connection => self.show(),
                    // A release that failed is exchanged at once, whatever the network does.
                    Wake::AfterSwitch => self.settle_after_switch(wake_ups).await,
                    Wake::Files => {
                        self.files.hint(Instant::now());
                        self.show();
                        break;
                    }
                    Wake::Live | Wake::Cache | Wake::Timer => break,
                    Wake::Connected => {
                        self.fruitless = 0;
                        self.state.failures.retry_now(Utc::now(), &[FailureKind::Download]);
                        break;
                    }
                    Wake::Hangup => {
                        tracing::info!(bundle = %self.target.bundle, "SIGHUP: looking now");
                        let all = [FailureKind::Download, FailureKind::Verification];
                        self.state.failures.retry_now(Utc::now(), &all);
                        self.unsaved |= self.state.trials.forgive_all();
                        break;
                    }
                }
            }
        }
    }

    /// Takes over what the last switch has come to, and brings back what ran before where its release failed.
    async fn settle_after_switch(&mut self, wake_ups: &mut WakeUps) {
        self.settle_trial().await;
        for _ in 0..MOST_STEPS_BACK {
            let failed =
                self.active().is_some_and(|active| self.state.trials.rejection(active.id.tree_digest).is_some());
            if !failed || self.converge(wake_ups).await != Next::Look {
                break;
            }
        }
        if self.unsaved {
            self.save().await;
        }
        self.show();
    }

    /// Looks at the log and does what follows from it. Returns how long to rest at most.
    async fn round(&mut self, wake_ups: &mut WakeUps) -> Duration {
        self.report_switches().await;
        self.look_after_feed(wake_ups).await;
        self.refresh_pin().await;
        self.check_current().await;
        self.check_files().await;
        if self.collect_at.is_some_and(|at| at <= Instant::now()) {
            self.collect_at = None;
            self.collect().await;
        }
        let rest = loop {
            if self.connection.status().state != ConnectionState::Connected {
                // A new connection wakes the agent. What is in the cache needs none.
                let Next::Rest(rest) = self.converge(wake_ups).await else { continue };
                break rest;
            }
            let mut rest = match self.look(wake_ups).await {
                Ok(()) => match self.converge(wake_ups).await {
                    Next::Look => continue,
                    Next::Rest(rest) => rest,
                },
                Err(pause) => match self.converge(wake_ups).await {
                    Next::Look => pause,
                    Next::Rest(rest) => rest.min(pause),
                },
            };
            if wake_ups.looked(self.state.position.read_up_to) {
                rest = rest.min(catch_up_pause(self.behind));
                self.behind = self.behind.saturating_add(1);
            } else {
                self.behind = 0;
            }
            break rest;
        };
        if self.unsaved {
            self.save().await;
        }
        let collect_in = self.collect_at.map(|at| at.saturating_duration_since(Instant::now()));
        let feed_in = wake_ups.feed_due_in();
        let files_in = self.files.rest(Instant::now());
        let interval = jittered(self.config.timing.interval);
        rest.min(interval).min(collect_in.unwrap_or(Duration::MAX)).min(feed_in).min(files_in)
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

    /// Asks the system for hints about the running release's files, after each change of the directory.
    async fn watch_files(&mut self, wake_ups: &mut WakeUps) {
        let watched = self.active().filter(|active| active.provenance != Provenance::Unverified);
        match watched.map(|active| self.cache.release(&active.id.tag)) {
            Some(home) if self.files.replaced => {
                wake_ups.watch_files(home).await;
                self.files.replaced = false;
            }
            Some(_) => {}
            None => wake_ups.stop_watching_files(),
        }
    }

    /// Notices when somebody deleted the cache or pointed `current` elsewhere.
    async fn check_current(&mut self) {
        let Some(active) = self.active() else { return };
        let (cache, tag) = (self.cache.clone(), active.id.tag.clone());
        let there = spawn_blocking(move || is_current(&cache, &tag)).await.unwrap_or(true);
        if !there {
            tracing::warn!("the cache does not show the release that this node switched to: looking what should run");
            self.intact = false;
            self.staged = None;
        }
    }

    /// Makes the memory durable. Where that fails the agent goes on: a restart then costs a comparison and a report.
    pub(super) async fn save(&mut self) {
        let (directory, state) = (Arc::clone(&self.directory), self.state.clone());
        let saved = spawn_blocking(move || directory.save(&state)).await;
        self.unsaved = !matches!(saved, Ok(Ok(())));
        let failed = match saved {
            Ok(result) => result.err().map(|error| ErrorChain(&error).to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.alarms.set(Subject::Disk, failed);
    }

    /// Puts the switches that wait for it into the outbox, and forgets each here once it is durable there. None is
    /// recorded whose number a crash could give away again. What was found out before it is said before it.
    pub(super) async fn report_switches(&mut self) {
        while let Some(waiting) = self.state.unreported_switches.front().cloned() {
            let UnreportedSwitch { id, at, loaded, reverted } = waiting;
            if !self.report_conditions(Some(at)).await {
                return;
            }
            if self.unsaved {
                self.save().await;
            }
            let event = reverted.map_or_else(|| BundleEvent::from(loaded), BundleEvent::from);
            if self.unsaved || !self.reporter.durable(id, at, event).await {
                return;
            }
            CrashPoint::SwitchReported.reach();
            self.state.unreported_switches.pop_front();
            self.save().await;
        }
        self.report_conditions(None).await;
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
