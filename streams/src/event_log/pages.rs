//! Reading the log in order, one batched Direct Get after the other.

use chrono::{DateTime, Utc};
use shared::subjects::EVENT_STREAM;

use super::ReadError;
use crate::connection::Connection;
use crate::direct_get::{self, DirectGetRequest, DirectMessage, MAX_BATCH, MAX_BATCH_BYTES};
use crate::stored_event::StoredEvent;

/// Events that match a filter, in stream order, page by page.
#[derive(Debug)]
pub struct EventPages {
    connection: Connection,
    filter: String,
    next_sequence: u64,
    /// Where the first page begins, instead of a sequence.
    start_time: Option<DateTime<Utc>>,
    up_to: Option<u64>,
    finished: bool,
}

/// A stored event with the id it was stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventWithId {
    /// The event.
    pub event: StoredEvent,
    /// Its `Nats-Msg-Id`; `None` where it was stored without one.
    pub message_id: Option<String>,
}

impl EventPages {
    pub(super) fn new(connection: Connection, filter: String, from: u64, up_to: Option<u64>) -> Self {
        Self { connection, filter, next_sequence: from.max(1), start_time: None, up_to, finished: false }
    }

    pub(super) fn since(connection: Connection, filter: String, time: DateTime<Utc>) -> Self {
        Self { start_time: Some(time), ..Self::new(connection, filter, 1, None) }
    }

    /// The same pages up to a stream sequence, inclusive.
    #[must_use]
    pub fn up_to(self, sequence: u64) -> Self {
        Self { up_to: Some(sequence), ..self }
    }

    /// The next page, never empty; `None` at the end. After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<StoredEvent>>, ReadError> {
        let page = self.next_page_with_ids().await?;
        Ok(page.map(|events| events.into_iter().map(|with_id| with_id.event).collect()))
    }

    /// The same with the ids that the events were stored under.
    pub async fn next_page_with_ids(&mut self) -> Result<Option<Vec<EventWithId>>, ReadError> {
        if self.finished || self.up_to.is_some_and(|up_to| self.next_sequence > up_to) {
            return Ok(None);
        }
        let request = DirectGetRequest {
            sequence: self.start_time.is_none().then_some(self.next_sequence),
            start_time: self.start_time,
            next_by_subj: Some(self.filter.clone()),
            batch: Some(MAX_BATCH),
            max_bytes: Some(MAX_BATCH_BYTES),
            ..DirectGetRequest::default()
        };
        let batch = direct_get::batch(&self.connection, EVENT_STREAM, &request).await?;
        let more = batch.more && !batch.messages.is_empty();
        let with_id = |mut message: DirectMessage| {
            let message_id = message.message_id.take();
            EventWithId { event: StoredEvent::from(message), message_id }
        };
        let mut page: Vec<EventWithId> = batch.messages.into_iter().map(with_id).collect();
        if let Some(last) = page.last() {
            self.next_sequence = last.event.stream_sequence + 1;
            self.start_time = None;
        }
        if let Some(up_to) = self.up_to {
            page.retain(|with_id| with_id.event.stream_sequence <= up_to);
        }
        self.finished = !more;
        Ok(if page.is_empty() { None } else { Some(page) })
    }

    /// All that is left, in memory: for subjects with few events.
    pub async fn collect(mut self) -> Result<Vec<StoredEvent>, ReadError> {
        let mut events = Vec::new();
        while let Some(page) = self.next_page().await? {
            events.extend(page);
        }
        Ok(events)
    }

    /// The stream sequence from which the next page is read.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }
}
