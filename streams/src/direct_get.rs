//! Reading a stream without any consumer on the server: single and batched Direct Get.
//!
//! Any replica may answer, so what is read can be older than what another reader has already seen. No state stays
//! on the server, and every wait is bounded: a message that never comes is an error, not a hang.

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use thiserror::Error;

use crate::connection::{Answers, Connection, RequestError};

/// Messages in one batch at most. Stays below what a subscription can hold.
pub(crate) const MAX_BATCH: u32 = 1000;
/// Bytes in one batch at most: the server sends a whole batch without waiting, and cuts off a slow link that
/// cannot take it. Also well below what a service import passes (16 MiB by default).
pub(crate) const MAX_BATCH_BYTES: u32 = 4 * 1024 * 1024;

const NOT_FOUND: u16 = 404;
const TOO_MANY_SUBJECTS: u16 = 413;
const END_OF_BATCH: u16 = 204;

/// A read without result.
#[derive(Debug, Error)]
pub enum DirectGetError {
    /// No usable answer.
    #[error("stream `{stream}` cannot be read")]
    Request {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// The server takes only so many subjects in one request.
    #[error("more subjects of stream `{stream}` match than one request may return")]
    TooManySubjects {
        /// The stream.
        stream: String,
    },
    /// The server does not understand the request.
    #[error(
        "the server refuses the read of stream `{stream}` with status {status}; nats-server 2.11 or newer is needed"
    )]
    Refused {
        /// The stream.
        stream: String,
        /// The status.
        status: u16,
    },
    /// A message lacks what every Direct Get answer carries.
    #[error("an answer from stream `{stream}` has no valid header `{header}`")]
    Malformed {
        /// The stream.
        stream: String,
        /// The header.
        header: &'static str,
    },
}

/// One stored message.
#[derive(Debug, Clone)]
pub(crate) struct DirectMessage {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) stored_at: DateTime<Utc>,
    pub(crate) payload: Bytes,
    /// Its `Nats-Msg-Id`, as stored.
    pub(crate) message_id: Option<String>,
}

/// A request in the server's own form.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct DirectGetRequest {
    #[serde(rename = "seq", skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<u64>,
    /// Instead of a sequence: the first message stored at or after this time. For batches only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_time: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_by_subj: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_by_subj: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) multi_last: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) up_to_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_bytes: Option<u32>,
}

/// What one batch brought.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) messages: Vec<DirectMessage>,
    /// Whether more messages match behind the last one.
    pub(crate) more: bool,
    /// For `multi_last`: the sequence up to which the answer is complete; 0 where nothing matched.
    pub(crate) up_to_sequence: u64,
}

/// The last message on a subject (which may hold wildcards).
pub(crate) async fn last_message(
    connection: &Connection,
    stream: &str,
    subject: &str,
) -> Result<Option<DirectMessage>, DirectGetError> {
    let request = DirectGetRequest { last_by_subj: Some(subject.to_owned()), ..DirectGetRequest::default() };
    single(connection, stream, &request).await
}

/// The first message on a subject (which may hold wildcards) at or after a sequence.
pub(crate) async fn next_message(
    connection: &Connection,
    stream: &str,
    subject: &str,
    from: u64,
) -> Result<Option<DirectMessage>, DirectGetError> {
    let request = DirectGetRequest {
        sequence: Some(from),
        next_by_subj: Some(subject.to_owned()),
        ..DirectGetRequest::default()
    };
    single(connection, stream, &request).await
}

async fn single(
    connection: &Connection,
    stream: &str,
    request: &DirectGetRequest,
) -> Result<Option<DirectMessage>, DirectGetError> {
    let answer = connection
        .request(&request_subject(stream), None, to_json(request))
        .await
        .map_err(|source| DirectGetError::Request { stream: stream.to_owned(), source })?;
    match classify(stream, answer)? {
        Part::Message(message) => Ok(Some(message)),
        Part::Nothing | Part::End { .. } => Ok(None),
    }
}

/// Reads one batch: `next_by_subj` with a start sequence, or `multi_last`.
pub(crate) async fn batch(
    connection: &Connection,
    stream: &str,
    request: &DirectGetRequest,
) -> Result<Batch, DirectGetError> {
    let mut reading = BatchReading::start(connection, stream, request).await?;
    let mut batch = Batch::default();
    loop {
        match reading.next().await? {
            Part::Message(message) => batch.messages.push(message),
            Part::Nothing => return Ok(batch),
            Part::End { pending, up_to_sequence } => {
                batch.more = pending > 0;
                batch.up_to_sequence = up_to_sequence;
                return Ok(batch);
            }
        }
    }
}

/// One part of a batch's answer.
pub(crate) enum Part {
    Message(DirectMessage),
    /// Nothing matches.
    Nothing,
    /// The batch is complete; so many more messages match behind it.
    End {
        pending: u64,
        up_to_sequence: u64,
    },
}

/// A batch that is being read, message by message. Dropping it stops reading.
pub(crate) struct BatchReading {
    stream: String,
    answers: Answers,
}

impl BatchReading {
    pub(crate) async fn start(
        connection: &Connection,
        stream: &str,
        request: &DirectGetRequest,
    ) -> Result<Self, DirectGetError> {
        let failed = |source| DirectGetError::Request { stream: stream.to_owned(), source };
        let subject = request_subject(stream);
        let inbox = connection.new_inbox();
        let answers = connection.answers(&subject, inbox.clone()).await.map_err(failed)?;
        connection.send(&subject, inbox, to_json(request)).await.map_err(failed)?;
        Ok(Self { stream: stream.to_owned(), answers })
    }

    pub(crate) async fn next(&mut self) -> Result<Part, DirectGetError> {
        let failed = |source| DirectGetError::Request { stream: self.stream.clone(), source };
        let answer = self.answers.next().await.map_err(failed)?;
        if answer.status == Some(StatusCode::NO_RESPONDERS) && !is_stored(&answer) {
            let subject = request_subject(&self.stream);
            return Err(failed(RequestError::NoResponders { subject }));
        }
        classify(&self.stream, answer)
    }
}

fn request_subject(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

fn to_json(request: &DirectGetRequest) -> Bytes {
    // A struct of numbers and strings always serialises; an empty request would be refused by the server.
    serde_json::to_vec(request).unwrap_or_default().into()
}

/// A stored message is known by the sequence that the server adds to it. The status line alone proves nothing:
/// whoever publishes a message writes its status line too, and could end every reader's batch with it.
fn is_stored(message: &Message) -> bool {
    text(message.headers.as_ref(), "Nats-Sequence").is_some()
}

fn classify(stream: &str, message: Message) -> Result<Part, DirectGetError> {
    if is_stored(&message) {
        return Ok(Part::Message(stored_message(stream, message)?));
    }
    match message.status.map(|status| status.as_u16()) {
        None => Err(DirectGetError::Malformed { stream: stream.to_owned(), header: "Nats-Sequence" }),
        Some(NOT_FOUND) => Ok(Part::Nothing),
        Some(TOO_MANY_SUBJECTS) => Err(DirectGetError::TooManySubjects { stream: stream.to_owned() }),
        Some(END_OF_BATCH) => Ok(Part::End {
            pending: number(stream, message.headers.as_ref(), "Nats-Num-Pending")?,
            up_to_sequence: number(stream, message.headers.as_ref(), "Nats-UpTo-Sequence").unwrap_or(0),
        }),
        Some(status) => Err(DirectGetError::Refused { stream: stream.to_owned(), status }),
    }
}

fn stored_message(stream: &str, message: Message) -> Result<DirectMessage, DirectGetError> {
    let headers = message.headers.as_ref();
    let malformed = |header| DirectGetError::Malformed { stream: stream.to_owned(), header };
    let stored_at = text(headers, "Nats-Time-Stamp")
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .ok_or_else(|| malformed("Nats-Time-Stamp"))?;
    Ok(DirectMessage {
        subject: text(headers, "Nats-Subject").ok_or_else(|| malformed("Nats-Subject"))?.to_owned(),
        sequence: number(stream, headers, "Nats-Sequence")?,
        stored_at: stored_at.with_timezone(&Utc),
        message_id: text(headers, "Nats-Msg-Id").map(ToOwned::to_owned),
        payload: message.payload,
    })
}

fn number(stream: &str, headers: Option<&HeaderMap>, name: &'static str) -> Result<u64, DirectGetError> {
    text(headers, name)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| DirectGetError::Malformed { stream: stream.to_owned(), header: name })
}

/// The last value of a header: the server adds its own behind those that were stored with the message, so an
/// earlier one may have been written by whoever published it.
fn text<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    headers?.get_all(name).last().map(async_nats::HeaderValue::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(status: Option<u16>, headers: &[(&str, &str)], payload: &str) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            description: None,
            length: 0,
        }
    }

    #[test]
    fn requests_carry_only_what_is_asked_for() {
        let request =
            DirectGetRequest { sequence: Some(4), next_by_subj: Some("a.>".to_owned()), ..Default::default() };
        assert_eq!(to_json(&request), r#"{"seq":4,"next_by_subj":"a.>"}"#);
        let request = DirectGetRequest { multi_last: vec!["a".to_owned()], batch: Some(2), ..Default::default() };
        assert_eq!(to_json(&request), r#"{"multi_last":["a"],"batch":2}"#);
    }

    #[test]
    fn the_servers_own_headers_win_over_stored_ones() {
        let headers = [
            ("Nats-Sequence", "99"),
            ("Nats-Subject", "forged"),
            ("Nats-Time-Stamp", "2000-01-01T00:00:00Z"),
            ("Nats-Sequence", "7"),
            ("Nats-Subject", "bundle.x"),
            ("Nats-Time-Stamp", "2025-09-21T10:00:00.123456789Z"),
        ];
        let Ok(Part::Message(read)) = classify("S", message(None, &headers, "body")) else { panic!("no message") };
        assert_eq!((read.sequence, read.subject.as_str(), &read.payload[..]), (7, "bundle.x", &b"body"[..]));
    }

    #[test]
    fn statuses_are_told_apart() {
        assert!(matches!(classify("S", message(Some(404), &[], "")), Ok(Part::Nothing)));
        let end = message(Some(204), &[("Nats-Num-Pending", "3"), ("Nats-UpTo-Sequence", "12")], "");
        assert!(matches!(classify("S", end), Ok(Part::End { pending: 3, up_to_sequence: 12 })));
        assert!(matches!(classify("S", message(Some(413), &[], "")), Err(DirectGetError::TooManySubjects { .. })));
        assert!(matches!(classify("S", message(Some(408), &[], "")), Err(DirectGetError::Refused { status: 408, .. })));
    }

    #[test]
    fn a_stored_status_line_does_not_end_a_batch() {
        let headers = [("Nats-Sequence", "7"), ("Nats-Subject", "a"), ("Nats-Time-Stamp", "2025-09-21T10:00:00Z")];
        for status in [204, 404, 408, 413, 503] {
            assert!(matches!(classify("S", message(Some(status), &headers, "")), Ok(Part::Message(_))));
        }
    }

    #[test]
    fn a_message_without_its_headers_is_an_error() {
        assert!(matches!(classify("S", message(None, &[], "")), Err(DirectGetError::Malformed { .. })));
        assert!(matches!(classify("S", message(Some(204), &[], "")), Err(DirectGetError::Malformed { .. })));
    }
}
