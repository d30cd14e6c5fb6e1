//! Making the memory durable, and recording what waits in it.

use std::sync::Arc;

use shared::daemon::ErrorChain;
use shared::daemon::crash_point::CrashPoint;
use tokio::task::spawn_blocking;

use super::agent::Agent;
use crate::alarms::Subject;
use crate::unreported::Unreported;

impl Agent {
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

    /// Puts what waits in the memory into the outbox, oldest first, and forgets each here once it is durable there. No
    /// switch is recorded, nor anything that names one, whose number a crash could give away again.
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
            self.save().await;
        }
    }
}
