//! When the next checkpoint is due, and what became of the last.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::daemon::ErrorChain;
use tokio::time::Instant;

use super::service_metrics::{count_checkpoint, note_checkpoint_size};
use crate::checkpoints::{CheckpointError, WrittenCheckpoint};

/// After one that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// How checkpoints stand, as the status shows it.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointStatus {
    /// The key that verifies them.
    pub verifier_key: String,
    /// How many events the last one speaks of that this process wrote; 0 before the first.
    pub size: u64,
    /// When that was written.
    pub written_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// The clock of checkpoints.
#[derive(Debug)]
pub(super) struct CheckpointSchedule {
    interval: Duration,
    next: Instant,
    status: CheckpointStatus,
}

impl CheckpointSchedule {
    /// Due at once.
    pub(super) fn new(interval: Duration, verifier_key: String) -> Self {
        let status = CheckpointStatus { verifier_key, size: 0, written_at: None, error: None };
        Self { interval, next: Instant::now(), status }
    }

    /// How long until the next one is due.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    pub(super) fn status(&self) -> CheckpointStatus {
        self.status.clone()
    }

    /// Takes note of an attempt. Logs what is new about it.
    pub(super) fn ended(&mut self, outcome: Result<Option<WrittenCheckpoint>, CheckpointError>) {
        let pause = match outcome {
            Ok(written) => {
                if let Some(WrittenCheckpoint { signed, stream_sequence }) = written {
                    let size = signed.checkpoint().size;
                    tracing::info!(size, event.sequence = stream_sequence, root = %signed.checkpoint().root, "checkpoint signed");
                    count_checkpoint("written");
                    note_checkpoint_size(size);
                    (self.status.size, self.status.written_at) = (size, Some(Utc::now()));
                }
                self.status.error = None;
                self.interval
            }
            Err(error) => {
                let text = ErrorChain(&error).to_string();
                count_checkpoint("failed");
                if self.status.error.as_ref() != Some(&text) {
                    tracing::error!(error = text, "no checkpoint is signed");
                }
                self.status.error = Some(text);
                self.interval.min(RETRY_PAUSE)
            }
        };
        self.next = Instant::now() + pause;
    }
}
