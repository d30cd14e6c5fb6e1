//! The server's JetStream API as plain JSON requests, and the answer to a publish.
//!
//! Refusals keep the server's numeric error code; nothing decides on their text.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::connection::{Connection, RequestError};
use crate::election::{ELECTION_PATIENCE, NoLeader, Repeated, may_pass};

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
    /// A message with the same id is on its way through the cluster.
    pub(crate) const SAME_MESSAGE_IN_FLIGHT: u64 = 10158;
    /// What a cluster says while it elects, or lacks peers, or has too much under way.
    pub(crate) const PASSING: [u64; 9] = [
        10004, // the answers of the cluster are incomplete
        10005, // no suitable peers for placement
        10007, // not assigned to this server
        10008, // JetStream system temporarily unavailable
        10009, // the cluster cannot handle the request
        10118, // the stream is offline
        10167, // too many requests under way
        SAME_MESSAGE_IN_FLIGHT,
        WRONG_LAST_SEQUENCE_IN_FLIGHT,
    ];
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
    /// Nobody led the cluster for as long as that is waited for.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
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

impl ApiError {
    /// Whether nobody answered in time.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Request(RequestError::TimedOut { .. }))
    }
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

/// Asks `$JS.API.<operation>` with a JSON body. While a cluster elects a leader it is asked again, at most for
/// [`ELECTION_PATIENCE`]; every operation comes to the same when it is done twice.
pub(crate) async fn api_request<T: DeserializeOwned>(
    connection: &Connection,
    operation: &str,
    body: &impl Serialize,
) -> Result<T, ApiError> {
    let mut repeated = Repeated::at_most(ELECTION_PATIENCE);
    loop {
        let error = match api_request_once(connection, operation, body).await {
            Err(error) if may_pass(&error, connection.is_clustered()) => error,
            ended => return ended,
        };
        let subject = format!("$JS.API.{operation}");
        if error.is_silence() {
            repeated.note_silence(connection).await;
        }
        tracing::debug!(subject, %error, "the cluster has no leader yet; asked again");
        if !repeated.again(connection).await {
            return Err(NoLeader { subject, waited: repeated.waited(), source: Box::new(error) }.into());
        }
    }
}

/// The same, asked once: for what may as well stay undone.
pub(crate) async fn api_request_once<T: DeserializeOwned>(
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
