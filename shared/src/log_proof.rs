//! Proofs to hand on: one JSON document that shows, without the log, that an event is in it, or that one state of the log
//! is the beginning of a later one.
//!
//! A proof is as good as the checkpoints it carries: they say, signed, what the roots are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::checkpoint::{CheckpointError, SignedCheckpoint, event_leaf};
use crate::digest::Sha256Digest;
use crate::identifiers::Incarnation;
use crate::merkle::{verify_consistency, verify_inclusion};
use crate::signed_note::VerifierKeys;

/// What a proof calls its format.
pub const PROOF_FORMAT: &str = "demon-log-proof";
/// Version of the form that this version writes and reads.
pub const PROOF_VERSION: u32 = 1;
/// Largest file that is read as a proof, in bytes: an event, two checkpoints and 128 hashes take far less.
pub const MAX_PROOF_BYTES: u64 = 1024 * 1024;

/// One proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogProof {
    /// [`PROOF_FORMAT`].
    pub format: String,
    /// [`PROOF_VERSION`].
    pub version: u32,
    /// Name of the stream.
    pub stream: String,
    /// The log's epoch when the proof was made, where it has one.
    pub epoch: Option<Incarnation>,
    /// What is proven.
    #[serde(flatten)]
    pub statement: Statement,
    /// The hashes that prove it (RFC 9162, section 2.1), in its order.
    pub proof: Vec<Sha256Digest>,
}

/// What is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Statement {
    /// An event is in the log.
    Inclusion {
        /// The event, as it is stored.
        event: ProvenEvent,
        /// The log up to some event at or behind it.
        tree: ProvenTree,
    },
    /// One state of the log is the beginning of another.
    Consistency {
        /// The earlier one.
        from: ProvenTree,
        /// The later one.
        to: ProvenTree,
    },
}

/// An event as the tree's leaf binds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenEvent {
    /// Its stream sequence.
    pub stream_sequence: u64,
    /// When the server stored it.
    pub stored_at: DateTime<Utc>,
    /// The subject it is stored under.
    pub subject: String,
    /// The stored bytes.
    pub payload: String,
}

/// A state of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenTree {
    /// How many events.
    pub size: u64,
    /// Merkle root over them.
    pub root: Sha256Digest,
    /// The signed checkpoint that says so, where there is one of this size.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checkpoint: Option<String>,
}

/// Who vouches for a proven state of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Voucher {
    /// A key that is known: its name and id.
    Key(String),
    /// A signature that was not verified, because no key is known.
    NotVerified,
    /// Nobody: the proof carries no checkpoint.
    Nobody,
}

/// A proof that proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidProof {
    /// Another format or version.
    #[error("no proof of format `{PROOF_FORMAT}`, version {PROOF_VERSION}")]
    Format,
    /// The hashes do not lead from the event to the root.
    #[error("the proof does not hold: event {stream_sequence} with these bytes is not among events 1 to {size}")]
    NotIncluded {
        /// The event.
        stream_sequence: u64,
        /// The tree's size.
        size: u64,
    },
    /// The hashes do not lead from one root to the other.
    #[error("the proof does not hold: events 1 to {from} are not the beginning of events 1 to {to}")]
    NotConsistent {
        /// The earlier size.
        from: u64,
        /// The later size.
        to: u64,
    },
    /// A checkpoint in it cannot be believed.
    #[error("the checkpoint of events 1 to {size} is refused")]
    Checkpoint {
        /// Its size.
        size: u64,
        /// Why.
        #[source]
        source: CheckpointError,
    },
    /// A checkpoint in it is about something else.
    #[error("the checkpoint in the proof is not about events 1 to {size} with this root")]
    OtherCheckpoint {
        /// The size it should have.
        size: u64,
    },
}

impl LogProof {
    /// A proof in this version's form.
    pub fn new(stream: String, epoch: Option<Incarnation>, statement: Statement, proof: Vec<Sha256Digest>) -> Self {
        Self { format: PROOF_FORMAT.to_owned(), version: PROOF_VERSION, stream, epoch, statement, proof }
    }

    /// Verifies the proof and the checkpoints it carries, and says who vouches for its state of the log (for each, where
    /// it has two). With keys, a checkpoint that none of them signed is refused.
    pub fn verify(&self, keys: Option<&VerifierKeys>) -> Result<Vec<Voucher>, InvalidProof> {
        if (self.format.as_str(), self.version) != (PROOF_FORMAT, PROOF_VERSION) {
            return Err(InvalidProof::Format);
        }
        match &self.statement {
            Statement::Inclusion { event, tree } => {
                let leaf = event_leaf(&event.subject, event.stored_at, event.payload.as_bytes());
                let index = event.stream_sequence.checked_sub(1);
                let holds = index.is_some_and(|index| verify_inclusion(leaf, index, tree.size, tree.root, &self.proof));
                let (stream_sequence, size) = (event.stream_sequence, tree.size);
                if !holds {
                    return Err(InvalidProof::NotIncluded { stream_sequence, size });
                }
                Ok(vec![tree.voucher(keys)?])
            }
            Statement::Consistency { from, to } => {
                if !verify_consistency((from.size, from.root), (to.size, to.root), &self.proof) {
                    return Err(InvalidProof::NotConsistent { from: from.size, to: to.size });
                }
                Ok(vec![from.voucher(keys)?, to.voucher(keys)?])
            }
        }
    }
}

impl ProvenTree {
    fn voucher(&self, keys: Option<&VerifierKeys>) -> Result<Voucher, InvalidProof> {
        let Some(note) = &self.checkpoint else { return Ok(Voucher::Nobody) };
        let refused = |source| InvalidProof::Checkpoint { size: self.size, source };
        let signed: SignedCheckpoint = note.parse().map_err(refused)?;
        let said = signed.checkpoint();
        if (said.size, said.root) != (self.size, self.root) {
            return Err(InvalidProof::OtherCheckpoint { size: self.size });
        }
        let Some(keys) = keys else { return Ok(Voucher::NotVerified) };
        Ok(Voucher::Key(signed.verify(keys).map_err(refused)?.label()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::merkle::{Frontier, ProofBuilder};
    use crate::signed_note::SignerKey;

    fn key() -> SignerKey {
        SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[1; 32])
    }

    fn event(stream_sequence: u64) -> ProvenEvent {
        let stored_at = DateTime::from_timestamp(1_770_000_000, 0).unwrap();
        let payload = format!("{{\"event\":{stream_sequence}}}");
        ProvenEvent { stream_sequence, stored_at, subject: "bundle.a".to_owned(), payload }
    }

    fn leaf(stream_sequence: u64) -> Sha256Digest {
        let ProvenEvent { subject, stored_at, payload, .. } = event(stream_sequence);
        event_leaf(&subject, stored_at, payload.as_bytes())
    }

    fn tree(size: u64) -> ProvenTree {
        let mut frontier = Frontier::default();
        for sequence in 1..=size {
            frontier.push(leaf(sequence));
        }
        let root = frontier.root();
        let checkpoint = Checkpoint { origin: key().name().clone(), size, root, epoch: None };
        ProvenTree { size, root, checkpoint: Some(checkpoint.sign(&key()).unwrap().note()) }
    }

    fn proof(statement: Statement, mut builder: ProofBuilder) -> LogProof {
        for sequence in 1..=9 {
            builder.push(leaf(sequence));
        }
        LogProof::new("BUNDLE_EVENTS".to_owned(), None, statement, builder.finish().unwrap())
    }

    fn inclusion() -> LogProof {
        let statement = Statement::Inclusion { event: event(4), tree: tree(9) };
        proof(statement, ProofBuilder::inclusion(3, 9).unwrap())
    }

    fn consistency() -> LogProof {
        proof(Statement::Consistency { from: tree(4), to: tree(9) }, ProofBuilder::consistency(4, 9).unwrap())
    }

    #[test]
    fn a_proof_holds_with_and_without_a_key_and_survives_json() {
        let keys = key().verifier().clone().into();
        for proof in [inclusion(), consistency()] {
            let read: LogProof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
            assert_eq!(read, proof);
            let vouchers = read.verify(Some(&keys)).unwrap();
            assert!(vouchers.iter().all(|voucher| matches!(voucher, Voucher::Key(_))), "{vouchers:?}");
            assert!(read.verify(None).unwrap().iter().all(|voucher| *voucher == Voucher::NotVerified));
        }
        let mut unsigned = inclusion();
        if let Statement::Inclusion { tree, .. } = &mut unsigned.statement {
            tree.checkpoint = None;
        }
        assert_eq!(unsigned.verify(Some(&keys)), Ok(vec![Voucher::Nobody]));
    }

    #[test]
    fn an_altered_proof_is_refused() {
        let alter = |change: &dyn Fn(&mut ProvenEvent, &mut ProvenTree)| {
            let mut proof = inclusion();
            if let Statement::Inclusion { event, tree } = &mut proof.statement {
                change(event, tree);
            }
            proof.verify(None).unwrap_err()
        };
        assert!(matches!(alter(&|event, _| event.payload.push(' ')), InvalidProof::NotIncluded { .. }));
        assert!(matches!(alter(&|event, _| event.stream_sequence = 5), InvalidProof::NotIncluded { .. }));
        assert!(matches!(alter(&|event, _| event.stream_sequence = 0), InvalidProof::NotIncluded { .. }));
        let other = alter(&|_, tree| tree.checkpoint.clone_from(&self::tree(8).checkpoint));
        assert!(matches!(other, InvalidProof::OtherCheckpoint { .. }));

        let stranger = SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[2; 32]);
        let error = inclusion().verify(Some(&stranger.verifier().clone().into())).unwrap_err();
        assert!(matches!(error, InvalidProof::Checkpoint { .. }));

        let mut shrunk = consistency();
        shrunk.statement = Statement::Consistency { from: tree(5), to: tree(9) };
        assert!(matches!(shrunk.verify(None), Err(InvalidProof::NotConsistent { .. })));
        assert_eq!(LogProof { version: 2, ..inclusion() }.verify(None), Err(InvalidProof::Format));
    }
}
