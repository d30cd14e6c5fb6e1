//! Pages of the log that are read while the ones before them are worked on.

use async_nats::Message;
use shared::subjects::EVENT_STREAM;
use tokio::sync::mpsc;

use super::EventWithId;
use crate::connection::Connection;
use crate::stored_event::StoredEvent;
use crate::stream_consumer::{ConsumerEnd, Place, StreamConsumer, Stretch};

/// Pages that wait to be worked on, so that memory stays flat whatever the log holds.
const PAGES_AHEAD: usize = 2;

/// Whether the ids are wanted that events were stored under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    Kept,
    Left,
}

/// A consumer of the log that a task of its own reads; the task ends with this.
#[derive(Debug)]
pub(super) struct ReadAhead {
    pages: mpsc::Receiver<Result<Vec<EventWithId>, ConsumerEnd>>,
    ids: Ids,
}

impl ReadAhead {
    /// Reads the events that match a filter and are there now, from a stream sequence on.
    pub(super) fn start(connection: &Connection, filter: &str, from: u64, ids: Ids) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let (connection, filters) = (connection.clone(), [filter.to_owned()]);
        tokio::spawn(async move {
            // Nobody left to tell that it failed is no failure.
            if let Err(error) = read(&connection, &filters, from, ids, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { pages, ids }
    }

    /// Whether it brings what is wanted.
    pub(super) fn suits(&self, ids: Ids) -> bool {
        self.ids == Ids::Kept || ids == Ids::Left
    }

    /// The next page, never empty; `None` at the end. Cancel safe.
    pub(super) async fn next_page(&mut self) -> Result<Option<Vec<EventWithId>>, ConsumerEnd> {
        self.pages.recv().await.transpose()
    }
}

async fn read(
    connection: &Connection,
    filters: &[String],
    from: u64,
    ids: Ids,
    sender: &mpsc::Sender<Result<Vec<EventWithId>, ConsumerEnd>>,
) -> Result<(), ConsumerEnd> {
    let mut consumer = StreamConsumer::start(connection, EVENT_STREAM, filters, Stretch::From(from)).await?;
    while let Some(page) = consumer.next_page(|message, place| kept(message, place, ids)).await? {
        if sender.send(Ok(page)).await.is_err() {
            break;
        }
    }
    consumer.end().await;
    Ok(())
}

fn kept(message: Message, place: Place, ids: Ids) -> EventWithId {
    let headers = message.headers.as_ref().filter(|_| ids == Ids::Kept);
    let message_id = headers.and_then(|headers| headers.get_last("Nats-Msg-Id"));
    EventWithId { message_id: message_id.map(|id| id.as_str().to_owned()), event: event_of(message, place) }
}

/// The event in a message from a consumer of the log.
pub(super) fn event_of(message: Message, place: Place) -> StoredEvent {
    StoredEvent {
        stream_sequence: place.stream_sequence,
        stored_at: place.stored_at,
        subject: message.subject.as_str().to_owned(),
        payload: message.payload,
    }
}
