//! Numbering and hash-chaining of one incarnation's events.
//!
//! Pure: an event gets its number and hash here, and the chain advances only when the caller says that the
//! event's fate is known (stored). A refused event frees its number.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::event::BundleEvent;
use crate::event_envelope::{EnvelopeError, EventEnvelope};
use crate::identifiers::{EventId, Incarnation};
use crate::source::Source;
use crate::subjects::EventSubject;

/// An event that waits to be numbered.
#[derive(Debug, Clone, PartialEq)]
pub struct EventDraft {
    /// Its id; stays the same through every retry.
    pub id: EventId,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// What happened.
    pub event: BundleEvent,
}

/// An event with its number: exactly these bytes are sent, retried and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedEvent {
    /// Its id.
    pub id: EventId,
    /// Where it is stored.
    pub subject: EventSubject,
    /// Its number within the incarnation.
    pub sequence: u64,
    /// The payload.
    pub bytes: Vec<u8>,
    /// SHA-256 of the payload: the next event's `prevhash`.
    pub digest: Sha256Digest,
}

/// Where an incarnation's chain stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventChain {
    /// The writer.
    pub incarnation: Incarnation,
    /// Number of its last stored event; 0 before the first.
    pub sequence: u64,
    /// Hash of the source's last stored event; for a new incarnation that of its predecessor, where known.
    pub last_hash: Option<Sha256Digest>,
}

impl EventChain {
    /// A chain without events. `predecessor` is the hash of the source's last event under an earlier
    /// incarnation, where the caller knows one.
    pub fn new(incarnation: Incarnation, predecessor: Option<Sha256Digest>) -> Self {
        Self { incarnation, sequence: 0, last_hash: predecessor }
    }

    /// Numbers the draft as the chain's next event. The chain itself does not move.
    pub fn seal(&self, source: &Source, draft: &EventDraft) -> Result<SealedEvent, EnvelopeError> {
        let subject = draft.event.stored_subject(source).ok_or_else(|| EnvelopeError::WrongSource {
            written_by: source.clone(),
            event_type: draft.event.event_type(),
        })?;
        let sequence = self.sequence + 1;
        let envelope = EventEnvelope {
            id: draft.id,
            source: source.clone(),
            time: draft.time,
            incarnation: self.incarnation,
            sequence,
            prevhash: self.last_hash,
            event: draft.event.clone(),
        };
        let bytes = envelope.to_bytes()?;
        let digest = Sha256Digest::of(&bytes);
        Ok(SealedEvent { id: draft.id, subject, sequence, bytes, digest })
    }

    /// The chain after the sealed event was stored.
    #[must_use]
    pub fn after(&self, stored: &SealedEvent) -> Self {
        Self { incarnation: self.incarnation, sequence: stored.sequence, last_hash: Some(stored.digest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{BundleEvent, EpochStarted};

    fn draft(number: u128) -> EventDraft {
        let epoch = Incarnation::from_uuid(uuid::Uuid::from_u128(7));
        EventDraft {
            id: EventId::from_uuid(uuid::Uuid::from_u128(number)),
            time: DateTime::UNIX_EPOCH,
            event: BundleEvent::EpochStarted(EpochStarted {
                stream: "BUNDLE_EVENTS".to_owned(),
                epoch,
                continues: None,
                reason: None,
            }),
        }
    }

    #[test]
    fn each_event_names_the_hash_of_the_one_before() {
        let source: Source = "/operators/ada".parse().unwrap();
        let chain = EventChain::new(Incarnation::from_uuid(uuid::Uuid::from_u128(1)), None);
        let first = chain.seal(&source, &draft(1)).unwrap();
        let chain = chain.after(&first);
        let second = chain.seal(&source, &draft(2)).unwrap();

        let read = EventEnvelope::parse(&first.bytes).unwrap();
        assert_eq!((read.sequence, read.prevhash), (1, None));
        let read = EventEnvelope::parse(&second.bytes).unwrap();
        assert_eq!((read.sequence, read.prevhash), (2, Some(Sha256Digest::of(&first.bytes))));
    }

    #[test]
    fn a_refused_event_frees_its_number() {
        let source: Source = "/operators/ada".parse().unwrap();
        let chain = EventChain::new(Incarnation::from_uuid(uuid::Uuid::from_u128(1)), None);
        let refused = chain.seal(&source, &draft(1)).unwrap();
        let next = chain.seal(&source, &draft(2)).unwrap();
        assert_eq!((refused.sequence, next.sequence), (1, 1));
    }

    #[test]
    fn a_source_cannot_say_what_is_not_its_to_say() {
        let chain = EventChain::new(Incarnation::from_uuid(uuid::Uuid::from_u128(1)), None);
        let error = chain.seal(&"/nodes/edge-17".parse().unwrap(), &draft(1)).unwrap_err();
        assert!(matches!(error, EnvelopeError::WrongSource { .. }));
    }
}
