//! What a node remembers over a restart. Plain data; `state_directory` makes it durable.
//!
//! It is a memory, not the truth: which release is current is what the cache's link says, and what is desired is
//! what the log says. Lost, it costs a report and a comparison.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::event::{Loaded, Reverted};
use shared::identifiers::{BundleName, ChannelName, EventId, Incarnation, Tag};

use crate::conditions::Conditions;
use crate::failures::FailureBook;
use crate::plan::prefetch::AheadMemory;
use crate::trial::TrialBook;

/// Version of the file's form.
pub(crate) const FORMAT: u32 = 1;
/// Releases loaded earlier that are remembered.
const MOST_PREVIOUS: usize = 32;
/// Epochs left behind that are remembered.
const MOST_EPOCHS: usize = 32;

/// Switches that may wait to be recorded. Beyond that the oldest are summed up in the one behind them.
const MOST_UNREPORTED: usize = 32;

/// A release by its name and identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ReleaseId {
    /// Its tag.
    pub tag: Tag,
    /// Its identity.
    pub tree_digest: Sha256Digest,
}

/// What is known of a release's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Provenance {
    /// Every byte was compared with what was announced.
    #[default]
    Verified,
    /// Verification was switched off by the emergency flag.
    Unverified,
    /// They are the agent's own: the last resort.
    Embedded,
}

/// A release that this node switched to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoadedRelease {
    /// The release.
    pub id: ReleaseId,
    /// Its content digest.
    pub content_digest: Sha256Digest,
    /// The commit it was made from, where known.
    pub git_sha: Option<String>,
    /// When it was switched to, by this node's clock.
    pub loaded_at: DateTime<Utc>,
    /// What is known of its bytes.
    #[serde(default)]
    pub provenance: Provenance,
}

/// How far this node has read the log. Sequences of different epochs cannot be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPosition {
    /// The log's epoch.
    pub epoch: Option<Incarnation>,
    /// Epochs before it: an answer that still shows one of them comes from a replica that lags.
    pub left_behind: Vec<Incarnation>,
    /// Sequence of the newest head applied, for each channel.
    pub applied: BTreeMap<ChannelName, u64>,
    /// The newest state of the log that was acted on.
    pub read_up_to: u64,
}

impl LogPosition {
    /// Begins to count anew in another epoch.
    pub(crate) fn enter_epoch(&mut self, epoch: Incarnation) {
        let mut left_behind = std::mem::take(&mut self.left_behind);
        left_behind.extend(self.epoch);
        let surplus = left_behind.len().saturating_sub(MOST_EPOCHS);
        left_behind.drain(..surplus);
        *self = Self { epoch: Some(epoch), left_behind, ..Self::default() };
    }
}

/// A switch that happened and is not yet recorded in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnreportedSwitch {
    /// Id of its event: recorded again under it after a crash, the event still counts once.
    pub id: EventId,
    /// When it happened, by this node's clock.
    pub at: DateTime<Utc>,
    /// What will be said about it.
    pub loaded: Loaded,
    /// What will be said instead: the release before it had failed its health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
}

/// The node's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    format: u32,
    /// The bundle this directory is about.
    pub bundle: BundleName,
    /// The release that was last switched to.
    pub active: Option<LoadedRelease>,
    /// The ones before it, newest first, each once.
    pub previous: Vec<LoadedRelease>,
    /// How far the log was read.
    pub position: LogPosition,
    /// What failed.
    pub failures: FailureBook,
    /// Number of the last switch.
    pub activation_epoch: u64,
    /// Switches that are not yet recorded, oldest first.
    #[serde(default)]
    pub unreported_switches: VecDeque<UnreportedSwitch>,
    /// Releases on trial, and what came of it.
    #[serde(default)]
    pub trials: TrialBook,
    /// What was said last about how the node stands, and what of it is not yet recorded in the outbox.
    #[serde(default)]
    pub conditions: Conditions,
    /// What was fetched before it was promoted.
    #[serde(default)]
    pub ahead: AheadMemory,
    /// The one such switch that files of earlier versions hold, and the id of its event.
    #[serde(default, skip_serializing)]
    unreported: Option<(DateTime<Utc>, Loaded)>,
    #[serde(default, skip_serializing)]
    unreported_id: Option<EventId>,
}

impl NodeState {
    /// The memory of a node that remembers nothing.
    pub(crate) fn new(bundle: BundleName) -> Self {
        Self {
            format: FORMAT,
            bundle,
            active: None,
            previous: Vec::new(),
            position: LogPosition::default(),
            failures: FailureBook::default(),
            activation_epoch: 0,
            unreported_switches: VecDeque::new(),
            trials: TrialBook::default(),
            unreported: None,
            unreported_id: None,
            conditions: Conditions::default(),
            ahead: AheadMemory::default(),
        }
    }

    /// The same in this version's form. `id` is for a switch that an earlier version left without one.
    pub(crate) fn upgraded(mut self, id: impl FnOnce() -> EventId) -> Self {
        let known = self.unreported_id.take();
        if let Some((at, loaded)) = self.unreported.take() {
            self.wait_for_record(UnreportedSwitch { id: known.unwrap_or_else(id), at, loaded, reverted: None });
        }
        self
    }

    /// A switch waits to be recorded. Where too many do, the oldest becomes a number in the one behind it.
    fn wait_for_record(&mut self, switch: UnreportedSwitch) {
        self.unreported_switches.push_back(switch);
        while self.unreported_switches.len() > MOST_UNREPORTED {
            let dropped =
                self.unreported_switches.pop_front().map_or(0, |oldest| oldest.loaded.unrecorded_switches + 1);
            if let Some(next) = self.unreported_switches.front_mut() {
                next.loaded.unrecorded_switches += dropped;
            }
        }
    }

    /// Notes a switch; `report` waits to be recorded as the event `id`, or `reverted` in its place.
    pub(crate) fn switched_to(
        &mut self,
        release: LoadedRelease,
        report: Loaded,
        reverted: Option<Reverted>,
        id: EventId,
    ) {
        let at = release.loaded_at;
        self.failures.forget(&release.id);
        self.previous.retain(|previous| previous.id.tag != release.id.tag);
        if let Some(old) = self.active.replace(release)
            && self.active.as_ref().is_some_and(|new| new.id.tag != old.id.tag)
            // The last resort is not what anybody wants to return to.
            && old.provenance != Provenance::Embedded
        {
            self.previous.retain(|previous| previous.id.tag != old.id.tag);
            self.previous.insert(0, old);
        }
        self.previous.truncate(MOST_PREVIOUS);
        self.activation_epoch = report.activation_epoch;
        self.wait_for_record(UnreportedSwitch { id, at, loaded: report, reverted });
    }
}

#[cfg(test)]
mod tests {
    use shared::event::LoadSource;

    use super::*;

    fn bundle() -> BundleName {
        "contracts".parse().unwrap()
    }

    fn switch(state: &mut NodeState, tag: &str) {
        let id = ReleaseId { tag: tag.parse().unwrap(), tree_digest: Sha256Digest::of(tag.as_bytes()) };
        let report = Loaded {
            bundle: bundle(),
            tag: id.tag.clone(),
            tree_digest: id.tree_digest,
            content_digest: id.tree_digest,
            channel: None,
            source: LoadSource::Cache,
            wire_bytes: 0,
            previous_tag: None,
            duration_ms: 0,
            activation_epoch: state.activation_epoch + 1,
            unrecorded_switches: 0,
            verified: true,
        };
        let content_digest = id.tree_digest;
        let event = EventId::from_uuid(uuid::Uuid::from_u128(1));
        state.switched_to(
            LoadedRelease {
                id,
                content_digest,
                git_sha: None,
                loaded_at: DateTime::UNIX_EPOCH,
                provenance: Provenance::Verified,
            },
            report,
            None,
            event,
        );
    }

    fn tags(state: &NodeState) -> Vec<&str> {
        state.previous.iter().map(|release| release.id.tag.as_str()).collect()
    }

    #[test]
    fn switches_are_remembered_newest_first_and_once() {
        let mut state = NodeState::new(bundle());
        for tag in ["v1", "v2", "v3", "v2", "v2"] {
            switch(&mut state, tag);
        }
        assert_eq!(state.active.as_ref().unwrap().id.tag.as_str(), "v2");
        assert_eq!(tags(&state), ["v3", "v1"]);
        assert_eq!(state.activation_epoch, 5);
    }

    #[test]
    fn switches_that_cannot_be_recorded_wait_and_beyond_a_bound_are_counted() {
        let mut state = NodeState::new(bundle());
        let total = MOST_UNREPORTED + 3;
        for number in 1..=total {
            switch(&mut state, &format!("v{number}"));
        }
        let waiting: Vec<(u64, u64)> = state
            .unreported_switches
            .iter()
            .map(|switch| (switch.loaded.activation_epoch, switch.loaded.unrecorded_switches))
            .collect();
        assert_eq!(waiting.len(), MOST_UNREPORTED);
        assert_eq!(&waiting[..2], [(4, 3), (5, 0)]);
        let counted: u64 = waiting.iter().map(|(_, unrecorded)| unrecorded + 1).sum();
        assert_eq!(counted, total as u64, "none is dropped silently");
    }

    #[test]
    fn a_memory_of_an_earlier_version_keeps_its_unreported_switch() {
        let mut state = NodeState::new(bundle());
        switch(&mut state, "v1");
        let waiting = state.unreported_switches.pop_front().unwrap();
        let mut old = serde_json::to_value(&state).unwrap();
        old.as_object_mut().unwrap().remove("unreported_switches");
        old["unreported"] = serde_json::to_value((waiting.at, &waiting.loaded)).unwrap();
        let other = EventId::from_uuid(uuid::Uuid::from_u128(2));
        let read = |old: &serde_json::Value| serde_json::from_value::<NodeState>(old.clone()).unwrap();
        assert_eq!(
            read(&old).upgraded(|| other).unreported_switches,
            [UnreportedSwitch { id: other, ..waiting.clone() }]
        );
        old["unreported_id"] = serde_json::to_value(waiting.id).unwrap();
        let upgraded = read(&old).upgraded(|| other);
        assert_eq!(upgraded.unreported_switches, [waiting]);
        assert_eq!(read(&serde_json::to_value(&upgraded).unwrap()), upgraded);
    }

    #[test]
    fn entering_an_epoch_forgets_the_sequences_and_remembers_the_one_before() {
        let epoch = |number| Incarnation::from_uuid(uuid::Uuid::from_u128(number));
        let mut position = LogPosition::default();
        position.enter_epoch(epoch(1));
        position.read_up_to = 9;
        position.enter_epoch(epoch(2));
        assert_eq!((position.read_up_to, position.left_behind), (0, vec![epoch(1)]));
    }
}
