//! Reading the log in order: one batched Direct Get after the other, or, where much is to be read and a consumer may be
//! made, through one of those.

use async_nats::Message;
use chrono::{DateTime, Utc};
use shared::daemon::ErrorChain;
use shared::subjects::EVENT_STREAM;

use super::ReadError;
use crate::connection::Connection;
use crate::direct_get::{self, DirectGetRequest, DirectMessage, MAX_BATCH, MAX_BATCH_BYTES};
use crate::stored_event::StoredEvent;
use crate::stream_consumer::{ConsumerEnd, Place, StreamConsumer, Stretch};

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
    Reading(Box<StreamConsumer>),
}

/// A stored event with the id it was stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventWithId {
    /// The event.
    pub event: StoredEvent,
    /// Its `Nats-Msg-Id`; `None` where it was stored without one.
    pub message_id: Option<String>,
}

/// What a reader keeps of a message of the log.
pub(super) trait Kept: Sized {
    fn of_consumer(message: Message, place: Place) -> Self;
    fn of_direct_get(message: DirectMessage) -> Self;
    fn stream_sequence(&self) -> u64;
}

impl Kept for StoredEvent {
    fn of_consumer(message: Message, place: Place) -> Self {
        Self {
            stream_sequence: place.stream_sequence,
            stored_at: place.stored_at,
            subject: message.subject.as_str().to_owned(),
            payload: message.payload,
        }
    }

    fn of_direct_get(message: DirectMessage) -> Self {
        Self::from(message)
    }

    fn stream_sequence(&self) -> u64 {
        self.stream_sequence
    }
}

impl Kept for EventWithId {
    fn of_consumer(message: Message, place: Place) -> Self {
        let message_id = message.headers.as_ref().and_then(|headers| headers.get_last("Nats-Msg-Id"));
        Self {
            message_id: message_id.map(|id| id.as_str().to_owned()),
            event: StoredEvent::of_consumer(message, place),
        }
    }

    fn of_direct_get(mut message: DirectMessage) -> Self {
        Self { message_id: message.message_id.take(), event: StoredEvent::from(message) }
    }

    fn stream_sequence(&self) -> u64 {
        self.event.stream_sequence
    }
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
        self.page().await
    }

    /// The same with the ids that the events were stored under.
    pub async fn next_page_with_ids(&mut self) -> Result<Option<Vec<EventWithId>>, ReadError> {
        self.page().await
    }

    async fn page<T: Kept>(&mut self) -> Result<Option<Vec<T>>, ReadError> {
        if self.finished || self.up_to.is_some_and(|up_to| self.next_sequence > up_to) {
            if let ByConsumer::Reading(consumer) = std::mem::replace(&mut self.consumer, ByConsumer::No) {
                consumer.end().await;
            }
            return Ok(None);
        }
        match self.page_by_consumer().await {
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
        let page = self.up_to_the_end(batch.messages.into_iter().map(T::of_direct_get).collect());
        self.finished = !more;
        Ok(if page.is_empty() { None } else { Some(page) })
    }

    /// The next page through a consumer, where one does the reading and has something left.
    async fn page_by_consumer<T: Kept>(&mut self) -> Result<Option<Vec<T>>, ConsumerEnd> {
        // Taken out, so that a reading that is interrupted in the middle of a page is not gone on with.
        let mut consumer = match std::mem::replace(&mut self.consumer, ByConsumer::No) {
            ByConsumer::No => return Ok(None),
            ByConsumer::Wanted => {
                let (filters, stretch) = ([self.filter.clone()], Stretch::From(self.next_sequence));
                Box::new(StreamConsumer::start(&self.connection, EVENT_STREAM, &filters, stretch).await?)
            }
            ByConsumer::Reading(consumer) => consumer,
        };
        let Some(page) = consumer.next_page(T::of_consumer).await? else {
            consumer.end().await;
            return Ok(None);
        };
        self.consumer = ByConsumer::Reading(consumer);
        Ok(Some(page))
    }

    /// Notes how far a page goes, and cuts off what lies behind the end.
    fn up_to_the_end<T: Kept>(&mut self, mut page: Vec<T>) -> Vec<T> {
        if let Some(last) = page.last() {
            self.next_sequence = last.stream_sequence() + 1;
            self.start_time = None;
        }
        if let Some(up_to) = self.up_to {
            page.retain(|kept| kept.stream_sequence() <= up_to);
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
