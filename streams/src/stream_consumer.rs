//! Reading many messages of a stream through a consumer that lives as long as the reading: faster than batched Direct Get,
//! for which the server loads and describes every message anew.
//!
//! For operators' commands over the whole fleet or history; agents never make a consumer (ADR 0001). It is held in memory,
//! needs no acknowledgements, and ends by itself soon after its reader is gone. Whatever goes wrong here costs nothing but
//! speed: the caller reads by Direct Get instead.

use std::fmt;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::connection::{Answers, Connection, RequestError};
use crate::direct_get::MAX_BATCH_BYTES;
use crate::jetstream_api::{ApiError, api_request};

/// Messages asked for in one request; two requests are under way, which stays below what a subscription can hold.
const PULL: u64 = 2000;
const PULLS_UNDER_WAY: u64 = 2;
/// Messages in one page at most.
const PAGE: usize = 2000;
/// A consumer whose reader is gone disappears after this.
const INACTIVE: Duration = Duration::from_secs(30);
/// Ends of a request in a row without a message in between.
const MOST_EMPTY_ENDS: u32 = 3;
/// A stream that changes faster than it is read has an end all the same.
const MOST_OF_A_MOVING_STREAM: u64 = 1_000_000;
/// What every message from a consumer names as its reply subject, which no publisher can choose.
const ACK_PREFIX: &str = "$JS.ACK.";

/// Why reading goes on by other means.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsumerEnd {
    /// The consumer cannot be made, for example for lack of rights.
    #[error("no consumer can be made")]
    Create(#[source] ApiError),
    /// The connection does not carry it.
    #[error("the consumer cannot be read")]
    Request(#[source] RequestError),
    /// A message is missing: dropped on the way, or the consumer began anew.
    #[error("the consumer went from its message {before} to {after}")]
    Gap { before: u64, after: u64 },
    /// The server ended the reading.
    #[error("the server ended the reading with status {status}")]
    Ended { status: u16 },
    /// A message that no consumer sends.
    #[error("a message does not say where it stands in the stream")]
    Malformed,
}

/// Which messages of a stream are read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stretch {
    /// All, from a stream sequence on.
    From(u64),
    /// The last of each subject.
    LastOfEach,
    /// All of a stream whose messages are replaced and lapse while it is read.
    Moving,
}

/// A consumer that is being read.
pub(crate) struct StreamConsumer {
    connection: Connection,
    stream: String,
    name: String,
    pull_subject: String,
    inbox: String,
    answers: Answers,
    requests: Requests,
    /// Place of the last message among the consumer's.
    last_place: u64,
    moving: bool,
}

/// What has been asked for and what has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Requests {
    /// Asked for and not yet here.
    under_way: u64,
    /// Not yet asked for, of those that were there when the consumer was made.
    left: u64,
    empty_ends: u32,
    /// Received so far.
    received: u64,
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
        self.received += 1;
    }

    /// So many more are there at this moment, in a stream that changes: some of those that were there at first have lapsed,
    /// or were replaced and come later.
    fn now_pending(&mut self, pending: u64) {
        if pending == 0 {
            (self.under_way, self.left) = (0, 0);
        } else if self.under_way + self.left == 0 && self.received < MOST_OF_A_MOVING_STREAM {
            self.left = pending;
        }
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
pub(crate) struct Place {
    pub(crate) stream_sequence: u64,
    consumer_sequence: u64,
    pub(crate) stored_at: DateTime<Utc>,
    /// How many more were there when it was sent.
    pending: u64,
}

impl fmt::Debug for StreamConsumer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StreamConsumer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StreamConsumer {
    /// Makes one for the messages of a stream that match one of the filters, which must not overlap.
    pub(crate) async fn start(
        connection: &Connection,
        stream: &str,
        filters: &[String],
        stretch: Stretch,
    ) -> Result<Self, ConsumerEnd> {
        #[derive(Deserialize)]
        struct Created {
            name: String,
            num_pending: u64,
        }
        let mut config = json!({
            "deliver_policy": "all",
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": u64::try_from(INACTIVE.as_nanos()).unwrap_or(u64::MAX),
        });
        match filters {
            [one] => config["filter_subject"] = Value::from(one.as_str()),
            several => config["filter_subjects"] = Value::from(several),
        }
        match stretch {
            Stretch::From(sequence) => {
                config["deliver_policy"] = Value::from("by_start_sequence");
                config["opt_start_seq"] = Value::from(sequence);
            }
            Stretch::LastOfEach => config["deliver_policy"] = Value::from("last_per_subject"),
            Stretch::Moving => {}
        }
        let request = json!({ "stream_name": stream, "config": config });
        let operation = format!("CONSUMER.CREATE.{stream}");
        let created: Created = api_request(connection, &operation, &request).await.map_err(ConsumerEnd::Create)?;
        let pull_subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", created.name);
        let inbox = connection.new_inbox();
        let answers = connection.answers(&pull_subject, inbox.clone()).await.map_err(ConsumerEnd::Request)?;
        Ok(Self {
            connection: connection.clone(),
            stream: stream.to_owned(),
            name: created.name,
            pull_subject,
            inbox,
            answers,
            requests: Requests { under_way: 0, left: created.num_pending, empty_ends: 0, received: 0 },
            last_place: 0,
            moving: matches!(stretch, Stretch::Moving),
        })
    }

    /// The next page of messages; `None` after the last of those that were there when the
    /// consumer was made. Not cancel safe: begin anew after an interruption.
    pub(crate) async fn next_page<T>(
        &mut self,
        mut read: impl FnMut(Message, Place) -> T,
    ) -> Result<Option<Vec<T>>, ConsumerEnd> {
        let mut page = Vec::with_capacity(PAGE);
        while page.len() < PAGE {
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
            if self.moving {
                self.requests.now_pending(place.pending);
            }
            page.push(read(message, place));
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
    pub(crate) async fn end(self) {
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.name);
        if let Err(error) = self.connection.send(&subject, self.connection.new_inbox(), Bytes::new()).await {
            tracing::debug!(%error, "a consumer is left to disappear by itself");
        }
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
        pending: tokens[first + 3].parse().ok()?,
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
            pending: 12,
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
        let mut requests = Requests { under_way: 0, left: PULL + 10, empty_ends: 0, received: 0 };
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
    fn a_stream_that_moves_is_read_until_nothing_is_left() {
        let mut lapsed = Requests { under_way: 0, left: 3, empty_ends: 0, received: 0 };
        assert_eq!(lapsed.next(), Some(3));
        lapsed.delivered();
        lapsed.now_pending(1);
        assert_eq!((lapsed.under_way, lapsed.left), (2, 0), "one lapsed; the request stands");
        lapsed.delivered();
        lapsed.now_pending(0);
        assert_eq!((lapsed.under_way, lapsed.next()), (0, None), "nothing is waited for");
        let mut replaced = Requests { under_way: 1, left: 0, empty_ends: 0, received: 0 };
        replaced.delivered();
        replaced.now_pending(2);
        assert_eq!(replaced.next(), Some(2), "what came meanwhile is read too");
    }

    #[test]
    fn a_stored_status_line_does_not_end_the_reading() {
        let reply = "$JS.ACK.BUNDLE_EVENTS.abc.1.41.7.1758448800123456789.12";
        let stored = message(Some(reply), Some(409), &[("Nats-Msg-Id", "id")]);
        assert_eq!(place_of(&stored).unwrap().stream_sequence, 41);
    }
}
