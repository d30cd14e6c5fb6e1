//! Data of the events that nodes write: how they came to run a release, or why they do not.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::identifiers::{BundleName, ChannelName, Tag};

/// How a node gets a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchStrategy {
    /// The whole archive.
    Archive,
    /// Patches of a release that the node has, one or several in a row.
    Delta,
}

impl FetchStrategy {
    /// The strategy's text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Delta => "delta",
        }
    }
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
    /// Compiled into the agent: the last resort.
    Embedded,
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
    /// Switches before this one that could not be recorded, because disk or outbox were full for long: as many numbers are
    /// missing before `activation_epoch`.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub unrecorded_switches: u64,
    /// False only where verification was switched off by the emergency flag.
    pub verified: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
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
    /// It was fetched before any channel that the node follows pointed at it: nothing is amiss with what the node is to run.
    #[serde(skip_serializing_if = "is_false", default)]
    pub ahead: bool,
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
    /// It was fetched before any channel that the node follows pointed at it: nothing is amiss with what the node is to run.
    #[serde(skip_serializing_if = "is_false", default)]
    pub ahead: bool,
}
