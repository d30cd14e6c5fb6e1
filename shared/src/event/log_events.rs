//! Data of the event that states what the log holds.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::identifiers::Incarnation;

/// A checkpoint that a later one goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousCheckpoint {
    /// How many events it speaks of.
    pub size: u64,
    /// Its root.
    pub root: Sha256Digest,
    /// Where its own event stands.
    pub stream_sequence: u64,
}

/// Data of `bundle.checkpointed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpointed {
    /// Name of the stream.
    pub stream: String,
    /// The log's epoch at the last event it speaks of.
    pub epoch: Incarnation,
    /// The stream sequence up to which it speaks: how many events.
    pub size: u64,
    /// Merkle root over these events (RFC 6962), as [`crate::checkpoint`] describes.
    pub root: Sha256Digest,
    /// The signed note: what can be kept elsewhere and compared later.
    pub note: String,
    /// The checkpoint before; absent in the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<PreviousCheckpoint>,
    /// Proof that what that one speaks of is the beginning of what this one speaks of (RFC 9162, section 2.1.4).
    #[serde(default)]
    pub proof: Vec<Sha256Digest>,
}
