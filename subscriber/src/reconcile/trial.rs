//! Releases on trial: what a switch begins, what its checks end, and what that means for what runs.
//!
//! A trial is part of the node's memory and saved with the switch that begins it: whenever the process ends, the next one
//! begins the window anew, and no release counts as good that was not checked to the end.

use std::future::pending;

use chrono::Utc;
use shared::event::{LoadSource, Loaded, RestoredRelease, Reverted};
use streams::event_writer::new_event_id;

use super::after_switch::{AfterSwitch, AfterSwitchWork, HookState, TrialEnd};
use super::agent::Agent;
use crate::activation_facts::ActivationFacts;
use crate::agent_view::{Cause, TrialView, Trouble};
use crate::alarms::Subject;
use crate::conditions::ConditionEvent;
use crate::node_state::ReleaseId;
use crate::release_directory::FILES;
use crate::switch_hook::SwitchNews;
use crate::trial::{Rejected, Rejection, TrialStart};

const REMEDIATION: &str = "see why the application is not well; then promote a repaired release, or this one once more \
                           (`demonctl channel promote`, or SIGHUP to the agent) to have it tried again";

impl Agent {
    /// Notes in memory what a switch means for trials, to be saved with it. Returns what is to be said instead of the
    /// switch, where it is one away from a release that failed. Call it before the switch is noted itself.
    pub(super) fn note_trial(&mut self, id: &ReleaseId, loaded: &Loaded) -> Option<Reverted> {
        let epoch = self.state.activation_epoch;
        let wanted = self.desired.as_ref() == Some(id);
        // After a crash behind a switch to a new release nobody knows yet that it was wanted: it has proved nothing.
        let ran_before = self.state.previous.iter().any(|previous| &previous.id == id);
        let returns = !wanted && (ran_before || loaded.source == LoadSource::Embedded);
        let failed = self.failed_active().filter(|rejected| returns && &rejected.release != id).cloned();
        let trials = &mut self.state.trials;
        let reverted = failed.map(|failed| {
            trials.reported(failed.event);
            let restored = RestoredRelease {
                tag: loaded.tag.clone(),
                tree_digest: loaded.tree_digest,
                content_digest: loaded.content_digest,
                source: loaded.source,
                verified: loaded.verified,
            };
            revert(&failed, loaded, Some(restored), loaded.activation_epoch)
        });
        debug_assert!(loaded.activation_epoch > epoch);
        // One that has proved itself and is returned to was checked to the end before, and there is nothing better.
        let proven = reverted.is_some() && trials.is_good(id);
        if self.config.after_switch.health_check.is_some() && !proven {
            trials.begin(id, loaded.activation_epoch, Utc::now());
        } else {
            trials.abandon();
        }
        reverted
    }

    /// Tells the application of the switch that was just made, and begins the trial that was noted with it.
    pub(super) async fn follow_switch(&mut self, is_revert: bool) {
        self.start_after_switch(is_revert, true).await;
    }

    /// Goes on with what the last process left: a trial that had not ended, an application that was not told.
    pub(super) async fn resume_after_switch(&mut self) {
        let told =
            self.config.after_switch.on_switch.is_none() || self.state.trials.told >= self.state.activation_epoch;
        let active = self.state.active.as_ref().map(|active| &active.id);
        let epoch = self.state.activation_epoch;
        if let Some(trial) = &self.state.trials.trial {
            let release = &trial.release;
            if Some(release) != active || trial.activation_epoch != epoch {
                self.state.trials.abandon();
                self.unsaved = true;
            } else if self.config.after_switch.health_check.is_none() {
                tracing::warn!(tag = %release.tag, "the settings name no health check any more: its trial ends unproven");
                self.state.trials.abandon();
                self.unsaved = true;
            } else {
                tracing::info!(tag = %release.tag, starts = trial.starts, "the release is still on trial: it begins anew");
            }
        }
        self.start_after_switch(false, !told).await;
    }

    async fn start_after_switch(&mut self, is_revert: bool, tell: bool) {
        // Whatever an earlier switch began is about a release that does not run any more.
        self.after_switch = None;
        let Some(active) = self.state.active.clone() else { return };
        let facts = ActivationFacts {
            bundle: self.state.bundle.clone(),
            tag: active.id.tag.clone(),
            tree_digest: active.id.tree_digest,
            activation_epoch: self.state.activation_epoch,
        };
        let mut work = AfterSwitchWork::of(&self.config.after_switch);
        if !tell {
            work.tell = None;
        }
        match self.state.trials.start() {
            None => work.check = None,
            Some(TrialStart::Check) => self.save().await,
            Some(TrialStart::TooOften) => {
                let reason = "the agent ended again and again before the trial did".to_owned();
                return self.reject(facts.activation_epoch, reason).await;
            }
        }
        let previous = self.state.previous.first().map(|previous| previous.id.tag.clone());
        let files = self.cache.release(&active.id.tag).join(FILES);
        self.after_switch = AfterSwitch::start(work, SwitchNews { facts, previous_tag: previous, is_revert, files });
    }

    /// Takes over what the checks and the hook have come to, if anything. Touches the disk only where a trial ended.
    pub(super) async fn settle_trial(&mut self) {
        let Some(after) = &mut self.after_switch else { return };
        let (epoch, aftermath) = (after.facts().activation_epoch, after.seen());
        match aftermath.hook {
            None => {}
            Some(HookState::Told) => {
                self.alarms.clear(Subject::SwitchHook);
                self.note_told(epoch);
            }
            Some(HookState::Failing(reason)) => {
                let text = format!("the application could not be told of the switch ({reason}); that is tried again");
                self.alarms.raise(Subject::SwitchHook, text);
            }
            Some(HookState::GivenUp(reason)) => {
                let text = format!("the application could not be told of the switch ({reason}); reload it by hand");
                self.alarms.raise(Subject::SwitchHook, text);
                self.note_told(epoch);
            }
        }
        match aftermath.trial {
            Some(TrialEnd::Kept) if self.state.trials.keep(epoch) => {
                let tag = self.state.active.as_ref().map(|active| active.id.tag.as_str());
                tracing::info!(tag, activation_epoch = epoch, "the release has proved itself");
                self.save().await;
            }
            None | Some(TrialEnd::Kept) => {}
            Some(TrialEnd::Rejected(reason)) => self.reject(epoch, reason).await,
        }
    }

    fn note_told(&mut self, epoch: u64) {
        if self.state.trials.told < epoch {
            self.state.trials.told = epoch;
            self.unsaved = true;
        }
    }

    async fn reject(&mut self, epoch: u64, reason: String) {
        let rejection = Rejection {
            reason: reason.chars().take(1000).collect(),
            head: self.head_sequence(),
            at: Utc::now(),
            event: new_event_id(),
        };
        if self.state.trials.reject(epoch, rejection) {
            // Decided before anything is done about it: a crash now does not make the release a good one.
            self.save().await;
        }
    }

    /// Notes that a release failed where the node has nothing to return to, or goes on to another one at once. Does not
    /// write to the disk. Says whether there was something to note.
    pub(super) fn note_rejection(&mut self) -> bool {
        let Some(rejected) = self.failed_active().cloned() else { return false };
        let Some(active) = self.state.active.as_ref() else { return false };
        let facts = revert_facts(&rejected, active.id.tag.clone(), self.state.bundle.clone());
        let reverted = Reverted { activation_epoch: self.state.activation_epoch, ..facts };
        self.state.trials.reported(rejected.event);
        self.tell_as(rejected.event, rejected.at, ConditionEvent::Reverted(reverted));
        self.unsaved = true;
        true
    }

    /// The running release's rejection, as long as its event is not recorded.
    fn failed_active(&self) -> Option<&Rejected> {
        let active = self.state.active.as_ref()?;
        self.state.trials.unreported(self.state.activation_epoch).filter(|rejected| rejected.release == active.id)
    }

    /// Sequence of the followed channel's head, as far as it was applied; 0 where a tag is pinned.
    fn head_sequence(&self) -> u64 {
        let channel = self.target.follow.channel();
        channel.and_then(|channel| self.state.position.applied.get(channel)).copied().unwrap_or(0)
    }

    /// Waits until the running release fails its trial; for ever where that is known already. Cancel safe; holds nothing
    /// of the agent.
    pub(super) fn trial_failed(&self) -> impl Future<Output = ()> + use<> {
        let on_trial = self.state.trials.trial.is_some();
        let failed = self.after_switch.as_ref().filter(|_| on_trial).map(AfterSwitch::failed);
        async move {
            match failed {
                Some(failed) => failed.await,
                None => pending().await,
            }
        }
    }

    /// The trial under way, for operators.
    pub(super) fn trial_view(&self) -> Option<TrialView> {
        let trial = self.state.trials.trial.as_ref()?;
        let complaint = self.after_switch.as_ref().and_then(|after| after.aftermath().complaint);
        Some(TrialView {
            tag: trial.release.tag.clone(),
            activation_epoch: trial.activation_epoch,
            since: trial.began_at,
            complaint,
        })
    }

    /// What a rejected release that is desired, or runs for want of another, looks like to operators.
    pub(super) fn rejection_trouble(&self) -> Option<Trouble> {
        let active = self.active().map(|active| &active.id);
        let mut concerned = [self.desired.as_ref(), active].into_iter().flatten();
        let rejected = concerned.find_map(|id| self.state.trials.rejection(id.tree_digest))?;
        let tag = &rejected.release.tag;
        let consequence = match active {
            Some(active) if active == &rejected.release => "there is no other release to return to".to_owned(),
            Some(active) => format!("release `{}` runs", active.tag),
            None => "nothing else runs".to_owned(),
        };
        Some(Trouble {
            cause: Cause::Rejected,
            text: format!("release `{tag}` failed its health check ({}); {consequence}", rejected.reason),
            remediation: REMEDIATION.to_owned(),
            tag: tag.clone(),
            since: rejected.at,
        })
    }
}

fn revert(rejected: &Rejected, loaded: &Loaded, restored: Option<RestoredRelease>, epoch: u64) -> Reverted {
    let facts = revert_facts(rejected, rejected.release.tag.clone(), loaded.bundle.clone());
    Reverted { restored, activation_epoch: epoch, ..facts }
}

fn revert_facts(
    rejected: &Rejected,
    tag: shared::identifiers::Tag,
    bundle: shared::identifiers::BundleName,
) -> Reverted {
    // A clock that was set back gives no time.
    let took = (Utc::now() - rejected.at).num_milliseconds();
    Reverted {
        bundle,
        tag,
        tree_digest: rejected.release.tree_digest,
        restored: None,
        failed_epoch: rejected.activation_epoch,
        activation_epoch: rejected.activation_epoch,
        check: rejected.reason.clone(),
        remediation: REMEDIATION.to_owned(),
        duration_ms: u64::try_from(took).unwrap_or(0),
    }
}
