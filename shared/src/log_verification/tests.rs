use chrono::DateTime;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::event_chain::{EventChain, EventDraft};
use crate::fleet_history::sample_events::{attempt, loaded, promoted};
use crate::identifiers::{EventId, Incarnation};

/// One message, owned.
#[derive(Debug, Clone, PartialEq)]
struct Message {
    stream_sequence: u64,
    subject: String,
    payload: Vec<u8>,
}

/// A valid log: each number says which of three writers writes next; the third is a new incarnation of the first.
fn valid_log(writers: &[u8]) -> Vec<Message> {
    let sources = ["/nodes/edge-1", "/operators/ada", "/nodes/edge-1"];
    let mut chains: Vec<Option<EventChain>> = vec![None, None, None];
    let mut last_of_first = None;
    let mut log = Vec::new();
    for (number, writer) in writers.iter().enumerate() {
        let writer = usize::from(*writer);
        let predecessor = if writer == 2 { last_of_first } else { None };
        let incarnation = Incarnation::from_uuid(Uuid::from_u128(writer as u128 + 1));
        let chain = chains[writer].clone().unwrap_or_else(|| EventChain::new(incarnation, predecessor));
        let event = match (writer, number % 2) {
            (1, _) => promoted("latest", &format!("v{number}")),
            (_, 0) => attempt(&format!("v{number}")),
            (_, _) => loaded(&format!("v{number}")),
        };
        let id = EventId::from_uuid(Uuid::from_u128(number as u128));
        let sealed = chain
            .seal(&sources[writer].parse().unwrap(), &EventDraft { id, time: DateTime::UNIX_EPOCH, event })
            .unwrap();
        chains[writer] = Some(chain.after(&sealed));
        if writer == 0 {
            last_of_first = Some(sealed.digest);
        }
        log.push(Message {
            stream_sequence: number as u64 + 1,
            subject: sealed.subject.to_string(),
            payload: sealed.bytes,
        });
    }
    log
}

fn verify(log: &[Message]) -> VerificationReport {
    let mut verifier = LogVerifier::default();
    for message in log {
        verifier.check(
            StoredMessage {
                stream_sequence: message.stream_sequence,
                stored_at: DateTime::UNIX_EPOCH,
                subject: &message.subject,
                payload: &message.payload,
            },
            None,
        );
    }
    verifier.finish(None)
}

/// The same messages as a stream that was written anew: only the chains can tell.
fn renumbered(mut log: Vec<Message>) -> Vec<Message> {
    for (number, message) in log.iter_mut().enumerate() {
        message.stream_sequence = number as u64 + 1;
    }
    log
}

/// Writer and number of a message.
fn place(message: &Message) -> (String, Incarnation, u64) {
    let envelope = EventEnvelope::parse(&message.payload).unwrap();
    (envelope.source.to_string(), envelope.incarnation, envelope.sequence)
}

/// Whether a message is the last of its incarnation.
fn is_last(log: &[Message], index: usize) -> bool {
    let (_, incarnation, _) = place(&log[index]);
    !log[index + 1..].iter().any(|later| place(later).1 == incarnation)
}

fn problems(report: &VerificationReport) -> Vec<(u64, &'static str)> {
    report.findings.iter().map(|finding| (finding.stream_sequence, finding.problem.name())).collect()
}

#[test]
fn an_untouched_log_is_clean_and_counted() {
    let report = verify(&valid_log(&[0, 1, 0, 2, 1, 2]));
    assert!(report.clean, "{report:?}");
    assert_eq!((report.events, report.sources, report.incarnations), (6, 2, 3));
    assert_eq!((report.first_sequence, report.last_sequence), (1, 6));
    assert!(verify(&[]).clean);
}

#[test]
fn every_kind_of_damage_has_its_name_and_place() {
    let log = valid_log(&[1, 1, 1, 1]);
    let mut dropped = log.clone();
    dropped.remove(1);
    assert_eq!(problems(&verify(&dropped)), [(2, "missing_messages"), (3, "gap")]);
    assert_eq!(problems(&verify(&renumbered(dropped))), [(2, "gap")]);

    let mut swapped = log.clone();
    swapped.swap(1, 2);
    assert_eq!(problems(&verify(&renumbered(swapped))), [(3, "reordered")]);

    let mut doubled = log.clone();
    doubled.insert(2, log[1].clone());
    let report = verify(&renumbered(doubled));
    assert_eq!(report.findings[0].problem, Problem::Duplicate { first_at: 2 });
    assert_eq!(report.findings_total, 1);

    let mut altered = log.clone();
    let text = String::from_utf8(altered[1].payload.clone()).unwrap().replace("because", "begause");
    altered[1].payload = text.into_bytes();
    let report = verify(&altered);
    assert_eq!(problems(&report), [(3, "altered")]);
    assert!(matches!(report.findings[0].problem, Problem::Altered { named_at: 2, named_sequence: 2, .. }));

    let mut forked = log.clone();
    forked.insert(2, altered[1].clone());
    assert_eq!(problems(&verify(&renumbered(forked))), [(3, "fork")]);

    let mut moved = log;
    moved[1].subject = "bundle.promoted.contracts.channel.production".to_owned();
    assert_eq!(problems(&verify(&moved)), [(2, "contradiction"), (3, "gap")]);
}

#[test]
fn a_number_passed_long_ago_is_found_though_not_told_apart() {
    let log = valid_log(&[1; 100]);
    let mut doubled = log.clone();
    doubled.push(log[10].clone());
    assert_eq!(verify(&renumbered(doubled)).findings[0].problem, Problem::Repeated { after: 100 });
}

#[test]
fn a_new_incarnation_must_name_an_event_of_its_source() {
    let mut log = valid_log(&[0, 0, 2]);
    assert!(verify(&log).clean);
    log.drain(..2);
    assert_eq!(problems(&verify(&renumbered(log))), [(1, "unknown_predecessor")]);
}

#[test]
fn the_streams_own_last_sequence_shows_a_cut_off_end() {
    let mut verifier = LogVerifier::default();
    for message in &valid_log(&[0, 0]) {
        let Message { stream_sequence, subject, payload } = message;
        let stored_at = DateTime::UNIX_EPOCH;
        verifier.check(StoredMessage { stream_sequence: *stream_sequence, stored_at, subject, payload }, None);
    }
    let report = verifier.finish(Some(4));
    assert_eq!(report.findings[0].problem, Problem::MissingMessages { first: 3, last: 4 });
}

#[test]
fn a_node_that_speaks_under_an_unknown_type_for_another_is_found() {
    let mut log = valid_log(&[0]);
    let text =
        String::from_utf8(log[0].payload.clone()).unwrap().replace("bundle.refresh_attempt\"", "bundle.probed\"");
    log[0].payload = text.into_bytes();
    log[0].subject = "bundle.probed.contracts.node.edge-1".to_owned();
    let own = verify(&log);
    assert!(own.clean, "{own:?}");
    assert_eq!(own.unknown["bundle.probed"], 1);
    log[0].subject = "bundle.probed.contracts.node.edge-2".to_owned();
    assert_eq!(problems(&verify(&log)), [(1, "contradiction")]);
}

fn any_log() -> impl Strategy<Value = Vec<Message>> {
    proptest::collection::vec(0_u8..3, 2..40).prop_map(|writers| valid_log(&writers))
}

proptest! {
    #[test]
    fn an_untouched_log_is_always_clean(log in any_log()) {
        prop_assert!(verify(&log).clean);
    }

    #[test]
    fn a_dropped_event_is_found_unless_it_was_the_last_of_its_incarnation(log in any_log(), at in any::<prop::sample::Index>()) {
        let index = at.index(log.len());
        let last = is_last(&log, index);
        let mut damaged = log.clone();
        damaged.remove(index);
        prop_assert!(last || !verify(&renumbered(damaged.clone())).clean);
        // The stream's own numbers show every dropped message but the very last.
        prop_assert!(index == log.len() - 1 || !verify(&damaged).clean);
    }

    #[test]
    fn two_swapped_events_of_one_incarnation_are_found(log in any_log(), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>()) {
        let (one, other) = (one.index(log.len()), other.index(log.len()));
        let mut damaged = log.clone();
        damaged.swap(one, other);
        prop_assert_eq!(one == other, verify(&damaged).clean);
        if place(&log[one]).1 == place(&log[other]).1 && one != other {
            prop_assert!(!verify(&renumbered(damaged)).clean);
        }
    }

    #[test]
    fn a_doubled_event_is_found(log in any_log(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let message = log[from.index(log.len())].clone();
        let mut damaged = log.clone();
        damaged.insert(to.index(log.len() + 1), message);
        prop_assert!(!verify(&renumbered(damaged)).clean);
    }

    #[test]
    fn an_altered_byte_is_found_unless_its_event_is_the_last(log in any_log(), at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), flip in 1_u8..) {
        let index = at.index(log.len());
        let last = is_last(&log, index);
        let mut damaged = log.clone();
        let position = byte.index(damaged[index].payload.len());
        damaged[index].payload[position] ^= flip;
        prop_assert!(last || !verify(&damaged).clean);
    }

    #[test]
    fn garbage_is_reported_and_never_panics(messages in proptest::collection::vec(("\\PC{0,60}", proptest::collection::vec(any::<u8>(), 0..60), any::<u64>()), 1..20)) {
        let log: Vec<Message> = messages.into_iter().map(|(subject, payload, stream_sequence)| Message { stream_sequence, subject, payload }).collect();
        prop_assert!(!verify(&log).clean);
    }
}

mod checkpoints;
mod restores;
