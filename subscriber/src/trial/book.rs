//! What a node remembers of trials over a restart: which one is under way, what is not proven, what was rejected.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::event::PromotionCause;
use shared::identifiers::EventId;

use crate::node_state::ReleaseId;

/// A trial that was begun so often without coming to an end rejects its release: it may be what ends the node each time.
const MOST_STARTS: u32 = 5;
/// Rejected and unproven releases that are remembered; the oldest give way.
const MOST_REMEMBERED: usize = 64;

/// A trial under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// The release.
    pub release: ReleaseId,
    /// The switch that made it current: what a check says about another one counts for nothing.
    pub activation_epoch: u64,
    /// When it was first begun, by this node's clock.
    pub began_at: DateTime<Utc>,
    /// How often it was begun: each restart of the agent begins the window anew.
    pub starts: u32,
}

/// A release whose trial failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejected {
    /// The release.
    pub release: ReleaseId,
    /// Number of the switch that brought it.
    pub activation_epoch: u64,
    /// What the check said.
    pub reason: String,
    /// When, by this node's clock.
    pub at: DateTime<Utc>,
    /// Sequence of the channel's head then: a later move to the same release is a word to try it again.
    pub head: u64,
    /// Id of the event that says so: recorded again under it after a crash, the event still counts once.
    pub event: EventId,
    /// Whether that event is recorded, or waits in the same memory to be.
    #[serde(default)]
    pub reported: bool,
}

/// The bad end of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// What the check said.
    pub reason: String,
    /// Sequence of the channel's head now.
    pub head: u64,
    /// The time.
    pub at: DateTime<Utc>,
    /// Id for the event.
    pub event: EventId,
}

/// How a trial is to be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrialStart {
    /// Check it for the whole window.
    Check,
    /// It was begun too often and never ended.
    TooOften,
}

/// Everything about trials that outlives the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TrialBook {
    /// The trial under way.
    pub trial: Option<Trial>,
    /// Releases that ran without ever being proven: not what a failed one is exchanged for.
    unproven: Vec<ReleaseId>,
    /// Releases that are not to be tried again until somebody says so, oldest first.
    rejected: Vec<Rejected>,
    /// Number of the last switch that the application was told of, as far as it is told at all.
    pub told: u64,
}

impl TrialBook {
    /// Puts the release of a switch on trial. An earlier trial ends without a result: its release stays unproven.
    pub(crate) fn begin(&mut self, release: &ReleaseId, activation_epoch: u64, now: DateTime<Utc>) {
        self.unproven.retain(|unproven| unproven != release);
        if self.unproven.len() >= MOST_REMEMBERED {
            self.unproven.remove(0);
        }
        self.unproven.push(release.clone());
        self.trial = Some(Trial { release: release.clone(), activation_epoch, began_at: now, starts: 0 });
    }

    /// Counts another start of the trial under way.
    pub(crate) fn start(&mut self) -> Option<TrialStart> {
        let trial = self.trial.as_mut()?;
        trial.starts = trial.starts.saturating_add(1);
        Some(if trial.starts > MOST_STARTS { TrialStart::TooOften } else { TrialStart::Check })
    }

    /// Ends the trial without a result: another release runs, or nothing checks any more.
    pub(crate) fn abandon(&mut self) {
        self.trial = None;
    }

    /// Ends the trial of this switch well. A result for another switch changes nothing; says whether it did.
    pub(crate) fn keep(&mut self, activation_epoch: u64) -> bool {
        let Some(trial) = self.trial.take_if(|trial| trial.activation_epoch == activation_epoch) else { return false };
        self.unproven.retain(|unproven| unproven != &trial.release);
        self.forgive(|rejected| rejected.release == trial.release);
        true
    }

    /// Ends the trial of this switch badly: the release is not tried again until somebody says so.
    /// A result for another switch changes nothing; says whether it did.
    pub(crate) fn reject(&mut self, activation_epoch: u64, rejection: Rejection) -> bool {
        let Some(trial) = self.trial.take_if(|trial| trial.activation_epoch == activation_epoch) else { return false };
        self.rejected.retain(|rejected| rejected.release != trial.release);
        if self.rejected.len() >= MOST_REMEMBERED {
            self.rejected.remove(0);
        }
        let Rejection { reason, head, at, event } = rejection;
        let release = trial.release;
        self.rejected.push(Rejected { release, activation_epoch, reason, at, head, event, reported: false });
        true
    }

    /// Why a release must not run, where its trial failed.
    pub(crate) fn rejection(&self, tree: Sha256Digest) -> Option<&Rejected> {
        self.rejected.iter().find(|rejected| rejected.release.tree_digest == tree)
    }

    /// Whether a release is one that a failed one can be exchanged for: it was never found wanting, and not left unproven.
    pub(crate) fn is_good(&self, release: &ReleaseId) -> bool {
        !self.unproven.contains(release) && self.rejection(release.tree_digest).is_none()
    }

    /// The channel stands at this release since this sequence: news is a word to try it again. Freezing and thawing a
    /// channel where it stands is none. Says whether something was forgiven.
    pub(crate) fn heed_head(&mut self, release: &ReleaseId, sequence: u64, cause: PromotionCause) -> bool {
        if matches!(cause, PromotionCause::Freeze | PromotionCause::Thaw) {
            return false;
        }
        self.forgive(|rejected| &rejected.release == release && sequence > rejected.head)
    }

    /// The log begins anew, and its sequences with it; the channel's head stands at this one.
    pub(crate) fn enter_epoch(&mut self, head: u64) {
        for rejected in &mut self.rejected {
            rejected.head = head;
        }
    }

    /// Somebody put this release into the cache by hand at this time. Says whether something was forgiven.
    pub(crate) fn heed_hand(&mut self, release: &ReleaseId, at: DateTime<Utc>) -> bool {
        self.forgive(|rejected| &rejected.release == release && at > rejected.at)
    }

    /// An operator told the node to try everything again. Says whether something was forgiven.
    pub(crate) fn forgive_all(&mut self) -> bool {
        self.forgive(|_| true)
    }

    fn forgive(&mut self, which: impl Fn(&Rejected) -> bool) -> bool {
        let before = self.rejected.len();
        self.rejected.retain(|rejected| !which(rejected));
        self.rejected.len() != before
    }

    /// A rejection whose event is still to be recorded: of the switch with this number.
    pub(crate) fn unreported(&self, activation_epoch: u64) -> Option<&Rejected> {
        let open = |rejected: &&Rejected| !rejected.reported && rejected.activation_epoch == activation_epoch;
        self.rejected.iter().find(open)
    }

    /// Its event is durable, or part of the memory that will be.
    pub(crate) fn reported(&mut self, event: EventId) {
        for rejected in self.rejected.iter_mut().filter(|rejected| rejected.event == event) {
            rejected.reported = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn release(name: u8) -> ReleaseId {
        ReleaseId { tag: format!("v{name}").parse().unwrap(), tree_digest: Sha256Digest::of(&[name]) }
    }

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    fn rejection(head: u64) -> Rejection {
        let event = EventId::from_uuid(uuid::Uuid::from_u128(1));
        Rejection { reason: "503".to_owned(), head, at: now(), event }
    }

    fn rejected_at(head: u64) -> TrialBook {
        let mut book = TrialBook::default();
        book.begin(&release(2), 7, now());
        assert!(book.reject(7, rejection(head)));
        book
    }

    #[test]
    fn an_old_result_decides_nothing_about_a_new_switch() {
        let mut book = TrialBook::default();
        book.begin(&release(2), 7, now());
        book.begin(&release(3), 8, now());
        assert!(!book.keep(7));
        assert!(!book.reject(7, rejection(1)));
        assert_eq!(book.trial.as_ref().unwrap().release, release(3));
        assert!(!book.is_good(&release(2)), "nobody has proven it");
        assert!(book.keep(8));
        assert!(book.is_good(&release(3)) && !book.keep(8));
    }

    #[test]
    fn a_rejected_release_stays_so_until_told() {
        let book = rejected_at(40);
        assert!(!book.is_good(&release(2)) && book.rejection(release(2).tree_digest).is_some());
        for (cause, sequence, forgiven) in [
            (PromotionCause::Promote, 40, false),
            (PromotionCause::Freeze, 41, false),
            (PromotionCause::Thaw, 41, false),
            (PromotionCause::Promote, 41, true),
            (PromotionCause::Rollback, 41, true),
        ] {
            assert_eq!(book.clone().heed_head(&release(2), sequence, cause), forgiven, "{cause:?} {sequence}");
            assert!(!book.clone().heed_head(&release(3), sequence, cause));
            assert!(!book.clone().heed_hand(&release(2), now()), "a pin from before is no news");
        }
        assert!(book.clone().heed_hand(&release(2), DateTime::<Utc>::MAX_UTC) && book.clone().forgive_all());
        let mut again = book;
        again.forgive_all();
        assert!(again.rejection(release(2).tree_digest).is_none());
        assert!(!again.is_good(&release(2)), "it is tried again, not trusted");
    }

    #[test]
    fn a_rejection_waits_for_its_record_once() {
        let mut book = rejected_at(1);
        assert!(book.unreported(6).is_none());
        let event = book.unreported(7).unwrap().event;
        book.reported(event);
        assert!(book.unreported(7).is_none() && book.rejection(release(2).tree_digest).is_some());
    }

    #[test]
    fn a_trial_that_ends_the_node_each_time_ends_itself() {
        let mut book = TrialBook::default();
        assert_eq!(book.start(), None);
        book.begin(&release(2), 7, now());
        for _ in 0..MOST_STARTS {
            assert_eq!(book.start(), Some(TrialStart::Check));
        }
        assert_eq!(book.start(), Some(TrialStart::TooOften));
    }

    #[test]
    fn a_memory_of_before_there_were_trials_can_be_read() {
        assert_eq!(serde_json::from_str::<TrialBook>("{}").unwrap(), TrialBook::default());
    }

    #[derive(Debug, Clone)]
    enum Action {
        Switch(u8),
        Restart,
        Keep(u64),
        Reject(u64),
        Told(u8, u64),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            (0_u8..4).prop_map(Action::Switch),
            Just(Action::Restart),
            (0_u64..12).prop_map(Action::Keep),
            (0_u64..12).prop_map(Action::Reject),
            ((0_u8..4), (0_u64..12)).prop_map(|(name, sequence)| Action::Told(name, sequence)),
        ]
    }

    proptest! {
        /// However switches, restarts and late results follow each other: what was put on trial counts as good only after
        /// its own last trial ended well, and a restart changes nothing.
        #[test]
        fn only_its_own_trial_makes_a_release_good(actions in vec(action(), 0..60)) {
            let (mut book, mut epoch) = (TrialBook::default(), 0);
            // Of each release: whether the last thing that happened to it was a trial that ended well.
            let mut good = [true; 4];
            let mut on_trial: Option<(u8, u64)> = None;
            for action in actions {
                match action {
                    Action::Switch(name) => {
                        epoch += 1;
                        book.begin(&release(name), epoch, now());
                        good[usize::from(name)] = false;
                        on_trial = Some((name, epoch));
                    }
                    Action::Restart => {
                        let bytes = serde_json::to_vec(&book).unwrap();
                        book = serde_json::from_slice(&bytes).unwrap();
                    }
                    Action::Keep(number) => {
                        let own = on_trial.filter(|(_, epoch)| *epoch == number);
                        prop_assert_eq!(book.keep(number), own.is_some());
                        if let Some((name, _)) = own {
                            good[usize::from(name)] = true;
                            on_trial = None;
                        }
                    }
                    Action::Reject(number) => {
                        let own = on_trial.filter(|(_, epoch)| *epoch == number);
                        prop_assert_eq!(book.reject(number, rejection(5)), own.is_some());
                        if own.is_some() {
                            on_trial = None;
                        }
                    }
                    Action::Told(name, sequence) => {
                        let told = book.heed_head(&release(name), sequence, PromotionCause::Promote);
                        prop_assert!(!told || sequence > 5);
                    }
                }
                for name in 0..4 {
                    prop_assert!(!book.is_good(&release(name)) || good[usize::from(name)], "{}", name);
                }
            }
        }
    }
}
