//! The server's JetStream API as plain JSON requests, and the answer to a publish.
//!
//! Refusals keep the server's numeric error code; nothing decides on their text.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::connection::{Connection, RequestError};

/// The numeric error codes that decisions hang on.
pub(crate) mod code {
    /// A stream of that name exists with another configuration.
    pub(crate) const STREAM_NAME_EXISTS: u64 = 10058;
    /// No stream of that name.
    pub(crate) const STREAM_NOT_FOUND: u64 = 10059;
    /// No message matches.
    pub(crate) const NO_MESSAGE_FOUND: u64 = 10037;
    /// The expected last sequence is not the actual one.
    pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
    /// The same, while another publish on that subject is still under way.
    pub(crate) const WRONG_LAST_SEQUENCE_IN_FLIGHT: u64 = 10164;
    /// There is no room for a stream of that size: in the account, on the server, in memory, on disk.
    pub(crate) const NO_ROOM: [u64; 4] = [10002, 10023, 10028, 10047];
}

/// What the server said instead of doing what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Error)]
#[error("{description} (error code {err_code})")]
pub struct ServerRefusal {
    /// The server's own error code.
    #[serde(default)]
    pub err_code: u64,
    /// The server's words, for people.
    #[serde(default)]
    pub description: String,
}

/// An API request without result.
#[derive(Debug, Error)]
pub enum ApiError {
    /// No usable answer.
    #[error("the request failed")]
    Request(#[source] RequestError),
    /// The server refuses.
    #[error("the server refuses")]
    Refused(#[source] ServerRefusal),
    /// The answer cannot be read.
    #[error("the answer on `{subject}` cannot be read")]
    Malformed {
        /// The request's subject.
        subject: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct ErrorPart {
    error: Option<ServerRefusal>,
}

/// The server's confirmation that a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct PublishAck {
    /// Its sequence in the stream.
    #[serde(rename = "seq")]
    pub(crate) sequence: u64,
    /// Whether it had been stored before, under the same message id.
    #[serde(default)]
    pub(crate) duplicate: bool,
}

/// Asks `$JS.API.<operation>` with a JSON body.
pub(crate) async fn api_request<T: DeserializeOwned>(
    connection: &Connection,
    operation: &str,
    body: &impl Serialize,
) -> Result<T, ApiError> {
    let subject = format!("$JS.API.{operation}");
    let body = serde_json::to_vec(body).map_err(|source| ApiError::Malformed { subject: subject.clone(), source })?;
    let answer = connection.request(&subject, None, body.into()).await.map_err(ApiError::Request)?;
    parse_answer(&subject, &answer.payload)
}

/// Publishes into a stream and waits until the server has stored the message.
pub(crate) async fn publish(
    connection: &Connection,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<PublishAck, ApiError> {
    let answer = connection.request(subject, Some(headers), payload).await.map_err(ApiError::Request)?;
    parse_answer(subject, &answer.payload)
}

pub(crate) fn parse_answer<T: DeserializeOwned>(subject: &str, payload: &[u8]) -> Result<T, ApiError> {
    let malformed = |source| ApiError::Malformed { subject: subject.to_owned(), source };
    let part: ErrorPart = serde_json::from_slice(payload).map_err(malformed)?;
    match part.error {
        Some(refusal) => Err(ApiError::Refused(refusal)),
        None => serde_json::from_slice(payload).map_err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_told_from_a_refusal() {
        let stored: PublishAck = parse_answer("s", br#"{"stream":"S","seq":7,"duplicate":true}"#).unwrap();
        assert_eq!(stored, PublishAck { sequence: 7, duplicate: true });

        let answer =
            br#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 9"},"stream":"S","seq":0}"#;
        let Err(ApiError::Refused(refusal)) = parse_answer::<PublishAck>("s", answer) else { panic!("not refused") };
        assert_eq!(refusal.err_code, code::WRONG_LAST_SEQUENCE);
        assert_eq!(refusal.to_string(), "wrong last sequence: 9 (error code 10071)");
    }

    #[test]
    fn what_is_no_answer_is_malformed() {
        for bad in [&b""[..], b"{}", b"[]", b"\xff", br#"{"seq":"x"}"#] {
            assert!(matches!(parse_answer::<PublishAck>("s", bad), Err(ApiError::Malformed { .. })));
        }
    }
}
