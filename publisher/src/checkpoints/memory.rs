//! The last checkpoint that a publisher signed, in a file of its state directory: the note itself, readable as it is.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use shared::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use shared::digest::Sha256Digest;
use shared::event::EpochStarted;
use shared::signed_note::MAX_NOTE_BYTES;
use thiserror::Error;

const FILE: &str = "checkpoint.txt";

/// A memory that cannot be read or written.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The disk says no.
    #[error("`{}` cannot be used", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else: not a checkpoint that could be passed over.
    #[error("`{}` holds no checkpoint: look what happened to it, then remove it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CheckpointError,
    },
}

#[derive(Debug)]
pub(super) struct CheckpointMemory {
    path: PathBuf,
}

impl CheckpointMemory {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    pub(super) fn file(&self) -> &Path {
        &self.path
    }

    /// What was signed last; `None` before the first time. Blocks for a moment.
    pub(super) fn read(&self) -> Result<Option<Checkpoint>, MemoryError> {
        let mut text = String::new();
        let read =
            File::open(&self.path).and_then(|file| file.take(2 * MAX_NOTE_BYTES as u64).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(error)),
            Ok(_) => {}
        }
        let signed: SignedCheckpoint =
            text.parse().map_err(|source| MemoryError::Content { path: self.path.clone(), source })?;
        Ok(Some(signed.checkpoint().clone()))
    }

    /// Remembers it. Returns only after it is on disk. Blocks for a moment.
    pub(super) fn write(&self, signed: &SignedCheckpoint) -> Result<(), MemoryError> {
        self.replace(&signed.note()).map_err(|error| self.failed(error))
    }

    fn replace(&self, note: &str) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(note.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }

    fn failed(&self, source: io::Error) -> MemoryError {
        MemoryError::Disk { path: self.path.clone(), source }
    }
}

/// How the log stands to what was signed before.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It holds it.
    Fits,
    /// It was restored from a backup that is older, and says so: its epoch continues the signed one before its end.
    Restored,
    /// It does not hold it.
    Contradicts(&'static str),
}

/// Compares the log (its size, how its epoch began, and its root at the remembered size, where it goes that far).
pub(super) fn judge(
    remembered: &Checkpoint,
    root_there: Option<&Sha256Digest>,
    size: u64,
    epoch: &EpochStarted,
) -> Verdict {
    if root_there == Some(&remembered.root) {
        return Verdict::Fits;
    }
    let continues = epoch.continues.as_ref();
    let restored = continues.is_some_and(|continues| {
        Some(continues.epoch) == remembered.epoch && continues.stream_sequence < remembered.size
    });
    if restored {
        Verdict::Restored
    } else if size < remembered.size {
        Verdict::Contradicts("it has fewer events now")
    } else {
        Verdict::Contradicts("they are others now")
    }
}

#[cfg(test)]
mod tests {
    use shared::event::ContinuedEpoch;
    use shared::identifiers::Incarnation;
    use shared::signed_note::SignerKey;
    use uuid::Uuid;

    use super::*;

    fn epoch(number: u128) -> Incarnation {
        Incarnation::from_uuid(Uuid::from_u128(number))
    }

    fn remembered() -> Checkpoint {
        let origin = "example.com/fleet".parse().unwrap();
        Checkpoint { origin, size: 10, root: Sha256Digest::of(b"root"), epoch: Some(epoch(1)) }
    }

    fn began(number: u128, continues: Option<(u128, u64)>) -> EpochStarted {
        let continues =
            continues.map(|(before, stream_sequence)| ContinuedEpoch { epoch: epoch(before), stream_sequence });
        EpochStarted { stream: "BUNDLE_EVENTS".to_owned(), epoch: epoch(number), continues, reason: None }
    }

    #[test]
    fn a_log_is_signed_where_it_holds_what_was_signed_or_says_what_it_lost() {
        let (same, other) = (Sha256Digest::of(b"root"), Sha256Digest::of(b"other"));
        let of = |root: Option<&Sha256Digest>, size, epoch| judge(&remembered(), root, size, &epoch);
        assert_eq!(of(Some(&same), 12, began(1, None)), Verdict::Fits);
        assert_eq!(of(Some(&same), 12, began(2, Some((1, 11)))), Verdict::Fits);
        assert_eq!(of(None, 8, began(2, Some((1, 7)))), Verdict::Restored);
        assert_eq!(of(Some(&other), 30, began(2, Some((1, 7)))), Verdict::Restored);
        assert!(matches!(of(None, 8, began(1, None)), Verdict::Contradicts(_)));
        assert!(matches!(of(Some(&other), 12, began(1, None)), Verdict::Contradicts(_)));
        assert!(matches!(of(Some(&other), 12, began(2, None)), Verdict::Contradicts(_)), "a log begun anew");
        assert!(
            matches!(of(Some(&other), 12, began(2, Some((1, 11)))), Verdict::Contradicts(_)),
            "restored and altered"
        );
        assert!(matches!(of(None, 8, began(3, Some((2, 7)))), Verdict::Contradicts(_)), "of another log");
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let memory = CheckpointMemory::new(directory.path());
        assert_eq!(memory.read().unwrap(), None);
        let key = SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[1; 32]);
        memory.write(&remembered().sign(&key).unwrap()).unwrap();
        assert_eq!(memory.read().unwrap(), Some(remembered()));
        std::fs::write(memory.file(), "damaged").unwrap();
        assert!(matches!(memory.read(), Err(MemoryError::Content { .. })));
    }
}
