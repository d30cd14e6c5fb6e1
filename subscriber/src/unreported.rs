//! What waits in the memory to be recorded: switches, and what was found beside them, in the order in which they happened.

use chrono::{DateTime, Utc};
use shared::event::BundleEvent;
use shared::identifiers::EventId;

use crate::node_state::NodeState;

/// The next event to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unreported {
    /// The id that it was given first: recorded again under it after a crash, it still counts once.
    pub id: EventId,
    /// When it happened, by this node's clock.
    pub at: DateTime<Utc>,
    /// What is said.
    pub event: BundleEvent,
    /// Whether it is a switch.
    pub is_switch: bool,
}

impl NodeState {
    /// The oldest event that waits. What was found out before a switch comes before it, whatever the clock says.
    pub(crate) fn next_unreported(&self) -> Option<Unreported> {
        let (switch, condition) = (self.unreported_switches.front(), self.conditions.waiting.first());
        let condition = condition
            .filter(|condition| switch.is_none_or(|switch| condition.after_switch < switch.loaded.activation_epoch));
        if let Some(condition) = condition.cloned() {
            let (id, at, event) = (condition.id, condition.at, condition.event.into());
            return Some(Unreported { id, at, event, is_switch: false });
        }
        let switch = switch?.clone();
        let event = switch.reverted.map_or_else(|| BundleEvent::from(switch.loaded), BundleEvent::from);
        Some(Unreported { id: switch.id, at: switch.at, event, is_switch: true })
    }

    /// Forgets an event that is durable in the outbox.
    pub(crate) fn forget_reported(&mut self, id: EventId) {
        self.unreported_switches.retain(|switch| switch.id != id);
        self.conditions.waiting.retain(|waiting| waiting.id != id);
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use shared::digest::Sha256Digest;
    use shared::event::{LoadSource, Loaded, StaleDetected};
    use uuid::Uuid;

    use super::*;
    use crate::conditions::{ConditionEvent, Waiting};
    use crate::node_state::{LoadedRelease, Provenance, ReleaseId};

    fn event(number: u128) -> EventId {
        EventId::from_uuid(Uuid::from_u128(number))
    }

    fn switch(state: &mut NodeState, number: u128, at: DateTime<Utc>) {
        let digest = Sha256Digest::of(&number.to_be_bytes());
        let id = ReleaseId { tag: format!("v{number}").parse().unwrap(), tree_digest: digest };
        let loaded = Loaded {
            bundle: state.bundle.clone(),
            tag: id.tag.clone(),
            tree_digest: digest,
            content_digest: digest,
            channel: None,
            source: LoadSource::Cache,
            wire_bytes: 0,
            previous_tag: None,
            duration_ms: 0,
            activation_epoch: state.activation_epoch + 1,
            unrecorded_switches: 0,
            verified: true,
        };
        let provenance = Provenance::Verified;
        let release = LoadedRelease { id, content_digest: digest, git_sha: None, loaded_at: at, provenance };
        state.switched_to(release, loaded, None, event(number));
    }

    fn condition(state: &mut NodeState, number: u128, at: DateTime<Utc>) {
        let detected = StaleDetected {
            bundle: state.bundle.clone(),
            tag: "v1".parse().unwrap(),
            bundle_timestamp: at,
            age_hours: 25,
            threshold_hours: 24,
            remediation: "publish".to_owned(),
        };
        let event_of = ConditionEvent::StaleDetected(detected);
        let after_switch = state.activation_epoch;
        assert!(state.conditions.report(Waiting { id: event(number), at, after_switch, event: event_of }).is_none());
    }

    proptest! {
        /// However switches, conditions, restarts, and a clock that jumps follow each other while nothing can be recorded:
        /// afterwards all of it is recorded once, in the order in which it happened.
        #[test]
        fn everything_is_said_once_and_in_its_order(
            happened in vec((any::<bool>(), -1000_i64..1000), 0..30), restart_after in 0_usize..30,
        ) {
            let mut state = NodeState::new("contracts".parse().unwrap());
            for (number, (is_switch, seconds)) in happened.iter().enumerate() {
                let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(*seconds);
                let number = number as u128;
                if *is_switch { switch(&mut state, number, at) } else { condition(&mut state, number, at) }
                if restart_after == number as usize {
                    state = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
                }
            }
            let mut said = Vec::new();
            while let Some(next) = state.next_unreported() {
                prop_assert_eq!(next.is_switch, happened[said.len()].0);
                said.push(next.id);
                state.forget_reported(next.id);
            }
            let expected: Vec<EventId> = (0..happened.len()).map(|number| event(number as u128)).collect();
            prop_assert_eq!(said, expected);
        }
    }
}
