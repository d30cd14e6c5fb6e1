//! Adding one event to the log, exactly once.
//!
//! Every append carries the event's id and the sequence that is expected to be the last of its subject (or of all
//! subjects of its node). A time-out says nothing about the event's fate, so the same bytes are sent again until the
//! server answers; a conflict is then resolved by looking whether those very bytes are in the log. Servers differ
//! here: a clustered stream answers a retry with `duplicate`, a single one with a wrong last sequence.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use shared::daemon::crash_point::CrashPoint;
use shared::event_chain::SealedEvent;
use shared::event_envelope::CONTENT_TYPE;
use shared::identifiers::NodeName;
use shared::subjects::{EVENT_STREAM, node_filter};
use thiserror::Error;

use super::{EventLog, ReadError, Reader};
use crate::connection::RequestError;
use crate::election::{NoLeader, Repeated, may_pass};
use crate::jetstream_api::{ApiError, PublishAck, ServerRefusal, code, publish};
use crate::stored_event::StoredEvent;

/// What must be true of the log for an append to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// The last event on the event's own subject has this sequence; 0 where there is none. Conflicts are looked
    /// at through the leader, so this needs operator rights.
    OnOwnSubject(u64),
    /// The last event of this node, whatever its type and bundle, has this sequence; 0 where there is none.
    /// A node's rights suffice.
    OnNode {
        /// The node that writes.
        node: NodeName,
        /// Sequence of its last event.
        last: u64,
    },
}

impl Expectation {
    fn sequence(&self) -> u64 {
        match self {
            Self::OnOwnSubject(sequence) | Self::OnNode { last: sequence, .. } => *sequence,
        }
    }

    fn reader(&self) -> Reader {
        match self {
            Self::OnOwnSubject(_) => Reader::Leader,
            Self::OnNode { .. } => Reader::AnyReplica,
        }
    }
}

/// Whether the same bytes may have been sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempts {
    /// Never.
    None,
    /// Perhaps, under the same expectation, and with an unknown end.
    Earlier,
}

/// An event that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log.
    pub stream_sequence: u64,
    /// Whether an earlier attempt had stored it.
    pub already_there: bool,
}

/// An event that is not known to be in the log.
#[derive(Debug, Error)]
pub enum AppendError {
    /// Somebody else wrote first. The event is not in the log and cannot get there under this expectation.
    #[error("the last event on `{filter}` is not number {expected} but {}", actual(.last.as_deref()))]
    Conflict {
        /// Where the expectation was.
        filter: String,
        /// The expected sequence.
        expected: u64,
        /// The actual last event, as far as it can be seen.
        last: Option<Box<StoredEvent>>,
    },
    /// The credentials do not allow it. The event is not in the log.
    #[error("permission denied to append on `{subject}`")]
    PermissionDenied {
        /// The event's subject.
        subject: String,
    },
    /// The server refuses the event. It is not in the log.
    #[error("the event log refuses an event on `{subject}`")]
    Refused {
        /// The event's subject.
        subject: String,
        /// The server's reason.
        #[source]
        source: ServerRefusal,
    },
    /// The event is larger than the server takes. It is not in the log.
    #[error("an event of {size} bytes on `{subject}` is larger than the server accepts")]
    TooLarge {
        /// The event's subject.
        subject: String,
        /// Its size.
        size: usize,
    },
    /// There is no event log here. The event is not in it.
    #[error("no event log takes events on `{subject}`: it is not provisioned or not visible to this account")]
    NoLog {
        /// The event's subject.
        subject: String,
    },
    /// The cluster had nobody to take it for as long as that was tried. The event is not in the log.
    #[error("the event on `{subject}` was not taken")]
    NoLeader {
        /// The event's subject.
        subject: String,
        /// How long it was tried, and what was met.
        #[source]
        source: NoLeader,
    },
    /// The event may or may not be in the log, now or a moment later. Only the same bytes may be sent again.
    #[error("whether the event on `{subject}` was stored is unknown")]
    Unknown {
        /// The event's subject.
        subject: String,
        /// What ended the last attempt.
        #[source]
        source: Box<UnknownCause>,
    },
}

/// Why an event's fate is unknown.
#[derive(Debug, Error)]
pub enum UnknownCause {
    /// The last attempt got no usable answer.
    #[error("the last attempt got no usable answer")]
    Attempt(#[source] ApiError),
    /// The cluster did not confirm it: it elects a leader or lacks a majority.
    #[error(transparent)]
    NoLeader(NoLeader),
    /// The log could not be looked through after a conflict.
    #[error("the log could not be looked through after a conflict")]
    Look(#[source] ReadError),
    /// The replica that answered has not seen what the leader has.
    #[error("the replica that answered is behind")]
    ReplicaBehind,
}

fn actual(last: Option<&StoredEvent>) -> String {
    last.map_or_else(|| "missing".to_owned(), |last| last.stream_sequence.to_string())
}

/// What one answer means for the event.
#[derive(Debug)]
enum Answer {
    Stored(Appended),
    /// The expectation does not hold: ours from an earlier attempt, or somebody else's.
    Conflict,
    /// This attempt stored nothing, and the next would not either.
    NotStored(ApiError),
    /// Try again with the same bytes.
    Unknown(ApiError),
}

impl EventLog {
    /// Appends one event and returns only after the server has confirmed that it is stored. Sends the same bytes
    /// again for at most `patience` while the answer stays away.
    pub async fn append(
        &self,
        event: &SealedEvent,
        expectation: &Expectation,
        patience: Duration,
    ) -> Result<Appended, AppendError> {
        self.append_after(Attempts::None, event, expectation, patience).await
    }

    pub(crate) async fn append_after(
        &self,
        attempts: Attempts,
        event: &SealedEvent,
        expectation: &Expectation,
        patience: Duration,
    ) -> Result<Appended, AppendError> {
        let mut repeated = Repeated::at_most(patience);
        let subject = event.subject.to_string();
        let payload = Bytes::copy_from_slice(&event.bytes);
        // Once an attempt's fate is unknown, no later refusal proves that the event is not stored.
        let mut uncertain = attempts == Attempts::Earlier;
        loop {
            let headers = headers(event, expectation);
            let answer = publish(&self.connection, &subject, headers, payload.clone()).await;
            CrashPoint::EventAnswered.reach();
            let cause = match interpret(answer) {
                Answer::Stored(appended) => return Ok(appended),
                Answer::Conflict => match self.resolve_conflict(event, expectation).await {
                    Err(AppendError::Unknown { source, .. }) => *source,
                    resolved => return resolved,
                },
                Answer::NotStored(error) if uncertain => self.unconfirmed(&subject, error, &repeated),
                Answer::NotStored(error) if !may_pass(&error, self.connection.is_clustered()) => {
                    return Err(not_stored(subject, error));
                }
                // Certainly not stored yet, and perhaps a moment later: a leader is elected.
                Answer::NotStored(error) => {
                    if repeated.again(&self.connection).await {
                        continue;
                    }
                    let source = Box::new(error);
                    let source = NoLeader { subject: subject.clone(), waited: repeated.waited(), source };
                    return Err(AppendError::NoLeader { subject, source });
                }
                Answer::Unknown(error) => self.unconfirmed(&subject, error, &repeated),
            };
            uncertain = true;
            if matches!(&cause, UnknownCause::NoLeader(none) if none.source.is_silence()) {
                repeated.note_silence(&self.connection).await;
            }
            if !repeated.again(&self.connection).await {
                return Err(AppendError::Unknown { subject, source: Box::new(cause) });
            }
        }
    }

    fn unconfirmed(&self, subject: &str, error: ApiError, repeated: &Repeated) -> UnknownCause {
        if may_pass(&error, self.connection.is_clustered()) {
            let (subject, source) = (subject.to_owned(), Box::new(error));
            UnknownCause::NoLeader(NoLeader { subject, waited: repeated.waited(), source })
        } else {
            UnknownCause::Attempt(error)
        }
    }

    /// Finds out whether an earlier attempt had stored the event. Accepted under this expectation, it would be the
    /// very first behind the expected one; if another event is, it is not in the log and never can be.
    async fn resolve_conflict(&self, event: &SealedEvent, expectation: &Expectation) -> Result<Appended, AppendError> {
        let unknown = |cause| AppendError::Unknown { subject: event.subject.to_string(), source: Box::new(cause) };
        let look = |error| unknown(UnknownCause::Look(error));
        let (filter, reader) = (filter(event, expectation), expectation.reader());
        let expected = expectation.sequence();

        let first_behind = self.next_on(&filter, expected + 1, reader).await.map_err(look)?;
        if let Some(first) = &first_behind
            && first.payload == event.bytes
        {
            return Ok(Appended { stream_sequence: first.stream_sequence, already_there: true });
        }
        let last = self.last_on(&filter, reader).await.map_err(look)?;
        let behind = last.as_ref().map_or(0, |last| last.stream_sequence) == expected;
        if behind && reader == Reader::AnyReplica {
            // The leader has seen more than this replica.
            return Err(unknown(UnknownCause::ReplicaBehind));
        }
        Err(AppendError::Conflict { filter, expected, last: last.map(Box::new) })
    }
}

fn filter(event: &SealedEvent, expectation: &Expectation) -> String {
    match expectation {
        Expectation::OnOwnSubject(_) => event.subject.to_string(),
        Expectation::OnNode { node, .. } => node_filter(node),
    }
}

fn headers(event: &SealedEvent, expectation: &Expectation) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    headers.insert("Nats-Msg-Id", event.id.to_string());
    headers.insert("Nats-Expected-Stream", EVENT_STREAM);
    headers.insert("Nats-Expected-Last-Subject-Sequence", expectation.sequence().to_string());
    if let Expectation::OnNode { node, .. } = expectation {
        headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", node_filter(node));
    }
    headers
}

fn interpret(answer: Result<PublishAck, ApiError>) -> Answer {
    match answer {
        Ok(ack) => Answer::Stored(Appended { stream_sequence: ack.sequence, already_there: ack.duplicate }),
        Err(ApiError::Refused(refusal)) => match refusal.err_code {
            code::WRONG_LAST_SEQUENCE => Answer::Conflict,
            code::WRONG_LAST_SEQUENCE_IN_FLIGHT | code::SAME_MESSAGE_IN_FLIGHT => {
                Answer::Unknown(ApiError::Refused(refusal))
            }
            _ => Answer::NotStored(ApiError::Refused(refusal)),
        },
        Err(ApiError::Request(error)) => match error {
            RequestError::PermissionDenied { .. }
            | RequestError::NoResponders { .. }
            | RequestError::TooLarge { .. } => Answer::NotStored(ApiError::Request(error)),
            RequestError::TimedOut { .. } | RequestError::Closed => Answer::Unknown(ApiError::Request(error)),
        },
        Err(error @ (ApiError::Malformed { .. } | ApiError::NoLeader(_))) => Answer::Unknown(error),
    }
}

fn not_stored(subject: String, error: ApiError) -> AppendError {
    match error {
        ApiError::Refused(source) => AppendError::Refused { subject, source },
        ApiError::Request(RequestError::PermissionDenied { .. }) => AppendError::PermissionDenied { subject },
        ApiError::Request(RequestError::NoResponders { .. }) => AppendError::NoLog { subject },
        ApiError::Request(RequestError::TooLarge { size, .. }) => AppendError::TooLarge { subject, size },
        ApiError::Request(RequestError::TimedOut { .. } | RequestError::Closed)
        | ApiError::NoLeader(_)
        | ApiError::Malformed { .. } => {
            AppendError::Unknown { subject, source: Box::new(UnknownCause::Attempt(error)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(err_code: u64) -> Result<PublishAck, ApiError> {
        Err(ApiError::Refused(ServerRefusal { err_code, description: String::new() }))
    }

    fn failed(error: RequestError) -> Result<PublishAck, ApiError> {
        Err(ApiError::Request(error))
    }

    #[test]
    fn answers_are_read_by_code_and_kind() {
        let subject = || "s".to_owned();
        assert!(matches!(interpret(refused(10071)), Answer::Conflict));
        assert!(matches!(interpret(refused(10164)), Answer::Unknown(_)));
        assert!(matches!(interpret(refused(10158)), Answer::Unknown(_)));
        assert!(matches!(interpret(refused(10077)), Answer::NotStored(_)));
        assert!(matches!(
            interpret(failed(RequestError::PermissionDenied { subject: subject() })),
            Answer::NotStored(_)
        ));
        assert!(matches!(interpret(failed(RequestError::NoResponders { subject: subject() })), Answer::NotStored(_)));
        assert!(matches!(interpret(failed(RequestError::Closed)), Answer::Unknown(_)));
        let limit = Duration::from_secs(1);
        assert!(matches!(interpret(failed(RequestError::TimedOut { subject: subject(), limit })), Answer::Unknown(_)));
        let ack = PublishAck { sequence: 4, duplicate: true };
        assert!(matches!(interpret(Ok(ack)), Answer::Stored(Appended { stream_sequence: 4, already_there: true })));
    }

    #[test]
    fn an_unclear_answer_never_becomes_a_clear_refusal() {
        let error = not_stored("s".to_owned(), ApiError::Request(RequestError::Closed));
        assert!(matches!(error, AppendError::Unknown { .. }));
    }
}
