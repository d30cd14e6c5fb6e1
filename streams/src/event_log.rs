//! The event stream: reading the log, and (in `append`) adding to it.
//!
//! Readers name who may answer. [`Reader::AnyReplica`] is what agents use: no rights but Direct Get, possibly a
//! moment old. [`Reader::Leader`] is for commands that decide for people.

mod append;
mod last_events;
pub(crate) mod leader_read;
mod pages;
mod read_ahead;
mod subject_names;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use shared::subjects::{EVENT_STREAM, EVENT_SUBJECTS, EventSubject};
use thiserror::Error;

pub(crate) use self::append::Attempts;
pub use self::append::{AppendError, Appended, Expectation, UnknownCause};
pub use self::last_events::LastEvents;
pub use self::pages::{EventPages, EventWithId};
use crate::connection::Connection;
use crate::direct_get::{self, DirectGetError, DirectGetRequest, MAX_BATCH_BYTES};
use crate::jetstream_api::{ApiError, api_request};
use crate::stored_event::StoredEvent;

/// Most subjects that the server returns to one [`EventLog::last_of`].
pub const MAX_SNAPSHOT_SUBJECTS: u32 = 1024;

/// Who may answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The stream's leader: never older than what anybody has seen. Needs operator rights.
    Leader,
    /// Any replica: possibly a moment old. A node's rights suffice.
    AnyReplica,
}

/// A read of the log without result.
#[derive(Debug, Error)]
pub enum ReadError {
    /// More subjects match than one request may return; read them by pages.
    #[error("more than {MAX_SNAPSHOT_SUBJECTS} subjects match")]
    TooManySubjects,
    /// A direct read failed.
    #[error("the event log cannot be read")]
    Direct(#[source] DirectGetError),
    /// A read from the leader failed.
    #[error("the event log cannot be read from its leader")]
    Leader(#[source] ApiError),
    /// The leader's answer is no message.
    #[error("the leader's answer for `{subject}` is no valid message")]
    Malformed {
        /// What was asked for.
        subject: String,
    },
}

impl From<DirectGetError> for ReadError {
    fn from(error: DirectGetError) -> Self {
        match error {
            DirectGetError::TooManySubjects { .. } => Self::TooManySubjects,
            DirectGetError::Request { .. } | DirectGetError::Refused { .. } | DirectGetError::Malformed { .. } => {
                Self::Direct(error)
            }
        }
    }
}

/// The last events of several subjects, as of one instant.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// In stream order.
    pub events: Vec<StoredEvent>,
    /// The stream sequence up to which this is complete; 0 where nothing matched.
    pub up_to_sequence: u64,
}

/// What the leader knows of the log as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct LogState {
    /// How many events it holds.
    #[serde(rename = "messages")]
    pub events: u64,
    /// Their size.
    pub bytes: u64,
    /// Sequence of the first.
    #[serde(rename = "first_seq")]
    pub first_sequence: u64,
    /// Sequence of the last; 0 in an empty log.
    #[serde(rename = "last_seq")]
    pub last_sequence: u64,
}

/// The event log. Clones share the connection.
#[derive(Debug, Clone)]
pub struct EventLog {
    connection: Connection,
}

impl EventLog {
    /// The log behind a connection. Sends nothing.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The connection it reads and writes through.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The last event on one subject.
    pub async fn last(&self, subject: &EventSubject, reader: Reader) -> Result<Option<StoredEvent>, ReadError> {
        self.last_on(&subject.to_string(), reader).await
    }

    /// The last event that matches a filter.
    pub async fn last_on(&self, filter: &str, reader: Reader) -> Result<Option<StoredEvent>, ReadError> {
        match reader {
            Reader::Leader => leader_read::last(&self.connection, EVENT_STREAM, filter).await,
            Reader::AnyReplica => {
                Ok(direct_get::last_message(&self.connection, EVENT_STREAM, filter).await?.map(StoredEvent::from))
            }
        }
    }

    /// The first event that matches a filter, at or after a stream sequence.
    pub async fn next_on(&self, filter: &str, from: u64, reader: Reader) -> Result<Option<StoredEvent>, ReadError> {
        match reader {
            Reader::Leader => leader_read::next(&self.connection, EVENT_STREAM, filter, from).await,
            Reader::AnyReplica => {
                let message = direct_get::next_message(&self.connection, EVENT_STREAM, filter, from).await?;
                Ok(message.map(StoredEvent::from))
            }
        }
    }

    /// The last event of every subject that matches one of the filters, all as of one instant, in one request.
    /// Any replica may answer. [`ReadError::TooManySubjects`] beyond [`MAX_SNAPSHOT_SUBJECTS`].
    pub async fn last_of(&self, filters: &[String]) -> Result<Snapshot, ReadError> {
        let mut snapshot = Snapshot::default();
        let mut request = DirectGetRequest {
            multi_last: filters.to_vec(),
            batch: Some(MAX_SNAPSHOT_SUBJECTS),
            max_bytes: Some(MAX_BATCH_BYTES),
            ..DirectGetRequest::default()
        };
        loop {
            let batch = direct_get::batch(&self.connection, EVENT_STREAM, &request).await?;
            let last = batch.messages.last().map(|message| message.sequence);
            snapshot.events.extend(batch.messages.into_iter().map(StoredEvent::from));
            if snapshot.up_to_sequence == 0 {
                snapshot.up_to_sequence = batch.up_to_sequence;
            }
            match last {
                // Cut off by size: the rest, as of the same instant.
                Some(last) if batch.more => {
                    request.sequence = Some(last + 1);
                    request.up_to_seq = Some(snapshot.up_to_sequence);
                }
                Some(_) | None => return Ok(snapshot),
            }
        }
    }

    /// Reads all events that match a filter in order, page by page, from a stream sequence (1 is the beginning)
    /// to the end of the log. Any replica may answer.
    pub fn by_subject(&self, filter: impl Into<String>, from_sequence: u64) -> EventPages {
        EventPages::new(self.connection.clone(), filter.into(), from_sequence, None)
    }

    /// Reads all events that match a filter in order, page by page, from the first one that the server stored at or
    /// after a time. Any replica may answer.
    pub fn stored_since(&self, filter: impl Into<String>, time: DateTime<Utc>) -> EventPages {
        EventPages::since(self.connection.clone(), filter.into(), time)
    }

    /// The event with this stream sequence. Any replica may answer.
    pub async fn at(&self, stream_sequence: u64) -> Result<Option<StoredEvent>, ReadError> {
        let found = self.next_on(EVENT_SUBJECTS, stream_sequence, Reader::AnyReplica).await?;
        Ok(found.filter(|event| event.stream_sequence == stream_sequence))
    }

    /// Like [`EventLog::by_subject`], up to a stream sequence, inclusive. With operator rights a long stretch is read
    /// through a consumer that lives as long as the reading, which is faster.
    pub fn replay(&self, filter: impl Into<String>, from_sequence: u64, up_to: u64) -> EventPages {
        EventPages::long_stretch(self.connection.clone(), filter.into(), from_sequence, up_to)
    }

    /// What the leader knows of the log. Needs operator rights.
    pub async fn state(&self) -> Result<LogState, ReadError> {
        #[derive(Deserialize)]
        struct Info {
            state: LogState,
        }
        let operation = format!("STREAM.INFO.{EVENT_STREAM}");
        let info: Info =
            api_request(&self.connection, &operation, &serde_json::Map::new()).await.map_err(ReadError::Leader)?;
        Ok(info.state)
    }
}
