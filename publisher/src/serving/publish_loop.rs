//! The loop: what to do next, by the clock, the source's interval, the schedule and the orders that wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::daemon::ErrorChain;
use shared::event::{BundleEvent, Trigger};
use shared::identifiers::BundleName;
use shared::subjects::announcements_filter;
use streams::connection::{ConnectedAgain, Connection, ConnectionState};
use streams::event_log::{EventLog, ReadError};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::checkpoint_schedule::CheckpointSchedule;
use super::durability_watch::DurabilityWatch;
use super::finished_run::{FinishedRun, RunResult};
use super::run_queue::{QueuedRun, RunQueue};
use super::service_metrics::{MetricsError, ServiceMetrics, count_missed, count_run};
use super::service_status::StatusBoard;
use crate::config::{ServeConfig, SourceConfig};
use crate::durability_gate::refusal;
use crate::http_api::{HttpApi, HttpServer, ListenError};
use crate::progress::Progress;
use crate::publish_cycle::ReleasePolicy;
use crate::schedule::{RecordError, ScheduleLedger, ScheduleRecord};
use crate::service::{Patience, PublishService, RunOrder, StartError, log_report};

/// After a run that failed: soon enough for a server that was away, rare enough to be no burden.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// The wall clock may be set, and a machine may sleep: it is looked at again at least this often.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// While durability is required and the server cannot be asked.
const FIRST_LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long a run may go on after the signal to stop; what is cut off then, the next run finishes.
const LAST_RUN: Duration = Duration::from_secs(5);

/// A publisher that cannot stay.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Nothing can be published.
    #[error("the publisher cannot start")]
    Start(#[source] StartError),
    /// The HTTP side cannot listen.
    #[error("requests cannot be listened to")]
    Listen(#[source] ListenError),
    /// Metrics cannot be kept.
    #[error("the publisher cannot start")]
    Metrics(#[source] MetricsError),
    /// Durability is required, and the server has it not.
    #[error(
        "the server may lose what it has acknowledged, and --require-durable (DEMON_REQUIRE_DURABLE) forbids that: {0}"
    )]
    NotDurable(String),
    /// Signals cannot be waited for.
    #[error("signals cannot be listened to")]
    Signals(#[source] io::Error),
}

/// Why it is not known what of the schedule is done.
#[derive(Debug, Error)]
enum LedgerError {
    #[error("scheduled releases in the log cannot be read")]
    Log(#[source] ReadError),
    #[error("scheduled runs of the past cannot be read")]
    Record(#[source] RecordError),
    #[error("reading was interrupted")]
    Interrupted(#[source] JoinError),
}

/// Publishes until `stop` is cancelled. A run that fails is logged and tried again; the same failure or the same
/// result is logged once. A run that goes on when the signal comes has a moment to finish; one that is cut off is
/// finished by the next.
pub async fn serve(config: ServeConfig, progress: &Progress, stop: &CancellationToken) -> Result<(), ServeError> {
    let metrics = ServiceMetrics::install().map_err(ServeError::Metrics)?;
    let look_now = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
    let service = PublishService::start(config.publisher.clone(), Patience::KeepTrying).await;
    let mut service = service.map_err(ServeError::Start)?;
    let checkpoints = config.checkpoints.as_ref().map(|checkpoints| {
        service.sign_checkpoints_with(checkpoints.key.clone());
        CheckpointSchedule::new(checkpoints.interval, checkpoints.key.verifier().to_string())
    });
    let status = Arc::new(StatusBoard::new(&config, Utc::now()));
    let queue = Arc::new(RunQueue::default());
    let server = match &config.listen {
        None => None,
        Some(listen) => {
            let api = HttpApi {
                status: Arc::clone(&status),
                queue: Arc::clone(&queue),
                connection: service.connection().clone(),
                metrics,
                trigger_keys: listen.trigger_keys.clone(),
            };
            Some(HttpServer::start(listen.address, api).await.map_err(ServeError::Listen)?)
        }
    };
    let record = ScheduleRecord::new(&config.publisher.state_dir);
    let connections = service.connection().connected_again();
    let mut publish_loop = PublishLoop {
        service,
        status,
        queue,
        record,
        ledger: None,
        next_look: Instant::now(),
        next_scheduled_try: Instant::now(),
        said: String::new(),
        checkpoints,
        connections,
        durability: DurabilityWatch::new(config.durability.clone()),
        config,
    };
    let ended = match publish_loop.require_durability(stop).await {
        Ok(()) => {
            publish_loop.run(look_now, progress, stop).await;
            Ok(())
        }
        Err(refused) => Err(refused),
    };
    if let Some(server) = server {
        server.stop().await;
    }
    publish_loop.service.close().await;
    ended
}

struct PublishLoop {
    config: ServeConfig,
    service: PublishService,
    status: Arc<StatusBoard>,
    queue: Arc<RunQueue>,
    record: ScheduleRecord,
    /// What of the schedule is done; unknown until the log could be read.
    ledger: Option<ScheduleLedger>,
    next_look: Instant,
    next_scheduled_try: Instant,
    said: String,
    checkpoints: Option<CheckpointSchedule>,
    connections: ConnectedAgain,
    durability: DurabilityWatch,
}

/// What to do next.
enum Task {
    Requested(QueuedRun),
    Scheduled(DateTime<Utc>),
    Look,
}

impl PublishLoop {
    async fn run(&mut self, mut look_now: Signal, progress: &Progress, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.know_what_is_done() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look_after_the_server() => {}
            }
            let due = self.look_at_the_clock(Utc::now());
            if let Some(task) = self.next_task(due, Instant::now()) {
                self.perform(task, progress, stop).await;
                continue;
            }
            if self.until_checkpoint(Instant::now()).is_some_and(|pause| pause.is_zero()) {
                self.write_checkpoint(stop).await;
                continue;
            }
            let pause = self.pause(due);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.queue.added() => {}
                () = sleep(pause) => {}
                Some(()) = self.connections.next() => {}
                _ = look_now.recv() => {
                    tracing::info!("looking at the source now");
                    self.next_look = Instant::now();
                }
            }
        }
    }

    /// Waits for the server and looks whether it is durable, where that is required. Publishes nothing before.
    async fn require_durability(&mut self, stop: &CancellationToken) -> Result<(), ServeError> {
        while self.durability.requires_durability() && !stop.is_cancelled() {
            if connected(self.service.connection()) {
                match self.service.prepare().await {
                    Ok(()) => {
                        let status = self.durability.check(self.service.connection()).await;
                        let (known, refused) = (status.facts.is_some(), refusal(&status.warnings));
                        self.status.lock().durability = Some(status);
                        match refused {
                            Some(text) => return Err(ServeError::NotDurable(text)),
                            None if known => return Ok(()),
                            None => {}
                        }
                    }
                    Err(error) => {
                        tracing::warn!(error = %ErrorChain(&error), "the server's durability is not known yet");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(FIRST_LOOK_PAUSE) => {}
            }
        }
        Ok(())
    }

    /// After a new connection: creates what the server has lost with its memory. Then, and now and then: asks whether it
    /// keeps what it acknowledges.
    async fn look_after_the_server(&mut self) {
        if !self.service.is_provisioned() || !connected(self.service.connection()) {
            return;
        }
        if self.service.may_have_lost_memory()
            && let Err(error) = self.service.restore_memory_streams().await
        {
            // The next run tries again, and says so where it fails.
            tracing::debug!(error = %ErrorChain(&error), "what the server keeps in memory is not looked after");
        }
        let connects = self.service.connection().status().connects;
        if self.durability.pause(connects, Instant::now()).is_zero() {
            let status = self.durability.check(self.service.connection()).await;
            self.status.lock().durability = Some(status);
        }
    }

    /// The schedule comes first, so that orders one after another cannot hold it up; one that fails lets them pass until
    /// it is tried again. An order looks at the source too.
    fn next_task(&self, due: Option<DateTime<Utc>>, now: Instant) -> Option<Task> {
        if let Some(due) = due.filter(|_| self.next_scheduled_try <= now) {
            return Some(Task::Scheduled(due));
        }
        let requested = self.queue.take().map(Task::Requested);
        requested.or_else(|| (self.next_look <= now).then_some(Task::Look))
    }

    /// Until something may have to be done, by what is known now.
    fn pause(&self, due: Option<DateTime<Utc>>) -> Duration {
        let now = Instant::now();
        let mut pause = self.next_look.saturating_duration_since(now).min(LONGEST_WAIT);
        if due.is_some() {
            pause = pause.min(self.next_scheduled_try.saturating_duration_since(now));
        }
        pause = pause.min(self.until_checkpoint(now).unwrap_or(LONGEST_WAIT));
        let wall = Utc::now();
        let next = self.config.schedule.as_ref().and_then(|schedule| schedule.next_after(wall));
        if let Some(until_next) = next.and_then(|next| (next - wall).to_std().ok()) {
            // Not a moment too early, or the loop would spin through it.
            pause = pause.min(until_next + Duration::from_millis(1));
        }
        pause
    }

    /// How long until a checkpoint is due; `None` while there is nothing to sign, or nobody to ask.
    fn until_checkpoint(&self, now: Instant) -> Option<Duration> {
        let schedule = self.checkpoints.as_ref()?;
        (self.service.is_provisioned() && connected(self.service.connection())).then(|| schedule.pause(now))
    }

    async fn write_checkpoint(&mut self, stop: &CancellationToken) {
        let outcome = tokio::select! {
            outcome = self.service.write_checkpoint() => outcome,
            () = too_late(stop) => return,
        };
        if let Some(schedule) = &mut self.checkpoints {
            schedule.ended(outcome);
            self.status.lock().checkpoints = Some(schedule.status());
        }
    }

    /// The due time that waits, with new misses told to everybody.
    fn look_at_the_clock(&mut self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let schedule = self.config.schedule.as_ref()?;
        let ledger = self.ledger.as_mut();
        let standing = ledger.map(|ledger| ledger.look(schedule, now)).unwrap_or_default();
        if let (1.., Some(last_missed)) = (standing.newly_missed, standing.last_missed) {
            count_missed(standing.newly_missed);
            tracing::warn!(
                missed = standing.newly_missed,
                last_missed = %last_missed.to_rfc3339(),
                "a scheduled release was missed; one run makes up for it"
            );
        }
        if let Some(status) = self.status.lock().schedule.as_mut() {
            status.next_due = schedule.next_after(now);
            status.pending_due = standing.due;
            status.done_until = self.ledger.map(|ledger| ledger.done());
            status.missed += standing.newly_missed;
            status.last_missed = standing.last_missed.or(status.last_missed);
        }
        standing.due
    }

    async fn perform(&mut self, task: Task, progress: &Progress, stop: &CancellationToken) {
        let (trigger, policy) = match &task {
            Task::Requested(run) if run.force => (Trigger::WorkflowDispatch, ReleasePolicy::Force),
            Task::Requested(_) => (Trigger::WorkflowDispatch, ReleasePolicy::OnChange),
            Task::Scheduled(_) => (Trigger::Schedule, ReleasePolicy::Daily),
            Task::Look => (Trigger::Local, ReleasePolicy::OnChange),
        };
        let order = RunOrder::of_service(trigger, policy);
        let (started_at, clock) = (Utc::now(), Instant::now());
        self.status.begin(trigger, started_at);
        let outcome = tokio::select! {
            outcome = self.service.run(&order, progress) => outcome,
            () = too_late(stop) => {
                tracing::info!("stopped in the middle of a run; the next one finishes it");
                return;
            }
        };
        let run = FinishedRun::new((trigger, policy == ReleasePolicy::Force), (started_at, Utc::now()), &outcome);
        count_run(&run, clock.elapsed());
        self.status.end(&run, self.service.is_provisioned());
        if let Ok(report) = &outcome {
            report.releases.iter().zip(&run.releases).filter(|(_, told)| told.announced).for_each(|(release, _)| {
                log_report(release);
            });
        }
        self.log(&run);
        self.plan_after(&task, &run).await;
        if let Task::Requested(queued) = task {
            queued.finish(&run);
        }
    }

    async fn plan_after(&mut self, task: &Task, run: &FinishedRun) {
        let interval = self.config.interval;
        let pause = match (run.result.is_success(), &self.config.publisher.source) {
            (false, SourceConfig::Directory(_)) => interval.min(RETRY_PAUSE),
            // Somebody else's server is not asked more often because something went wrong.
            (true, _) | (false, SourceConfig::GitHub(_)) => interval,
        };
        self.next_look = Instant::now() + pause;
        let Task::Scheduled(due) = task else { return };
        if !run.result.is_success() {
            // A rule that refuses the content does not change its mind by itself.
            let pause = if run.result == RunResult::Refused { interval.max(RETRY_PAUSE) } else { RETRY_PAUSE };
            self.next_scheduled_try = Instant::now() + pause;
            return;
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.complete(*due);
        }
        self.write_record(*due).await;
    }

    /// Logs a run, unless nobody asked for it and the one before ended in the same words.
    fn log(&mut self, run: &FinishedRun) {
        let words = run.words();
        let trigger = run.trigger.as_str();
        let nobody_asked = match run.trigger {
            Trigger::Local => true,
            // The first that went well is news; a failure is tried again and again.
            Trigger::Schedule => run.error.is_some(),
            Trigger::WorkflowRun | Trigger::WorkflowDispatch => false,
        };
        let repeated = nobody_asked && words == self.said;
        match &run.error {
            _ if repeated => tracing::debug!(trigger, "{words}"),
            Some(error) => tracing::error!(trigger, %error, "publishing failed"),
            None if run.releases.iter().any(|release| release.announced) => {}
            None => tracing::info!(trigger, "{words}"),
        }
        self.said = words;
    }

    /// Finds out, once, what of the schedule is done: by our own record, and by the scheduled releases in the log. A
    /// schedule that was never in effect begins now.
    async fn know_what_is_done(&mut self) {
        if self.config.schedule.is_none() || self.ledger.is_some() || !connected(self.service.connection()) {
            return;
        }
        match self.read_what_is_done().await {
            Ok(Some(done)) => self.ledger = Some(ScheduleLedger::new(done)),
            Ok(None) => {
                let now = Utc::now();
                self.ledger = Some(ScheduleLedger::new(now));
                self.write_record(now).await;
            }
            // A log that is not there yet has no releases; the first run makes it, and then we know.
            Err(_) if !self.service.is_provisioned() => {}
            Err(error) => tracing::warn!(error = %ErrorChain(&error), "the schedule waits"),
        }
    }

    async fn read_what_is_done(&self) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let log = EventLog::new(self.service.connection().clone());
        let released = last_scheduled_release(&log, &self.config.publisher.bundle).await.map_err(LedgerError::Log)?;
        let record = self.record.clone();
        let recorded = spawn_blocking(move || record.read()).await.map_err(LedgerError::Interrupted)?;
        Ok(released.max(recorded.map_err(LedgerError::Record)?))
    }

    async fn write_record(&self, done: DateTime<Utc>) {
        let record = self.record.clone();
        let written = spawn_blocking(move || record.write(done)).await;
        let fault = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => ErrorChain(&error).to_string(),
            Err(error) => error.to_string(),
        };
        // In memory it is done; a restart may run once more, and find nothing to release.
        tracing::warn!(error = %fault, "a scheduled run is not recorded");
    }
}

/// When the log's last release by schedule was announced.
async fn last_scheduled_release(log: &EventLog, bundle: &BundleName) -> Result<Option<DateTime<Utc>>, ReadError> {
    let events = log.by_subject(announcements_filter(bundle), 1).collect().await?;
    let scheduled = events.iter().filter_map(|stored| stored.envelope().ok()).filter_map(|(_, envelope)| {
        matches!(&envelope.event, BundleEvent::Published(data) if data.trigger == Trigger::Schedule)
            .then_some(envelope.time)
    });
    Ok(scheduled.max())
}

fn connected(connection: &Connection) -> bool {
    connection.status().state == ConnectionState::Connected
}

async fn too_late(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(LAST_RUN).await;
}
