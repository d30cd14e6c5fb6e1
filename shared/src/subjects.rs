//! Every subject, stream and object name of the wire is built and parsed here and nowhere else.
//!
//! Described in `docs/ARCHITECTURE.md`, "Names on the wire".
//!
//! A stored event's subject has exactly five tokens: `bundle.<event>.<bundle>.<scope>.<id>`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::event_type::EventType;
use crate::identifiers::{BundleName, ChannelName, IdentifierError, NodeName, RESERVED_BUNDLE, Tag};

/// The event stream.
pub const EVENT_STREAM: &str = "BUNDLE_EVENTS";
/// All subjects of the event stream.
pub const EVENT_SUBJECTS: &str = "bundle.>";
/// What the server puts before a stored event's subject when it republishes it.
pub const LIVE_PREFIX: &str = "live.";
/// The object store bucket that holds releases.
pub const RELEASE_BUCKET: &str = "BUNDLES";
/// Below it, nodes that read the same object at the same time hear what one of them has asked for.
pub const MULTICAST_PREFIX: &str = "multicast.";
/// Word in a multicast subject: an answer with chunks of the object.
pub const MULTICAST_CHUNKS: &str = "chunk";
/// Word in a multicast subject: an answer that only shows that a reader is there.
pub const MULTICAST_PRESENCE: &str = "present";
/// The key-value bucket with one entry a node.
pub const NODE_TABLE: &str = "BUNDLE_NODES";

/// What an event is about: the last two tokens of its subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A release of the bundle.
    Release(Tag),
    /// A channel of the bundle.
    Channel(ChannelName),
    /// A node that runs the bundle.
    Node(NodeName),
    /// The stream itself (only under the reserved bundle name `log`).
    Stream(String),
}

impl Scope {
    /// The scope's token: `release`, `channel`, `node` or `stream`.
    pub fn token(&self) -> &'static str {
        match self {
            Self::Release(_) => "release",
            Self::Channel(_) => "channel",
            Self::Node(_) => "node",
            Self::Stream(_) => "stream",
        }
    }
}

/// Subject of one stored event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventSubject {
    event_type: EventType,
    /// `None` stands for the reserved bundle name `log`.
    bundle: Option<BundleName>,
    scope: Scope,
}

/// A subject that no event of ours can have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubjectError {
    /// Not five tokens that begin with `bundle`.
    #[error("subject `{0}` is not of the form `bundle.<event>.<bundle>.<scope>.<id>`")]
    Shape(String),
    /// A scope token we do not know.
    #[error("subject `{0}` has an unknown scope")]
    Scope(String),
    /// A token that is no valid name.
    #[error("subject `{subject}` has a token that is no valid name")]
    Name {
        /// The subject.
        subject: String,
        /// Which token and why.
        #[source]
        source: IdentifierError,
    },
}

impl EventSubject {
    /// Subject of an event about a bundle.
    pub fn new(event_type: EventType, bundle: BundleName, scope: Scope) -> Self {
        Self { event_type, bundle: Some(bundle), scope }
    }

    /// Subject of the event that begins a log's epoch: `bundle.epoch_started.log.stream.<stream>`.
    pub fn epoch_started(stream: &str) -> Self {
        Self { event_type: EventType::EpochStarted, bundle: None, scope: Scope::Stream(stream.to_owned()) }
    }

    /// Subject whose last message is the log's newest checkpoint: `bundle.checkpointed.log.stream.<stream>`.
    pub fn checkpointed(stream: &str) -> Self {
        Self { event_type: EventType::Checkpointed, bundle: None, scope: Scope::Stream(stream.to_owned()) }
    }

    /// Subject whose last message is the channel's head.
    pub fn channel_head(bundle: &BundleName, channel: &ChannelName) -> Self {
        Self::new(EventType::Promoted, bundle.clone(), Scope::Channel(channel.clone()))
    }

    /// Subject whose last message describes the release.
    pub fn release_announcement(bundle: &BundleName, tag: &Tag) -> Self {
        Self::new(EventType::Published, bundle.clone(), Scope::Release(tag.clone()))
    }

    /// The event's type.
    pub fn event_type(&self) -> &EventType {
        &self.event_type
    }

    /// The bundle, or `None` for events about the log itself.
    pub fn bundle(&self) -> Option<&BundleName> {
        self.bundle.as_ref()
    }

    /// What the event is about.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl fmt::Display for EventSubject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bundle = self.bundle.as_ref().map_or(RESERVED_BUNDLE, BundleName::as_str);
        write!(formatter, "bundle.{}.{bundle}.{}.", self.event_type.token(), self.scope.token())?;
        match &self.scope {
            Scope::Release(tag) => formatter.write_str(&tag.to_subject_token()),
            Scope::Channel(channel) => formatter.write_str(channel.as_str()),
            Scope::Node(node) => formatter.write_str(node.as_str()),
            Scope::Stream(stream) => formatter.write_str(stream),
        }
    }
}

impl FromStr for EventSubject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let mut tokens = tokens(text);
        let mut next = || tokens.next();
        let (Some("bundle"), Some(event), Some(bundle), Some(scope), Some(id), None) =
            (next(), next(), next(), next(), next(), next())
        else {
            return Err(SubjectError::Shape(shortened(text)));
        };
        let name = |source| SubjectError::Name { subject: shortened(text), source };
        let event_type = EventType::from_token(event).ok_or_else(|| SubjectError::Shape(shortened(text)))?;
        let scope = match scope {
            "release" => Scope::Release(Tag::from_subject_token(id).map_err(name)?),
            "channel" => Scope::Channel(id.parse().map_err(name)?),
            "node" => Scope::Node(id.parse().map_err(name)?),
            "stream" if id.parse::<ChannelName>().is_ok() => Scope::Stream(id.to_owned()),
            _ => return Err(SubjectError::Scope(shortened(text))),
        };
        let bundle = if bundle == RESERVED_BUNDLE { None } else { Some(bundle.parse().map_err(name)?) };
        Ok(Self { event_type, bundle, scope })
    }
}

/// What stands between the dots; tokens are short, which a plain walk suits better than a search.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let left = rest?;
        let end = left.bytes().position(|byte| byte == b'.');
        rest = end.and_then(|end| left.get(end + 1..));
        left.get(..end.unwrap_or(left.len()))
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(160).flat_map(char::escape_default).collect()
}

/// Filter for everything one node reports: what its credentials allow it to publish, and the aggregate over
/// which its appends are ordered.
pub fn node_filter(node: &NodeName) -> String {
    format!("bundle.*.*.node.{node}")
}

/// Filter for all withdrawals of a bundle's releases.
pub fn withdrawals_filter(bundle: &BundleName) -> String {
    format!("bundle.{}.{bundle}.release.*", EventType::Withdrawn.token())
}

/// Filter for all announcements of a bundle's releases.
pub fn announcements_filter(bundle: &BundleName) -> String {
    format!("bundle.{}.{bundle}.release.*", EventType::Published.token())
}

/// Filter for the announcements of every bundle's releases.
pub fn all_announcements_filter() -> String {
    format!("bundle.{}.*.release.*", EventType::Published.token())
}

/// Filter for the heads of all channels of a bundle.
pub fn channel_heads_filter(bundle: &BundleName) -> String {
    format!("bundle.{}.{bundle}.channel.*", EventType::Promoted.token())
}

/// The live subjects that an agent of this bundle listens to, and no others: hearing each other's reports
/// would cost a fleet the square of its size in deliveries.
pub fn live_wake_ups(bundle: &BundleName) -> Vec<String> {
    [EventType::Published, EventType::Promoted, EventType::Withdrawn]
        .map(|event_type| format!("{LIVE_PREFIX}bundle.{}.{bundle}.>", event_type.token()))
        .to_vec()
}

/// What every multicast subject about one write of an object begins with; `<reader>.chunk.<clock>` or `<reader>.present`
/// follow.
pub fn multicast_prefix(nuid: &str) -> String {
    format!("{MULTICAST_PREFIX}{RELEASE_BUCKET}.{nuid}.")
}

/// All multicast subjects: what a node's credentials must allow it to listen to.
pub fn multicast_filter() -> String {
    format!("{MULTICAST_PREFIX}{RELEASE_BUCKET}.>")
}

/// Name of a release's archive in the bucket.
pub fn archive_object(bundle: &BundleName, tag: &Tag) -> String {
    format!("{bundle}/{tag}.tar.zst")
}

/// Name of a release's `release.json` in the bucket.
pub fn release_object(bundle: &BundleName, tag: &Tag) -> String {
    format!("{bundle}/{tag}.release.json")
}

/// Name in the bucket of what turns the release `base` into the release `tag`.
pub fn delta_object(bundle: &BundleName, tag: &Tag, base: &Tag) -> String {
    format!("{bundle}/{tag}.from.{base}.delta")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bundle() -> BundleName {
        "contracts".parse().unwrap()
    }

    #[test]
    fn subjects_read_as_designed() {
        let tag: Tag = "contracts-20250921-0658fb8b".parse().unwrap();
        assert_eq!(
            EventSubject::release_announcement(&bundle(), &tag).to_string(),
            "bundle.published.contracts.release.contracts-20250921-0658fb8b"
        );
        assert_eq!(
            EventSubject::channel_head(&bundle(), &"latest".parse().unwrap()).to_string(),
            "bundle.promoted.contracts.channel.latest"
        );
        assert_eq!(
            EventSubject::epoch_started(EVENT_STREAM).to_string(),
            "bundle.epoch_started.log.stream.BUNDLE_EVENTS"
        );
        assert_eq!(node_filter(&"edge-17".parse().unwrap()), "bundle.*.*.node.edge-17");
        assert_eq!(
            (multicast_prefix("N"), multicast_filter()),
            ("multicast.BUNDLES.N.".into(), "multicast.BUNDLES.>".into())
        );
        assert_eq!(
            live_wake_ups(&bundle()),
            [
                "live.bundle.published.contracts.>",
                "live.bundle.promoted.contracts.>",
                "live.bundle.withdrawn.contracts.>"
            ]
        );
    }

    #[test]
    fn a_dotted_tag_stays_one_token() {
        let subject = EventSubject::release_announcement(&bundle(), &"v1.2".parse().unwrap());
        assert_eq!(subject.to_string(), "bundle.published.contracts.release.v1%2E2");
        assert_eq!(subject.to_string().parse::<EventSubject>().unwrap(), subject);
    }

    #[test]
    fn an_unknown_event_type_is_kept() {
        let text = "bundle.approved.contracts.channel.production";
        let subject: EventSubject = text.parse().unwrap();
        assert_eq!(subject.event_type().to_string(), "bundle.approved");
        assert_eq!(subject.to_string(), text);
    }

    #[test]
    fn other_shapes_are_refused() {
        for bad in [
            "",
            "bundle",
            "bundle.a.b.node",
            "bundle.a.b.node.c.d",
            "x.loaded.b.node.c",
            "bundle.loaded.b.star.c",
            "bundle.loaded.*.node.c",
            "bundle..b.node.c",
            "bundle.loaded.b.node.a b",
        ] {
            assert!(bad.parse::<EventSubject>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_prints_the_same(text in "(bundle\\.)?[a-z_%.*>A-Z0-9-]{0,60}") {
            if let Ok(subject) = text.parse::<EventSubject>() {
                prop_assert_eq!(subject.to_string(), text);
            }
        }
    }
}
