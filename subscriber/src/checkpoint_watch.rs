//! Is the log that this node is shown the one it was shown before?
//!
//! A node remembers the newest checkpoint it has seen. Each later one carries the proof that it continues the one before,
//! so a node follows them without reading the log: a few hashes, whatever the log's size. What it finds is an alarm and
//! nothing else: the release keeps running.

mod memory;

use serde::{Deserialize, Serialize};
use shared::checkpoint::SignedCheckpoint;
use shared::daemon::ErrorChain;
use shared::digest::Sha256Digest;
use shared::event::{Checkpointed, PreviousCheckpoint};
use shared::identifiers::Incarnation;
use shared::merkle::verify_consistency;
use shared::signed_note::VerifierKeys;

pub(crate) use self::memory::{CheckpointFile, MemoryFault};

/// A checkpoint in the log, with the place of its event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShownCheckpoint {
    pub(crate) stream_sequence: u64,
    pub(crate) data: Checkpointed,
}

/// The newest checkpoint that this node has seen and could connect with those before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenCheckpoint {
    /// Place of its event.
    pub(crate) stream_sequence: u64,
    /// How many events it speaks of.
    pub(crate) size: u64,
    /// Merkle root over them.
    pub(crate) root: Sha256Digest,
    /// The log's epoch when it was seen.
    pub(crate) epoch: Incarnation,
    /// The signed note.
    pub(crate) note: String,
}

/// The state of the log in which a checkpoint was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) epoch: Incarnation,
    /// The log was complete up to here.
    pub(crate) up_to_sequence: u64,
}

/// How what is shown stands to what was seen.
#[derive(Debug, PartialEq)]
pub(crate) enum Standing {
    /// Nothing new.
    Same,
    /// A checkpoint that continues what was seen, or the first.
    Forward(SeenCheckpoint),
    /// A newer one, with others in between that must be read first.
    Ahead,
    /// An older state than was seen: perhaps of a replica that lags.
    Behind(String),
    /// Not the log that was seen.
    Contradiction(String),
}

/// Compares the log's newest checkpoint with the newest one seen.
pub(crate) fn compare(
    seen: Option<&SeenCheckpoint>,
    shown: Option<&ShownCheckpoint>,
    log: LogState,
    keys: Option<&VerifierKeys>,
) -> Standing {
    if let Some(shown) = shown
        && let Err(reason) = believable(shown, keys)
    {
        let at = shown.stream_sequence;
        return Standing::Contradiction(format!("the checkpoint in event {at} is refused: {reason}"));
    }
    let (seen, shown) = match (seen, shown) {
        (None, None) => return Standing::Same,
        (None, Some(shown)) => return Standing::Forward(shown.seen_in(log.epoch)),
        (Some(seen), shown) => (seen, shown),
    };
    let newest = shown.map_or(0, |shown| shown.stream_sequence);
    let Some(shown) = shown.filter(|_| newest >= seen.stream_sequence) else {
        return older(seen, newest, log);
    };
    if newest == seen.stream_sequence {
        let same = (shown.data.size, shown.data.root) == (seen.size, seen.root);
        return if same { Standing::Same } else { Standing::Contradiction(different(seen)) };
    }
    match step(seen, shown, log.epoch) {
        Ok(Some(next)) => Standing::Forward(next),
        Ok(None) => Standing::Ahead,
        Err(text) => Standing::Contradiction(text),
    }
}

/// Follows the checkpoints behind the one seen, oldest first. What could be followed is returned with the error too.
pub(crate) fn follow(
    mut seen: SeenCheckpoint,
    between: &[ShownCheckpoint],
    epoch: Incarnation,
    keys: Option<&VerifierKeys>,
) -> (SeenCheckpoint, Option<String>) {
    for shown in between {
        let at = shown.stream_sequence;
        if let Err(reason) = believable(shown, keys) {
            return (seen, Some(format!("the checkpoint in event {at} is refused: {reason}")));
        }
        match step(&seen, shown, epoch) {
            Ok(Some(next)) => seen = next,
            Ok(None) => {
                let text = format!("{}; the checkpoint in event {at} does not go on from it", different(&seen));
                return (seen, Some(text));
            }
            Err(text) => return (seen, Some(text)),
        }
    }
    (seen, None)
}

/// A later checkpoint that names the one seen as its predecessor must prove it. `None` where it names another one.
fn step(seen: &SeenCheckpoint, shown: &ShownCheckpoint, epoch: Incarnation) -> Result<Option<SeenCheckpoint>, String> {
    let data = &shown.data;
    let own = PreviousCheckpoint { size: seen.size, root: seen.root, stream_sequence: seen.stream_sequence };
    if data.size < seen.size {
        let text = format!("the checkpoint in event {} speaks of {} events only", shown.stream_sequence, data.size);
        return Err(format!("{}: {text}", shorter(seen)));
    }
    if data.previous.as_ref() != Some(&own) {
        return Ok(None);
    }
    if verify_consistency((seen.size, seen.root), (data.size, data.root), &data.proof) {
        Ok(Some(shown.seen_in(epoch)))
    } else {
        let at = shown.stream_sequence;
        Err(format!("{}: the checkpoint in event {at} does not prove that it continues it", different(seen)))
    }
}

/// The log shows no checkpoint, or an older one than was seen.
fn older(seen: &SeenCheckpoint, newest: u64, log: LogState) -> Standing {
    let shown = if newest == 0 { "none".to_owned() } else { format!("the newest is in event {newest}") };
    if log.epoch != seen.epoch {
        return Standing::Contradiction(format!(
            "{}, {shown}: it began epoch {} and was restored from a backup or replaced",
            shorter(seen),
            log.epoch
        ));
    }
    let up_to = log.up_to_sequence;
    if up_to < seen.stream_sequence {
        return Standing::Behind(format!("{}: it goes up to event {up_to} only", shorter(seen)));
    }
    Standing::Contradiction(format!("{}, {shown}", different(seen)))
}

fn shorter(seen: &SeenCheckpoint) -> String {
    format!("the log is shorter than what was signed: this node has seen a checkpoint of events 1 to {}", seen.size)
}

fn different(seen: &SeenCheckpoint) -> String {
    format!(
        "the log is not the one that was signed: this node has seen a checkpoint of events 1 to {} in event {}",
        seen.size, seen.stream_sequence
    )
}

/// Whether note and event agree, and, where keys are known, one of them signed it.
fn believable(shown: &ShownCheckpoint, keys: Option<&VerifierKeys>) -> Result<(), String> {
    let in_words = |error: shared::checkpoint::CheckpointError| ErrorChain(&error).to_string();
    let signed: SignedCheckpoint = shown.data.note.parse().map_err(in_words)?;
    let said = signed.checkpoint();
    if (said.size, said.root, said.epoch) != (shown.data.size, shown.data.root, Some(shown.data.epoch)) {
        return Err("its note says something else than its event".to_owned());
    }
    match keys {
        Some(keys) => signed.verify(keys).map(|_| ()).map_err(in_words),
        None => Ok(()),
    }
}

impl ShownCheckpoint {
    fn seen_in(&self, epoch: Incarnation) -> SeenCheckpoint {
        let Checkpointed { size, root, note, .. } = self.data.clone();
        SeenCheckpoint { stream_sequence: self.stream_sequence, size, root, epoch, note }
    }
}

#[cfg(test)]
mod tests;
