//! Data of the events that publishers and operators write: about releases and channels, and about the log itself.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::identifiers::{ActorName, BundleName, ChannelName, Incarnation, Tag};

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

/// Names a delta object: what turns another release of the bundle into the announced one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaReference {
    /// The release it is applied to.
    pub base_tag: Tag,
    /// The delta object.
    pub object: ObjectReference,
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
    /// Cheaper ways to it for who has another release, each stored and read back like the archive.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub deltas: Vec<DeltaReference>,
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

impl PromotionCause {
    /// The cause's text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Withdraw => "withdraw",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Rollout => "rollout",
        }
    }
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

impl Hold {
    /// The hold's text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Held => "held",
            Self::Frozen => "frozen",
        }
    }
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

impl Promoted {
    /// Whether an operator moved a frozen channel under an override: explicit moves that leave a channel frozen are
    /// made in no other way.
    pub fn overrode_freeze(&self) -> bool {
        self.hold == Hold::Frozen && matches!(self.cause, PromotionCause::Promote | PromotionCause::Rollback)
    }
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
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}
