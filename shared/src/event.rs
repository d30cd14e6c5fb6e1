//! The events of the log: every `bundle.*` type with its typed data (DESIGN §5).
//!
//! To add an event: a variant in [`EventType`] and [`BundleEvent`], a data struct, its JSON Schema under
//! `contracts/schemas/`, a golden file under `shared/testdata/events/`. The compiler then points at every
//! place that must decide about it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Sha256Digest;
use crate::event_envelope::Source;
use crate::identifiers::{ActorName, BundleName, ChannelName, Incarnation, NodeName, Tag};
use crate::subjects::{EventSubject, Scope};

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident($data:ident) = $token:literal),+ $(,)?) => {
        /// Type of an event. Its text form is `bundle.<token>`.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $($(#[$doc])* $variant,)+
            /// A type this version does not know; kept, counted, never dropped.
            Other(String),
        }

        impl EventType {
            /// Every type this version knows.
            pub const KNOWN: &[Self] = &[$(Self::$variant),+];

            /// The second token of the event's subject, for example `loaded`.
            pub fn token(&self) -> &str {
                match self {
                    $(Self::$variant => $token,)+
                    Self::Other(token) => token,
                }
            }

            /// The type with this token; `None` if it could not be a token of ours at all.
            pub fn from_token(token: &str) -> Option<Self> {
                match token {
                    $($token => Some(Self::$variant),)+
                    _ => {
                        let valid = (1..=64).contains(&token.len())
                            && token.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
                        valid.then(|| Self::Other(token.to_owned()))
                    }
                }
            }
        }

        /// One event with its data.
        #[derive(Debug, Clone, PartialEq)]
        pub enum BundleEvent {
            $($(#[$doc])* $variant($data),)+
            /// An event whose type or schema version this version does not know.
            Unknown(UnknownEvent),
        }

        impl BundleEvent {
            /// The event's type.
            pub fn event_type(&self) -> EventType {
                match self {
                    $(Self::$variant(_) => EventType::$variant,)+
                    Self::Unknown(unknown) => unknown.event_type.clone(),
                }
            }

            /// The data as JSON.
            pub(crate) fn data(&self) -> Result<Value, serde_json::Error> {
                match self {
                    $(Self::$variant(data) => serde_json::to_value(data),)+
                    Self::Unknown(unknown) => Ok(unknown.data.clone()),
                }
            }

            /// Reads the data of a known type.
            pub(crate) fn from_data(event_type: &EventType, data: Value) -> Result<Self, serde_json::Error> {
                match event_type {
                    $(EventType::$variant => serde_json::from_value(data).map(Self::$variant),)+
                    EventType::Other(_) => Ok(Self::Unknown(UnknownEvent { event_type: event_type.clone(), data })),
                }
            }
        }

        $(impl From<$data> for BundleEvent {
            fn from(data: $data) -> Self {
                Self::$variant(data)
            }
        })+
    };
}

event_types! {
    /// A release is stored whole and verified, and can be fetched.
    Published(Published) = "published",
    /// A channel points at a release: the desired state of every node that follows it.
    Promoted(Promoted) = "promoted",
    /// A release must never run again.
    Withdrawn(Withdrawn) = "withdrawn",
    /// A node begins to fetch a release.
    RefreshAttempt(RefreshAttempt) = "refresh_attempt",
    /// A node holds a release, fetched and verified, not yet active.
    Staged(Staged) = "staged",
    /// A node switched to a release.
    Loaded(Loaded) = "loaded",
    /// A node refused a release whose bytes are not what was announced.
    VerificationFailed(VerificationFailed) = "verification_failed",
    /// A node could not fetch a release.
    DownloadFailed(DownloadFailed) = "download_failed",
    /// A log begins, or begins again after a restore from backup.
    EpochStarted(EpochStarted) = "epoch_started",
}

impl fmt::Display for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("bundle.{}", self.token()))
    }
}

impl EventType {
    /// Name of the JSON Schema of the type's data in `contracts/schemas/`, without `.json`.
    pub fn schema_name(&self) -> String {
        format!("events.{self}.v1")
    }
}

/// Names one object of a release in the bucket, and what its bytes must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReference {
    /// Name in the bucket, for example `contracts/<tag>.tar.zst`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the object's bytes.
    pub sha256: Sha256Digest,
}

/// Where a release's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitFacts {
    /// Commit, 40 lowercase hex digits.
    pub sha: String,
    /// `owner/repository`, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repository: Option<String>,
    /// Full reference, for example `refs/heads/main`, where known.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none", default)]
    pub reference: Option<String>,
}

/// What made a publisher publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person or a script on some machine.
    Local,
    /// The daily schedule.
    Schedule,
    /// A CI workflow that completed.
    WorkflowRun,
    /// A workflow started by hand.
    WorkflowDispatch,
}

impl Trigger {
    /// The trigger's text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Schedule => "schedule",
            Self::WorkflowRun => "workflow_run",
            Self::WorkflowDispatch => "workflow_dispatch",
        }
    }
}

/// Data of `bundle.published`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The bundle.
    pub bundle: BundleName,
    /// The release's tag.
    pub tag: Tag,
    /// The release's identity.
    pub tree_digest: Sha256Digest,
    /// What "unchanged" compares.
    pub content_digest: Sha256Digest,
    /// Number of files.
    pub files: u64,
    /// Bytes of all files together.
    pub total_bytes: u64,
    /// The archive object.
    pub archive: ObjectReference,
    /// The `release.json` object.
    pub release: ObjectReference,
    /// Commit the release was made from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub git: Option<GitFacts>,
    /// What made the publisher publish.
    pub trigger: Trigger,
    /// Who published.
    pub actor: ActorName,
}

/// Why a channel moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionCause {
    /// An automatic publish.
    Publish,
    /// An operator's explicit move forward.
    Promote,
    /// An operator's move back; sets the hold.
    Rollback,
    /// The release the channel pointed at was withdrawn.
    Withdraw,
    /// The channel was frozen where it stands.
    Freeze,
    /// A hold or freeze was lifted where it stands.
    Thaw,
    /// A step of a staged rollout.
    Rollout,
}

/// What may move the channel next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Anything.
    #[default]
    None,
    /// Explicit moves only: an automatic publish leaves the channel alone.
    Held,
    /// Nothing without an override.
    Frozen,
}

/// Data of `bundle.promoted`: the head of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The bundle.
    pub bundle: BundleName,
    /// The channel that moved.
    pub channel: ChannelName,
    /// The release it points at now.
    pub tag: Tag,
    /// That release's tree digest, repeated; a mismatch with `bundle.published` is a verification failure.
    pub tree_digest: Sha256Digest,
    /// The release it pointed at before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous_tag: Option<Tag>,
    /// Why it moved.
    pub cause: PromotionCause,
    /// What may move it next.
    #[serde(default)]
    pub hold: Hold,
    /// The operator's words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Who moved it.
    pub actor: ActorName,
}

/// Data of `bundle.withdrawn`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// The bundle.
    pub bundle: BundleName,
    /// The withdrawn release.
    pub tag: Tag,
    /// Never run this tree again.
    pub tree_digest: Sha256Digest,
    /// Never publish this content again.
    pub content_digest: Sha256Digest,
    /// The operator's words.
    pub reason: String,
    /// Who withdrew it.
    pub actor: ActorName,
}

/// How a node gets a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchStrategy {
    /// The whole archive.
    Archive,
}

/// Data of `bundle.refresh_attempt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshAttempt {
    /// The bundle.
    pub bundle: BundleName,
    /// The release to fetch.
    pub tag: Tag,
    /// Its tree digest.
    pub tree_digest: Sha256Digest,
    /// The release the node runs meanwhile.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_tag: Option<Tag>,
    /// How it will be fetched.
    pub strategy: FetchStrategy,
}

/// Data of `bundle.staged`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The bundle.
    pub bundle: BundleName,
    /// The staged release.
    pub tag: Tag,
    /// Its tree digest, as verified on this node.
    pub tree_digest: Sha256Digest,
    /// How it was fetched.
    pub strategy: FetchStrategy,
    /// Bytes of every object read for it.
    pub wire_bytes: u64,
    /// From the attempt to verified and durable, in milliseconds.
    pub duration_ms: u64,
}

/// Where the bytes of a loaded release came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadSource {
    /// The node had it already.
    Cache,
    /// The whole archive was fetched.
    Download,
    /// A patch of a release the node had.
    Delta,
}

/// Data of `bundle.loaded`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The bundle.
    pub bundle: BundleName,
    /// The release that runs now.
    pub tag: Tag,
    /// Its tree digest.
    pub tree_digest: Sha256Digest,
    /// Its content digest (`bundle_sha256` of a contracts bundle).
    pub content_digest: Sha256Digest,
    /// The channel the node follows; absent where a tag is pinned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<ChannelName>,
    /// Where its bytes came from.
    pub source: LoadSource,
    /// Bytes of every object read for it; 0 from the cache.
    pub wire_bytes: u64,
    /// The release that ran before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous_tag: Option<Tag>,
    /// From the decision to the switch, in milliseconds.
    pub duration_ms: u64,
    /// Counts the node's switches, so that a health result can name the one it speaks of.
    pub activation_epoch: u64,
    /// False only where verification was switched off by the emergency flag.
    pub verified: bool,
}

/// What was compared when a verification failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedCheck {
    /// An object's digest or size, as it streamed in.
    Object,
    /// One file's digest or size.
    File,
    /// The tree digest.
    Tree,
    /// Another rule: path, limit, shape.
    Rule,
}

/// Data of `bundle.verification_failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationFailed {
    /// The bundle.
    pub bundle: BundleName,
    /// The refused release.
    pub tag: Tag,
    /// The tree digest that was announced.
    pub tree_digest: Sha256Digest,
    /// What was compared.
    pub check: FailedCheck,
    /// The object, file or rule that failed first.
    pub item: String,
    /// What was announced: a digest, or for sizes and rules a text.
    pub expected: String,
    /// What was found.
    pub actual: String,
    /// What an operator can do.
    pub remediation: String,
    /// The release that keeps running.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub running_tag: Option<Tag>,
    /// How many further attempts failed in the same way since the last report.
    #[serde(default)]
    pub repeats: u64,
}

/// Data of `bundle.download_failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadFailed {
    /// The bundle.
    pub bundle: BundleName,
    /// The release that could not be fetched.
    pub tag: Tag,
    /// What failed.
    pub error: String,
    /// The network's or server's own words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub network_error: Option<String>,
    /// What an operator can do.
    pub remediation: String,
    /// The release that keeps running.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub running_tag: Option<Tag>,
    /// How many further attempts failed in the same way since the last report.
    #[serde(default)]
    pub repeats: u64,
}

/// What a restored log goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinuedEpoch {
    /// The epoch before.
    pub epoch: Incarnation,
    /// Its last stream sequence that is kept.
    pub stream_sequence: u64,
}

/// Data of `bundle.epoch_started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStarted {
    /// Name of the stream.
    pub stream: String,
    /// Random id of this epoch; sequences of different epochs cannot be compared.
    pub epoch: Incarnation,
    /// What this log continues; absent for a new one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub continues: Option<ContinuedEpoch>,
}

/// An event this version can keep and show, but not apply.
#[derive(Debug, Clone, PartialEq)]
pub struct UnknownEvent {
    /// Its type.
    pub event_type: EventType,
    /// Its data, untouched.
    pub data: Value,
}

impl BundleEvent {
    /// The release the event is about.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Published(data) => Some(&data.tag),
            Self::Promoted(data) => Some(&data.tag),
            Self::Withdrawn(data) => Some(&data.tag),
            Self::RefreshAttempt(data) => Some(&data.tag),
            Self::Staged(data) => Some(&data.tag),
            Self::Loaded(data) => Some(&data.tag),
            Self::VerificationFailed(data) => Some(&data.tag),
            Self::DownloadFailed(data) => Some(&data.tag),
            Self::EpochStarted(_) | Self::Unknown(_) => None,
        }
    }

    /// What the envelope's `subject` says: the tag, or the stream of an epoch.
    pub(crate) fn envelope_subject(&self) -> Option<String> {
        if let Self::EpochStarted(data) = self {
            return Some(data.stream.clone());
        }
        self.tag().map(ToString::to_string)
    }

    /// The one subject this event may be stored under when this source writes it; `None` where the source
    /// may not say such a thing, and for unknown events.
    pub fn stored_subject(&self, source: &Source) -> Option<EventSubject> {
        let of_node = |bundle: &BundleName, node: &NodeName| {
            EventSubject::new(self.event_type(), bundle.clone(), Scope::Node(node.clone()))
        };
        match (self, source) {
            (Self::Published(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::release_announcement(&data.bundle, &data.tag))
            }
            (Self::Promoted(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::channel_head(&data.bundle, &data.channel))
            }
            (Self::Withdrawn(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::new(EventType::Withdrawn, data.bundle.clone(), Scope::Release(data.tag.clone())))
            }
            (Self::EpochStarted(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::epoch_started(&data.stream))
            }
            (Self::RefreshAttempt(data), Source::Node(node)) => Some(of_node(&data.bundle, node)),
            (Self::Staged(data), Source::Node(node)) => Some(of_node(&data.bundle, node)),
            (Self::Loaded(data), Source::Node(node)) => Some(of_node(&data.bundle, node)),
            (Self::VerificationFailed(data), Source::Node(node)) => Some(of_node(&data.bundle, node)),
            (Self::DownloadFailed(data), Source::Node(node)) => Some(of_node(&data.bundle, node)),
            (Self::Published(_) | Self::Promoted(_) | Self::Withdrawn(_) | Self::EpochStarted(_), Source::Node(_))
            | (
                Self::RefreshAttempt(_)
                | Self::Staged(_)
                | Self::Loaded(_)
                | Self::VerificationFailed(_)
                | Self::DownloadFailed(_),
                Source::Publisher(_) | Source::Operator(_),
            )
            | (Self::Unknown(_), _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_type_has_its_own_token() {
        for event_type in EventType::KNOWN {
            assert_eq!(EventType::from_token(event_type.token()).as_ref(), Some(event_type));
        }
        assert_eq!(EventType::from_token("approved"), Some(EventType::Other("approved".to_owned())));
        for bad in ["", "A", "a.b", "a b", "*", ">"] {
            assert_eq!(EventType::from_token(bad), None, "{bad}");
        }
    }
}
