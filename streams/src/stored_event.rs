//! One event as the stream holds it.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;
use shared::event_envelope::{EnvelopeError, EventEnvelope};
use shared::subjects::{EventSubject, SubjectError};
use thiserror::Error;

use crate::direct_get::DirectMessage;

/// A message of the event stream. Nothing about it has been checked yet; see [`StoredEvent::envelope`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the log.
    pub stream_sequence: u64,
    /// When the server stored it, by the server's clock.
    pub stored_at: DateTime<Utc>,
    /// The subject it is stored under.
    pub subject: String,
    /// The stored bytes: what is hashed, exported and compared.
    pub payload: Bytes,
}

/// A stored message that must not be applied.
#[derive(Debug, Error)]
pub enum StoredEventError {
    /// The subject is none of ours.
    #[error("message {stream_sequence} of the event stream has an unknown subject")]
    Subject {
        /// Its place in the log.
        stream_sequence: u64,
        /// Why.
        #[source]
        source: SubjectError,
    },
    /// The payload is no valid event.
    #[error("message {stream_sequence} on `{subject}` is no valid event")]
    Envelope {
        /// Its place in the log.
        stream_sequence: u64,
        /// Its subject.
        subject: String,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// Type, source or scope contradict the subject.
    #[error("message {stream_sequence} contradicts its subject `{subject}`")]
    Contradiction {
        /// Its place in the log.
        stream_sequence: u64,
        /// Its subject.
        subject: String,
    },
}

impl StoredEvent {
    /// The event, where the message is one and agrees with its subject.
    pub fn envelope(&self) -> Result<(EventSubject, EventEnvelope), StoredEventError> {
        let stream_sequence = self.stream_sequence;
        let subject: EventSubject =
            self.subject.parse().map_err(|source| StoredEventError::Subject { stream_sequence, source })?;
        let envelope = EventEnvelope::parse(&self.payload).map_err(|source| StoredEventError::Envelope {
            stream_sequence,
            subject: self.subject.clone(),
            source,
        })?;
        if !envelope.belongs_under(&subject) {
            return Err(StoredEventError::Contradiction { stream_sequence, subject: self.subject.clone() });
        }
        Ok((subject, envelope))
    }

    /// SHA-256 of the payload, which the source's next event names as `prevhash`.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.payload)
    }
}

impl From<DirectMessage> for StoredEvent {
    fn from(message: DirectMessage) -> Self {
        Self {
            stream_sequence: message.sequence,
            stored_at: message.stored_at,
            subject: message.subject,
            payload: message.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(subject: &str, payload: &str) -> StoredEvent {
        StoredEvent {
            stream_sequence: 3,
            stored_at: DateTime::UNIX_EPOCH,
            subject: subject.to_owned(),
            payload: payload.to_owned().into(),
        }
    }

    #[test]
    fn foreign_subjects_and_payloads_are_told_apart() {
        assert!(matches!(stored("other", "{}").envelope(), Err(StoredEventError::Subject { .. })));
        let promoted = stored("bundle.promoted.contracts.channel.latest", "{}");
        assert!(matches!(promoted.envelope(), Err(StoredEventError::Envelope { .. })));
        assert_eq!(promoted.digest(), Sha256Digest::of(b"{}"));
    }
}
