//! A log that was restored and says so.

use super::*;
use crate::event::{ContinuedEpoch, EpochStarted};

/// The log without some messages in its middle, and with an epoch that continues it behind this many.
fn restored(kept: usize, lost: usize, claimed: u64) -> Vec<Message> {
    let mut log = valid_log(&[0, 1, 0, 1, 0, 1, 0, 1]);
    log.drain(kept..kept + lost);
    let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(90)), None);
    let event = BundleEvent::EpochStarted(EpochStarted {
        stream: "BUNDLE_EVENTS".to_owned(),
        epoch: Incarnation::from_uuid(Uuid::from_u128(91)),
        continues: Some(ContinuedEpoch {
            epoch: Incarnation::from_uuid(Uuid::from_u128(92)),
            stream_sequence: claimed,
        }),
        reason: None,
    });
    let id = EventId::from_uuid(Uuid::from_u128(93));
    let draft = EventDraft { id, time: DateTime::UNIX_EPOCH, event };
    let sealed = chain.seal(&"/operators/eve".parse().unwrap(), &draft).unwrap();
    log.insert(kept, Message { stream_sequence: 0, subject: sealed.subject.to_string(), payload: sealed.bytes });
    renumbered(log)
}

#[test]
fn numbers_lost_by_a_restore_are_counted_and_are_no_finding() {
    let report = verify(&restored(3, 3, 3));
    assert!(report.clean, "{:?}", report.findings);
    assert_eq!((report.restores.len(), report.restores[0].events_lost), (1, 3));
    assert_eq!((report.restores[0].stream_sequence, report.restores[0].continues.stream_sequence), (4, 3));
}

#[test]
fn a_restore_explains_nothing_that_is_missing_elsewhere() {
    // Two are missing behind event 5, the restore speaks of event 1.
    let mut log = restored(5, 2, 1);
    let report = verify(&log);
    assert!(!report.clean);
    assert_eq!(report.restores[0].events_lost, 0);
    // One that claims to keep itself.
    log = restored(3, 3, 4);
    assert!(!verify(&log).clean);
    assert!(verify(&log).restores.is_empty());
}
