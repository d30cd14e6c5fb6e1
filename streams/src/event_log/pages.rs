//! Reading the log in order, one batched Direct Get after the other.

use shared::subjects::EVENT_STREAM;

use super::ReadError;
use crate::connection::Connection;
use crate::direct_get::{self, DirectGetRequest, MAX_BATCH, MAX_BATCH_BYTES};
use crate::stored_event::StoredEvent;

/// Events that match a filter, in stream order, page by page.
#[derive(Debug)]
pub struct EventPages {
    connection: Connection,
    filter: String,
    next_sequence: u64,
    up_to: Option<u64>,
    finished: bool,
}

impl EventPages {
    pub(super) fn new(connection: Connection, filter: String, from: u64, up_to: Option<u64>) -> Self {
        Self { connection, filter, next_sequence: from.max(1), up_to, finished: false }
    }

    /// The next page, never empty; `None` at the end. After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<StoredEvent>>, ReadError> {
        if self.finished || self.up_to.is_some_and(|up_to| self.next_sequence > up_to) {
            return Ok(None);
        }
        let request = DirectGetRequest {
            sequence: Some(self.next_sequence),
            next_by_subj: Some(self.filter.clone()),
            batch: Some(MAX_BATCH),
            max_bytes: Some(MAX_BATCH_BYTES),
            ..DirectGetRequest::default()
        };
        let batch = direct_get::batch(&self.connection, EVENT_STREAM, &request).await?;
        let more = batch.more && !batch.messages.is_empty();
        let mut page: Vec<StoredEvent> = batch.messages.into_iter().map(StoredEvent::from).collect();
        if let Some(last) = page.last() {
            self.next_sequence = last.stream_sequence + 1;
        }
        if let Some(up_to) = self.up_to {
            page.retain(|event| event.stream_sequence <= up_to);
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
