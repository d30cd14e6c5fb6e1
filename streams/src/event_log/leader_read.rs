//! Single reads that only a stream's leader answers (`STREAM.MSG.GET`).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ReadError;
use crate::connection::Connection;
use crate::jetstream_api::{ApiError, api_request, code};
use crate::stored_event::StoredEvent;

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "seq", skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
}

#[derive(Deserialize)]
struct Answer {
    message: WireMessage,
}

#[derive(Deserialize)]
struct WireMessage {
    subject: String,
    #[serde(rename = "seq")]
    sequence: u64,
    #[serde(default)]
    data: String,
    time: String,
}

pub(crate) async fn last(
    connection: &Connection,
    stream: &str,
    filter: &str,
) -> Result<Option<StoredEvent>, ReadError> {
    read(connection, stream, filter, &Request { sequence: None, last_by_subj: Some(filter), next_by_subj: None }).await
}

pub(crate) async fn next(
    connection: &Connection,
    stream: &str,
    filter: &str,
    from: u64,
) -> Result<Option<StoredEvent>, ReadError> {
    read(connection, stream, filter, &Request { sequence: Some(from), last_by_subj: None, next_by_subj: Some(filter) })
        .await
}

async fn read(
    connection: &Connection,
    stream: &str,
    filter: &str,
    request: &Request<'_>,
) -> Result<Option<StoredEvent>, ReadError> {
    match api_request::<Answer>(connection, &format!("STREAM.MSG.GET.{stream}"), request).await {
        Ok(answer) => {
            decode(answer.message).map(Some).ok_or_else(|| ReadError::Malformed { subject: filter.to_owned() })
        }
        Err(ApiError::Refused(refusal)) if refusal.err_code == code::NO_MESSAGE_FOUND => Ok(None),
        Err(error) => Err(ReadError::Leader(error)),
    }
}

fn decode(message: WireMessage) -> Option<StoredEvent> {
    Some(StoredEvent {
        stream_sequence: message.sequence,
        stored_at: DateTime::parse_from_rfc3339(&message.time).ok()?.with_timezone(&Utc),
        subject: message.subject,
        payload: BASE64_STANDARD.decode(message.data).ok()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_decoded_and_a_broken_one_is_not() {
        let wire = |data: &str, time: &str| WireMessage {
            subject: "bundle.x".to_owned(),
            sequence: 4,
            data: data.to_owned(),
            time: time.to_owned(),
        };
        let event = decode(wire("e30=", "2025-09-21T10:00:00.5Z")).unwrap();
        assert_eq!((event.stream_sequence, &event.payload[..]), (4, &b"{}"[..]));
        assert!(decode(wire("e30", "2025-09-21T10:00:00Z")).is_none());
        assert!(decode(wire("e30=", "yesterday")).is_none());
    }
}
