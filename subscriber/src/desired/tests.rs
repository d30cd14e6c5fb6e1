//! Judging answers of the log, without one.

use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;
use shared::event::{EpochStarted, FetchStrategy, Hold, PromotionCause, RefreshAttempt, Withdrawn as WithdrawnEvent};
use shared::event_chain::{EventChain, EventDraft};
use shared::identifiers::EventId;
use shared::source::Source;
use uuid::Uuid;

use super::*;

fn incarnation(number: u128) -> Incarnation {
    Incarnation::from_uuid(Uuid::from_u128(number))
}

fn question() -> Question {
    Question {
        bundle: "contracts".parse().unwrap(),
        follow: Follow::Channel("latest".parse().unwrap()),
        node: "edge-17".parse().unwrap(),
        incarnation: incarnation(70),
        channel: "latest".parse().unwrap(),
    }
}

fn stored_by(source: &str, writer: u128, stream_sequence: u64, event: impl Into<BundleEvent>) -> StoredEvent {
    let source: Source = source.parse().unwrap();
    let id = EventId::from_uuid(Uuid::from_u128(u128::from(stream_sequence)));
    let draft = EventDraft { id, time: DateTime::<Utc>::UNIX_EPOCH, event: event.into() };
    let sealed = EventChain::new(incarnation(writer), None).seal(&source, &draft).unwrap();
    let stored_at = DateTime::<Utc>::UNIX_EPOCH;
    StoredEvent { stream_sequence, stored_at, subject: sealed.subject.to_string(), payload: sealed.bytes.into() }
}

fn epoch(number: u128) -> StoredEvent {
    let event =
        EpochStarted { stream: EVENT_STREAM.to_owned(), epoch: incarnation(number), continues: None, reason: None };
    stored_by("/operators/ada", 1, 1, event)
}

fn promoted(stream_sequence: u64, tag: &str) -> StoredEvent {
    let event = Promoted {
        bundle: "contracts".parse().unwrap(),
        channel: "latest".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        previous_tag: None,
        cause: PromotionCause::Promote,
        hold: Hold::None,
        reason: None,
        actor: "ada".parse().unwrap(),
    };
    stored_by("/operators/ada", 1, stream_sequence, event)
}

fn attempt(writer: u128, stream_sequence: u64) -> StoredEvent {
    let event = RefreshAttempt {
        bundle: "contracts".parse().unwrap(),
        tag: "v1".parse().unwrap(),
        tree_digest: Sha256Digest::of(b"v1"),
        base_tag: None,
        strategy: FetchStrategy::Archive,
    };
    stored_by("/nodes/edge-17", writer, stream_sequence, event)
}

fn judge(events: &[StoredEvent], up_to_sequence: u64, position: &LogPosition) -> Answer {
    question().judge(&Snapshot { events: events.to_vec(), up_to_sequence }, position)
}

fn reading(events: &[StoredEvent], up_to_sequence: u64, position: &LogPosition) -> Reading {
    match judge(events, up_to_sequence, position) {
        Answer::Current(reading) => *reading,
        other @ (Answer::Outdated { .. } | Answer::NotReady(_)) => panic!("{other:?}"),
    }
}

fn position(epoch: u128, applied: u64, read_up_to: u64) -> LogPosition {
    let applied = [("latest".parse().unwrap(), applied)].into();
    LogPosition { epoch: Some(incarnation(epoch)), left_behind: Vec::new(), applied, read_up_to }
}

#[test]
fn the_head_and_the_withdrawals_are_read() {
    let withdrawn = WithdrawnEvent {
        bundle: "contracts".parse().unwrap(),
        tag: "v0".parse().unwrap(),
        tree_digest: Sha256Digest::of(b"tree"),
        content_digest: Sha256Digest::of(b"content"),
        reason: "leaks".to_owned(),
        actor: "ada".parse().unwrap(),
    };
    let events = [epoch(9), promoted(5, "v1"), stored_by("/operators/ada", 1, 6, withdrawn)];
    let reading = reading(&events, 6, &LogPosition::default());
    assert!(matches!(&reading.head, Head::Channel(5, head) if head.tag.as_str() == "v1"));
    assert!(reading.withdrawn.holds(Sha256Digest::of(b"tree"), None));
    assert!(reading.withdrawn.holds(Sha256Digest::of(b"other"), Some(Sha256Digest::of(b"content"))));
    assert_eq!((reading.epoch, reading.up_to_sequence), (incarnation(9), 6));
}

#[test]
fn the_nodes_last_event_about_this_bundle_is_known_whoever_wrote_it() {
    let attempted = |bundle: &str, sequence: u64| {
        let event = RefreshAttempt {
            bundle: bundle.parse().unwrap(),
            tag: "v1".parse().unwrap(),
            tree_digest: Sha256Digest::of(b"v1"),
            base_tag: None,
            strategy: FetchStrategy::Archive,
        };
        stored_by("/nodes/edge-17", 70, sequence, event)
    };
    let damaged = StoredEvent { payload: b"no event".as_slice().into(), ..attempt(70, 9) };
    let events = [epoch(9), attempt(70, 4), attempt(71, 6), attempted("policies", 8), damaged];
    let found = reading(&events, 9, &LogPosition::default());
    assert_eq!((found.bundle_last_sequence, found.own_last_sequence), (6, 8));
    assert_eq!(reading(&[epoch(9)], 1, &LogPosition::default()).bundle_last_sequence, 0);
}

#[test]
fn a_log_without_a_beginning_is_not_ready() {
    assert!(matches!(judge(&[], 0, &LogPosition::default()), Answer::NotReady(_)));
    assert!(matches!(judge(&[promoted(5, "v1")], 5, &LogPosition::default()), Answer::NotReady(_)));
}

#[test]
fn an_answer_older_than_what_was_acted_on_is_not_believed() {
    let events = [epoch(9), promoted(5, "v1")];
    assert_eq!(judge(&events, 7, &position(9, 5, 8)), Answer::Outdated { up_to_sequence: 7 });
    assert!(matches!(judge(&events, 8, &position(9, 5, 8)), Answer::Current(_)));
    assert_eq!(reading(&events, 8, &position(9, 6, 8)).head, Head::Unchanged);
}

#[test]
fn in_another_epoch_lower_sequences_count_but_never_those_of_one_left_behind() {
    let events = [epoch(10), promoted(5, "v1")];
    assert!(matches!(reading(&events, 6, &position(9, 50, 80)).head, Head::Channel(5, _)));
    let mut entered = position(9, 50, 80);
    entered.enter_epoch(incarnation(10));
    let behind = [epoch(9), promoted(50, "v2")];
    assert_eq!(judge(&behind, 80, &entered), Answer::Outdated { up_to_sequence: 80 });
}

#[test]
fn a_head_that_is_no_event_or_contradicts_its_subject_changes_nothing_and_is_named() {
    let mut broken = promoted(5, "v1");
    broken.payload = "{}".into();
    let mut misplaced = attempt(70, 5);
    misplaced.subject = "bundle.promoted.contracts.channel.latest".to_owned();
    for head in [broken, misplaced] {
        let reading = reading(&[epoch(9), head], 5, &LogPosition::default());
        assert_eq!(reading.head, Head::Unchanged);
        assert_eq!(reading.oddities.len(), 1);
    }
}

#[test]
fn a_later_event_by_another_writer_under_this_name_is_noticed() {
    let rival = |events: &[StoredEvent]| reading(events, 9, &LogPosition::default()).rival;
    assert_eq!(rival(&[epoch(9), attempt(71, 5)]), None, "this node before it lost its state");
    assert_eq!(rival(&[epoch(9), attempt(70, 6)]), None);
    let other = attempt(71, 8);
    assert_eq!(rival(&[epoch(9), attempt(70, 6), other]), Some((8, incarnation(71))));
}
