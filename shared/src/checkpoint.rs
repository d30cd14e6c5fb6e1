//! Checkpoints: signed statements of what the log holds up to a stream sequence.
//!
//! The text is that of `c2sp.org/tlog-checkpoint`, in a signed note (see [`crate::signed_note`]):
//!
//! ```text
//! <origin: the name of the key that signs>
//! <size: the stream sequence up to which it speaks>
//! <base64 of the Merkle root over the events 1 to size>
//! epoch <the log's epoch at that event, 32 hex digits>
//! ```
//!
//! Leaf `i` of the tree is the event with stream sequence `i + 1`: the stream refuses deletion and purging, so there is
//! no gap. Its data, see [`event_leaf`], bind where, when and with what bytes it was stored.

use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use thiserror::Error;

use crate::digest::Sha256Digest;
use crate::identifiers::Incarnation;
use crate::merkle::leaf_hash;
use crate::signed_note::{KeyName, NoteError, SignedNote, SignerKey, VerifierKey, VerifierKeys};

/// How the line with the epoch begins.
const EPOCH: &str = "epoch ";

/// Hash of an event's leaf. Its data are the subject, a line end, the time at which the server stored it (RFC 3339 in
/// UTC with nine decimals), a line end, and the stored payload.
pub fn event_leaf(subject: &str, stored_at: DateTime<Utc>, payload: &[u8]) -> Sha256Digest {
    let stored_at = stored_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    leaf_hash(&[subject.as_bytes(), b"\n", stored_at.as_bytes(), b"\n", payload])
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log, and which key: the two have one name.
    pub origin: KeyName,
    /// The stream sequence up to which it speaks: how many events.
    pub size: u64,
    /// Merkle root over these events.
    pub root: Sha256Digest,
    /// The log's epoch at the last of them; absent in a log without one.
    pub epoch: Option<Incarnation>,
}

/// A checkpoint that cannot be read or must not be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// No signed note, or not signed as it must be.
    #[error("the checkpoint cannot be believed")]
    Note(#[source] NoteError),
    /// The text is not that of a checkpoint.
    #[error("no checkpoint: {0}")]
    Form(&'static str),
    /// Signed by a key of another log.
    #[error("the checkpoint is of log `{origin}`, but signed by key `{key}`")]
    Origin {
        /// What it says.
        origin: String,
        /// The key's name.
        key: String,
    },
}

impl Checkpoint {
    /// The text that is signed.
    pub fn to_text(&self) -> String {
        let Self { origin, size, root, epoch } = self;
        let root = BASE64_STANDARD.encode(root.as_bytes());
        let epoch = epoch.map(|epoch| format!("{EPOCH}{epoch}\n")).unwrap_or_default();
        format!("{origin}\n{size}\n{root}\n{epoch}")
    }

    /// Signs it.
    pub fn sign(&self, key: &SignerKey) -> Result<SignedCheckpoint, CheckpointError> {
        let note = SignedNote::sign(&self.to_text(), key).map_err(CheckpointError::Note)?;
        Ok(SignedCheckpoint { checkpoint: self.clone(), note })
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    /// Reads the signed text. Lines behind the root that are not ours are passed over, as the format wants.
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.lines();
        let mut line = |missing| lines.next().ok_or(CheckpointError::Form(missing));
        let origin = line("it has no origin")?.parse().map_err(|_| CheckpointError::Form("its origin is no name"))?;
        let number = line("it has no size")?;
        let size: u64 = number.parse().map_err(|_| CheckpointError::Form("its size is no number"))?;
        if size.to_string() != number {
            return Err(CheckpointError::Form("its size is not in its own form"));
        }
        let root = BASE64_STANDARD.decode(line("it has no root")?).ok().and_then(|root| root.try_into().ok());
        let root = root.map(Sha256Digest::from_bytes).ok_or(CheckpointError::Form("its root is no SHA-256 hash"))?;
        let epoch = lines.find_map(|line| line.strip_prefix(EPOCH)).map(str::parse).transpose();
        let epoch = epoch.map_err(|_| CheckpointError::Form("its epoch is no epoch"))?;
        Ok(Self { origin, size, root, epoch })
    }
}

/// A checkpoint with the note it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: SignedNote,
}

impl SignedCheckpoint {
    /// What it says. Whether it is to be believed, [`SignedCheckpoint::verify`] tells.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note's text form: what is stored, kept and handed on.
    pub fn note(&self) -> String {
        self.note.to_string()
    }

    /// The key that signed it, one of those known and of the name that the checkpoint gives as its origin.
    pub fn verify<'k>(&self, keys: &'k VerifierKeys) -> Result<&'k VerifierKey, CheckpointError> {
        let key = self.note.verified_by(keys).map_err(CheckpointError::Note)?;
        if key.name() == &self.checkpoint.origin {
            return Ok(key);
        }
        let (origin, key) = (self.checkpoint.origin.to_string(), key.name().to_string());
        Err(CheckpointError::Origin { origin, key })
    }
}

impl FromStr for SignedCheckpoint {
    type Err = CheckpointError;

    /// Reads a note with a checkpoint. Verifies nothing.
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let note = SignedNote::parse(text).map_err(CheckpointError::Note)?;
        Ok(Self { checkpoint: note.text().parse()?, note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: "example.com/fleet".parse().unwrap(),
            size: 42,
            root: Sha256Digest::of(b"root"),
            epoch: Some("0193b1c27e1f4a558c110242ac120002".parse().unwrap()),
        }
    }

    #[test]
    fn the_text_is_that_of_the_format() {
        let text = checkpoint().to_text();
        assert_eq!(
            text,
            "example.com/fleet\n42\nSBNJTRN+FjG7owHVrKtue7eqdM4RhdRWVl71HXN2d7I=\nepoch 0193b1c27e1f4a558c110242ac120002\n"
        );
        assert_eq!(text.parse::<Checkpoint>().unwrap(), checkpoint());
        assert_eq!(format!("{text}of a later version\n").parse::<Checkpoint>().unwrap(), checkpoint());
        let without = Checkpoint { epoch: None, ..checkpoint() };
        assert_eq!(without.to_text().parse::<Checkpoint>().unwrap(), without);
        for (from, to) in
            [("42", "042"), ("42", "-1"), ("SBNJ", "SB"), ("epoch 01", "epoch x"), ("example.com/", "a b")]
        {
            assert!(text.replace(from, to).parse::<Checkpoint>().is_err(), "{to}");
        }
    }

    #[test]
    fn it_is_believed_from_the_key_of_its_log_only() {
        let key = SignerKey::from_seed(checkpoint().origin, &[1; 32]);
        let signed: SignedCheckpoint = checkpoint().sign(&key).unwrap().note().parse().unwrap();
        assert_eq!(signed.checkpoint(), &checkpoint());
        assert!(signed.verify(&key.verifier().clone().into()).is_ok());

        let other = SignerKey::from_seed("example.com/other".parse().unwrap(), &[1; 32]);
        let signed = checkpoint().sign(&other).unwrap();
        let error = signed.verify(&other.verifier().clone().into()).unwrap_err();
        assert!(matches!(error, CheckpointError::Origin { .. }), "{error}");
        assert!(matches!(signed.verify(&key.verifier().clone().into()), Err(CheckpointError::Note(_))));
    }

    #[test]
    fn a_leaf_binds_subject_time_and_payload() {
        let at = |nanos| DateTime::from_timestamp(1_770_000_000, nanos).unwrap();
        let leaf = event_leaf("bundle.a", at(5), b"{}");
        assert_eq!(leaf, leaf_hash(&[b"bundle.a\n2026-02-02T02:40:00.000000005Z\n{}"]));
        for other in [
            event_leaf("bundle.b", at(5), b"{}"),
            event_leaf("bundle.a", at(6), b"{}"),
            event_leaf("bundle.a", at(5), b"[]"),
        ] {
            assert_ne!(other, leaf);
        }
    }
}
