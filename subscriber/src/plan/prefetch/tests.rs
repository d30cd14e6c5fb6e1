use chrono::DateTime;
use proptest::collection::vec;
use proptest::prelude::*;
use shared::event::{ObjectReference, Trigger};
use shared::identifiers::EventId;
use uuid::Uuid;

use super::*;
use crate::trial::Rejection;

fn release(number: u8) -> ReleaseId {
    ReleaseId { tag: format!("v{number}").parse().unwrap(), tree_digest: Sha256Digest::of(&[number]) }
}

fn content(number: u8) -> Sha256Digest {
    Sha256Digest::of(&[number, 0])
}

fn published(number: u8) -> Published {
    let object = || ObjectReference { name: "object".to_owned(), size: 1, sha256: Sha256Digest::of(b"object") };
    Published {
        bundle: "contracts".parse().unwrap(),
        tag: release(number).tag,
        tree_digest: release(number).tree_digest,
        content_digest: content(number),
        files: 1,
        total_bytes: 1,
        archive: object(),
        release: object(),
        deltas: Vec::new(),
        git: None,
        trigger: Trigger::Local,
        actor: "main".parse().unwrap(),
    }
}

fn announcements(announced: &[(u64, u8)]) -> Announcements {
    let mut announcements = Announcements::default();
    for (sequence, number) in announced {
        announcements.take(*sequence, published(*number));
    }
    announcements
}

fn withdrawn(numbers: &[u8]) -> Withdrawn {
    let trees = numbers.iter().map(|number| release(*number).tree_digest).collect();
    Withdrawn { trees, ..Withdrawn::default() }
}

fn rejected(number: u8) -> TrialBook {
    let mut trials = TrialBook::default();
    trials.begin(&release(number), 1, DateTime::UNIX_EPOCH);
    let event = EventId::from_uuid(Uuid::from_u128(1));
    assert!(trials.reject(1, Rejection { reason: "503".to_owned(), head: 1, at: DateTime::UNIX_EPOCH, event }));
    trials
}

/// The choice for a node whose channel has pointed at `head` since its sequence, and which runs that.
fn choice(announced: &[(u64, u8)], head: Option<(u64, u8)>, gone: &[u8], trials: &TrialBook) -> Option<u8> {
    let pointed = head.map(|(since, number)| PointedAt { release: release(number), since });
    let in_use: Vec<ReleaseId> = head.iter().map(|(_, number)| release(*number)).collect();
    let (announcements, withdrawn) = (announcements(announced), withdrawn(gone));
    let outlook = Outlook {
        announcements: &announcements,
        head: pointed.as_ref(),
        withdrawn: &withdrawn,
        trials,
        in_use: &in_use,
    };
    release_ahead(&outlook).map(|(_, published)| published.tag.as_str()[1..].parse().unwrap())
}

#[test]
fn the_newest_behind_the_head_that_may_run_is_taken() {
    let none = TrialBook::default();
    let announced = [(10, 1), (20, 2), (30, 3)];
    for (head, gone, expected) in [
        (Some((11, 1)), &[][..], Some(3)),
        (Some((11, 1)), &[3], Some(2)),
        (Some((11, 1)), &[2, 3], None),
        (Some((31, 3)), &[], None),
        (Some((40, 2)), &[], None),
        (Some((25, 2)), &[], Some(3)),
        (None, &[], Some(3)),
    ] {
        assert_eq!(choice(&announced, head, gone, &none), expected, "{head:?} without {gone:?}");
    }
    assert_eq!(choice(&announced, Some((11, 1)), &[], &rejected(3)), Some(2), "what failed its health check is not");
    assert_eq!(choice(&[], Some((11, 1)), &[], &none), None);
}

#[test]
fn a_release_that_is_withdrawn_by_its_content_is_not_taken() {
    let announcements = announcements(&[(20, 2)]);
    let withdrawn = Withdrawn { contents: [content(2)].into(), ..Withdrawn::default() };
    let trials = TrialBook::default();
    let outlook =
        Outlook { announcements: &announcements, head: None, withdrawn: &withdrawn, trials: &trials, in_use: &[] };
    assert_eq!(release_ahead(&outlook), None);
}

#[test]
fn another_release_under_the_tag_of_one_in_use_is_left_alone() {
    let announcements = announcements(&[(20, 2)]);
    let (withdrawn, trials) = (Withdrawn::default(), TrialBook::default());
    let other = ReleaseId { tree_digest: Sha256Digest::of(b"other"), ..release(2) };
    let in_use = [other];
    let outlook =
        Outlook { announcements: &announcements, head: None, withdrawn: &withdrawn, trials: &trials, in_use: &in_use };
    assert_eq!(release_ahead(&outlook), None, "its directory would be replaced under who reads it");
}

#[test]
fn an_announcement_is_kept_by_its_tag_and_only_so_many_are() {
    let mut announced = announcements(&[(20, 2), (10, 2), (30, 2)]);
    assert_eq!(announced.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [30]);
    assert!(announced.find(&release(2)).is_some() && announced.find(&release(1)).is_none());
    for number in 3..100 {
        announced.take(u64::from(number) * 10, published(number));
    }
    assert_eq!(announced.iter().count(), MOST_ANNOUNCED);
    assert!(announced.find(&release(2)).is_none() && announced.find(&release(99)).is_some());
    announced.forget(&release(99).tag);
    assert!(announced.find(&release(99)).is_none());
}

fn staged(number: u8, announcement: u64) -> StagedAhead {
    StagedAhead { id: release(number), content_digest: content(number), announcement }
}

#[test]
fn a_staged_release_is_remembered_until_the_channel_has_passed_it() {
    let mut memory = AheadMemory::default();
    assert!(memory.point_at(&release(1), 11));
    memory.staged = Some(staged(2, 20));
    assert!(!memory.point_at(&release(1), 30), "a freeze passes nothing");
    assert_eq!((memory.staged.is_some(), memory.head.as_ref().unwrap().since), (true, 11));
    assert!(memory.point_at(&release(0), 15), "the head of an older state of the log does not pass it");
    assert!(memory.staged.is_some());
    assert!(memory.point_at(&release(3), 40));
    assert_eq!(memory.staged, None);
    memory.staged = Some(staged(4, 50));
    memory.enter_epoch();
    assert_eq!((memory.head, memory.staged), (None, None));
}

#[test]
fn a_failure_is_told_once_for_each_release_also_after_a_restart() {
    let mut memory = AheadMemory::default();
    assert!(memory.note_failure(&release(1)));
    let mut again: AheadMemory = serde_json::from_slice(&serde_json::to_vec(&memory).unwrap()).unwrap();
    assert_eq!(again, memory);
    assert!(!again.note_failure(&release(1)));
    assert!(again.note_failure(&release(2)));
}

proptest! {
    /// Whatever was announced in whatever order: what is chosen was announced behind the head, may run, is not what the
    /// channel points at, and nothing newer would do.
    #[test]
    fn the_choice_is_the_newest_that_may_run(
        announced in vec((1_u64..60, 0_u8..8), 0..12),
        head in proptest::option::of((0_u64..60, 0_u8..8)),
        gone in vec(0_u8..8, 0..4),
    ) {
        let none = TrialBook::default();
        let chosen = choice(&announced, head, &gone, &none);
        // Each tag by its last announcement.
        let mut last = std::collections::BTreeMap::new();
        for (sequence, number) in &announced {
            let known = last.entry(*number).or_insert(*sequence);
            *known = (*known).max(*sequence);
        }
        let since = head.map_or(0, |(since, _)| since);
        let possible = |number: u8| !gone.contains(&number) && head.is_none_or(|(_, points)| points != number);
        let newest = last
            .iter()
            .filter(|(number, sequence)| **sequence > since && possible(**number))
            .map(|(_, sequence)| *sequence)
            .max();
        prop_assert_eq!(chosen.map(|number| last[&number]), newest);
        if let Some(number) = chosen {
            prop_assert!(possible(number));
        }
    }

    /// However announcements are heard of, twice or out of order: the same choice.
    #[test]
    fn the_order_in_which_announcements_are_heard_plays_no_part(
        numbers in vec(0_u8..8, 1..10), swaps in vec((0_usize..10, 0_usize..10), 0..10),
    ) {
        let announced: Vec<(u64, u8)> =
            numbers.iter().zip(1_u64..).map(|(number, sequence)| (sequence, *number)).collect();
        let mut shuffled = announced.clone();
        for (one, other) in swaps {
            let length = shuffled.len();
            shuffled.swap(one % length, other % length);
        }
        shuffled.extend(announced.iter().take(3).copied());
        prop_assert_eq!(announcements(&shuffled), announcements(&announced));
    }
}
