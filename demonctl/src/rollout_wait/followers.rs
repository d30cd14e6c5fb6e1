//! Who follows a channel, and how far each is: plain functions over the log's fold and the node table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::event::BundleEvent;
use shared::event_type::EventType;
use shared::fleet_history::{FleetHistory, NodeState};
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};
use shared::subjects::{EventSubject, Scope};
use streams::node_table::{ENTRY_LIFETIME, NodeEntry};
use streams::stored_event::StoredEvent;
use subscriber::node_report::NodeReport;

use super::WaitOutcome;
use crate::event_text::describe;
use crate::output::printable;

/// What the nodes should come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) bundle: &'a BundleName,
    pub(super) channel: &'a ChannelName,
    pub(super) tag: &'a Tag,
    pub(super) tree_digest: Sha256Digest,
}

/// A live node that does not run the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Straggler {
    /// The node.
    pub(crate) node: NodeName,
    /// Why, as scripts read it.
    pub(crate) reason: StragglerReason,
    /// What it runs instead; absent where it runs nothing.
    pub(crate) running: Option<Tag>,
    /// Its last failure with the release, in words.
    pub(crate) failure: Option<String>,
    /// When the server last heard of it.
    pub(crate) last_heard: Option<DateTime<Utc>>,
}

/// Why a node does not run the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StragglerReason {
    /// It was not heard of since the channel moved.
    Silent,
    /// It tried and failed.
    Failed,
    /// It switched to it without verifying it.
    Unverified,
    /// It is there and has not come so far.
    OtherRelease,
}

impl fmt::Display for Straggler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.running.as_ref().map_or("nothing", Tag::as_str);
        write!(formatter, "node `{}` runs {running}: ", self.node)?;
        match (self.reason, &self.failure, self.last_heard) {
            (StragglerReason::Failed, Some(failure), _) => write!(formatter, "its last attempt failed: {failure}"),
            (StragglerReason::Failed, None, _) => formatter.write_str("its last attempt failed"),
            (StragglerReason::Unverified, ..) => {
                formatter.write_str("it switched without verifying, as its emergency switch allows")
            }
            (StragglerReason::Silent, _, Some(heard)) => {
                write!(formatter, "silent, last heard of at {}", heard.format("%Y-%m-%dT%H:%M:%SZ"))
            }
            (StragglerReason::Silent, _, None) => formatter.write_str("silent"),
            (StragglerReason::OtherRelease, ..) => formatter.write_str("it has not switched yet"),
        }
    }
}

/// The live nodes that follow a channel, by all that was seen so far.
#[derive(Debug, Default)]
pub(super) struct Followers {
    /// What each node's entry in the table says, and when the server stored it.
    entries: BTreeMap<NodeName, (NodeReport, DateTime<Utc>)>,
    /// Nodes whose entry does not name the bundle.
    elsewhere: BTreeSet<NodeName>,
    /// When the log last heard of each node.
    heard: BTreeMap<NodeName, DateTime<Utc>>,
    /// Each node's last failure.
    failures: BTreeMap<NodeName, StoredEvent>,
    nodes: BTreeSet<NodeName>,
}

impl Followers {
    /// Takes in the node table. An entry that no agent of ours wrote says nothing.
    pub(super) fn see_entries(&mut self, goal: &Goal<'_>, entries: &[NodeEntry]) {
        for entry in entries {
            let reports = match NodeReport::read_entry(&entry.value) {
                Ok(reports) => reports,
                Err(error) => {
                    tracing::warn!(node = %entry.node, %error, "an entry of the node table is not understood");
                    continue;
                }
            };
            let of_bundle = reports.into_iter().find(|report| report.bundle == *goal.bundle);
            if of_bundle.as_ref().and_then(|report| report.channel.as_ref()) == Some(goal.channel) {
                self.nodes.insert(entry.node.clone());
            } else {
                // Also a node that no longer runs the bundle.
                self.nodes.remove(&entry.node);
            }
            if let Some(report) = of_bundle {
                self.elsewhere.remove(&entry.node);
                self.entries.insert(entry.node.clone(), (report, entry.stored_at));
            } else {
                self.elsewhere.insert(entry.node.clone());
            }
        }
    }

    /// Takes in events of the log, in its order.
    pub(super) fn see_events(&mut self, goal: &Goal<'_>, events: &[StoredEvent]) {
        for event in events {
            if let Ok(subject) = event.subject.parse::<EventSubject>()
                && let (Some(bundle), Scope::Node(node)) = (subject.bundle(), subject.scope())
                && bundle == goal.bundle
            {
                self.heard.insert(node.clone(), event.stored_at);
                if matches!(
                    subject.event_type(),
                    EventType::VerificationFailed | EventType::DownloadFailed | EventType::Reverted
                ) {
                    self.failures.insert(node.clone(), event.clone());
                }
            }
        }
    }

    /// Takes in what the events come to: a node that wrote a moment ago is alive, whether or not it has an entry yet.
    pub(super) fn see_history(&mut self, goal: &Goal<'_>, history: &FleetHistory, now: DateTime<Utc>) {
        let lifetime = chrono::TimeDelta::from_std(ENTRY_LIFETIME).unwrap_or(chrono::TimeDelta::MAX);
        for (node, heard) in &self.heard {
            let follows = state_of(history, goal, node)
                .and_then(|state| state.active.as_ref())
                .is_some_and(|(loaded, _)| loaded.channel.as_ref() == Some(goal.channel));
            let told = self.entries.contains_key(node) || self.elsewhere.contains(node);
            if follows && now - heard < lifetime && !told {
                self.nodes.insert(node.clone());
            }
        }
    }

    /// How far the nodes are.
    pub(super) fn outcome(&self, goal: &Goal<'_>, history: &FleetHistory) -> WaitOutcome {
        let moved = history.channels.get(&(goal.bundle.clone(), goal.channel.clone())).map(|channel| channel.since);
        let mut outcome = WaitOutcome { followed: Vec::new(), stragglers: Vec::new() };
        for node in &self.nodes {
            let running = self.running(goal, history, node);
            let there = running.as_ref().is_some_and(|(tag, tree)| (tag, tree) == (goal.tag, &goal.tree_digest));
            if there && is_verified(history, goal, node) {
                outcome.followed.push(node.clone());
                continue;
            }
            let mut straggler = self.straggler(goal, history, node, running.map(|(tag, _)| tag), moved);
            if there {
                straggler.reason = StragglerReason::Unverified;
            }
            outcome.stragglers.push(straggler);
        }
        outcome
    }

    /// What a node runs: as it told the log, else as its entry says.
    fn running(&self, goal: &Goal<'_>, history: &FleetHistory, node: &NodeName) -> Option<(Tag, Sha256Digest)> {
        let logged = state_of(history, goal, node).and_then(|state| state.active.as_ref());
        if let Some((loaded, _)) = logged {
            return Some((loaded.tag.clone(), loaded.tree_digest));
        }
        let (report, _) = self.entries.get(node)?;
        report.active.as_ref().map(|active| (active.tag.clone(), active.tree_digest))
    }

    fn straggler(
        &self,
        goal: &Goal<'_>,
        history: &FleetHistory,
        node: &NodeName,
        running: Option<Tag>,
        moved: Option<DateTime<Utc>>,
    ) -> Straggler {
        let failed = state_of(history, goal, node)
            .and_then(|state| state.failure.as_ref())
            .filter(|(tag, _)| tag == goal.tag)
            .map(|(_, event_type)| failure_words(self.failures.get(node), event_type));
        let entry = self.entries.get(node).map(|(_, stored_at)| *stored_at);
        let last_heard = entry.max(self.heard.get(node).copied());
        let reason = match &failed {
            Some(_) => StragglerReason::Failed,
            None if last_heard < moved => StragglerReason::Silent,
            None => StragglerReason::OtherRelease,
        };
        Straggler { node: node.clone(), reason, running, failure: failed, last_heard }
    }
}

fn state_of<'a>(history: &'a FleetHistory, goal: &Goal<'_>, node: &NodeName) -> Option<&'a NodeState> {
    history.nodes.get(&(node.clone(), goal.bundle.clone()))
}

/// Whether the node verified what it switched to. An entry of the table is written by agents that verify; only a switch
/// that the log knows of says otherwise.
fn is_verified(history: &FleetHistory, goal: &Goal<'_>, node: &NodeName) -> bool {
    let active = state_of(history, goal, node).and_then(|state| state.active.as_ref());
    active.is_none_or(|(loaded, _)| loaded.verified)
}

/// The failure as the node told it.
fn failure_words(event: Option<&StoredEvent>, event_type: &EventType) -> String {
    match event.and_then(|event| event.envelope().ok()).map(|(_, envelope)| envelope.event) {
        Some(
            event @ (BundleEvent::VerificationFailed(_) | BundleEvent::DownloadFailed(_) | BundleEvent::Reverted(_)),
        ) => {
            format!("{event_type}: {}", printable(&describe(&event)))
        }
        Some(_) | None => event_type.to_string(),
    }
}

#[cfg(test)]
mod tests;
