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

/// Waits until the file should forget what was recorded at this time; for ever where it holds nothing of the kind.
pub(super) async fn time_to_forget(forgotten: Option<Instant>) {
    match forgotten {
        Some(since) => sleep_until(since + FORGET_WITHIN).await,
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

    /// Puts what waits in the memory into the outbox, oldest first, and forgets each here once it is durable there. No
    /// switch is recorded, nor anything that names one, whose number a crash could give away again. The file forgets a
    /// moment later: recorded again under its id after a crash, an event counts once.
    pub(super) async fn report_waiting(&mut self) {
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
