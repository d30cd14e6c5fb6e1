//! What next? A pure decision from what is desired, what this node has, what failed, and the time.
//!
//! The planner proposes one step at a time and is asked again after it. Candidates are weighed in order: what is desired,
//! then what runs, then what ran before, then what is compiled into the agent, and last what failed its health check; never
//! what was withdrawn, and never what failed a moment ago.

pub(crate) mod prefetch;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;

use crate::failures::{FailureBook, FailureKey, RetryBounds};
use crate::node_state::{LoadedRelease, Provenance, ReleaseId};
use crate::trial::TrialBook;

/// What must never run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    /// Tree digests of withdrawn releases.
    pub trees: BTreeSet<Sha256Digest>,
    /// Content digests of withdrawn releases.
    pub contents: BTreeSet<Sha256Digest>,
}

impl Withdrawn {
    /// Whether a release is withdrawn, by either digest.
    pub(crate) fn holds(&self, tree: Sha256Digest, content: Option<Sha256Digest>) -> bool {
        self.trees.contains(&tree) || content.is_some_and(|content| self.contents.contains(&content))
    }
}

/// What is known of the desired release's announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// Not looked up: the release runs already.
    NotNeeded,
    /// The log has none that is valid.
    Missing,
    /// The log has none of this tree, but somebody put the release into the cache by hand: it needs none while it
    /// stands there.
    ByHand {
        /// The content digest that was noted with it.
        content_digest: Sha256Digest,
    },
    /// It describes the release.
    Found {
        /// Its place in the log.
        stream_sequence: u64,
        /// The tree digest it names.
        tree_digest: Sha256Digest,
        /// The content digest it names.
        content_digest: Sha256Digest,
    },
}

/// The release this node should run, as the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    /// The release.
    pub release: ReleaseId,
    /// How it was announced.
    pub announcement: Announcement,
}

impl Desired {
    /// What failures of this release are remembered under.
    pub(crate) fn failure_key(&self) -> FailureKey {
        let announcement = match self.announcement {
            Announcement::Found { stream_sequence, .. } => stream_sequence,
            Announcement::NotNeeded | Announcement::Missing | Announcement::ByHand { .. } => 0,
        };
        FailureKey { release: self.release.clone(), announcement }
    }
}

/// The release that is compiled into the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Embedded {
    /// The release.
    pub id: ReleaseId,
    /// Its content digest.
    pub content_digest: Sha256Digest,
}

/// Everything a decision rests on.
#[derive(Debug, Clone)]
pub(crate) struct Situation<'a> {
    /// What the log says; `None` where it says nothing that can be used.
    pub desired: Option<&'a Desired>,
    /// What must never run.
    pub withdrawn: &'a Withdrawn,
    /// The release that is current and not known to be damaged.
    pub active: Option<&'a LoadedRelease>,
    /// Releases loaded earlier, newest first.
    pub previous: &'a [LoadedRelease],
    /// Releases that stand in the cache and are not known to be damaged; their files have not been compared.
    pub on_disk: &'a BTreeSet<ReleaseId>,
    /// The last resort, where there is one and its time has come.
    pub embedded: Option<&'a Embedded>,
    /// The release that was verified a moment ago and can be switched to.
    pub staged: Option<&'a ReleaseId>,
    /// What failed.
    pub failures: &'a FailureBook,
    /// What came of releases that were on trial.
    pub trials: &'a TrialBook,
    /// Bounds of the time between attempts.
    pub retry: &'a RetryBounds,
    /// The time.
    pub now: DateTime<Utc>,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to do.
    Idle(Idle),
    /// Verify the release that stands in the cache.
    Reuse(ReleaseId),
    /// Fetch the desired release and verify it.
    Fetch(ReleaseId),
    /// Put the release that is compiled into the agent into the cache and verify it.
    Embed(ReleaseId),
    /// Switch to the staged release.
    Switch(ReleaseId),
    /// Nothing can be done before this time.
    Wait {
        /// The time.
        until: DateTime<Utc>,
        /// Why.
        reason: WaitReason,
    },
    /// The desired state must not be carried out, and there is nothing better to do.
    Refuse(Refusal),
}

/// Why nothing is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// What is desired runs.
    Converged,
    /// Nothing is desired.
    NothingDesired,
    /// What is desired is withdrawn; the node keeps its last release that is not.
    KeepingUnwithdrawn,
    /// What is desired failed its health check; the node keeps the one that did not, or for want of it what runs.
    Rejected,
    /// Nothing that was released can run: the embedded release does.
    LastResort,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitReason {
    /// The desired release failed; it is tried again later.
    Retry,
    /// The desired release is not announced (or not seen yet).
    NotAnnounced,
}

/// Why the desired state is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Channel and announcement name different trees under one tag: a failed verification.
    Contradiction {
        /// What the channel says.
        promoted: Sha256Digest,
        /// What the announcement says.
        announced: Sha256Digest,
    },
    /// The desired release is withdrawn, and the node has none that is not.
    NothingLeft,
}

/// Why the desired release is no candidate now.
enum Obstacle {
    None,
    Withdrawn,
    Rejected,
    Until(DateTime<Utc>, WaitReason),
    Contradiction(Refusal),
}

/// Decides on the next step.
pub(crate) fn next_step(situation: &Situation<'_>) -> Step {
    let obstacle = situation.desired.map(|desired| situation.obstacle(desired));
    if let (Some(desired), Some(Obstacle::None)) = (situation.desired, &obstacle) {
        let step = situation.toward(&desired.release, Idle::Converged, Step::Fetch(desired.release.clone()));
        let has_failed = situation.active.is_some_and(|active| situation.is_rejected(&active.id));
        // A fetch takes its time; what has failed is not run for so long.
        return match situation.fallback() {
            Some(fallback) if has_failed && matches!(step, Step::Fetch(_)) => {
                situation.toward(&fallback.id, Idle::Rejected, Step::Reuse(fallback.id.clone()))
            }
            Some(_) | None => step,
        };
    }
    if let Some(Obstacle::Contradiction(refusal)) = obstacle {
        return Step::Refuse(refusal);
    }
    let wait = match obstacle {
        Some(Obstacle::Until(until, reason)) => Some(Step::Wait { until, reason }),
        None | Some(Obstacle::None | Obstacle::Withdrawn | Obstacle::Rejected | Obstacle::Contradiction(_)) => None,
    };
    let active = situation.active.filter(|active| !situation.is_withdrawn(active));
    let idle = match obstacle {
        None => Idle::NothingDesired,
        Some(Obstacle::Rejected) => Idle::Rejected,
        Some(_) => Idle::KeepingUnwithdrawn,
    };
    let has_failed = active.is_some_and(|active| situation.is_rejected(&active.id));
    let is_last_resort = active.is_some_and(|active| active.provenance == Provenance::Embedded);
    if active.is_some() && !has_failed && !is_last_resort {
        return wait.unwrap_or(Step::Idle(idle));
    }
    // Nothing good runs: the newest good one that is still here is better than that.
    if let Some(fallback) = situation.fallback() {
        return situation.toward(&fallback.id, idle, Step::Reuse(fallback.id.clone()));
    }
    if active.is_some() {
        // What runs may not be well, but it is all there is.
        return wait.unwrap_or(Step::Idle(if is_last_resort { Idle::LastResort } else { idle }));
    }
    if let Some(embedded) = situation.embedded.filter(|embedded| situation.can_embed(embedded)) {
        return situation.toward(&embedded.id, Idle::LastResort, Step::Embed(embedded.id.clone()));
    }
    // What failed its health check is better than nothing.
    if let Some(step) = situation.last_stand(idle) {
        return step;
    }
    if situation.desired.is_none() && situation.active.is_none() {
        return Step::Idle(idle);
    }
    wait.unwrap_or(Step::Refuse(Refusal::NothingLeft))
}

impl Situation<'_> {
    /// The step that brings the node nearer to a release; `otherwise` where it neither runs nor is staged nor on disk.
    fn toward(&self, goal: &ReleaseId, arrived: Idle, otherwise: Step) -> Step {
        if self.active.is_some_and(|active| &active.id == goal) {
            Step::Idle(arrived)
        } else if self.staged == Some(goal) {
            Step::Switch(goal.clone())
        } else if self.on_disk.contains(goal) {
            Step::Reuse(goal.clone())
        } else {
            otherwise
        }
    }

    fn obstacle(&self, desired: &Desired) -> Obstacle {
        let tree = desired.release.tree_digest;
        let content = match &desired.announcement {
            Announcement::Found { content_digest, .. } | Announcement::ByHand { content_digest } => {
                Some(*content_digest)
            }
            Announcement::NotNeeded => self.active.map(|active| active.content_digest),
            Announcement::Missing => None,
        };
        if self.withdrawn.holds(tree, content) {
            return Obstacle::Withdrawn;
        }
        if self.is_rejected(&desired.release) {
            return Obstacle::Rejected;
        }
        self.obstacle_to_having(desired)
    }

    /// Why a desired release that may run cannot be had.
    fn obstacle_to_having(&self, desired: &Desired) -> Obstacle {
        let tree = desired.release.tree_digest;
        let blocked = self.failures.blocked_until(&desired.failure_key(), self.now, self.retry);
        if let Some(until) = blocked {
            return Obstacle::Until(until, WaitReason::Retry);
        }
        match &desired.announcement {
            Announcement::Found { tree_digest, .. } if *tree_digest != tree => {
                Obstacle::Contradiction(Refusal::Contradiction { promoted: tree, announced: *tree_digest })
            }
            Announcement::ByHand { .. } if self.is_here(&desired.release) => Obstacle::None,
            Announcement::Missing | Announcement::ByHand { .. } => {
                let delay = chrono::TimeDelta::from_std(self.retry.first).unwrap_or(chrono::TimeDelta::MAX);
                let until = self.now.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC);
                Obstacle::Until(until, WaitReason::NotAnnounced)
            }
            Announcement::Found { .. } | Announcement::NotNeeded => Obstacle::None,
        }
    }

    fn is_withdrawn(&self, release: &LoadedRelease) -> bool {
        self.withdrawn.holds(release.id.tree_digest, Some(release.content_digest))
    }

    fn is_rejected(&self, release: &ReleaseId) -> bool {
        self.trials.rejection(release.tree_digest).is_some()
    }

    /// The newest release to return to: one that has proved itself before one that had no time to.
    fn fallback(&self) -> Option<&LoadedRelease> {
        let possible = || self.previous.iter().filter(|release| self.can_return_to(release));
        possible().find(|release| self.trials.is_good(&release.id)).or_else(|| possible().next())
    }

    /// With nothing that runs and nothing good to be had: the way to a release that failed its health check, the desired
    /// one or the newest that is here.
    fn last_stand(&self, arrived: Idle) -> Option<Step> {
        let desired = self.desired.filter(|desired| matches!(self.obstacle(desired), Obstacle::Rejected));
        let having = desired.map(|desired| self.obstacle_to_having(desired));
        if let (Some(desired), Some(Obstacle::None)) = (desired, &having) {
            return Some(self.toward(&desired.release, arrived, Step::Fetch(desired.release.clone())));
        }
        if let Some(here) = self.previous.iter().find(|release| self.is_possible(release)) {
            return Some(self.toward(&here.id, arrived, Step::Reuse(here.id.clone())));
        }
        match having? {
            Obstacle::Until(until, reason) => Some(Step::Wait { until, reason }),
            Obstacle::Contradiction(refusal) => Some(Step::Refuse(refusal)),
            Obstacle::None | Obstacle::Withdrawn | Obstacle::Rejected => None,
        }
    }

    /// Whether a release can be run without fetching it.
    fn is_here(&self, id: &ReleaseId) -> bool {
        self.on_disk.contains(id) || self.staged == Some(id)
    }

    fn can_embed(&self, embedded: &Embedded) -> bool {
        let key = FailureKey { release: embedded.id.clone(), announcement: 0 };
        !self.withdrawn.holds(embedded.id.tree_digest, Some(embedded.content_digest))
            && self.failures.blocked_until(&key, self.now, self.retry).is_none()
    }

    fn can_return_to(&self, release: &LoadedRelease) -> bool {
        self.is_possible(release) && !self.is_rejected(&release.id)
    }

    /// Whether a release that ran before is here, may run, and did not fail to a moment ago.
    fn is_possible(&self, release: &LoadedRelease) -> bool {
        let key = FailureKey { release: release.id.clone(), announcement: 0 };
        self.is_here(&release.id)
            && !self.is_withdrawn(release)
            && self.failures.blocked_until(&key, self.now, self.retry).is_none()
    }
}

#[cfg(test)]
mod tests;
