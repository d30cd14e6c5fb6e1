//! What changed between two states of the fleet.

use std::collections::BTreeSet;

use serde::Serialize;

use super::timeline::{Activation, Announcement, ChannelMove, FleetTimeline, NodeFailure, Withdrawal};
use crate::identifiers::{BundleName, ChannelName, NodeName, Tag};

/// A channel that points elsewhere, or may be moved by others than before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChannelChange {
    /// The bundle.
    pub bundle: BundleName,
    /// The channel.
    pub channel: ChannelName,
    /// Its head before; `None` where it did not exist.
    pub before: Option<ChannelMove>,
    /// Its head after; `None` where the later state does not have it.
    pub after: Option<ChannelMove>,
    /// How many moves lie between the two.
    pub moves: u64,
}

/// A node that runs something else, or fails where it did not, or the other way round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeChange {
    /// The node.
    pub node: NodeName,
    /// The bundle.
    pub bundle: BundleName,
    /// What it ran before.
    pub before: Option<Activation>,
    /// What it runs after.
    pub after: Option<Activation>,
    /// What it failed at before.
    pub failing_before: Option<NodeFailure>,
    /// What it fails at after.
    pub failing_after: Option<NodeFailure>,
}

impl NodeChange {
    /// The tag it ran before.
    pub fn tag_before(&self) -> Option<&Tag> {
        self.before.as_ref().map(|active| &active.loaded.tag)
    }

    /// The tag it runs after.
    pub fn tag_after(&self) -> Option<&Tag> {
        self.after.as_ref().map(|active| &active.loaded.tag)
    }
}

/// What changed between two states.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FleetDifference {
    /// Channels that moved.
    pub channels: Vec<ChannelChange>,
    /// Releases that are announced only after.
    pub published: Vec<Announcement>,
    /// Withdrawals that are known only after.
    pub withdrawn: Vec<Withdrawal>,
    /// Nodes that changed.
    pub nodes: Vec<NodeChange>,
}

impl FleetDifference {
    /// What lies between an earlier and a later state of one log.
    pub fn between(before: &FleetTimeline, after: &FleetTimeline) -> Self {
        let known: BTreeSet<u64> = before.withdrawals.iter().map(|known| known.moment.stream_sequence).collect();
        let new = |withdrawal: &&Withdrawal| !known.contains(&withdrawal.moment.stream_sequence);
        let announced = after.announcements.iter().filter(|(release, _)| !before.announcements.contains_key(release));
        Self {
            channels: channels(before, after),
            published: announced.map(|(_, announcement)| announcement.clone()).collect(),
            withdrawn: after.withdrawals.iter().filter(new).cloned().collect(),
            nodes: nodes(before, after),
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.published.is_empty() && self.withdrawn.is_empty() && self.nodes.is_empty()
    }
}

fn channels(before: &FleetTimeline, after: &FleetTimeline) -> Vec<ChannelChange> {
    let keys: BTreeSet<_> = before.moves.keys().chain(after.moves.keys()).collect();
    let mut changes = Vec::new();
    for key in keys {
        let moves = |timeline: &FleetTimeline| timeline.moves.get(key).cloned().unwrap_or_default();
        let (earlier, later) = (moves(before), moves(after));
        let (head_before, head_after) = (earlier.last(), later.last());
        if head_before.map(|head| head.moment) != head_after.map(|head| head.moment) {
            changes.push(ChannelChange {
                bundle: key.0.clone(),
                channel: key.1.clone(),
                before: head_before.cloned(),
                after: head_after.cloned(),
                moves: (later.len() as u64).abs_diff(earlier.len() as u64),
            });
        }
    }
    changes
}

fn nodes(before: &FleetTimeline, after: &FleetTimeline) -> Vec<NodeChange> {
    let keys: BTreeSet<_> = before.nodes.keys().chain(after.nodes.keys()).collect();
    let mut changes = Vec::new();
    for key in keys {
        let (earlier, later) = (before.nodes.get(key), after.nodes.get(key));
        let change = NodeChange {
            node: key.0.clone(),
            bundle: key.1.clone(),
            before: earlier.and_then(|node| node.active()).cloned(),
            after: later.and_then(|node| node.active()).cloned(),
            failing_before: earlier.and_then(|node| node.failing()).cloned(),
            failing_after: later.and_then(|node| node.failing()).cloned(),
        };
        let tree = |active: &Option<Activation>| active.as_ref().map(|active| active.loaded.tree_digest);
        let failing = |failure: &Option<NodeFailure>| failure.as_ref().map(|failure| failure.tag.clone());
        if tree(&change.before) != tree(&change.after)
            || change.tag_before() != change.tag_after()
            || failing(&change.failing_before) != failing(&change.failing_after)
        {
            changes.push(change);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::StoredMessage;
    use super::super::sample_events::{
        any_message, download_failed, loaded, minute, promoted, published, stored, withdrawn,
    };
    use super::*;

    #[test]
    fn only_what_changed_is_named() {
        let events = [
            stored("/publishers/main", published("v1")),
            stored("/publishers/main", promoted("latest", "v1")),
            stored("/publishers/main", promoted("production", "v1")),
            stored("/nodes/edge-1", loaded("v1")),
            stored("/nodes/edge-2", loaded("v1")),
            stored("/publishers/main", published("v2")),
            stored("/operators/ada", promoted("latest", "v2")),
            stored("/nodes/edge-1", download_failed("v2")),
            stored("/nodes/edge-1", loaded("v2")),
            stored("/operators/ada", withdrawn("v1")),
        ];
        let mut states = vec![FleetTimeline::default()];
        for (number, (subject, payload)) in events.iter().enumerate() {
            let mut next = states[number].clone();
            let stream_sequence = number as u64 + 1;
            next.apply(StoredMessage { stream_sequence, stored_at: minute(0), subject, payload });
            states.push(next);
        }
        assert!(FleetDifference::between(&states[5], &states[5]).is_empty());
        let difference = FleetDifference::between(&states[5], &states[10]);
        let channels: Vec<_> =
            difference.channels.iter().map(|change| (change.channel.as_str(), change.moves)).collect();
        assert_eq!(channels, [("latest", 1)]);
        assert_eq!(difference.published.len(), 1);
        assert_eq!(difference.withdrawn.len(), 1);
        let nodes: Vec<_> = difference.nodes.iter().map(|change| change.node.as_str()).collect();
        assert_eq!(nodes, ["edge-1"]);
        let failing = FleetDifference::between(&states[7], &states[8]);
        assert_eq!(failing.nodes[0].failing_after.as_ref().unwrap().tag.as_str(), "v2");
    }

    proptest! {
        #[test]
        fn what_an_event_does_not_touch_did_not_change(messages in proptest::collection::vec(any_message(), 1..30)) {
            let mut before = FleetTimeline::default();
            for (number, (subject, payload)) in messages.iter().enumerate() {
                let mut after = before.clone();
                let stream_sequence = number as u64 + 1;
                after.apply(StoredMessage { stream_sequence, stored_at: minute(0), subject, payload });
                prop_assert!(FleetDifference::between(&after, &after).is_empty());
                let difference = FleetDifference::between(&before, &after);
                let named = difference.channels.len()
                    + difference.published.len()
                    + difference.withdrawn.len()
                    + difference.nodes.len();
                prop_assert!(named <= 1, "one event changes one thing: {:?}", difference);
                before = after;
            }
        }
    }
}
