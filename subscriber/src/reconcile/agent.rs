//! One agent: what it knows, and the round in which it compares that with the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::RngExt as _;
use shared::daemon::ErrorChain;
use shared::event::Published;
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use shared::verification::VerifiedRelease;
use streams::connection::{Connection, ConnectionState};
use streams::event_log::{EventLog, ReadError};
use streams::outbox::Outbox;
use streams::release_store::ReleaseStore;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::heartbeat::jittered;
use super::resume::is_current;
use super::wake_ups::{Wake, WakeUps};
use crate::alarms::{Alarms, Subject};
use crate::cache::Cache;
use crate::config::{AgentConfig, Follow};
use crate::desired::{Answer, Head, Question, Reading, announcement};
use crate::failures::FailureKind;
use crate::node_report::{ActiveReport, NodeReport};
use crate::node_state::{LoadedRelease, NodeState, ReleaseId, StateDirectory};
use crate::plan::{Announcement, Withdrawn};
use crate::reports::Reporter;

/// How long answers of a log that lags are shrugged off before they raise an alarm.
const LAG_TOLERATED: Duration = Duration::from_mins(1);
/// How soon the log is read again when it should have gone further by now, or answered with an old state.
const CATCH_UP_PAUSE: RetryPause = RetryPause { first: Duration::from_millis(20), longest: Duration::from_secs(1) };

/// What a node knows and holds.
pub(super) struct Agent {
    pub(super) config: AgentConfig,
    pub(super) limits: ReleaseLimits,
    pub(super) cache: Cache,
    directory: Arc<StateDirectory>,
    pub(super) state: NodeState,
    pub(super) connection: Connection,
    pub(super) log: EventLog,
    pub(super) store: ReleaseStore,
    outbox: Outbox,
    pub(super) question: Question,
    pub(super) reporter: Reporter,
    /// What the log named last.
    pub(super) desired: Option<ReleaseId>,
    /// How it was announced, as far as that was looked up.
    pub(super) announced: Option<(u64, Published)>,
    pub(super) withdrawn: Withdrawn,
    /// Whether `current` is the remembered release and not known to be damaged.
    pub(super) intact: bool,
    /// Releases in the cache that are not what they should be.
    pub(super) damaged: BTreeSet<ReleaseId>,
    pub(super) staged: Option<Staged>,
    pub(super) alarms: Alarms,
    /// When old releases are looked through next.
    pub(super) collect_at: Option<Instant>,
    own_last_sequence: u64,
    /// Answers in a row that could not be used.
    fruitless: u32,
    /// Looks in a row that did not go as far as a live message said.
    behind: u32,
    outdated_since: Option<Instant>,
    unsaved: bool,
    started_at: DateTime<Utc>,
    view: watch::Sender<NodeReport>,
    first_look: CancellationToken,
}

/// What the agent remembers, and where.
pub(super) struct Memory {
    pub(super) directory: Arc<StateDirectory>,
    pub(super) state: NodeState,
}

/// A verified release in its place, and what is to be said about it once it is switched to.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) id: ReleaseId,
    pub(super) verified: VerifiedRelease,
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
    pub(super) fn new(
        config: AgentConfig,
        cache: Cache,
        memory: Memory,
        connection: Connection,
        outbox: Outbox,
        reporter: Reporter,
    ) -> (Self, watch::Receiver<NodeReport>) {
        let started_at = Utc::now();
        let question = Question {
            bundle: config.bundle.clone(),
            follow: config.follow.clone(),
            node: config.node.clone(),
            incarnation: outbox.incarnation(),
        };
        let pinned = match &config.follow {
            Follow::Tag(tag) => Some(tag.clone()),
            Follow::Channel(_) => None,
        };
        let (view, seen) = watch::channel(NodeReport {
            node: config.node.clone(),
            bundle: config.bundle.clone(),
            channel: config.follow.channel().cloned(),
            pinned,
            active: None,
            previous: None,
            desired: None,
            last_sequence: 0,
            waiting_events: 0,
            incarnation: outbox.incarnation(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alarms: Vec::new(),
            started_at,
        });
        let agent = Self {
            reporter,
            log: EventLog::new(connection.clone()),
            store: ReleaseStore::new(connection.clone()),
            limits: ReleaseLimits::default(),
            directory: memory.directory,
            state: memory.state,
            config,
            cache,
            connection,
            outbox,
            question,
            desired: None,
            announced: None,
            withdrawn: Withdrawn::default(),
            intact: false,
            damaged: BTreeSet::new(),
            staged: None,
            alarms: Alarms::default(),
            collect_at: None,
            own_last_sequence: 0,
            fruitless: 0,
            behind: 0,
            outdated_since: None,
            unsaved: false,
            started_at,
            view,
            first_look: CancellationToken::new(),
        };
        (agent, seen)
    }

    /// Cancelled once the log was asked for the first time, whatever it answered: then events and heartbeats begin.
    pub(super) fn first_look(&self) -> CancellationToken {
        self.first_look.clone()
    }

    /// Lives for ever; ends by being dropped.
    pub(super) async fn live(&mut self, wake_ups: &mut WakeUps) {
        self.resume().await;
        self.show();
        // Offline, the last good release is put back in place if it is here.
        self.converge(wake_ups).await;
        wake_ups.listen().await;
        loop {
            let rest = self.round(wake_ups).await;
            self.show();
            let timer = Instant::now() + rest;
            loop {
                match wake_ups.next(timer).await {
                    Wake::Outbox => self.show(),
                    Wake::Live | Wake::Timer => break,
                    Wake::Connected => {
                        self.fruitless = 0;
                        self.state.failures.retry_now(Utc::now(), &[FailureKind::Download]);
                        break;
                    }
                    Wake::Hangup => {
                        tracing::info!("SIGHUP: looking now");
                        let all = [FailureKind::Download, FailureKind::Verification];
                        self.state.failures.retry_now(Utc::now(), &all);
                        break;
                    }
                }
            }
        }
    }

    /// Looks at the log and does what follows from it. Returns how long to rest at most.
    async fn round(&mut self, wake_ups: &mut WakeUps) -> Duration {
        if self.state.unreported.is_some() {
            self.report_switch().await;
        }
        self.check_current().await;
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
                rest = rest.min(CATCH_UP_PAUSE.after(self.behind));
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
        rest.min(jittered(self.config.interval)).min(collect_in.unwrap_or(Duration::MAX))
    }

    /// Reads the desired state. The error is the time after which to try again; what was known stays.
    async fn look(&mut self, wake_ups: &mut WakeUps) -> Result<(), Duration> {
        let answer = self.question.ask(&self.log, &self.state.position).await;
        self.first_look.cancel();
        match answer {
            Ok(Answer::Current(reading)) => {
                self.alarms.clear(Subject::Log);
                self.alarms.clear(Subject::Outdated);
                self.outdated_since = None;
                self.take(*reading);
                let announced = self.look_up_announcement().await;
                wake_ups.await_announcement(self.desired.as_ref().map(|desired| &desired.tag));
                announced.map_err(|error| self.unreadable(&error))?;
                self.fruitless = 0;
                Ok(())
            }
            Ok(Answer::Outdated { up_to_sequence }) => {
                let since = *self.outdated_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= LAG_TOLERATED {
                    let seen = self.state.position.read_up_to;
                    self.alarms.raise(
                        Subject::Outdated,
                        format!(
                            "the log answers up to event {up_to_sequence}, but event {seen} was seen before: replicas \
                             lag, or it was restored from a backup without starting an epoch"
                        ),
                    );
                }
                self.fruitless = self.fruitless.saturating_add(1);
                Err(CATCH_UP_PAUSE.after(self.fruitless))
            }
            Ok(Answer::NotReady(missing)) => {
                self.alarms.raise(Subject::Log, format!("waiting for the event log: {missing}"));
                Err(self.pause())
            }
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn unreadable(&mut self, error: &ReadError) -> Duration {
        self.alarms.raise(Subject::Log, ErrorChain(error).to_string());
        self.pause()
    }

    fn pause(&mut self) -> Duration {
        self.fruitless = self.fruitless.saturating_add(1);
        let delay = self.config.retry().delay(u64::from(self.fruitless), rand::rng().random());
        delay.min(self.config.interval)
    }

    /// Takes over what the log says.
    fn take(&mut self, reading: Reading) {
        let position = &mut self.state.position;
        if position.epoch != Some(reading.epoch) {
            if let Some(old) = position.epoch {
                tracing::warn!(old = %old, new = %reading.epoch, "the log was restored: it is read anew");
            }
            position.enter_epoch(reading.epoch);
            self.unsaved = true;
        }
        position.read_up_to = position.read_up_to.max(reading.up_to_sequence);
        self.withdrawn = reading.withdrawn;
        self.own_last_sequence = reading.own_last_sequence;
        match reading.head {
            Head::Channel(sequence, promoted) => {
                if position.applied.insert(promoted.channel, sequence) != Some(sequence) {
                    self.unsaved = true;
                }
                self.desire(ReleaseId { tag: promoted.tag, tree_digest: promoted.tree_digest });
            }
            Head::Pinned(sequence, published) => {
                self.desire(ReleaseId { tag: published.tag.clone(), tree_digest: published.tree_digest });
                self.announced = Some((sequence, published));
            }
            // What ran stays desired, so that it is put back where it is gone.
            Head::Unchanged | Head::Missing => {
                if self.desired.is_none() {
                    self.desired = self.state.active.as_ref().map(|active| active.id.clone());
                }
            }
        }
        let oddities = (!reading.oddities.is_empty()).then(|| reading.oddities.join("; "));
        self.alarms.set(Subject::Head, oddities);
        if let Some(rival) = reading.rival {
            self.alarms.raise(Subject::Rival, rival_text(&self.config, Some(&rival.to_string())));
        }
    }

    fn desire(&mut self, release: ReleaseId) {
        if self.desired.as_ref() != Some(&release) {
            tracing::info!(tag = %release.tag, tree_digest = %release.tree_digest, "desired release");
            self.desired = Some(release);
            self.announced = None;
        }
    }

    /// Looks up how the desired release was announced, unless it runs already.
    async fn look_up_announcement(&mut self) -> Result<(), ReadError> {
        let Some(desired) = self.desired.clone() else { return Ok(()) };
        if self.active().is_some_and(|active| active.id == desired) || matches!(self.config.follow, Follow::Tag(_)) {
            return Ok(());
        }
        self.announced = announcement(&self.log, &self.config.bundle, &desired.tag).await?;
        Ok(())
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
        match &self.announced {
            Some((stream_sequence, published)) if published.tag == desired.tag => Announcement::Found {
                stream_sequence: *stream_sequence,
                tree_digest: published.tree_digest,
                content_digest: published.content_digest,
            },
            Some(_) | None => Announcement::Missing,
        }
    }

    /// Notices when somebody deleted the cache or pointed `current` elsewhere.
    async fn check_current(&mut self) {
        let Some(active) = self.active() else { return };
        let (cache, tag) = (self.cache.clone(), active.id.tag.clone());
        let there = spawn_blocking(move || is_current(&cache, &tag)).await.unwrap_or(true);
        if !there {
            tracing::warn!("the current release is gone from the cache or was replaced by hand; it is put back");
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

    /// Puts the last switch into the outbox and forgets it here once it is durable there.
    pub(super) async fn report_switch(&mut self) {
        let Some((at, loaded)) = self.state.unreported.clone() else { return };
        if self.reporter.loaded(at, loaded).await {
            self.state.unreported = None;
            self.save().await;
        }
    }

    /// Brings the node's entry up to date.
    pub(super) fn show(&mut self) {
        let outbox = self.outbox.status().borrow().clone();
        if let Some(rival) = &outbox.rival {
            let writer = rival.incarnation.map(|writer| writer.to_string());
            self.alarms.raise(Subject::Rival, rival_text(&self.config, writer.as_deref()));
        }
        self.alarms.set(Subject::Outbox, outbox.blocked.map(|reason| format!("events wait in the outbox: {reason}")));
        let fault = self.connection.status().last_fault.map(|fault| fault.to_string());
        let alarms: Vec<String> = self.alarms.texts().map(str::to_owned).chain(fault).collect();
        let report = NodeReport {
            active: self.active().map(|active| ActiveReport {
                tag: active.id.tag.clone(),
                tree_digest: active.id.tree_digest,
                content_digest: active.content_digest,
                loaded_at: active.loaded_at,
            }),
            previous: self.state.previous.first().map(|previous| previous.id.tag.clone()),
            desired: self.desired.as_ref().map(|desired| desired.tag.clone()),
            last_sequence: self.own_last_sequence.max(outbox.last_stream_sequence.unwrap_or(0)),
            waiting_events: outbox.waiting,
            alarms,
            started_at: self.started_at,
            ..self.view.borrow().clone()
        };
        self.view.send_if_modified(|shown| {
            let changed = *shown != report;
            *shown = report;
            changed
        });
    }

    /// The releases loaded so far that are worth returning to, newest first.
    pub(super) fn history(&self) -> Vec<LoadedRelease> {
        let broken = self.state.active.iter().filter(|_| !self.intact);
        broken.chain(&self.state.previous).cloned().collect()
    }

    /// The releases whose presence in the cache matters for a decision.
    pub(super) fn of_interest(&self) -> BTreeMap<Tag, ReleaseId> {
        let history = self.history().into_iter().map(|release| release.id);
        history.chain(self.desired.clone()).map(|id| (id.tag.clone(), id)).collect()
    }
}

fn rival_text(config: &AgentConfig, writer: Option<&str>) -> String {
    let writer = writer.map(|writer| format!(" (incarnation {writer})")).unwrap_or_default();
    format!("another agent{writer} reports under the name `{}`: give each node its own --node", config.node)
}

/// A pause that doubles.
struct RetryPause {
    first: Duration,
    longest: Duration,
}

impl RetryPause {
    fn after(&self, attempts: u32) -> Duration {
        self.first.saturating_mul(1 << attempts.min(16)).min(self.longest)
    }
}
