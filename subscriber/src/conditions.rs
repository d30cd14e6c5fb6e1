//! How a node stands beside what it runs, and the events by which it says so: each once, when the condition begins or
//! changes, and not again after a restart.
//!
//! A condition and the report that it needs are remembered in one write of the state file. The report stays there until
//! its event is durable in the outbox, under the id it was given first: recorded again after a crash, it still counts
//! once.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use shared::event::{
    BundleEvent, FallbackActivated, FallbackSource, Reverted, StaleDetected, TamperDetected, TamperedPath,
    UpdateDetected,
};
use shared::identifiers::{EventId, Tag};

use crate::node_state::ReleaseId;

/// Reports that wait for the outbox at most. Beyond it the oldest is given up: the outbox has been full for long, and
/// the log of the process says so.
const MOST_WAITING: usize = 64;
/// Between two events about the same release's files, however often somebody changes them.
const TAMPER_PAUSE: TimeDelta = TimeDelta::minutes(1);

/// One event about a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub(crate) enum ConditionEvent {
    /// Something else than what is desired runs.
    FallbackActivated(FallbackActivated),
    /// The running release is old.
    StaleDetected(StaleDetected),
    /// There is something newer than the pinned release.
    UpdateDetected(UpdateDetected),
    /// The files of the running release changed, or are whole again.
    TamperDetected(TamperDetected),
    /// A release failed its health check, and no switch says so: the node has nothing to return to, or goes on.
    Reverted(Reverted),
}

impl From<ConditionEvent> for BundleEvent {
    fn from(event: ConditionEvent) -> Self {
        match event {
            ConditionEvent::FallbackActivated(data) => data.into(),
            ConditionEvent::StaleDetected(data) => data.into(),
            ConditionEvent::UpdateDetected(data) => data.into(),
            ConditionEvent::TamperDetected(data) => data.into(),
            ConditionEvent::Reverted(data) => data.into(),
        }
    }
}

/// A report on its way into the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// Id of its event.
    pub id: EventId,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Number of the last switch before it. Clocks are set back, these numbers never.
    #[serde(default)]
    pub after_switch: u64,
    /// What.
    pub event: ConditionEvent,
}

/// What runs instead of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fallback {
    /// What runs.
    pub source: FallbackSource,
    /// Its tag.
    pub tag: Tag,
    /// What should run.
    pub wanted: Option<Tag>,
}

/// Files that are not those of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tampering {
    /// The release.
    pub release: ReleaseId,
    /// When it was noticed.
    pub since: DateTime<Utc>,
    /// Files whose content or mode is another.
    pub changed: u64,
    /// Files that are not there.
    pub missing: u64,
    /// Files that are no part of the release.
    pub extra: u64,
    /// The first of them.
    pub paths: Vec<TamperedPath>,
}

impl Tampering {
    /// In words, for alarms and health checks.
    pub(crate) fn describe(&self) -> String {
        let Self { release, changed, missing, extra, .. } = self;
        format!(
            "files of release `{}` were changed on disk: {changed} changed, {missing} missing, {extra} extra",
            release.tag
        )
    }
}

/// What was said last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    /// The fallback that is on.
    pub fallback: Option<Fallback>,
    /// The release that was reported as stale.
    pub stale: Option<ReleaseId>,
    /// The pinned release and the newer one that was reported.
    pub update: Option<(Tag, Tag)>,
    /// What is wrong with the files of the running release.
    pub tampering: Option<Tampering>,
    /// The release whose files were last said to be wrong; `None` where they were last said to be whole.
    pub tamper_told: Option<ReleaseId>,
    /// When something was last said about files.
    pub tamper_said_at: Option<DateTime<Utc>>,
    /// Reports that are not yet durable in the outbox, oldest first.
    pub waiting: Vec<Waiting>,
}

impl Conditions {
    /// Adds a report. What is returned was given up for it.
    pub(crate) fn report(&mut self, report: Waiting) -> Option<Waiting> {
        let surplus = (self.waiting.len() >= MOST_WAITING).then(|| self.waiting.remove(0));
        self.waiting.push(report);
        surplus
    }

    /// Takes over the fallback that is on now; says whether that is a transition to be reported.
    pub(crate) fn enter_fallback(&mut self, now: Option<Fallback>) -> bool {
        let begins = now.is_some() && now != self.fallback;
        self.fallback = now;
        begins
    }

    /// Takes over whether the running release is stale; says whether that is a transition to be reported.
    pub(crate) fn enter_stale(&mut self, stale: Option<&ReleaseId>) -> bool {
        let begins = stale.is_some() && stale != self.stale.as_ref();
        self.stale = stale.cloned();
        begins
    }

    /// Takes over which release is newer than the pinned one; says whether that is a transition to be reported.
    pub(crate) fn enter_update(&mut self, update: Option<(Tag, Tag)>) -> bool {
        let begins = update.is_some() && update != self.update;
        self.update = update;
        begins
    }

    /// Takes over what is wrong with the files; says whether that is to be reported now. While somebody keeps changing
    /// them one report a minute is enough: what was not said is said as soon as that is over, if it is still the case.
    pub(crate) fn enter_tampering(&mut self, found: Option<Tampering>, now: DateTime<Utc>) -> bool {
        let same =
            self.tampering.as_ref().zip(found.as_ref()).filter(|(before, found)| before.release == found.release);
        let since = same.map(|(before, _)| before.since);
        self.tampering = found.map(|found| Tampering { since: since.unwrap_or(found.since), ..found });
        let is = self.tampering.as_ref().map(|tampering| tampering.release.clone());
        if is == self.tamper_told || !self.may_speak_of_files(now) {
            return false;
        }
        self.tamper_told = is;
        true
    }

    /// When something that could not be said at once can be; `None` where all was said.
    pub(crate) fn unsaid_for(&self) -> Option<std::time::Duration> {
        let is = self.tampering.as_ref().map(|tampering| &tampering.release);
        let pause = TAMPER_PAUSE.to_std().unwrap_or_default();
        (is != self.tamper_told.as_ref()).then_some(pause)
    }

    /// Whether enough time has passed since the last event about files; counts as saying one where it has.
    pub(crate) fn may_speak_of_files(&mut self, now: DateTime<Utc>) -> bool {
        // A clock that was set back must not silence the node.
        let silent = self.tamper_said_at.is_some_and(|said| said <= now && now - said < TAMPER_PAUSE);
        if !silent {
            self.tamper_said_at = Some(now);
        }
        !silent
    }

    /// A switch leaves behind what was said of the files of the release before: the log's readers know that.
    pub(crate) fn forget_tampering(&mut self) {
        self.tampering = None;
        self.tamper_told = None;
    }
}

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;
    use uuid::Uuid;

    use super::*;

    fn release(tag: &str) -> ReleaseId {
        ReleaseId { tag: tag.parse().unwrap(), tree_digest: Sha256Digest::of(tag.as_bytes()) }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn tampering(tag: &str, seconds: i64) -> Tampering {
        Tampering { release: release(tag), since: at(seconds), changed: 1, missing: 0, extra: 0, paths: Vec::new() }
    }

    #[test]
    fn a_condition_is_said_when_it_begins_and_when_it_becomes_another() {
        let mut conditions = Conditions::default();
        let on = |wanted: &str| {
            Some(Fallback {
                source: FallbackSource::LastGood,
                tag: "v1".parse().unwrap(),
                wanted: Some(wanted.parse().unwrap()),
            })
        };
        let said: Vec<bool> =
            [on("v2"), on("v2"), on("v3"), None, on("v3")].map(|now| conditions.enter_fallback(now)).to_vec();
        assert_eq!(said, [true, false, true, false, true]);

        let (one, two) = (release("v1"), release("v2"));
        let said = [Some(&one), Some(&one), None, Some(&two)].map(|stale| conditions.enter_stale(stale));
        assert_eq!(said, [true, false, false, true]);

        let pair = |newer: &str| Some(("v1".parse().unwrap(), newer.parse().unwrap()));
        let said = [pair("v2"), pair("v2"), pair("v3"), None].map(|update| conditions.enter_update(update));
        assert_eq!(said, [true, false, true, false]);
    }

    #[test]
    fn a_restart_says_nothing_again() {
        let mut conditions = Conditions::default();
        assert!(conditions.enter_stale(Some(&release("v1"))));
        assert!(conditions.enter_tampering(Some(tampering("v1", 0)), at(0)));
        let text = serde_json::to_string(&conditions).unwrap();
        let mut remembered: Conditions = serde_json::from_str(&text).unwrap();
        assert!(!remembered.enter_stale(Some(&release("v1"))));
        assert!(!remembered.enter_tampering(Some(tampering("v1", 500)), at(500)));
        assert_eq!(remembered.tampering.unwrap().since, at(0));
        // A state file written before there were any.
        assert_eq!(serde_json::from_str::<Conditions>("{}").unwrap(), Conditions::default());
    }

    #[test]
    fn somebody_who_edits_in_a_loop_makes_no_storm_of_events() {
        let mut conditions = Conditions::default();
        let mut said = 0;
        for second in 0..600 {
            let found = (second % 2 == 0).then(|| tampering("v1", second));
            said += u32::from(conditions.enter_tampering(found, at(second)));
        }
        assert!((2..=10).contains(&said), "{said} events in ten minutes");
    }

    #[test]
    fn what_could_not_be_said_at_once_is_said_later() {
        let mut conditions = Conditions::default();
        assert!(conditions.enter_tampering(Some(tampering("v1", 0)), at(0)));
        assert!(!conditions.enter_tampering(None, at(5)), "too soon");
        assert!(conditions.tampering.is_none() && conditions.unsaid_for().is_some());
        assert!(conditions.enter_tampering(None, at(61)));
        assert_eq!(conditions.unsaid_for(), None);
        assert!(!conditions.enter_tampering(None, at(200)), "nothing new");
    }

    #[test]
    fn reports_are_bounded_and_the_oldest_is_given_up() {
        let mut conditions = Conditions::default();
        let stale = StaleDetected {
            bundle: "contracts".parse().unwrap(),
            tag: "v1".parse().unwrap(),
            bundle_timestamp: at(0),
            age_hours: 25,
            threshold_hours: 24,
            remediation: "publish".to_owned(),
        };
        let report = |conditions: &mut Conditions, number: usize| {
            let id = EventId::from_uuid(Uuid::from_u128(number as u128));
            let event = ConditionEvent::StaleDetected(stale.clone());
            conditions.report(Waiting { id, at: at(0), after_switch: 0, event })
        };
        for number in 0..MOST_WAITING {
            assert_eq!(report(&mut conditions, number), None);
        }
        let given_up = report(&mut conditions, MOST_WAITING).unwrap();
        assert_eq!(given_up.id, EventId::from_uuid(Uuid::from_u128(0)));
        assert_eq!(conditions.waiting.len(), MOST_WAITING);
    }
}
