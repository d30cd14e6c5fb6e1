//! Making the memory durable, and recording what waits in it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use shared::daemon::ErrorChain;
use shared::daemon::crash_point::CrashPoint;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::agent::Agent;
use crate::alarms::Subject;
use crate::unreported::Unreported;

/// How long the file may still hold what is recorded in the outbox already.
const FORGET_WITHIN: Duration = Duration::from_millis(250);

/// Waits until a switch that was held is to be told, or the file should forget what was recorded at this time; for ever
/// where there is neither.
pub(super) async fn time_to_remember(held_until: Option<Instant>, forgotten: Option<Instant>) {
    match held_until.or_else(|| Some(forgotten? + FORGET_WITHIN)) {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

impl Agent {
    /// Makes the memory durable. Where that fails the agent goes on: a restart then costs a comparison and a report.
    pub(super) async fn save(&mut self) {
        let (directory, state) = (Arc::clone(&self.directory), self.state.clone());
        let saved = spawn_blocking(move || directory.save(&state)).await;
        self.unsaved = !matches!(saved, Ok(Ok(())));
        self.forgotten = None;
        let failed = match saved {
            Ok(result) => result.err().map(|error| ErrorChain(&error).to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.alarms.set(Subject::Disk, failed);
    }

    /// Whether a switch waits to be written down and told: others switch at the same time.
    pub(super) fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| until > Instant::now())
    }

    /// Writes down and tells what was held, and lets the file forget what is told.
    pub(super) async fn remember(&mut self) {
        if self.held_until.take().is_some() {
            self.save().await;
            CrashPoint::SwitchUnreported.reach();
            self.report_waiting().await;
        } else {
            self.save().await;
        }
    }

    /// Writes down and tells what was held, where something is: the agent ends.
    pub(super) async fn remember_held(&mut self) {
        if self.held_until.is_some() {
            self.remember().await;
        }
    }

    /// Puts what waits in the memory into the outbox, oldest first, and forgets each here once it is durable there. No
    /// switch is recorded, nor anything that names one, whose number a crash could give away again. The file forgets a
    /// moment later: recorded again under its id after a crash, an event counts once.
    pub(super) async fn report_waiting(&mut self) {
        if self.is_held() {
            return;
        }
        while let Some(Unreported { id, at, event, is_switch }) = self.state.next_unreported() {
            if self.unsaved {
                self.save().await;
            }
            if self.unsaved || !self.reporter.durable(id, at, event).await {
                return;
            }
            if is_switch {
                CrashPoint::SwitchReported.reach();
            } else {
                CrashPoint::ConditionReported.reach();
            }
            self.state.forget_reported(id);
            self.forgotten.get_or_insert_with(Instant::now);
        }
    }
}
