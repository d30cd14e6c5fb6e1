//! Tables and properties of the planner.

use std::time::Duration;

use chrono::TimeDelta;
use proptest::prelude::*;
use shared::identifiers::EventId;
use uuid::Uuid;

use super::*;
use crate::failures::FailureKind;
use crate::trial::Rejection;

const RETRY: RetryBounds = RetryBounds { first: Duration::from_secs(1), longest: Duration::from_mins(1) };

/// The release that is compiled into the agent.
const EMBEDDED: u8 = 9;

/// A node in memory: what the effects of the steps would leave behind.
#[derive(Debug, Clone, Default)]
struct Node {
    desired: Option<Desired>,
    withdrawn: Withdrawn,
    active: Option<LoadedRelease>,
    previous: Vec<LoadedRelease>,
    on_disk: BTreeSet<ReleaseId>,
    /// Releases whose files do not match, which reusing finds out.
    damaged: BTreeSet<ReleaseId>,
    /// Releases whose fetching fails.
    unfetchable: BTreeSet<ReleaseId>,
    staged: Option<ReleaseId>,
    failures: FailureBook,
    trials: TrialBook,
    /// Releases with which the application is not well.
    sick: BTreeSet<ReleaseId>,
    /// Number of the last switch.
    epoch: u64,
    /// Whether the agent has a last resort whose time has come.
    last_resort: bool,
}

fn release(number: u8) -> ReleaseId {
    ReleaseId { tag: format!("v{number}").parse().unwrap(), tree_digest: Sha256Digest::of(&[number]) }
}

fn content(number: u8) -> Sha256Digest {
    Sha256Digest::of(&[number, 0])
}

fn loaded(number: u8) -> LoadedRelease {
    let loaded_at = DateTime::UNIX_EPOCH;
    let provenance = if number == EMBEDDED { Provenance::Embedded } else { Provenance::Verified };
    LoadedRelease { id: release(number), content_digest: content(number), git_sha: None, loaded_at, provenance }
}

fn embedded() -> Embedded {
    Embedded { id: release(EMBEDDED), content_digest: content(EMBEDDED) }
}

fn desired(number: u8) -> Desired {
    let announcement = Announcement::Found {
        stream_sequence: u64::from(number) + 10,
        tree_digest: release(number).tree_digest,
        content_digest: content(number),
    };
    Desired { release: release(number), announcement }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

impl Node {
    fn step(&self) -> Step {
        next_step(&Situation {
            desired: self.desired.as_ref(),
            withdrawn: &self.withdrawn,
            active: self.active.as_ref(),
            previous: &self.previous,
            on_disk: &self.on_disk,
            embedded: self.last_resort.then(embedded).as_ref(),
            staged: self.staged.as_ref(),
            failures: &self.failures,
            trials: &self.trials,
            retry: &RETRY,
            now: now(),
        })
    }

    fn fail(&mut self, key: FailureKey) {
        self.failures.note(key, FailureKind::Download, "refused", now(), |attempts| RETRY.delay(attempts, 0.5));
    }

    /// The release was on trial and failed.
    fn reject(&mut self, number: u8) {
        let rejection =
            Rejection { reason: "503".to_owned(), head: 1, at: now(), event: EventId::from_uuid(Uuid::nil()) };
        self.trials.begin(&release(number), u64::from(number), now());
        assert!(self.trials.reject(u64::from(number), rejection));
    }

    /// The trial of a release that was switched to, from its beginning to its end.
    fn end_trial(&mut self, id: &ReleaseId) {
        self.epoch += 1;
        self.trials.begin(id, self.epoch, now());
        if self.sick.contains(id) {
            let event = EventId::from_uuid(Uuid::nil());
            self.trials.reject(self.epoch, Rejection { reason: "503".to_owned(), head: 1, at: now(), event });
        } else {
            self.trials.keep(self.epoch);
        }
    }

    fn runs_what_is_withdrawn(&self) -> bool {
        self.active
            .as_ref()
            .is_some_and(|active| self.withdrawn.holds(active.id.tree_digest, Some(active.content_digest)))
    }

    /// What carrying out the step does to a node.
    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Reuse(id) => {
                if self.damaged.remove(id) {
                    self.on_disk.remove(id);
                } else {
                    self.staged = Some(id.clone());
                }
            }
            Step::Embed(id) => self.staged = Some(id.clone()),
            Step::Fetch(id) => {
                if self.unfetchable.contains(id) {
                    self.fail(self.desired.as_ref().unwrap().failure_key());
                } else {
                    self.on_disk.insert(id.clone());
                    self.staged = Some(id.clone());
                }
            }
            Step::Switch(id) => {
                let number = (0..10).find(|number| &release(*number) == id).unwrap();
                let old = self.active.replace(loaded(number));
                self.previous.splice(0..0, old.filter(|old| old.provenance != Provenance::Embedded));
                self.staged = None;
                self.end_trial(id);
            }
            Step::Refuse(Refusal::Contradiction { .. }) => {
                self.fail(self.desired.as_ref().unwrap().failure_key());
            }
            Step::Idle(_) | Step::Wait { .. } | Step::Refuse(Refusal::NothingLeft) => {}
        }
    }
}

fn running(number: u8) -> Node {
    Node { active: Some(loaded(number)), on_disk: [release(number)].into(), ..Node::default() }
}

#[test]
fn a_new_release_is_fetched_then_switched_to_then_all_is_well() {
    let mut node = Node { desired: Some(desired(2)), ..running(1) };
    for expected in [Step::Fetch(release(2)), Step::Switch(release(2)), Step::Idle(Idle::Converged)] {
        let step = node.step();
        assert_eq!(step, expected);
        node.carry_out(&step);
    }
    assert_eq!(node.previous, [loaded(1)]);
}

#[test]
fn a_release_in_the_cache_is_not_fetched() {
    let mut node = Node { desired: Some(desired(1)), previous: vec![loaded(1)], ..running(2) };
    node.on_disk.insert(release(1));
    assert_eq!(node.step(), Step::Reuse(release(1)));
    node.damaged.insert(release(1));
    node.carry_out(&Step::Reuse(release(1)));
    assert_eq!(node.step(), Step::Fetch(release(1)), "its copy is damaged");
}

#[test]
fn a_release_put_into_the_cache_by_hand_needs_no_announcement_while_it_stands_there() {
    let by_hand = Desired { release: release(1), announcement: Announcement::ByHand { content_digest: content(1) } };
    // Somebody switched the cache away from what ran.
    let mut node = Node { desired: Some(by_hand), previous: vec![loaded(2)], ..Node::default() };
    node.on_disk = [release(1), release(2)].into();
    for expected in [Step::Reuse(release(1)), Step::Switch(release(1)), Step::Idle(Idle::Converged)] {
        let step = node.step();
        assert_eq!(step, expected, "and not back to what ran before");
        node.carry_out(&step);
    }
    let away = Node { active: None, on_disk: [release(2)].into(), ..node.clone() };
    assert_eq!(Node { previous: vec![loaded(2)], ..away }.step(), Step::Reuse(release(2)), "it is not there any more");
    let withdrawn = Withdrawn { contents: [content(1)].into(), ..Withdrawn::default() };
    let node = Node { withdrawn, active: None, ..node };
    assert_eq!(node.step(), Step::Reuse(release(2)), "its content is withdrawn");
}

#[test]
fn without_a_usable_desired_state_everything_stays_as_it_is() {
    assert_eq!(running(1).step(), Step::Idle(Idle::NothingDesired));
    assert_eq!(Node::default().step(), Step::Idle(Idle::NothingDesired));
}

#[test]
fn a_deleted_cache_is_healed() {
    let node = Node { desired: Some(desired(1)), previous: vec![loaded(1)], ..Node::default() };
    assert_eq!(node.step(), Step::Fetch(release(1)));
}

#[test]
fn a_failed_release_waits_and_the_last_good_one_keeps_running() {
    let mut node = Node { desired: Some(desired(2)), ..running(1) };
    node.unfetchable.insert(release(2));
    let fetch = node.step();
    node.carry_out(&fetch);
    let until = now() + TimeDelta::seconds(1);
    assert_eq!(node.step(), Step::Wait { until, reason: WaitReason::Retry });
}

#[test]
fn an_announcement_that_contradicts_the_channel_is_refused_once_and_then_waited_for() {
    let mut node = Node { desired: Some(desired(2)), ..running(1) };
    node.desired.as_mut().unwrap().release.tree_digest = release(3).tree_digest;
    node.on_disk.insert(node.desired.as_ref().unwrap().release.clone());
    let step = node.step();
    assert!(matches!(step, Step::Refuse(Refusal::Contradiction { .. })), "{step:?}");
    node.carry_out(&step);
    assert!(matches!(node.step(), Step::Wait { reason: WaitReason::Retry, .. }));
}

#[test]
fn an_unannounced_release_is_waited_for() {
    let mut node = Node { desired: Some(desired(2)), ..running(1) };
    node.desired.as_mut().unwrap().announcement = Announcement::Missing;
    assert!(matches!(node.step(), Step::Wait { reason: WaitReason::NotAnnounced, .. }));
}

#[test]
fn a_withdrawn_head_leaves_the_node_on_its_last_release_that_is_not() {
    let mut node = Node { desired: Some(desired(2)), ..running(1) };
    node.withdrawn.trees.insert(release(2).tree_digest);
    assert_eq!(node.step(), Step::Idle(Idle::KeepingUnwithdrawn));
}

#[test]
fn a_withdrawn_release_stops_running_also_when_only_its_content_is_named() {
    let mut node = Node { desired: Some(desired(2)), previous: vec![loaded(3), loaded(1)], ..running(2) };
    node.on_disk.extend([release(1), release(3)]);
    node.withdrawn.contents.extend([content(2), content(3)]);
    assert_eq!(node.step(), Step::Reuse(release(1)));
    node.desired.as_mut().unwrap().announcement = Announcement::NotNeeded;
    assert_eq!(node.step(), Step::Reuse(release(1)));
    node.on_disk.remove(&release(1));
    assert_eq!(node.step(), Step::Refuse(Refusal::NothingLeft));
}

#[test]
fn a_release_that_failed_its_health_check_gives_way_to_the_last_that_proved_itself() {
    let mut node = Node { desired: Some(desired(3)), previous: vec![loaded(2), loaded(1)], ..running(3) };
    node.on_disk.extend([release(1), release(2)]);
    // The one before had no time to prove itself.
    node.trials.begin(&release(2), 2, now());
    node.reject(3);
    for expected in [Step::Reuse(release(1)), Step::Switch(release(1)), Step::Idle(Idle::Rejected)] {
        let step = node.step();
        assert_eq!(step, expected);
        node.carry_out(&step);
    }
    // One without proof is better than one with proof of the contrary.
    let mut node = Node { desired: Some(desired(3)), previous: vec![loaded(2)], ..running(3) };
    node.on_disk.insert(release(2));
    node.trials.begin(&release(2), 2, now());
    node.reject(3);
    assert_eq!(node.step(), Step::Reuse(release(2)));
}

#[test]
fn a_release_that_failed_its_health_check_is_better_than_none_and_gives_way_to_the_next() {
    let mut node = Node { desired: Some(desired(3)), ..running(3) };
    node.reject(3);
    assert_eq!(node.step(), Step::Idle(Idle::Rejected));
    node.desired = Some(desired(4));
    assert_eq!(node.step(), Step::Fetch(release(4)));
    // Where there is something to return to, that comes before what takes longer.
    node.previous = vec![loaded(1)];
    node.on_disk.insert(release(1));
    assert_eq!(node.step(), Step::Reuse(release(1)));
    node.on_disk.insert(release(4));
    assert_eq!(node.step(), Step::Reuse(release(4)));
}

#[test]
fn a_withdrawn_release_stops_running_also_while_its_successor_cannot_be_had() {
    let mut node = Node { desired: Some(desired(4)), previous: vec![loaded(1)], ..running(2) };
    node.on_disk.insert(release(1));
    node.withdrawn.trees.insert(release(2).tree_digest);
    node.fail(desired(4).failure_key());
    assert_eq!(node.step(), Step::Reuse(release(1)));
}

#[test]
fn with_nothing_else_the_embedded_release_runs_until_something_valid_is_back() {
    let mut node = Node { desired: Some(desired(2)), last_resort: true, ..Node::default() };
    node.unfetchable.insert(release(2));
    for expected in [Step::Fetch(release(2)), Step::Embed(release(EMBEDDED)), Step::Switch(release(EMBEDDED))] {
        let step = node.step();
        assert_eq!(step, expected);
        node.carry_out(&step);
    }
    assert!(matches!(node.step(), Step::Wait { reason: WaitReason::Retry, .. }), "and the desired one is tried again");
    node.failures = FailureBook::default();
    node.unfetchable.clear();
    for expected in [Step::Fetch(release(2)), Step::Switch(release(2)), Step::Idle(Idle::Converged)] {
        let step = node.step();
        assert_eq!(step, expected);
        node.carry_out(&step);
    }
    assert!(node.previous.is_empty(), "nobody wants to return to the last resort");
}

#[test]
fn the_last_good_release_comes_before_the_embedded_one() {
    let mut node = Node { desired: Some(desired(2)), previous: vec![loaded(1)], last_resort: true, ..Node::default() };
    node.on_disk.insert(release(1));
    node.fail(desired(2).failure_key());
    assert_eq!(node.step(), Step::Reuse(release(1)));
    let on_embedded = Node { active: Some(loaded(EMBEDDED)), ..node.clone() };
    assert_eq!(on_embedded.step(), Step::Reuse(release(1)), "also once it is back");
    assert!(matches!(Node { active: Some(loaded(3)), ..node }.step(), Step::Wait { .. }), "what runs well stays");
}

#[test]
fn where_every_release_is_withdrawn_the_embedded_one_runs_unless_it_is_too() {
    let mut node = Node { desired: Some(desired(2)), last_resort: true, ..running(2) };
    node.withdrawn.trees.insert(release(2).tree_digest);
    assert_eq!(node.step(), Step::Embed(release(EMBEDDED)));
    let arrived = Node { active: Some(loaded(EMBEDDED)), ..node.clone() };
    assert_eq!(arrived.step(), Step::Idle(Idle::LastResort));
    node.withdrawn.contents.insert(content(EMBEDDED));
    assert_eq!(node.step(), Step::Refuse(Refusal::NothingLeft));
}

#[test]
fn the_embedded_release_serves_where_nobody_can_say_what_is_desired_and_its_failure_is_waited_out() {
    let mut node = Node { last_resort: true, ..Node::default() };
    assert_eq!(node.step(), Step::Embed(release(EMBEDDED)));
    node.fail(FailureKey { release: release(EMBEDDED), announcement: 0 });
    assert_eq!(node.step(), Step::Idle(Idle::NothingDesired));
    assert_eq!(Node { last_resort: true, ..running(1) }.step(), Step::Idle(Idle::NothingDesired), "what runs stays");
}

fn releases() -> impl Strategy<Value = BTreeSet<u8>> {
    proptest::collection::btree_set(0_u8..6, 0..6)
}

fn ids(numbers: &BTreeSet<u8>) -> BTreeSet<ReleaseId> {
    numbers.iter().map(|number| release(*number)).collect()
}

prop_compose! {
    fn nodes()(
        wanted in proptest::option::of(0_u8..6),
        missing in any::<bool>(),
        contradicting in any::<bool>(),
        active in proptest::option::of(0_u8..6),
        staged in proptest::option::of(0_u8..6),
        previous in releases(),
        on_disk in releases(),
        damaged in releases(),
        unfetchable in releases(),
        trees in releases(),
        contents in releases(),
        failed in releases(),
        rejected in releases(),
        sick in proptest::collection::btree_set(prop_oneof![0_u8..6, Just(EMBEDDED)], 0..7),
        last_resort in any::<bool>(),
    ) -> Node {
        let mut node = Node {
            desired: wanted.map(desired),
            withdrawn: Withdrawn {
                trees: trees.iter().map(|number| release(*number).tree_digest).collect(),
                contents: contents.iter().map(|number| content(*number)).collect(),
            },
            active: active.map(loaded),
            previous: previous.iter().map(|number| loaded(*number)).collect(),
            on_disk: ids(&on_disk),
            damaged: ids(&damaged),
            unfetchable: ids(&unfetchable),
            staged: staged.map(release),
            failures: FailureBook::default(),
            trials: TrialBook::default(),
            sick: ids(&sick),
            epoch: 100,
            last_resort,
        };
        for number in rejected {
            node.reject(number);
        }
        if let Some(desired) = &mut node.desired {
            if missing {
                desired.announcement = Announcement::Missing;
            } else if contradicting {
                desired.release.tree_digest = release(7).tree_digest;
            }
        }
        for number in failed {
            node.fail(desired(number).failure_key());
            node.fail(FailureKey { release: release(number), announcement: 0 });
        }
        node
    }
}

proptest! {
    #[test]
    fn no_step_goes_to_a_withdrawn_or_just_failed_release(mut node in nodes()) {
        for _ in 0..20 {
            let step = node.step();
            if let Step::Embed(id) | Step::Reuse(id) | Step::Fetch(id) | Step::Switch(id) = &step {
                prop_assert!(!node.withdrawn.trees.contains(&id.tree_digest));
                let nothing_runs = node.active.is_none() || node.runs_what_is_withdrawn();
                prop_assert!(nothing_runs || node.trials.rejection(id.tree_digest).is_none());
                let number = (0..10).find(|number| &release(*number) == id).unwrap();
                prop_assert!(!node.withdrawn.contents.contains(&content(number)));
                let as_desired = node.desired.as_ref().filter(|desired| &desired.release == id);
                let key = as_desired.map_or(FailureKey { release: id.clone(), announcement: 0 }, Desired::failure_key);
                prop_assert!(node.failures.blocked_until(&key, now(), &RETRY).is_none());
            }
            node.carry_out(&step);
        }
    }

    #[test]
    fn the_steps_come_to_rest_and_stay_there(mut node in nodes()) {
        let mut steps = Vec::new();
        loop {
            let step = node.step();
            if matches!(step, Step::Idle(_) | Step::Wait { .. } | Step::Refuse(Refusal::NothingLeft)) {
                node.carry_out(&step);
                prop_assert_eq!(node.step(), step);
                break;
            }
            node.carry_out(&step);
            steps.push(step);
            prop_assert!(steps.len() <= 32, "{:?}", steps);
        }
    }

    #[test]
    fn with_a_last_resort_nobody_is_left_with_nothing_or_with_what_is_withdrawn(mut node in nodes()) {
        node.last_resort = true;
        for _ in 0..32 {
            let step = node.step();
            node.carry_out(&step);
        }
        let active = node.active.as_ref().unwrap();
        prop_assert!(!node.withdrawn.holds(active.id.tree_digest, Some(active.content_digest)));
    }

    #[test]
    fn what_can_be_had_is_reached(mut node in nodes()) {
        let Some(goal) = node.desired.clone() else { return Ok(()) };
        let Announcement::Found { tree_digest, content_digest, .. } = goal.announcement else { return Ok(()) };
        prop_assume!(tree_digest == goal.release.tree_digest);
        prop_assume!(!node.withdrawn.holds(tree_digest, Some(content_digest)));
        prop_assume!(node.failures.blocked_until(&goal.failure_key(), now(), &RETRY).is_none());
        prop_assume!(node.trials.rejection(goal.release.tree_digest).is_none());
        node.unfetchable.clear();
        node.sick.remove(&goal.release);
        for _ in 0..32 {
            let step = node.step();
            node.carry_out(&step);
        }
        prop_assert_eq!(node.step(), Step::Idle(Idle::Converged));
        prop_assert_eq!(node.active.map(|active| active.id), Some(goal.release));
    }

    /// Withdrawals and failures of a moment ago excepted, whatever is here runs before nothing does.
    #[test]
    fn nobody_is_left_with_nothing_while_something_that_may_run_is_here(mut node in nodes()) {
        for _ in 0..32 {
            let step = node.step();
            node.carry_out(&step);
        }
        if node.active.is_none() || node.runs_what_is_withdrawn() {
            let may_run = |release: &&LoadedRelease| {
                let key = FailureKey { release: release.id.clone(), announcement: 0 };
                node.on_disk.contains(&release.id)
                    && !node.withdrawn.holds(release.id.tree_digest, Some(release.content_digest))
                    && node.failures.blocked_until(&key, now(), &RETRY).is_none()
            };
            let unused = node.previous.iter().find(may_run);
            prop_assert!(unused.is_none() || matches!(node.step(), Step::Refuse(Refusal::Contradiction { .. })), "{:?}", unused);
        }
    }
}

#[test]
fn a_first_release_that_failed_is_put_back_where_its_cache_was_deleted() {
    let mut node = Node { desired: Some(desired(1)), sick: [release(1)].into(), ..Node::default() };
    for expected in [Step::Fetch(release(1)), Step::Switch(release(1)), Step::Idle(Idle::Rejected)] {
        let step = node.step();
        assert_eq!(step, expected);
        node.carry_out(&step);
    }
    (node.active, node.on_disk) = (None, BTreeSet::new());
    for expected in [Step::Fetch(release(1)), Step::Switch(release(1)), Step::Idle(Idle::Rejected)] {
        let step = node.step();
        assert_eq!(step, expected);
        node.carry_out(&step);
    }
    node.active = None;
    node.last_resort = true;
    assert_eq!(node.step(), Step::Embed(release(EMBEDDED)), "the agent's own schemas come first");
}
