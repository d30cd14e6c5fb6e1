//! The fold: what the log says about channels, releases and nodes.
//!
//! Described in `docs/ARCHITECTURE.md`, "Walk-through: history is replayed".
//!
//! [`FleetHistory`] holds the heads only: what is the case after a prefix of the log. [`timeline::FleetTimeline`] keeps
//! the way there too: every move, withdrawal and switch, with the times of both clocks.
//!
//! Total and idempotent: no order of events and no payload makes it fail, and an event that was applied before
//! changes nothing. What cannot be applied is counted and named, never dropped silently.

pub mod difference;
#[cfg(test)]
pub(crate) mod sample_events;
pub mod timeline;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::digest::Sha256Digest;
use crate::event::{BundleEvent, FallbackSource, Loaded, Promoted, Published};
use crate::event_envelope::EventEnvelope;
use crate::event_type::EventType;
use crate::identifiers::{BundleName, ChannelName, Incarnation, NodeName, Tag};
use crate::source::Source;
use crate::subjects::EventSubject;

/// One message of the stream, as the fold needs it.
#[derive(Debug, Clone, Copy)]
pub struct StoredMessage<'a> {
    /// Its stream sequence.
    pub stream_sequence: u64,
    /// When the server stored it.
    pub stored_at: DateTime<Utc>,
    /// The subject it is stored under.
    pub subject: &'a str,
    /// The stored payload.
    pub payload: &'a [u8],
}

/// A channel: where it points, and since when.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelState {
    /// Its head.
    pub head: Promoted,
    /// Stream sequence of the head.
    pub stream_sequence: u64,
    /// When the server stored the head.
    pub since: DateTime<Utc>,
    /// How often the channel moved.
    pub moves: u64,
}

/// What a node last said about one bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// The release it runs, since when by its own clock, and the event that said so.
    pub active: Option<(Loaded, DateTime<Utc>)>,
    /// The release it holds verified but has not switched to.
    pub staged: Option<Tag>,
    /// Its last failure since it last switched: the release and the event's type.
    pub failure: Option<(Tag, EventType)>,
    /// What it runs instead of what is desired, where it said so since it last switched to a desired release.
    pub fallback: Option<FallbackSource>,
    /// Whether its files are not those of the release it runs, where it said so since it last switched.
    pub tampered: bool,
    /// Stream sequence of its last event.
    pub stream_sequence: u64,
    /// The writer of its last event; two live ones under one name mean two agents.
    pub incarnation: Incarnation,
}

/// A message the fold could not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Oddity {
    /// Its stream sequence.
    pub stream_sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Why it was not applied.
    pub reason: String,
}

/// The state that a prefix of the log gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetHistory {
    /// The log's epoch.
    pub epoch: Option<Incarnation>,
    /// Every channel.
    pub channels: BTreeMap<(BundleName, ChannelName), ChannelState>,
    /// Every announced release with the stream sequence of its first announcement.
    pub releases: BTreeMap<(BundleName, Tag), (Published, u64)>,
    /// Tree digests that must never run again.
    pub withdrawn: BTreeSet<Sha256Digest>,
    /// Every node, per bundle.
    pub nodes: BTreeMap<(NodeName, BundleName), NodeState>,
    /// Events of unknown type or newer schema, by type.
    pub unknown: BTreeMap<String, u64>,
    /// Messages that are no valid events, or contradict their subject.
    pub oddities: Vec<Oddity>,
    /// Stream sequence of the last message applied.
    pub last_sequence: u64,
}

impl FleetHistory {
    /// Applies the next message. One at or below the last applied sequence changes nothing.
    pub fn apply(&mut self, message: StoredMessage<'_>) {
        if message.stream_sequence > self.last_sequence {
            self.apply_read(message, read(message.subject, message.payload));
        }
    }

    /// The same for a message that was [read](read()) already; its payload is not looked at again.
    pub fn apply_read(&mut self, message: StoredMessage<'_>, read: Result<EventEnvelope, String>) {
        if message.stream_sequence <= self.last_sequence {
            return;
        }
        match read {
            Ok(envelope) => self.apply_event(envelope, message.stream_sequence, message.stored_at),
            Err(reason) => self.refuse(message, reason),
        }
    }

    fn refuse(&mut self, message: StoredMessage<'_>, reason: String) {
        self.last_sequence = message.stream_sequence;
        self.oddities.push(Oddity {
            stream_sequence: message.stream_sequence,
            subject: message.subject.to_owned(),
            reason,
        });
    }

    fn apply_event(&mut self, envelope: EventEnvelope, sequence: u64, stored_at: DateTime<Utc>) {
        self.last_sequence = sequence;
        let EventEnvelope { source, time, incarnation, event, .. } = envelope;
        match event {
            BundleEvent::EpochStarted(data) => self.epoch = Some(data.epoch),
            // Says nothing about the fleet, but about the log.
            BundleEvent::Checkpointed(_) => {}
            BundleEvent::Published(data) => {
                self.releases.entry((data.bundle.clone(), data.tag.clone())).or_insert((data, sequence));
            }
            BundleEvent::Promoted(data) => {
                let key = (data.bundle.clone(), data.channel.clone());
                let moves = self.channels.get(&key).map_or(0, |channel| channel.moves) + 1;
                self.channels
                    .insert(key, ChannelState { head: data, stream_sequence: sequence, since: stored_at, moves });
            }
            BundleEvent::Withdrawn(data) => {
                self.withdrawn.insert(data.tree_digest);
                // Whoever holds it will not run it.
                let holders = self.nodes.iter_mut().filter(|((_, bundle), _)| *bundle == data.bundle);
                holders.for_each(|(_, node)| {
                    node.staged.take_if(|staged| *staged == data.tag);
                });
            }
            BundleEvent::RefreshAttempt(data) => {
                self.node(source, data.bundle, sequence, incarnation);
            }
            BundleEvent::Staged(data) => {
                if let Some(node) = self.node(source, data.bundle, sequence, incarnation) {
                    node.staged = Some(data.tag);
                }
            }
            BundleEvent::Loaded(data) => {
                if let Some(node) = self.node(source, data.bundle.clone(), sequence, incarnation) {
                    node.failure = None;
                    node.switched(data, time);
                }
            }
            BundleEvent::VerificationFailed(data) => {
                let ahead = data.ahead;
                if let Some(node) = self.node(source, data.bundle, sequence, incarnation).filter(|_| !ahead) {
                    node.failure = Some((data.tag, EventType::VerificationFailed));
                }
            }
            BundleEvent::DownloadFailed(data) => {
                let ahead = data.ahead;
                if let Some(node) = self.node(source, data.bundle, sequence, incarnation).filter(|_| !ahead) {
                    node.failure = Some((data.tag, EventType::DownloadFailed));
                }
            }
            BundleEvent::FallbackActivated(data) => {
                if let Some(node) = self.node(source, data.bundle.clone(), sequence, incarnation) {
                    if let Some(loaded) = data.as_loaded().filter(|loaded| !node.runs_since(loaded)) {
                        node.switched(loaded, time);
                    }
                    node.fallback = Some(data.source);
                }
            }
            BundleEvent::StaleDetected(data) => {
                self.node(source, data.bundle, sequence, incarnation);
            }
            BundleEvent::UpdateDetected(data) => {
                self.node(source, data.bundle, sequence, incarnation);
            }
            BundleEvent::TamperDetected(data) => {
                if let Some(node) = self.node(source, data.bundle, sequence, incarnation) {
                    node.tampered = !data.healed;
                }
            }
            BundleEvent::Reverted(data) => {
                if let Some(node) = self.node(source, data.bundle.clone(), sequence, incarnation) {
                    if let Some(loaded) = data.as_loaded() {
                        node.switched(loaded, time);
                    }
                    node.failure = Some((data.tag, EventType::Reverted));
                }
            }
            BundleEvent::Unknown(data) => *self.unknown.entry(data.event_type.to_string()).or_default() += 1,
        }
    }

    fn node(
        &mut self,
        source: Source,
        bundle: BundleName,
        sequence: u64,
        incarnation: Incarnation,
    ) -> Option<&mut NodeState> {
        let Source::Node(name) = source else { return None };
        let node = self.nodes.entry((name, bundle)).or_insert(NodeState {
            active: None,
            staged: None,
            failure: None,
            fallback: None,
            tampered: false,
            stream_sequence: 0,
            incarnation,
        });
        node.stream_sequence = sequence;
        node.incarnation = incarnation;
        Some(node)
    }
}

impl NodeState {
    /// Whether this is the switch that was told last, told again for another reason.
    fn runs_since(&self, loaded: &Loaded) -> bool {
        self.active.as_ref().is_some_and(|(active, _)| is_same_switch(active, loaded))
    }

    /// A switch leaves everything behind that was said of the release before, its failures excepted.
    fn switched(&mut self, loaded: Loaded, time: DateTime<Utc>) {
        self.staged = None;
        self.fallback = None;
        self.tampered = false;
        self.active = Some((loaded, time));
    }
}

/// Whether two events of one node are about one switch: a fallback is told anew where something else is wanted, and after
/// the event of the revert that led to it.
fn is_same_switch(one: &Loaded, other: &Loaded) -> bool {
    (one.activation_epoch, one.tree_digest) == (other.activation_epoch, other.tree_digest)
}

/// Reads a stored message as an event that belongs under its subject, or says in words why it is none.
pub fn read(subject: &str, payload: &[u8]) -> Result<EventEnvelope, String> {
    let envelope = EventEnvelope::parse(payload);
    if envelope.as_ref().is_ok_and(|envelope| envelope.is_nodes_own_under(subject)) {
        return envelope.map_err(|error| error.to_string());
    }
    let parsed: EventSubject = subject.parse().map_err(|error| format!("{error}"))?;
    let envelope = envelope.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{cause}")
    })?;
    if envelope.belongs_under(&parsed) {
        Ok(envelope)
    } else {
        Err(format!("event `{}` by `{}` contradicts its subject", envelope.event.event_type(), envelope.source))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::sample_events::{
        any_message, attempt, download_failed, fallback, loaded, promoted, reverted, stored, tampered,
    };
    use super::*;

    fn fold<'a>(messages: impl IntoIterator<Item = &'a (String, Vec<u8>)>) -> FleetHistory {
        let mut history = FleetHistory::default();
        for (number, (subject, payload)) in messages.into_iter().enumerate() {
            history.apply(StoredMessage {
                stream_sequence: number as u64 + 1,
                stored_at: DateTime::UNIX_EPOCH,
                subject,
                payload,
            });
        }
        history
    }

    #[test]
    fn a_channel_points_at_its_last_promotion_and_a_node_runs_what_it_loaded_last() {
        let history = fold(&[
            stored("/operators/ada", promoted("latest", "v1")),
            stored("/nodes/edge-17", loaded("v1")),
            stored("/operators/ada", promoted("latest", "v2")),
            stored("/nodes/edge-17", attempt("v2")),
        ]);
        let channel = &history.channels[&("contracts".parse().unwrap(), "latest".parse().unwrap())];
        assert_eq!((channel.head.tag.as_str(), channel.moves, channel.stream_sequence), ("v2", 2, 3));
        let node = &history.nodes[&("edge-17".parse().unwrap(), "contracts".parse().unwrap())];
        assert_eq!(node.active.as_ref().unwrap().0.tag.as_str(), "v1");
        assert_eq!(node.stream_sequence, 4);
    }

    #[test]
    fn a_reverted_node_runs_what_was_restored_and_one_on_its_built_in_schemas_says_so() {
        let node = |events: &[BundleEvent]| {
            let messages: Vec<_> = events.iter().map(|event| stored("/nodes/edge-17", event.clone())).collect();
            fold(&messages).nodes.into_values().next().unwrap()
        };
        let runs = |node: &NodeState| node.active.as_ref().unwrap().0.tag.to_string();

        let after = node(&[loaded("v1"), loaded("v2"), reverted("v2", Some("v1"))]);
        assert_eq!(
            (runs(&after), after.failure),
            ("v1".to_owned(), Some(("v2".parse().unwrap(), EventType::Reverted)))
        );
        let after = node(&[loaded("v2"), reverted("v2", None)]);
        assert_eq!(runs(&after), "v2", "nothing to go back to");
        let after = node(&[loaded("v1"), fallback(FallbackSource::LastGood, "v1")]);
        assert_eq!((runs(&after), after.fallback), ("v1".to_owned(), Some(FallbackSource::LastGood)));
        let after = node(&[loaded("v1"), fallback(FallbackSource::Embedded, "built-in")]);
        assert_eq!((runs(&after), after.fallback), ("built-in".to_owned(), Some(FallbackSource::Embedded)));
        let after = node(&[fallback(FallbackSource::Embedded, "built-in"), loaded("v1")]);
        assert_eq!((runs(&after), after.fallback), ("v1".to_owned(), None));
        assert!(node(&[loaded("v1"), tampered("v1", false)]).tampered);
        assert!(!node(&[loaded("v1"), tampered("v1", false), tampered("v1", true)]).tampered);
        assert!(!node(&[loaded("v1"), tampered("v1", false), loaded("v2")]).tampered);
    }

    #[test]
    fn a_release_that_could_not_be_had_before_it_is_promoted_is_no_failure_of_the_node() {
        let failure = |ahead| {
            let BundleEvent::DownloadFailed(failed) = download_failed("v2") else { panic!("it is one") };
            let failed = BundleEvent::from(crate::event::DownloadFailed { ahead, ..failed });
            let history = fold(&[stored("/nodes/edge-17", loaded("v1")), stored("/nodes/edge-17", failed)]);
            let node = history.nodes.into_values().next().unwrap();
            (node.failure.map(|(tag, _)| tag.to_string()), node.stream_sequence)
        };
        assert_eq!(failure(false), (Some("v2".to_owned()), 2));
        assert_eq!(failure(true), (None, 2), "the event counts as the node's last word all the same");
    }

    #[test]
    fn an_event_under_a_foreign_subject_is_reported_and_not_applied() {
        let (_, payload) = stored("/operators/ada", promoted("staging", "v1"));
        let history = fold(&[("bundle.promoted.contracts.channel.production".to_owned(), payload)]);
        assert!(history.channels.is_empty());
        assert_eq!(history.oddities.len(), 1);
    }

    proptest! {
        #[test]
        fn replaying_twice_equals_once(messages in proptest::collection::vec(any_message(), 0..30)) {
            let once = fold(&messages);
            let mut twice = once.clone();
            for (number, (subject, payload)) in messages.iter().enumerate() {
                twice.apply(StoredMessage { stream_sequence: number as u64 + 1, stored_at: DateTime::UNIX_EPOCH, subject, payload });
            }
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn nothing_is_dropped_silently(messages in proptest::collection::vec(any_message(), 0..30)) {
            let history = fold(&messages);
            prop_assert_eq!(history.last_sequence, messages.len() as u64);
            let applied = messages.iter().filter(|(subject, payload)| read(subject, payload).is_ok()).count();
            prop_assert_eq!(applied + history.oddities.len(), messages.len());
        }

        /// What reading the last switches and what came later rests on.
        #[test]
        fn a_switch_leaves_behind_all_that_was_said_of_its_node(
            messages in proptest::collection::vec(any_message(), 0..40),
        ) {
            let whole = fold(&messages);
            let last_switch = |node: &NodeName| {
                messages.iter().rposition(|(subject, payload)| {
                    read(subject, payload).is_ok_and(|envelope| {
                        matches!(envelope.event, BundleEvent::Loaded(_)) && envelope.source == Source::Node(node.clone())
                    })
                })
            };
            for (key, state) in &whole.nodes {
                let mut rest = FleetHistory::default();
                let from = last_switch(&key.0).unwrap_or(0);
                for (number, (subject, payload)) in messages.iter().enumerate().skip(from) {
                    let stream_sequence = number as u64 + 1;
                    rest.apply(StoredMessage { stream_sequence, stored_at: DateTime::UNIX_EPOCH, subject, payload });
                }
                prop_assert_eq!(rest.nodes.get(key), Some(state));
            }
        }
    }
}
