use shared::checkpoint::Checkpoint;
use shared::merkle::{Frontier, ProofBuilder, leaf_hash};
use shared::signed_note::SignerKey;
use uuid::Uuid;

use super::*;

fn key(seed: u8) -> SignerKey {
    SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[seed; 32])
}

fn keys(seed: u8) -> VerifierKeys {
    key(seed).verifier().clone().into()
}

fn epoch(number: u128) -> Incarnation {
    Incarnation::from_uuid(Uuid::from_u128(number))
}

/// Checkpoint `size` of a log whose events are `kind` from event 4 on, behind one of size `from`; each stands right
/// behind its events.
fn shown(kind: &str, from: u64, size: u64) -> ShownCheckpoint {
    let leaf = |index: u64| leaf_hash(&[if index < 3 { b"same" } else { kind.as_bytes() }, &index.to_be_bytes()]);
    let root = |size: u64| {
        let mut tree = Frontier::default();
        for index in 0..size {
            tree.push(leaf(index));
        }
        tree.root()
    };
    let mut proof = ProofBuilder::consistency(from, size).unwrap();
    for index in 0..size {
        proof.push(leaf(index));
    }
    let checkpoint = Checkpoint { origin: key(1).name().clone(), size, root: root(size), epoch: Some(epoch(1)) };
    let data = Checkpointed {
        stream: "BUNDLE_EVENTS".to_owned(),
        epoch: epoch(1),
        size,
        root: root(size),
        note: checkpoint.sign(&key(1)).unwrap().note(),
        previous: (from > 0).then(|| PreviousCheckpoint { size: from, root: root(from), stream_sequence: from + 1 }),
        proof: proof.finish().unwrap(),
    };
    ShownCheckpoint { stream_sequence: size + 1, data }
}

fn seen(kind: &str, size: u64) -> SeenCheckpoint {
    shown(kind, 0, size).seen_in(epoch(1))
}

fn log(epoch_number: u128, up_to_sequence: u64) -> LogState {
    LogState { epoch: epoch(epoch_number), up_to_sequence }
}

fn compared(seen: &SeenCheckpoint, shown: Option<&ShownCheckpoint>, log: LogState) -> Standing {
    compare(Some(seen), shown, log, Some(&keys(1)))
}

fn contradicts(standing: &Standing, words: &str) -> bool {
    matches!(standing, Standing::Contradiction(text) if text.contains(words))
}

#[test]
fn the_first_is_believed_and_each_later_one_must_continue_it() {
    assert_eq!(compare(None, None, log(1, 3), None), Standing::Same);
    let first = shown("a", 0, 5);
    assert_eq!(compare(None, Some(&first), log(1, 6), Some(&keys(1))), Standing::Forward(seen("a", 5)));
    assert_eq!(compared(&seen("a", 5), Some(&first), log(1, 9)), Standing::Same);
    let Standing::Forward(next) = compared(&seen("a", 5), Some(&shown("a", 5, 9)), log(1, 10)) else {
        panic!("forward")
    };
    assert_eq!((next.size, next.stream_sequence), (9, 10));
    // Also in a new epoch that continues the old one behind what was signed.
    assert!(matches!(compared(&seen("a", 5), Some(&shown("a", 5, 9)), log(2, 10)), Standing::Forward(_)));
}

#[test]
fn another_log_is_a_contradiction_at_once() {
    let seen = seen("a", 5);
    assert!(contradicts(&compared(&seen, Some(&shown("b", 0, 5)), log(1, 6)), "not the one that was signed"));
    let mut forged = shown("b", 5, 9);
    forged.data.previous = shown("a", 5, 9).data.previous;
    assert!(contradicts(&compared(&seen, Some(&forged), log(1, 10)), "does not prove"));
    // The log went on without the checkpoint that was seen.
    assert!(contradicts(&compared(&seen, None, log(1, 6)), "not the one that was signed"));
    assert!(contradicts(&compared(&seen, Some(&shown("a", 0, 2)), log(1, 40)), "not the one that was signed"));
}

#[test]
fn a_shorter_log_may_be_a_replica_that_lags_but_not_in_another_epoch() {
    let (seen, old) = (seen("a", 9), shown("a", 0, 5));
    for shown in [Some(&old), None] {
        assert!(matches!(compared(&seen, shown, log(1, 7)), Standing::Behind(_)));
        assert!(contradicts(&compared(&seen, shown, log(2, 7)), "restored from a backup or replaced"));
    }
    let mut smaller = shown("a", 0, 5);
    smaller.stream_sequence = 30;
    assert!(contradicts(&compared(&seen, Some(&smaller), log(1, 30)), "shorter"));
}

#[test]
fn checkpoints_in_between_are_followed_one_by_one() {
    let seen = seen("a", 5);
    let newest = shown("a", 12, 20);
    assert_eq!(compared(&seen, Some(&newest), log(1, 21)), Standing::Ahead);
    let between = [shown("a", 5, 9), shown("a", 9, 12), newest];
    let (reached, fault) = follow(seen.clone(), &between, epoch(1), Some(&keys(1)));
    assert_eq!((reached.size, fault), (20, None));

    let (reached, fault) = follow(seen.clone(), &between[1..], epoch(1), None);
    assert!(reached == seen && fault.unwrap().contains("does not go on from it"));
    let forked = [shown("a", 5, 9), shown("b", 9, 12)];
    let (reached, fault) = follow(seen, &forked, epoch(1), None);
    assert!(reached.size == 9 && fault.unwrap().contains("not the one that was signed"));
}

#[test]
fn signatures_count_where_a_key_is_known() {
    let first = shown("a", 0, 5);
    let standing = compare(None, Some(&first), log(1, 6), Some(&keys(2)));
    assert!(contradicts(&standing, "refused"), "{standing:?}");
    assert!(matches!(compare(None, Some(&first), log(1, 6), None), Standing::Forward(_)));
    let mut altered = first;
    altered.data.size = 4;
    assert!(contradicts(&compare(None, Some(&altered), log(1, 6), None), "says something else"));
}
