use std::fs;

use chrono::DateTime;
use shared::event::{BundleEvent, FetchStrategy, RefreshAttempt};
use shared::identifiers::EventId;
use uuid::Uuid;

use super::*;

fn node() -> NodeName {
    "edge-17".parse().unwrap()
}

fn draft(number: u128) -> EventDraft {
    EventDraft {
        id: EventId::from_uuid(Uuid::from_u128(number)),
        time: DateTime::UNIX_EPOCH,
        event: BundleEvent::RefreshAttempt(RefreshAttempt {
            bundle: "contracts".parse().unwrap(),
            tag: "v1".parse().unwrap(),
            tree_digest: Sha256Digest::of(b"tree"),
            base_tag: None,
            strategy: FetchStrategy::Archive,
        }),
    }
}

#[tokio::test]
async fn what_was_recorded_is_there_after_a_crash_under_the_same_incarnation() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(directory.path(), node()).unwrap();
    let incarnation = outbox.incarnation();
    outbox.record(draft(1)).await.unwrap();
    outbox.record(draft(2)).await.unwrap();
    assert_eq!(outbox.status().borrow().waiting, 2);
    assert!(matches!(Outbox::open(directory.path(), node()), Err(OutboxError::Writer(ChainFileError::InUse { .. }))));
    drop(outbox);

    let outbox = Outbox::open(directory.path(), node()).unwrap();
    assert_eq!((outbox.incarnation(), outbox.status().borrow().waiting), (incarnation, 2));
}

#[tokio::test]
async fn a_crash_between_storing_and_removing_an_entry_does_not_send_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(directory.path(), node()).unwrap();
    outbox.record(draft(1)).await.unwrap();
    outbox.record(draft(2)).await.unwrap();
    drop(outbox);

    let file = directory.path().join("writer.json");
    let state = fs::read_to_string(&file).unwrap();
    let stored = state.replace("\"last_stored\":null", &format!("\"last_stored\":\"{}\"", draft(1).id));
    assert_ne!(state, stored);
    fs::write(&file, stored).unwrap();

    let outbox = Outbox::open(directory.path(), node()).unwrap();
    assert_eq!(outbox.inner.queue.first(), Some(draft(2)));
    assert_eq!(outbox.status().borrow().waiting, 1);
}

#[tokio::test]
async fn an_event_that_an_earlier_process_stored_is_not_sent_again_also_when_others_came_after_it() {
    let directory = tempfile::tempdir().unwrap();
    drop(Outbox::open(directory.path(), node()).unwrap());
    let file = directory.path().join("writer.json");
    let state = fs::read_to_string(&file).unwrap();
    let stored = state
        .replace("\"stored_recently\":[]", &format!("\"stored_recently\":[\"{}\",\"{}\"]", draft(1).id, draft(2).id));
    assert_ne!(state, stored);
    fs::write(&file, stored).unwrap();

    let outbox = Outbox::open(directory.path(), node()).unwrap();
    for number in [1, 2, 3] {
        outbox.record(draft(number)).await.unwrap();
    }
    assert_eq!(outbox.inner.queue.first(), Some(draft(3)));
    assert_eq!(outbox.status().borrow().waiting, 1);
}
