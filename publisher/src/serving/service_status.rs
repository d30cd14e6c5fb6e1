//! What the publisher tells about itself: kept by the loop, read by everybody else, never waited for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::event::Trigger;

use super::checkpoint_schedule::CheckpointStatus;
use super::durability_watch::DurabilityStatus;
use super::finished_run::FinishedRun;
use crate::config::ServeConfig;

/// A run that goes on.
#[derive(Debug, Clone, Serialize)]
pub struct RunningRun {
    /// What made us publish.
    pub trigger: Trigger,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// How the schedule stands.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleStatus {
    /// The cron expression, in UTC.
    pub expression: String,
    /// When it is due next.
    pub next_due: Option<DateTime<Utc>>,
    /// Until when every due time is done; unknown until the log could be read.
    pub done_until: Option<DateTime<Utc>>,
    /// The due time that waits for its run.
    pub pending_due: Option<DateTime<Utc>>,
    /// Due times missed since the publisher started; those of its absence included.
    pub missed: u64,
    /// The last one of those.
    pub last_missed: Option<DateTime<Utc>>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// The publisher's name.
    pub publisher: String,
    /// The bundle.
    pub bundle: String,
    /// The channel that it moves.
    pub channel: Option<String>,
    /// Where releases come from.
    pub source: String,
    /// Since when it runs.
    pub started_at: DateTime<Utc>,
    /// Whether streams, bucket and node table are known to be there.
    pub provisioned: bool,
    /// The run that goes on.
    pub running: Option<RunningRun>,
    /// The one before.
    pub last_run: Option<FinishedRun>,
    /// When a run ended well.
    pub last_success_at: Option<DateTime<Utc>>,
    /// The last run that announced a release.
    pub last_release: Option<FinishedRun>,
    /// The schedule, where there is one.
    pub schedule: Option<ScheduleStatus>,
    /// Checkpoints of the log, where they are signed here and one was tried.
    pub checkpoints: Option<CheckpointStatus>,
    /// Whether the server keeps what it acknowledges; absent until it was asked.
    pub durability: Option<DurabilityStatus>,
}

impl ServiceStatus {
    /// Why the publisher is not ready, beside its connection; `None` where it is.
    pub fn fault(&self) -> Option<String> {
        match &self.last_run {
            None => Some("no run has ended yet".to_owned()),
            Some(run) if !run.result.is_success() => Some(format!("the last run failed: {}", run.words())),
            Some(_) if !self.provisioned => Some("the streams are not provisioned".to_owned()),
            Some(_) => None,
        }
    }
}

/// The status, shared between the loop and whoever reads.
#[derive(Debug)]
pub struct StatusBoard(Mutex<ServiceStatus>);

impl StatusBoard {
    /// A board of a publisher that starts now.
    pub fn new(config: &ServeConfig, now: DateTime<Utc>) -> Self {
        let publisher = &config.publisher;
        Self(Mutex::new(ServiceStatus {
            publisher: publisher.name.to_string(),
            bundle: publisher.bundle.to_string(),
            channel: publisher.channel.as_ref().map(ToString::to_string),
            source: publisher.source.to_string(),
            started_at: now,
            provisioned: false,
            running: None,
            last_run: None,
            last_success_at: None,
            last_release: None,
            schedule: config.schedule.as_ref().map(|schedule| ScheduleStatus {
                expression: schedule.to_string(),
                next_due: schedule.next_after(now),
                done_until: None,
                pending_due: None,
                missed: 0,
                last_missed: None,
            }),
            checkpoints: None,
            durability: None,
        }))
    }

    /// The status at this moment.
    pub fn read(&self) -> ServiceStatus {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ServiceStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, trigger: Trigger, started_at: DateTime<Utc>) {
        self.lock().running = Some(RunningRun { trigger, started_at });
    }

    pub(super) fn end(&self, run: &FinishedRun, provisioned: bool) {
        let mut status = self.lock();
        status.running = None;
        status.provisioned = provisioned;
        if run.result.is_success() {
            status.last_success_at = Some(run.finished_at);
        }
        if run.releases.iter().any(|release| release.announced) {
            status.last_release = Some(run.clone());
        }
        status.last_run = Some(run.clone());
    }
}
