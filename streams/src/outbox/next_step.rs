//! What follows from an attempt to write: pure, so that every end of an attempt can be tested without a server.

use shared::daemon::ErrorChain;
use shared::digest::Sha256Digest;
use shared::event_chain::EventChain;
use shared::event_envelope::EventEnvelope;

use super::{LostEvents, Rival};
use crate::event_log::{AppendError, Appended};
use crate::event_writer::WriteError;
use crate::stored_event::StoredEvent;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// The event is in the log, at this place. On to the next.
    Advance { last: u64 },
    /// The log ends elsewhere than thought: `None` where it has to be read again. The same event is sent once more.
    Rebase { last: Option<u64>, rival: Option<Rival> },
    /// Somebody else has written with a copy of this writer's state: it goes on under a new incarnation, behind the event
    /// that stands there.
    BeginAnew { last: u64, predecessor: Sha256Digest },
    /// The event cannot get through now. It stays first.
    Wait { reason: String },
    /// The event can never be sent.
    SetAside { reason: String },
}

/// Decides from the end of one attempt. `chain` is where the writer stands after it.
pub(super) fn next_step(chain: &EventChain, written: Result<Option<Appended>, WriteError>) -> NextStep {
    match written {
        Ok(Some(appended)) => NextStep::Advance { last: appended.stream_sequence },
        // Nothing was in flight after all.
        Ok(None) => NextStep::Rebase { last: None, rival: None },
        Err(WriteError::Append(AppendError::Conflict { last, expected, .. })) => {
            let last = last.as_deref();
            if let Some(copied) = last.filter(|last| written_by_a_copy(chain, last)) {
                return NextStep::BeginAnew { last: copied.stream_sequence, predecessor: copied.digest() };
            }
            NextStep::Rebase {
                // A log that is shorter than thought is read anew: it may have lost what it had confirmed.
                last: last.map(|last| last.stream_sequence).filter(|last| *last > expected),
                rival: last.filter(|last| last.stream_sequence > expected).and_then(|last| rival(chain, last)),
            }
        }
        Err(WriteError::Seal(error)) => NextStep::SetAside { reason: ErrorChain(&error).to_string() },
        Err(error @ (WriteError::State(_) | WriteError::Append(_) | WriteError::Unsettled(_))) => {
            NextStep::Wait { reason: ErrorChain(&error).to_string() }
        }
    }
}

/// Whether this event carries the chain's incarnation and is none that its writer has stored: a clone of the node's disk
/// wrote it, or this disk was put back to an earlier state. To go on would fork the chain for good.
pub(super) fn written_by_a_copy(chain: &EventChain, event: &StoredEvent) -> bool {
    EventEnvelope::parse(&event.payload).is_ok_and(|envelope| {
        let unknown = envelope.sequence > chain.sequence
            || (envelope.sequence == chain.sequence && chain.last_hash != Some(event.digest()));
        envelope.incarnation == chain.incarnation && unknown
    })
}

/// What the log has lost of the chain, where it shows: the newest of the node's events is the chain's own, and not its last.
/// Another writer's behind it would hide it.
pub(super) fn lost_events(chain: &EventChain, last_of_each_subject: &[StoredEvent]) -> Option<LostEvents> {
    let newest = last_of_each_subject.iter().max_by_key(|event| event.stream_sequence);
    let found = match newest {
        None => 0,
        Some(newest) => {
            let envelope = EventEnvelope::parse(&newest.payload).ok()?;
            (envelope.incarnation == chain.incarnation).then_some(envelope.sequence)?
        }
    };
    (found < chain.sequence).then_some(LostEvents { confirmed: chain.sequence, found })
}

/// Whoever wrote this event, unless it was this writer before: then only the knowledge of the log was old.
fn rival(chain: &EventChain, last: &StoredEvent) -> Option<Rival> {
    let envelope = EventEnvelope::parse(&last.payload).ok();
    let ours = envelope
        .as_ref()
        .is_some_and(|envelope| envelope.incarnation == chain.incarnation && envelope.sequence <= chain.sequence);
    (!ours).then(|| Rival {
        incarnation: envelope.map(|envelope| envelope.incarnation),
        stream_sequence: last.stream_sequence,
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use shared::event::{BundleEvent, EpochStarted};
    use shared::event_chain::EventDraft;
    use shared::event_envelope::EnvelopeError;
    use shared::identifiers::{EventId, Incarnation};
    use uuid::Uuid;

    use super::*;
    use crate::event_log::UnknownCause;

    fn incarnation(number: u128) -> Incarnation {
        Incarnation::from_uuid(Uuid::from_u128(number))
    }

    /// The chain of incarnation 1 after one event.
    fn chain() -> EventChain {
        let chain = EventChain::new(incarnation(1), None);
        EventChain { sequence: 1, last_hash: Some(stored_by(1, 0).digest()), ..chain }
    }

    fn stored_by(writer: u128, stream_sequence: u64) -> StoredEvent {
        let draft = EventDraft {
            id: EventId::from_uuid(Uuid::from_u128(5)),
            time: DateTime::UNIX_EPOCH,
            event: BundleEvent::EpochStarted(EpochStarted {
                stream: "S".to_owned(),
                epoch: incarnation(9),
                continues: None,
                reason: None,
            }),
        };
        let source = "/operators/ada".parse().unwrap();
        let sealed = EventChain::new(incarnation(writer), None).seal(&source, &draft).unwrap();
        StoredEvent {
            stream_sequence,
            stored_at: DateTime::UNIX_EPOCH,
            subject: "s".to_owned(),
            payload: sealed.bytes.into(),
        }
    }

    fn conflict(last: Option<StoredEvent>) -> Result<Option<Appended>, WriteError> {
        Err(WriteError::Append(AppendError::Conflict { filter: "f".to_owned(), expected: 4, last: last.map(Box::new) }))
    }

    #[test]
    fn a_stored_event_moves_on_whether_now_or_before() {
        for already_there in [false, true] {
            let appended = Appended { stream_sequence: 7, already_there };
            assert_eq!(next_step(&chain(), Ok(Some(appended))), NextStep::Advance { last: 7 });
        }
    }

    #[test]
    fn a_second_writer_is_an_alarm_and_the_event_is_sent_behind_it() {
        let step = next_step(&chain(), conflict(Some(stored_by(2, 9))));
        let rival = Some(Rival { incarnation: Some(incarnation(2)), stream_sequence: 9 });
        assert_eq!(step, NextStep::Rebase { last: Some(9), rival });
    }

    #[test]
    fn a_copy_of_this_state_directory_ends_the_incarnation() {
        // Same incarnation, but an event that this writer has not stored: a later one, or another under the same number.
        let (behind, other) = (EventChain::new(incarnation(1), None), EventChain { last_hash: None, ..chain() });
        for chain in [behind, other] {
            let stored = stored_by(1, 9);
            let predecessor = stored.digest();
            let step = next_step(&chain, conflict(Some(stored)));
            assert_eq!(step, NextStep::BeginAnew { last: 9, predecessor });
        }
    }

    #[test]
    fn what_the_log_has_lost_of_the_chain_shows_unless_another_wrote_since() {
        let ahead = EventChain { sequence: 3, ..chain() };
        let lost = |found| Some(LostEvents { confirmed: 3, found });
        assert_eq!(lost_events(&ahead, &[]), lost(0));
        assert_eq!(lost_events(&ahead, &[stored_by(1, 4)]), lost(1));
        assert_eq!(lost_events(&ahead, &[stored_by(1, 4), stored_by(2, 9)]), None);
        assert_eq!(lost_events(&chain(), &[stored_by(1, 4)]), None);
        assert_eq!(lost_events(&EventChain::new(incarnation(1), None), &[]), None);
    }

    #[test]
    fn old_knowledge_of_the_log_is_no_alarm() {
        let own = next_step(&chain(), conflict(Some(stored_by(1, 9))));
        assert_eq!(own, NextStep::Rebase { last: Some(9), rival: None });
        // The log is shorter than thought: it was restored, or the replica is behind.
        let shorter = next_step(&chain(), conflict(Some(stored_by(2, 3))));
        assert_eq!(shorter, NextStep::Rebase { last: None, rival: None });
        assert_eq!(next_step(&chain(), conflict(None)), NextStep::Rebase { last: None, rival: None });
    }

    #[test]
    fn what_may_pass_waits_and_what_never_can_is_set_aside() {
        let subject = || "s".to_owned();
        for error in [
            AppendError::PermissionDenied { subject: subject() },
            AppendError::NoLog { subject: subject() },
            AppendError::Unknown { subject: subject(), source: Box::new(UnknownCause::ReplicaBehind) },
        ] {
            assert!(matches!(next_step(&chain(), Err(WriteError::Append(error))), NextStep::Wait { .. }));
        }
        let seal = Err(WriteError::Seal(EnvelopeError::TooLarge { size: 1 }));
        assert!(matches!(next_step(&chain(), seal), NextStep::SetAside { .. }));
    }
}
