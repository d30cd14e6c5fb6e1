//! The event that begins a log, so that a log restored from an old backup is told from its predecessor.

use std::time::Duration;

use chrono::Utc;
use shared::event::{BundleEvent, ContinuedEpoch, EpochStarted};
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
    /// Somebody else began an epoch meanwhile.
    #[error("another epoch was begun at this moment: look at it with `demonctl events list --type epoch_started`")]
    Overtaken,
}

/// An epoch that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BegunEpoch {
    /// Its id.
    pub epoch: Incarnation,
    /// Where its event stands.
    pub stream_sequence: u64,
}

/// Starts the log's first epoch where it has none; says whether it did. Needs operator rights, and is safe when several
/// processes do it at once.
pub async fn ensure_epoch(log: &EventLog, operator: Source) -> Result<bool, EpochError> {
    let subject = EventSubject::epoch_started(EVENT_STREAM);
    if log.last(&subject, Reader::Leader).await.map_err(EpochError::Read)?.is_some() {
        return Ok(false);
    }
    match begin(log, operator, 0, None, None).await {
        Ok(_) => Ok(true),
        // Somebody else was faster.
        Err(EpochError::Overtaken) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Begins a new epoch of a log that was restored. `after` is the stream sequence of the epoch's event that was read: one
/// begun since is [`EpochError::Overtaken`]. Returns only after the server has confirmed it. Needs operator rights.
pub async fn continue_epoch(
    log: &EventLog,
    operator: Source,
    after: u64,
    continues: ContinuedEpoch,
    reason: String,
) -> Result<BegunEpoch, EpochError> {
    begin(log, operator, after, Some(continues), Some(reason)).await
}

async fn begin(
    log: &EventLog,
    operator: Source,
    after: u64,
    continues: Option<ContinuedEpoch>,
    reason: Option<String>,
) -> Result<BegunEpoch, EpochError> {
    let epoch = Incarnation::from_uuid(Uuid::new_v4());
    let data = EpochStarted { stream: EVENT_STREAM.to_owned(), epoch, continues, reason };
    let draft = EventDraft { id: new_event_id(), time: Utc::now(), event: BundleEvent::EpochStarted(data) };
    let mut writer = EventWriter::in_memory(operator);
    match writer.append(log, &draft, Expectation::OnOwnSubject(after), PATIENCE).await {
        Ok(appended) => Ok(BegunEpoch { epoch, stream_sequence: appended.stream_sequence }),
        Err(WriteError::Append(AppendError::Conflict { .. })) => Err(EpochError::Overtaken),
        Err(error) => Err(EpochError::Write(error)),
    }
}
