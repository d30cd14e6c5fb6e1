//! How the node stands: on a fallback, stale, behind a newer release. Judged after each round, and said when it changes.

use chrono::{DateTime, TimeDelta, Utc};
use shared::event::{FallbackActivated, FallbackCause, FallbackSource, StaleDetected, UpdateDetected};
use shared::identifiers::EventId;
use streams::event_writer::new_event_id;

use super::agent::Agent;
use crate::agent_view::{Cause, age_in_hours};
use crate::conditions::{ConditionEvent, Fallback, Waiting};
use crate::config::Follow;
use crate::desired::{Head, Reading, announced_at};
use crate::failures::FailureKind;
use crate::node_state::{Provenance, ReleaseId};

const STALE_REMEDIATION: &str = "publish a newer release, or raise DEMON_CONTRACTS_STALE_THRESHOLD_HOURS";
const UPDATE_REMEDIATION: &str = "pin the newer release, or unset DEMON_CONTRACTS_TAG to follow the channel";
const UNREACHABLE: &str = "the log could not be asked what is desired";
const UNREACHABLE_REMEDIATION: &str = "check NATS_URL, the login and the network; the agent keeps trying";

impl Agent {
    /// Compares how the node stands with what it said last, and says what is new.
    pub(super) async fn note_conditions(&mut self) {
        let before = self.state.conditions.clone();
        self.note_fallback();
        if let Some(active) = self.active().map(|active| active.id.clone()) {
            self.note_staleness(&active).await;
        }
        if self.state.conditions != before {
            self.save().await;
            self.report_waiting().await;
        }
    }

    /// Notes what runs instead of what is desired. Does not write to the disk.
    pub(super) fn note_fallback(&mut self) {
        self.settle_trouble();
        let told = self.fallback();
        let fallback = told.as_ref().map(|told| Fallback {
            source: told.source,
            tag: told.tag.clone(),
            wanted: told.wanted_tag.clone(),
        });
        if self.state.conditions.enter_fallback(fallback)
            && let Some(told) = told
        {
            self.tell(ConditionEvent::FallbackActivated(told));
        }
    }

    /// What would be said of the fallback that is on.
    fn fallback(&self) -> Option<FallbackActivated> {
        let active = self.active()?;
        let source = match active.provenance {
            Provenance::Embedded => FallbackSource::Embedded,
            Provenance::Verified | Provenance::Unverified => FallbackSource::LastGood,
        };
        let (cause, reason, remediation) = match (&self.trouble, source) {
            (Some(trouble), _) => {
                let cause = match trouble.cause {
                    Cause::Failed(FailureKind::Verification) => FallbackCause::VerificationFailed,
                    Cause::Failed(FailureKind::Download) => FallbackCause::DownloadFailed,
                    Cause::Withdrawn => FallbackCause::Withdrawn,
                    Cause::Rejected => FallbackCause::Reverted,
                };
                (cause, trouble.text.as_str(), trouble.remediation.as_str())
            }
            (None, FallbackSource::Embedded) => (FallbackCause::Unreachable, UNREACHABLE, UNREACHABLE_REMEDIATION),
            (None, FallbackSource::LastGood) => return None,
        };
        Some(FallbackActivated {
            bundle: self.target.bundle.clone(),
            source,
            tag: active.id.tag.clone(),
            tree_digest: active.id.tree_digest,
            content_digest: active.content_digest,
            wanted_tag: self
                .unannounced_pin
                .clone()
                .or_else(|| self.desired.as_ref().map(|desired| desired.tag.clone())),
            cause,
            reason: reason.chars().take(1000).collect(),
            remediation: remediation.to_owned(),
            activation_epoch: self.state.activation_epoch,
        })
    }

    /// Notes whether a release that runs, or is about to be said to run, is older than its limit.
    pub(super) async fn note_staleness(&mut self, id: &ReleaseId) {
        let threshold = TimeDelta::hours(i64::from(self.config.http.stale_threshold_hours));
        let embedded =
            self.active().is_some_and(|active| &active.id == id && active.provenance == Provenance::Embedded);
        let made_at = if embedded { None } else { self.manifest_of(id).await.map(|manifest| manifest.timestamp) };
        let age = made_at.map(|made_at| age_in_hours(made_at, Utc::now()));
        let stale = age.is_some_and(|age| age > threshold.num_hours());
        if self.state.conditions.enter_stale(stale.then_some(id))
            && let Some((bundle_timestamp, age)) = made_at.zip(age)
        {
            self.tell(ConditionEvent::StaleDetected(StaleDetected {
                bundle: self.target.bundle.clone(),
                tag: id.tag.clone(),
                bundle_timestamp,
                age_hours: age.unsigned_abs(),
                threshold_hours: u64::from(self.config.http.stale_threshold_hours),
                remediation: STALE_REMEDIATION.to_owned(),
            }));
        }
    }

    /// Notes whether the channel that a pinned node does not follow has come to a newer release than the pinned one. Does
    /// not write to the disk.
    pub(super) async fn note_update(&mut self, reading: &Reading) {
        let Follow::Tag(pinned) = self.target.follow.clone() else {
            self.state.conditions.enter_update(None);
            return;
        };
        let (Head::Pinned(announced, _), Some(newer)) = (&reading.head, &reading.beside) else { return };
        if newer.tag == pinned || reading.withdrawn.holds(newer.tree_digest, None) {
            self.state.conditions.enter_update(None);
            return;
        }
        let update = (pinned.clone(), newer.tag.clone());
        if self.state.conditions.update.as_ref() == Some(&update) {
            return;
        }
        // What cannot be looked up now is looked up with the next reading.
        let Ok(Some((sequence, published_at))) = announced_at(&self.log, &self.target.bundle, &newer.tag).await else {
            return;
        };
        if sequence < *announced {
            // The channel went back: what it points at is older than what is pinned.
            self.state.conditions.enter_update(None);
            return;
        }
        if self.state.conditions.enter_update(Some(update)) {
            self.tell(ConditionEvent::UpdateDetected(UpdateDetected {
                bundle: self.target.bundle.clone(),
                tag: pinned,
                newer_tag: newer.tag.clone(),
                newer_tree_digest: newer.tree_digest,
                published_at,
                remediation: UPDATE_REMEDIATION.to_owned(),
            }));
            self.unsaved = true;
        }
    }

    /// Says something in this process's log and puts it on its way to the fleet's. Does not write to the disk.
    pub(super) fn tell(&mut self, event: ConditionEvent) {
        self.tell_as(new_event_id(), Utc::now(), event);
    }

    /// The same under an id that was chosen before, for what happened at this time.
    pub(super) fn tell_as(&mut self, id: EventId, at: DateTime<Utc>, event: ConditionEvent) {
        self.reporter.log_condition(&event);
        let after_switch = self.state.activation_epoch;
        if let Some(lost) = self.state.conditions.report(Waiting { id, at, after_switch, event }) {
            tracing::error!(event.id = %lost.id, "too many events wait for the outbox: the oldest is not recorded");
        }
    }
}
