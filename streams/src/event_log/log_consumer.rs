//! Reading a long stretch of the log through a consumer that lives as long as the reading: faster than batched Direct Get,
//! for which the server loads and describes every message anew.
//!
//! For operators' commands over the whole history; agents never make a consumer (ADR 0001). It is held in memory, needs
//! no acknowledgements, and ends by itself soon after its reader is gone. Whatever goes wrong here costs nothing but
//! speed: the caller reads on by Direct Get from where this ended.

use std::fmt;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use shared::subjects::EVENT_STREAM;

use super::EventWithId;
use crate::connection::{Answers, Connection, RequestError};
use crate::direct_get::MAX_BATCH_BYTES;
use crate::jetstream_api::{ApiError, api_request};
use crate::stored_event::StoredEvent;

/// Events asked for in one request; two requests are under way, which stays below what a subscription can hold.
const PULL: u64 = 2000;
const PULLS_UNDER_WAY: u64 = 2;
/// A consumer whose reader is gone disappears after this.
const INACTIVE: Duration = Duration::from_secs(30);
/// Ends of a request in a row without an event in between.
const MOST_EMPTY_ENDS: u32 = 3;
/// What every message from a consumer names as its reply subject, which no publisher can choose.
const ACK_PREFIX: &str = "$JS.ACK.";

/// Why reading goes on by other means.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConsumerEnd {
    /// The consumer cannot be made, for example for lack of rights.
    #[error("no consumer can be made")]
    Create(#[source] ApiError),
    /// The connection does not carry it.
    #[error("the consumer cannot be read")]
    Request(#[source] RequestError),
    /// An event is missing: dropped on the way, or the consumer began anew.
    #[error("the consumer went from its message {before} to {after}")]
    Gap { before: u64, after: u64 },
    /// The server ended the reading.
    #[error("the server ended the reading with status {status}")]
    Ended { status: u16 },
    /// A message that no consumer sends.
    #[error("a message does not say where it stands in the log")]
    Malformed,
}

/// A consumer of the log that is being read.
pub(super) struct LogConsumer {
    connection: Connection,
    name: String,
    pull_subject: String,
    inbox: String,
    answers: Answers,
    requests: Requests,
    /// Place of the last message among the consumer's.
    last_place: u64,
}

/// What has been asked for and what has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Requests {
    /// Asked for and not yet here.
    under_way: u64,
    /// Not yet asked for, of those that were there when the consumer was made.
    left: u64,
    empty_ends: u32,
}

impl Requests {
    /// The size of the next request, as long as one fits and there is something to ask for.
    fn next(&mut self) -> Option<u64> {
        if self.left == 0 || self.under_way > PULL * (PULLS_UNDER_WAY - 1) {
            return None;
        }
        let batch = self.left.min(PULL);
        self.left -= batch;
        self.under_way += batch;
        Some(batch)
    }

    fn delivered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.empty_ends = 0;
    }

    /// A request has ended: with its last event, which a server says of a request with a size limit too, or before it,
    /// at that limit mostly. What it did not bring is asked for again. False where that cannot go on.
    fn ended(&mut self, unserved: u64) -> bool {
        self.empty_ends += 1;
        if self.empty_ends > MOST_EMPTY_ENDS || unserved > self.under_way {
            return false;
        }
        self.under_way -= unserved;
        self.left += unserved;
        true
    }
}

/// Where a message stands, as its reply subject says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    stream_sequence: u64,
    consumer_sequence: u64,
    stored_at: DateTime<Utc>,
}

impl fmt::Debug for LogConsumer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LogConsumer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LogConsumer {
    /// Makes one for the events that match a filter, from a stream sequence on.
    pub(super) async fn start(connection: &Connection, filter: &str, from: u64) -> Result<Self, ConsumerEnd> {
        #[derive(Deserialize)]
        struct Created {
            name: String,
            num_pending: u64,
        }
        let request = json!({
            "stream_name": EVENT_STREAM,
            "config": {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": from,
                "ack_policy": "none",
                "replay_policy": "instant",
                "filter_subject": filter,
                "mem_storage": true,
                "num_replicas": 1,
                "inactive_threshold": u64::try_from(INACTIVE.as_nanos()).unwrap_or(u64::MAX),
            },
        });
        let operation = format!("CONSUMER.CREATE.{EVENT_STREAM}");
        let created: Created = api_request(connection, &operation, &request).await.map_err(ConsumerEnd::Create)?;
        let pull_subject = format!("$JS.API.CONSUMER.MSG.NEXT.{EVENT_STREAM}.{}", created.name);
        let inbox = connection.new_inbox();
        let answers = connection.answers(&pull_subject, inbox.clone()).await.map_err(ConsumerEnd::Request)?;
        Ok(Self {
            connection: connection.clone(),
            name: created.name,
            pull_subject,
            inbox,
            answers,
            requests: Requests { under_way: 0, left: created.num_pending, empty_ends: 0 },
            last_place: 0,
        })
    }

    /// The next events, at most as many as one request asks for; `None` after the last of those that were there when the
    /// consumer was made. Not cancel safe: begin anew after an interruption.
    pub(super) async fn next_page(&mut self) -> Result<Option<Vec<EventWithId>>, ConsumerEnd> {
        let mut page = Vec::new();
        while (page.len() as u64) < PULL {
            self.ask().await?;
            if self.requests.under_way == 0 {
                break;
            }
            let message = self.answers.next().await.map_err(ConsumerEnd::Request)?;
            let Some(place) = place_of(&message) else {
                self.request_ended(&message)?;
                continue;
            };
            if place.consumer_sequence != self.last_place + 1 {
                return Err(ConsumerEnd::Gap { before: self.last_place, after: place.consumer_sequence });
            }
            self.last_place = place.consumer_sequence;
            self.requests.delivered();
            page.push(event_of(message, place));
        }
        Ok(if page.is_empty() { None } else { Some(page) })
    }

    /// Keeps requests under way as long as there is something to ask for.
    async fn ask(&mut self) -> Result<(), ConsumerEnd> {
        while let Some(batch) = self.requests.next() {
            let limit = u64::try_from(self.connection.request_timeout().as_nanos()).unwrap_or(u64::MAX);
            let request = json!({ "batch": batch, "max_bytes": MAX_BATCH_BYTES, "expires": limit });
            let request = Bytes::from(request.to_string());
            let sent = self.connection.send(&self.pull_subject, self.inbox.clone(), request).await;
            sent.map_err(ConsumerEnd::Request)?;
        }
        Ok(())
    }

    fn request_ended(&mut self, message: &Message) -> Result<(), ConsumerEnd> {
        let Some(status) = message.status.map(|status| status.as_u16()) else { return Err(ConsumerEnd::Malformed) };
        let unserved = message.headers.as_ref().and_then(|headers| headers.get_last("Nats-Pending-Messages"));
        match unserved.and_then(|value| value.as_str().parse().ok()) {
            Some(unserved) if self.requests.ended(unserved) => Ok(()),
            Some(_) | None => Err(ConsumerEnd::Ended { status }),
        }
    }

    /// Removes it from the server, without waiting for that.
    pub(super) async fn end(self) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{EVENT_STREAM}.{}", self.name);
        if let Err(error) = self.connection.send(&subject, self.connection.new_inbox(), Bytes::new()).await {
            tracing::debug!(%error, "a consumer is left to disappear by itself");
        }
    }
}

fn event_of(message: Message, place: Place) -> EventWithId {
    let message_id = message.headers.as_ref().and_then(|headers| headers.get_last("Nats-Msg-Id"));
    EventWithId {
        message_id: message_id.map(|id| id.as_str().to_owned()),
        event: StoredEvent {
            stream_sequence: place.stream_sequence,
            stored_at: place.stored_at,
            subject: message.subject.as_str().to_owned(),
            payload: message.payload,
        },
    }
}

/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<nanoseconds>.<pending>`; newer servers
/// may put a domain and an account in front of the stream.
fn place_of(message: &Message) -> Option<Place> {
    let rest = message.reply.as_ref()?.as_str().strip_prefix(ACK_PREFIX)?;
    let mut tokens = [""; 9];
    let mut number = 0;
    for (place, token) in tokens.iter_mut().zip(rest.split('.')) {
        *place = token;
        number += 1;
    }
    let first = if number == tokens.len() { 5 } else { 3 };
    Some(Place {
        stream_sequence: tokens[first].parse().ok()?,
        consumer_sequence: tokens[first + 1].parse().ok()?,
        stored_at: DateTime::from_timestamp_nanos(tokens[first + 2].parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use async_nats::{HeaderMap, StatusCode};

    use super::*;

    fn message(reply: Option<&str>, status: Option<u16>, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        Message {
            subject: "bundle.promoted.contracts.channel.latest".into(),
            reply: reply.map(Into::into),
            payload: Bytes::from_static(b"{}"),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            description: None,
            length: 0,
        }
    }

    #[test]
    fn the_reply_subject_says_where_a_message_stands() {
        let expected = Place {
            stream_sequence: 41,
            consumer_sequence: 7,
            stored_at: DateTime::from_timestamp_nanos(1_758_448_800_123_456_789),
        };
        for reply in [
            "$JS.ACK.BUNDLE_EVENTS.abc.1.41.7.1758448800123456789.12",
            "$JS.ACK.hub.h4sh.BUNDLE_EVENTS.abc.1.41.7.1758448800123456789.12",
            "$JS.ACK.hub.h4sh.BUNDLE_EVENTS.abc.1.41.7.1758448800123456789.12.rand",
        ] {
            assert_eq!(place_of(&message(Some(reply), None, &[])), Some(expected), "{reply}");
        }
        for reply in [None, Some("_INBOX.x"), Some("$JS.ACK.a.b"), Some("$JS.ACK.s.c.1.x.7.1.0")] {
            assert_eq!(place_of(&message(reply, None, &[])), None, "{reply:?}");
        }
    }

    #[test]
    fn a_request_that_ends_early_is_made_up_for_and_one_that_is_complete_is_gone_on_with() {
        let mut requests = Requests { under_way: 0, left: PULL + 10, empty_ends: 0 };
        assert_eq!((requests.next(), requests.next(), requests.next()), (Some(PULL), Some(10), None));
        for _ in 0..PULL {
            requests.delivered();
        }
        assert!(requests.ended(0), "complete");
        for _ in 0..4 {
            requests.delivered();
        }
        assert!(requests.ended(6), "cut off");
        assert_eq!((requests.next(), requests.under_way, requests.left), (Some(6), 6, 0));
        assert!(!requests.ended(7), "more than was asked for");
        assert!((0..=MOST_EMPTY_ENDS).any(|_| !requests.ended(0)), "for ever nothing");
    }

    #[test]
    fn a_stored_status_line_does_not_end_the_reading() {
        let reply = "$JS.ACK.BUNDLE_EVENTS.abc.1.41.7.1758448800123456789.12";
        let stored = message(Some(reply), Some(409), &[("Nats-Msg-Id", "id")]);
        let place = place_of(&stored).unwrap();
        let event = event_of(stored, place);
        assert_eq!((event.event.stream_sequence, event.message_id.as_deref()), (41, Some("id")));
    }
}
