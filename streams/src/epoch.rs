//! The event that begins a log, so that a log restored from an old backup is told from its predecessor.

use std::time::Duration;

use chrono::Utc;
use shared::event::{BundleEvent, EpochStarted};
use shared::event_chain::EventDraft;
use shared::identifiers::Incarnation;
use shared::source::Source;
use shared::subjects::{EVENT_STREAM, EventSubject};
use thiserror::Error;
use uuid::Uuid;

use crate::event_log::{AppendError, EventLog, Expectation, ReadError, Reader};
use crate::event_writer::{EventWriter, WriteError, new_event_id};

const PATIENCE: Duration = Duration::from_secs(15);

/// An epoch that could not be started.
#[derive(Debug, Error)]
pub enum EpochError {
    /// The log cannot be read.
    #[error("the log's epoch cannot be read")]
    Read(#[source] ReadError),
    /// The event was not stored.
    #[error("the log's epoch cannot be started")]
    Write(#[source] WriteError),
}

/// Starts the log's first epoch where it has none; says whether it did. Needs operator rights, and is safe when several
/// processes do it at once.
pub async fn ensure_epoch(log: &EventLog, operator: Source) -> Result<bool, EpochError> {
    let subject = EventSubject::epoch_started(EVENT_STREAM);
    if log.last(&subject, Reader::Leader).await.map_err(EpochError::Read)?.is_some() {
        return Ok(false);
    }
    let draft = EventDraft {
        id: new_event_id(),
        time: Utc::now(),
        event: BundleEvent::EpochStarted(EpochStarted {
            stream: EVENT_STREAM.to_owned(),
            epoch: Incarnation::from_uuid(Uuid::new_v4()),
            continues: None,
        }),
    };
    let written = EventWriter::in_memory(operator).append(log, &draft, Expectation::OnOwnSubject(0), PATIENCE).await;
    match written {
        Ok(_) => Ok(true),
        // Somebody else was faster.
        Err(WriteError::Append(AppendError::Conflict { .. })) => Ok(false),
        Err(error) => Err(EpochError::Write(error)),
    }
}
