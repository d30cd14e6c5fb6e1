//! The fold with its way there: every move of a channel, every withdrawal, every switch of a node.
//!
//! Two clocks are kept apart everywhere: `stored_at` is the server's (what was known when), `happened_at` the
//! source's (a node that was offline for days reports late).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{FleetHistory, StoredMessage, is_same_switch, read};
use crate::digest::Sha256Digest;
use crate::event::{
    BundleEvent, DownloadFailed, FallbackSource, Loaded, Promoted, Published, Reverted, VerificationFailed, Withdrawn,
};
use crate::event_envelope::EventEnvelope;
use crate::event_type::EventType;
use crate::identifiers::{BundleName, ChannelName, EventId, Incarnation, NodeName, Tag};
use crate::source::Source;

/// When something was recorded and when it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Stream sequence of the event that says so.
    pub stream_sequence: u64,
    /// When the server stored the event, by the server's clock.
    pub stored_at: DateTime<Utc>,
    /// When it happened, by its source's clock.
    pub happened_at: DateTime<Utc>,
    /// The event's id.
    pub event_id: EventId,
}

/// One move of a channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChannelMove {
    /// When.
    #[serde(flatten)]
    pub moment: Moment,
    /// The source that wrote it.
    pub written_by: Source,
    /// Where it points now, why, and who moved it.
    #[serde(flatten)]
    pub promoted: Promoted,
}

/// A release as it was first announced.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Announcement {
    /// When.
    #[serde(flatten)]
    pub moment: Moment,
    /// The source that wrote it.
    pub written_by: Source,
    /// The release.
    #[serde(flatten)]
    pub published: Published,
}

/// One withdrawal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Withdrawal {
    /// When.
    #[serde(flatten)]
    pub moment: Moment,
    /// The source that wrote it.
    pub written_by: Source,
    /// Which tree and content must not run again, why, and who says so.
    #[serde(flatten)]
    pub withdrawn: Withdrawn,
}

/// One switch of a node to a release.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activation {
    /// When.
    #[serde(flatten)]
    pub moment: Moment,
    /// What it runs since.
    #[serde(flatten)]
    pub loaded: Loaded,
    /// Whether the node went there for want of what was desired: back after a failed health check, or to the schemas
    /// compiled into it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_retreat: bool,
}

/// Something a node could not do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeFailure {
    /// When.
    #[serde(flatten)]
    pub moment: Moment,
    /// The type of the event that says so.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The release it failed on.
    pub tag: Tag,
    /// What failed, in words.
    pub what: String,
    /// What an operator can do.
    pub remediation: String,
    /// The release that kept running.
    pub running_tag: Option<Tag>,
    /// How many further attempts failed in the same way.
    pub repeats: u64,
}

/// A release that a node holds verified.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagedRelease {
    /// When.
    #[serde(flatten)]
    pub moment: Moment,
    /// The release.
    pub tag: Tag,
    /// Its tree digest.
    pub tree_digest: Sha256Digest,
}

/// What a node did with one bundle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeTimeline {
    /// Every switch, oldest first.
    pub activations: Vec<Activation>,
    /// What it has staged since its last switch.
    pub staged: Option<StagedRelease>,
    /// Its last failure, whether or not it has switched since.
    pub last_failure: Option<NodeFailure>,
    /// What it runs instead of what is desired, where it said so since it last switched to a desired release.
    pub fallback: Option<FallbackSource>,
    /// Whether its files are not those of the release it runs, where it said so since it last switched.
    pub tampered: bool,
    /// Its last event.
    pub last_word: Moment,
    /// The writer of its last event.
    pub incarnation: Incarnation,
}

impl NodeTimeline {
    /// The switch to the release that runs.
    pub fn active(&self) -> Option<&Activation> {
        self.activations.last()
    }

    /// The failure that has not been followed by a switch to what was desired. Going back or over to a fallback is
    /// none: it comes with the failure.
    pub fn failing(&self) -> Option<&NodeFailure> {
        let chosen = self.activations.iter().rev().find(|activation| !activation.is_retreat);
        let switched = chosen.map_or(0, |active| active.moment.stream_sequence);
        self.last_failure.as_ref().filter(|failure| failure.moment.stream_sequence > switched)
    }

    fn switched(&mut self, moment: Moment, loaded: Loaded, is_retreat: bool) {
        self.staged = None;
        self.fallback = None;
        self.tampered = false;
        self.activations.push(Activation { moment, loaded, is_retreat });
    }
}

/// One span of time in which a node ran a release.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Adoption {
    /// The node.
    pub node: NodeName,
    /// The switch to the release.
    pub since: Moment,
    /// The switch to the next one; `None` while it runs.
    pub until: Option<Moment>,
}

/// The state that a prefix of the log gives, with the way there.
///
/// Total and idempotent like [`FleetHistory`], which it contains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetTimeline {
    /// The heads.
    pub state: FleetHistory,
    /// Every channel's moves, oldest first, never empty.
    pub moves: BTreeMap<(BundleName, ChannelName), Vec<ChannelMove>>,
    /// Every release's first announcement.
    pub announcements: BTreeMap<(BundleName, Tag), Announcement>,
    /// Every withdrawal, oldest first.
    pub withdrawals: Vec<Withdrawal>,
    /// Every node's way, per bundle.
    pub nodes: BTreeMap<(NodeName, BundleName), NodeTimeline>,
    /// How many events were left out because they happened later.
    pub left_out: u64,
    /// Server time of the last message read.
    pub last_stored_at: Option<DateTime<Utc>>,
    happened_by: Option<DateTime<Utc>>,
}

impl FleetTimeline {
    /// A timeline that leaves out every event that happened after `time` by its source's clock.
    pub fn as_it_happened_by(time: DateTime<Utc>) -> Self {
        Self { happened_by: Some(time), ..Self::default() }
    }

    /// Applies the next message. One at or below the last applied sequence changes nothing.
    pub fn apply(&mut self, message: StoredMessage<'_>) {
        if message.stream_sequence <= self.state.last_sequence {
            return;
        }
        self.last_stored_at = Some(message.stored_at);
        match read(message.subject, message.payload) {
            Ok(envelope) if self.happened_by.is_some_and(|limit| envelope.time > limit) => {
                self.left_out += 1;
                self.state.last_sequence = message.stream_sequence;
            }
            Ok(envelope) => {
                let moment = Moment {
                    stream_sequence: message.stream_sequence,
                    stored_at: message.stored_at,
                    happened_at: envelope.time,
                    event_id: envelope.id,
                };
                self.record(&envelope, moment);
                self.state.apply_event(envelope, message.stream_sequence, message.stored_at);
            }
            Err(reason) => self.state.refuse(message, reason),
        }
    }

    fn record(&mut self, envelope: &EventEnvelope, moment: Moment) {
        let written_by = envelope.source.clone();
        match &envelope.event {
            BundleEvent::Published(data) => {
                let announcement = Announcement { moment, written_by, published: data.clone() };
                self.announcements.entry((data.bundle.clone(), data.tag.clone())).or_insert(announcement);
            }
            BundleEvent::Promoted(data) => {
                let key = (data.bundle.clone(), data.channel.clone());
                self.moves.entry(key).or_default().push(ChannelMove { moment, written_by, promoted: data.clone() });
            }
            BundleEvent::Withdrawn(data) => {
                self.withdrawals.push(Withdrawal { moment, written_by, withdrawn: data.clone() });
                let holders = self.nodes.iter_mut().filter(|((_, bundle), _)| *bundle == data.bundle);
                holders.for_each(|(_, node)| {
                    node.staged.take_if(|staged| staged.tree_digest == data.tree_digest);
                });
            }
            BundleEvent::RefreshAttempt(data) => {
                self.node(envelope, &data.bundle, moment);
            }
            BundleEvent::Staged(data) => {
                if let Some(node) = self.node(envelope, &data.bundle, moment) {
                    let (tag, tree_digest) = (data.tag.clone(), data.tree_digest);
                    node.staged = Some(StagedRelease { moment, tag, tree_digest });
                }
            }
            BundleEvent::Loaded(data) => {
                if let Some(node) = self.node(envelope, &data.bundle, moment) {
                    node.switched(moment, data.clone(), false);
                }
            }
            BundleEvent::VerificationFailed(data) => {
                if let Some(node) = self.node(envelope, &data.bundle, moment).filter(|_| !data.ahead) {
                    node.last_failure = Some(verification_failure(moment, data));
                }
            }
            BundleEvent::DownloadFailed(data) => {
                if let Some(node) = self.node(envelope, &data.bundle, moment).filter(|_| !data.ahead) {
                    node.last_failure = Some(download_failure(moment, data));
                }
            }
            BundleEvent::FallbackActivated(data) => {
                if let Some(node) = self.node(envelope, &data.bundle, moment) {
                    let told =
                        |loaded: &Loaded| node.active().is_some_and(|active| is_same_switch(&active.loaded, loaded));
                    if let Some(loaded) = data.as_loaded().filter(|loaded| !told(loaded)) {
                        node.switched(moment, loaded, true);
                    }
                    node.fallback = Some(data.source);
                }
            }
            BundleEvent::StaleDetected(data) => {
                self.node(envelope, &data.bundle, moment);
            }
            BundleEvent::UpdateDetected(data) => {
                self.node(envelope, &data.bundle, moment);
            }
            BundleEvent::TamperDetected(data) => {
                if let Some(node) = self.node(envelope, &data.bundle, moment) {
                    node.tampered = !data.healed;
                }
            }
            BundleEvent::Reverted(data) => {
                if let Some(node) = self.node(envelope, &data.bundle, moment) {
                    let running = data.restored.as_ref().map_or(&data.tag, |restored| &restored.tag).clone();
                    if let Some(loaded) = data.as_loaded() {
                        node.switched(moment, loaded, true);
                    }
                    node.last_failure = Some(health_failure(moment, data, Some(running)));
                }
            }
            // The heads say all there is to say about these.
            BundleEvent::EpochStarted(_) | BundleEvent::Checkpointed(_) | BundleEvent::Unknown(_) => {}
        }
    }

    fn node(&mut self, envelope: &EventEnvelope, bundle: &BundleName, moment: Moment) -> Option<&mut NodeTimeline> {
        let Source::Node(name) = &envelope.source else { return None };
        let node = self.nodes.entry((name.clone(), bundle.clone())).or_insert_with(|| NodeTimeline {
            activations: Vec::new(),
            staged: None,
            last_failure: None,
            fallback: None,
            tampered: false,
            last_word: moment,
            incarnation: envelope.incarnation,
        });
        node.last_word = moment;
        node.incarnation = envelope.incarnation;
        Some(node)
    }

    /// Which nodes ran which release, from when to when, in the order of their switches. Every release that some node
    /// ran has an entry.
    pub fn adoptions(&self) -> BTreeMap<(BundleName, Tag), Vec<Adoption>> {
        let mut adoptions: BTreeMap<(BundleName, Tag), Vec<Adoption>> = BTreeMap::new();
        for ((node, bundle), timeline) in &self.nodes {
            let next = timeline.activations.iter().skip(1).map(|next| Some(next.moment)).chain([None]);
            for (activation, until) in timeline.activations.iter().zip(next) {
                let adoption = Adoption { node: node.clone(), since: activation.moment, until };
                adoptions.entry((bundle.clone(), activation.loaded.tag.clone())).or_default().push(adoption);
            }
        }
        for spans in adoptions.values_mut() {
            spans.sort_by_key(|span| span.since.stream_sequence);
        }
        adoptions
    }

    /// The move that made a node switch: the one by which its channel came to point at that release, before the
    /// switch. Freezes, thaws and promotions of the same release behind it are not it. `None` for a pinned node.
    pub fn promotion_behind(&self, activation: &Activation) -> Option<&ChannelMove> {
        let loaded = &activation.loaded;
        let moves = self.moves.get(&(loaded.bundle.clone(), loaded.channel.clone()?))?;
        let before = moves.partition_point(|step| step.moment.stream_sequence < activation.moment.stream_sequence);
        let newest_first = moves[..before].iter().rev().skip_while(|step| step.promoted.tag != loaded.tag);
        newest_first.take_while(|step| step.promoted.tag == loaded.tag).last()
    }

    /// The withdrawal of a tree, where there is one.
    pub fn withdrawal_of(&self, tree_digest: Sha256Digest) -> Option<&Withdrawal> {
        self.withdrawals.iter().find(|withdrawal| withdrawal.withdrawn.tree_digest == tree_digest)
    }
}

fn verification_failure(moment: Moment, data: &VerificationFailed) -> NodeFailure {
    NodeFailure {
        moment,
        event_type: EventType::VerificationFailed,
        tag: data.tag.clone(),
        what: format!("{}: expected {}, actual {}", data.item, data.expected, data.actual),
        remediation: data.remediation.clone(),
        running_tag: data.running_tag.clone(),
        repeats: data.repeats,
    }
}

fn download_failure(moment: Moment, data: &DownloadFailed) -> NodeFailure {
    let network = data.network_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    NodeFailure {
        moment,
        event_type: EventType::DownloadFailed,
        tag: data.tag.clone(),
        what: format!("{}{network}", data.error),
        remediation: data.remediation.clone(),
        running_tag: data.running_tag.clone(),
        repeats: data.repeats,
    }
}

fn health_failure(moment: Moment, data: &Reverted, running_tag: Option<Tag>) -> NodeFailure {
    NodeFailure {
        moment,
        event_type: EventType::Reverted,
        tag: data.tag.clone(),
        what: format!("the health check failed: {}", data.check),
        remediation: data.remediation.clone(),
        running_tag,
        repeats: 0,
    }
}

#[cfg(test)]
mod tests;
