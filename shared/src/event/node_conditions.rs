//! Data of the events by which nodes say how they stand: on a fallback, stale, behind, tampered with, reverted.
//!
//! Each is said once when the condition begins (or ends), never on every check of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::node_events::{LoadSource, Loaded};
use crate::digest::Sha256Digest;
use crate::identifiers::{BundleName, Tag};

/// What a node runs instead of what is desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackSource {
    /// The release that ran well before.
    LastGood,
    /// The schemas compiled into the agent.
    Embedded,
}

impl FallbackSource {
    /// The word in events and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LastGood => "last_good",
            Self::Embedded => "embedded",
        }
    }
}

/// Why what is desired does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackCause {
    /// It could not be fetched.
    DownloadFailed,
    /// Its bytes are not what was announced.
    VerificationFailed,
    /// It is withdrawn.
    Withdrawn,
    /// It failed its health check.
    Reverted,
    /// The log could not be asked what is desired.
    Unreachable,
}

impl FallbackCause {
    /// The word in events and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DownloadFailed => "download_failed",
            Self::VerificationFailed => "verification_failed",
            Self::Withdrawn => "withdrawn",
            Self::Reverted => "reverted",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Data of `bundle.fallback_activated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackActivated {
    /// The bundle.
    pub bundle: BundleName,
    /// What runs instead.
    pub source: FallbackSource,
    /// Its tag.
    pub tag: Tag,
    /// Its tree digest.
    pub tree_digest: Sha256Digest,
    /// Its content digest.
    pub content_digest: Sha256Digest,
    /// The release that should run; absent where the log could not be asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wanted_tag: Option<Tag>,
    /// Why that one does not run.
    pub cause: FallbackCause,
    /// The same in words.
    pub reason: String,
    /// What an operator can do.
    pub remediation: String,
    /// Number of the node's last switch.
    pub activation_epoch: u64,
}

impl FallbackActivated {
    /// The switch that came with it: going over to the embedded schemas is one and has no event of its own, keeping the
    /// last good release is none.
    pub fn as_loaded(&self) -> Option<Loaded> {
        match self.source {
            FallbackSource::LastGood => None,
            FallbackSource::Embedded => Some(Loaded {
                bundle: self.bundle.clone(),
                tag: self.tag.clone(),
                tree_digest: self.tree_digest,
                content_digest: self.content_digest,
                channel: None,
                source: LoadSource::Embedded,
                wire_bytes: 0,
                previous_tag: None,
                duration_ms: 0,
                activation_epoch: self.activation_epoch,
                unrecorded_switches: 0,
                verified: true,
            }),
        }
    }
}

/// Data of `bundle.stale_detected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleDetected {
    /// The bundle.
    pub bundle: BundleName,
    /// The release that runs.
    pub tag: Tag,
    /// When it was made, by its manifest.
    pub bundle_timestamp: DateTime<Utc>,
    /// Its age in whole hours.
    pub age_hours: u64,
    /// The limit in hours; older than this is stale.
    pub threshold_hours: u64,
    /// What an operator can do.
    pub remediation: String,
}

/// Data of `bundle.update_detected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateDetected {
    /// The bundle.
    pub bundle: BundleName,
    /// The release that the node is pinned to.
    pub tag: Tag,
    /// The newer release.
    pub newer_tag: Tag,
    /// Its tree digest.
    pub newer_tree_digest: Sha256Digest,
    /// When it was announced, by its publisher's clock.
    pub published_at: DateTime<Utc>,
    /// What an operator can do.
    pub remediation: String,
}

/// What an agent does about files that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TamperMode {
    /// Says so.
    Report,
    /// Puts the release's own files back.
    Heal,
    /// As `heal`, and counts as unhealthy until that is done.
    Strict,
}

impl TamperMode {
    /// The word in events, reports and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Heal => "heal",
            Self::Strict => "strict",
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TamperDamage {
    /// Its content or mode is another, or it is no plain file.
    Changed,
    /// It is not there.
    Missing,
    /// It is no part of the release.
    Extra,
}

/// One file that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TamperedPath {
    /// Its path within the release directory, or within the cache for what lies above it.
    pub path: String,
    /// What is wrong with it.
    pub damage: TamperDamage,
}

/// Data of `bundle.tamper_detected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TamperDetected {
    /// The bundle.
    pub bundle: BundleName,
    /// The release that runs.
    pub tag: Tag,
    /// Its tree digest.
    pub tree_digest: Sha256Digest,
    /// Files whose content or mode is another.
    pub changed: u64,
    /// Files and links that are not there.
    pub missing: u64,
    /// Files that are no part of the release.
    pub extra: u64,
    /// The first of them, at most [`TamperDetected::MOST_PATHS`].
    pub paths: Vec<TamperedPath>,
    /// What the node does about it.
    pub mode: TamperMode,
    /// Whether the release's own files are in place again.
    pub healed: bool,
    /// What an operator can do.
    pub remediation: String,
}

impl TamperDetected {
    /// Paths that one event names at most.
    pub const MOST_PATHS: usize = 20;

    /// How many files are not what they should be. 0 says that they are again, without the node's doing.
    pub fn damaged(&self) -> u64 {
        self.changed.saturating_add(self.missing).saturating_add(self.extra)
    }
}

/// The release that runs again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredRelease {
    /// Its tag.
    pub tag: Tag,
    /// Its tree digest.
    pub tree_digest: Sha256Digest,
    /// Its content digest.
    pub content_digest: Sha256Digest,
    /// Where its bytes came from.
    pub source: LoadSource,
    /// False only where verification was switched off by the emergency flag.
    pub verified: bool,
}

/// Data of `bundle.reverted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverted {
    /// The bundle.
    pub bundle: BundleName,
    /// The release that failed.
    pub tag: Tag,
    /// Its tree digest.
    pub tree_digest: Sha256Digest,
    /// The release that runs again; absent where the node had none, and the failed one stays.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub restored: Option<RestoredRelease>,
    /// Number of the switch to the release that failed.
    pub failed_epoch: u64,
    /// Number of the node's last switch: of the one back, where there was one.
    pub activation_epoch: u64,
    /// What the health check said.
    pub check: String,
    /// What an operator can do.
    pub remediation: String,
    /// From the failed check to the switch back, in milliseconds.
    pub duration_ms: u64,
}

impl Reverted {
    /// The switch back, which has no event of its own.
    pub fn as_loaded(&self) -> Option<Loaded> {
        let restored = self.restored.as_ref()?;
        Some(Loaded {
            bundle: self.bundle.clone(),
            tag: restored.tag.clone(),
            tree_digest: restored.tree_digest,
            content_digest: restored.content_digest,
            channel: None,
            source: restored.source,
            wire_bytes: 0,
            previous_tag: Some(self.tag.clone()),
            duration_ms: self.duration_ms,
            activation_epoch: self.activation_epoch,
            unrecorded_switches: 0,
            verified: restored.verified,
        })
    }
}
