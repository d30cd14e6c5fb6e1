//! How far the server's clock is from ours: an event that was just stored carries the server's time, and lies between two
//! looks at our own.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::durability::ClockSkew;
use crate::event_log::EventLog;

/// Measured again with the first event after so long.
const INTERVAL: Duration = Duration::from_mins(15);

/// When it was last measured.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    measured: Option<Instant>,
}

impl ClockWatch {
    /// Reads when the server stored an event that was sent and acknowledged between two times of ours. One request, and
    /// rarely; `None` where it is not due, or the event cannot be read.
    pub(super) async fn measure(
        &mut self,
        log: &EventLog,
        stored_at: u64,
        asked: DateTime<Utc>,
        answered: DateTime<Utc>,
    ) -> Option<ClockSkew> {
        if self.measured.is_some_and(|measured| measured.elapsed() < INTERVAL) {
            return None;
        }
        let stored = log.at(stored_at).await.ok()??;
        self.measured = Some(Instant::now());
        Some(ClockSkew::measured(asked, stored.stored_at, answered))
    }
}
