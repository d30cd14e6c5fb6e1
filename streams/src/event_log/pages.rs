//! Reading the log in order: one batched Direct Get after the other, or, where much is to be read and a consumer may be
//! made, through one of those.

use chrono::{DateTime, Utc};
use shared::daemon::ErrorChain;
use shared::subjects::EVENT_STREAM;

use super::ReadError;
use super::read_ahead::{Ids, ReadAhead};
use crate::connection::Connection;
use crate::direct_get::{self, DirectGetRequest, DirectMessage, MAX_BATCH, MAX_BATCH_BYTES};
use crate::stored_event::StoredEvent;
use crate::stream_consumer::ConsumerEnd;

/// Fewer events than this are read sooner than a consumer is made.
const WORTH_A_CONSUMER: u64 = 4000;

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
    consumer: ByConsumer,
}

/// Whether a consumer does the reading.
#[derive(Debug)]
enum ByConsumer {
    /// No, or not any more.
    No,
    /// As soon as the first page is asked for.
    Wanted,
    /// Yes.
    Reading(ReadAhead),
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
        Self {
            connection,
            filter,
            next_sequence: from.max(1),
            start_time: None,
            up_to,
            finished: false,
            consumer: ByConsumer::No,
        }
    }

    /// The same through a consumer where the stretch is worth one.
    pub(super) fn long_stretch(connection: Connection, filter: String, from: u64, up_to: u64) -> Self {
        let worth_it = up_to.saturating_sub(from) >= WORTH_A_CONSUMER;
        let consumer = if worth_it { ByConsumer::Wanted } else { ByConsumer::No };
        Self { consumer, ..Self::new(connection, filter, from, Some(up_to)) }
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
        let page = self.page(Ids::Left).await?;
        Ok(page.map(|events| events.into_iter().map(|with_id| with_id.event).collect()))
    }

    /// The same with the ids that the events were stored under.
    pub async fn next_page_with_ids(&mut self) -> Result<Option<Vec<EventWithId>>, ReadError> {
        self.page(Ids::Kept).await
    }

    async fn page(&mut self, ids: Ids) -> Result<Option<Vec<EventWithId>>, ReadError> {
        if self.finished || self.up_to.is_some_and(|up_to| self.next_sequence > up_to) {
            self.consumer = ByConsumer::No;
            return Ok(None);
        }
        match self.page_by_consumer(ids).await {
            Ok(Some(page)) => return Ok(Some(self.up_to_the_end(page)).filter(|page| !page.is_empty())),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "the log is read on by direct reads");
                self.consumer = ByConsumer::No;
            }
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
        let page = self.up_to_the_end(batch.messages.into_iter().map(with_id).collect());
        self.finished = !more;
        Ok(if page.is_empty() { None } else { Some(page) })
    }

    /// The next page through a consumer, where one does the reading and has something left.
    async fn page_by_consumer(&mut self, ids: Ids) -> Result<Option<Vec<EventWithId>>, ConsumerEnd> {
        let ahead = match &mut self.consumer {
            ByConsumer::No => return Ok(None),
            ByConsumer::Reading(ahead) if ahead.suits(ids) => ahead,
            ByConsumer::Wanted | ByConsumer::Reading(_) => {
                let ahead = ReadAhead::start(&self.connection, &self.filter, self.next_sequence, ids);
                self.consumer = ByConsumer::Reading(ahead);
                return Box::pin(self.page_by_consumer(ids)).await;
            }
        };
        let page = ahead.next_page().await?;
        if page.is_none() {
            self.consumer = ByConsumer::No;
        }
        Ok(page)
    }

    /// Notes how far a page goes, and cuts off what lies behind the end.
    fn up_to_the_end(&mut self, mut page: Vec<EventWithId>) -> Vec<EventWithId> {
        if let Some(last) = page.last() {
            self.next_sequence = last.event.stream_sequence + 1;
            self.start_time = None;
        }
        if let Some(up_to) = self.up_to
            && self.next_sequence > up_to + 1
        {
            page.retain(|with_id| with_id.event.stream_sequence <= up_to);
        }
        page
    }

    /// Whether a consumer does the reading at this moment.
    pub fn reads_by_consumer(&self) -> bool {
        matches!(self.consumer, ByConsumer::Reading(_))
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
