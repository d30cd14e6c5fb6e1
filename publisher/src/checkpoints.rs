//! Writing checkpoints: what the log holds is read, compared with what was signed before, signed, and stored in the log.
//!
//! A log that contradicts an earlier checkpoint, its own newest one or the last that this publisher remembers, is not
//! signed: whoever trusts the key would be shown two histories.

mod log_tree;
mod memory;

use std::path::Path;

use shared::checkpoint::{Checkpoint, CheckpointError as NoCheckpoint, SignedCheckpoint};
use shared::digest::Sha256Digest;
use shared::event::{BundleEvent, Checkpointed, PreviousCheckpoint};
use shared::merkle::{ProofBuilder, ProofError};
use shared::signed_note::SignerKey;
use shared::subjects::{EVENT_STREAM, EventSubject};
use streams::event_log::{AppendError, EventLog, ReadError, Reader};
use streams::event_writer::WriteError;
use streams::stored_event::{StoredEvent, StoredEventError};
use thiserror::Error;

use self::log_tree::LogTree;
pub use self::memory::MemoryError;
use self::memory::{CheckpointMemory, Verdict, judge};
use crate::author::Author;

/// Attempts before giving up against others who write checkpoints at the same moment.
const ATTEMPTS: usize = 3;

/// A checkpoint that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenCheckpoint {
    /// What it says, signed.
    pub signed: SignedCheckpoint,
    /// Where it stands in the log.
    pub stream_sequence: u64,
}

/// A checkpoint that was not written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The log cannot be read.
    #[error("the event log cannot be read for a checkpoint")]
    Read(#[source] ReadError),
    /// A message is missing.
    #[error("message {sequence} is not in the stream: a log with gaps is not signed; see `demonctl events verify`")]
    Missing {
        /// The first that is.
        sequence: u64,
    },
    /// The log has no beginning.
    #[error("the log has no event `bundle.epoch_started` yet, so there is nothing to sign")]
    NotBegun,
    /// The newest checkpoint in the log cannot be understood.
    #[error(
        "the newest checkpoint in the log, event {stream_sequence}, cannot be understood: nothing is signed behind it"
    )]
    NotUnderstood {
        /// Where it stands.
        stream_sequence: u64,
        /// Why, where it is no valid event.
        #[source]
        source: Option<StoredEventError>,
    },
    /// The log is not what a checkpoint in it says.
    #[error(
        "the log contradicts its own checkpoint: events 1 to {size} had root {expected}, and have {actual} now; it was \
         altered, and is not signed"
    )]
    Altered {
        /// How many events the checkpoint speaks of.
        size: u64,
        /// Its root.
        expected: Sha256Digest,
        /// The log's.
        actual: Sha256Digest,
    },
    /// The log is not the one that this publisher signed before.
    #[error(
        "the log contradicts the checkpoint of events 1 to {size} that was signed before ({how}): it was cut off, altered \
         or replaced, and is not signed. Where that is as it should be, remove `{}`", file.display()
    )]
    Contradicts {
        /// How many events it spoke of.
        size: u64,
        /// How.
        how: &'static str,
        /// Where it is remembered.
        file: std::path::PathBuf,
    },
    /// The memory cannot be read or written.
    #[error("the last signed checkpoint cannot be remembered")]
    Memory(#[source] MemoryError),
    /// It cannot be signed.
    #[error("the checkpoint cannot be signed")]
    Sign(#[source] NoCheckpoint),
    /// It cannot be proven that it continues the one before.
    #[error("the checkpoint cannot be connected with the one before")]
    Proof(#[source] ProofError),
    /// The event was not stored.
    #[error("the checkpoint is not in the log")]
    Write(#[source] WriteError),
}

/// Writes checkpoints with one key.
#[derive(Debug)]
pub struct CheckpointWriter {
    key: SignerKey,
    memory: Option<CheckpointMemory>,
    known: Option<Known>,
}

/// The log as it was read for the last checkpoint.
#[derive(Debug)]
struct Known {
    tree: LogTree,
    last: PreviousCheckpoint,
    /// Over which connection: another one may lead to another log.
    connects: u64,
}

impl CheckpointWriter {
    /// A writer that remembers what it signed in this directory; without one, only as long as it lives.
    pub fn new(key: SignerKey, state_dir: Option<&Path>) -> Self {
        Self { key, memory: state_dir.map(CheckpointMemory::new), known: None }
    }

    /// Writes a checkpoint of the log as it is now; `None` where nothing but the last checkpoint is new. Returns only
    /// after the server has confirmed it. Reads the whole log the first time and after each new connection, else what
    /// came since. Needs operator rights.
    pub async fn write(
        &mut self,
        log: &EventLog,
        author: &mut Author,
    ) -> Result<Option<WrittenCheckpoint>, CheckpointError> {
        author.settle(log).await.map_err(CheckpointError::Write)?;
        let mut attempt = 1;
        loop {
            match self.try_to_write(log, author).await {
                Err(CheckpointError::Write(WriteError::Append(AppendError::Conflict { .. }))) if attempt < ATTEMPTS => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn try_to_write(
        &mut self,
        log: &EventLog,
        author: &mut Author,
    ) -> Result<Option<WrittenCheckpoint>, CheckpointError> {
        let subject = EventSubject::checkpointed(EVENT_STREAM);
        let last = log.last(&subject, Reader::Leader).await.map_err(CheckpointError::Read)?;
        let previous = last.as_ref().map(understood).transpose()?;
        let size = log.state().await.map_err(CheckpointError::Read)?.last_sequence;
        if let Some(previous) = &previous
            && previous.stream_sequence == size
            && previous.size + 1 == size
        {
            return Ok(None);
        }
        let connects = log.connection().status().connects;
        let remembered = self.memory.as_ref().map(CheckpointMemory::read).transpose();
        let remembered = remembered.map_err(CheckpointError::Memory)?.flatten();
        // Taken, so that whatever fails below is read anew the next time.
        let known = self.known.take().filter(|known| {
            let same_memory = remembered.as_ref().is_none_or(|remembered| remembered.size == known.tree.size());
            Some(&known.last) == previous.as_ref() && known.connects == connects && same_memory
        });
        let mut tree = known.map(|known| known.tree).unwrap_or_default();
        let mut root_of_remembered = None;
        let stop = remembered.as_ref().map(|remembered| remembered.size);

        let from = previous.as_ref().map_or(0, |previous| previous.size);
        tree.read_to(log, from, stop, &mut root_of_remembered, None).await?;
        if let Some(previous) = &previous {
            let actual = tree.root();
            if actual != previous.root {
                let (size, expected) = (previous.size, previous.root);
                return Err(CheckpointError::Altered { size, expected, actual });
            }
        }
        let mut proof = ProofBuilder::consistency_after(tree.frontier(), size).map_err(CheckpointError::Proof)?;
        tree.read_to(log, size, stop, &mut root_of_remembered, Some(&mut proof)).await?;
        let epoch = tree.epoch().ok_or(CheckpointError::NotBegun)?.clone();
        if let (Some(remembered), Some(memory)) = (&remembered, &self.memory) {
            match judge(remembered, root_of_remembered.as_ref(), tree.size(), &epoch) {
                Verdict::Fits => {}
                Verdict::Restored => tracing::warn!(
                    remembered = remembered.size, epoch = %epoch.epoch,
                    "the log was restored from a backup and lacks events that were signed before; it is signed as it is now"
                ),
                Verdict::Contradicts(how) => {
                    let (size, file) = (remembered.size, memory.file().to_owned());
                    return Err(CheckpointError::Contradicts { size, how, file });
                }
            }
        }

        let root = tree.root();
        let checkpoint = Checkpoint { origin: self.key.name().clone(), size, root, epoch: Some(epoch.epoch) };
        let signed = checkpoint.sign(&self.key).map_err(CheckpointError::Sign)?;
        let event = Checkpointed {
            stream: EVENT_STREAM.to_owned(),
            epoch: epoch.epoch,
            size,
            root,
            note: signed.note(),
            previous,
            proof: proof.finish().map_err(CheckpointError::Proof)?,
        };
        // Remembered before anybody can see it: a crash in between only remembers more than was shown.
        if let Some(memory) = &self.memory {
            memory.write(&signed).map_err(CheckpointError::Memory)?;
        }
        let after = last.map_or(0, |last| last.stream_sequence);
        let written = author.write(log, event, after).await.map_err(CheckpointError::Write)?;
        let stream_sequence = written.stream_sequence;
        let last = PreviousCheckpoint { size, root, stream_sequence };
        self.known = Some(Known { tree, last, connects });
        Ok(Some(WrittenCheckpoint { signed, stream_sequence }))
    }
}

/// What the newest checkpoint in the log says.
fn understood(event: &StoredEvent) -> Result<PreviousCheckpoint, CheckpointError> {
    let stream_sequence = event.stream_sequence;
    let refused = |source| CheckpointError::NotUnderstood { stream_sequence, source };
    let (_, envelope) = event.envelope().map_err(|error| refused(Some(error)))?;
    let BundleEvent::Checkpointed(data) = envelope.event else { return Err(refused(None)) };
    Ok(PreviousCheckpoint { size: data.size, root: data.root, stream_sequence })
}
