//! The checkpoints of a log against the log itself: roots are computed anew, signatures verified where keys are known.

use std::collections::VecDeque;

use super::finding::Problem;
use crate::checkpoint::{CheckpointError, SignedCheckpoint, event_leaf};
use crate::digest::Sha256Digest;
use crate::event::{Checkpointed, PreviousCheckpoint};
use crate::fleet_history::StoredMessage;
use crate::merkle::{Frontier, verify_consistency};
use crate::signed_note::VerifierKeys;

/// How many events may stand between those that a checkpoint speaks of and its own. A writer leaves as many as are
/// stored while it computes.
const MOST_EVENTS_BETWEEN: usize = 65_536;

/// The tree over the messages read so far, and what is to be compared with it.
#[derive(Debug, Default)]
pub(super) struct CheckpointAudit {
    keys: Option<VerifierKeys>,
    outside: Vec<Outside>,
    tree: Frontier,
    /// An earlier state of the tree, and the leaves since: roots in between can be computed from them.
    base: Frontier,
    since_base: VecDeque<Sha256Digest>,
    /// The first sequence without message: from there on no root can be computed.
    missing: Option<u64>,
    last: Option<PreviousCheckpoint>,
    checkpoints: u64,
}

/// A checkpoint from elsewhere, with what the log has for its size once that is reached.
#[derive(Debug)]
struct Outside {
    checkpoint: SignedCheckpoint,
    actual: Option<Sha256Digest>,
}

impl CheckpointAudit {
    pub(super) fn new(keys: Option<VerifierKeys>, outside: Vec<SignedCheckpoint>) -> Self {
        let mut audit = Self { keys, ..Self::default() };
        audit.outside = outside.into_iter().map(|checkpoint| Outside { checkpoint, actual: None }).collect();
        audit.note_outside();
        audit
    }

    /// How many checkpoints the log holds.
    pub(super) fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// How many events the last of them speaks of.
    pub(super) fn checkpointed_up_to(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.size)
    }

    /// Root over all messages; `None` where one is missing.
    pub(super) fn root(&self) -> Option<Sha256Digest> {
        self.missing.is_none().then(|| self.tree.root())
    }

    /// Adds a message, whatever it is.
    pub(super) fn add(&mut self, message: &StoredMessage<'_>) {
        if self.missing.is_some() {
            return;
        }
        if message.stream_sequence != self.tree.size() + 1 {
            self.missing = Some(self.tree.size() + 1);
            return;
        }
        let leaf = event_leaf(message.subject, message.stored_at, message.payload);
        self.tree.push(leaf);
        self.since_base.push_back(leaf);
        if self.since_base.len() > MOST_EVENTS_BETWEEN {
            self.advance_base(self.base.size() + 1);
        }
        self.note_outside();
    }

    fn note_outside(&mut self) {
        let size = self.tree.size();
        for outside in self.outside.iter_mut().filter(|outside| outside.checkpoint.checkpoint().size == size) {
            outside.actual = Some(self.tree.root());
        }
    }

    /// Compares a checkpoint, whose own message was added, with the messages before it.
    pub(super) fn check(&mut self, data: &Checkpointed, stream_sequence: u64) -> Vec<Problem> {
        self.checkpoints += 1;
        let mut problems: Vec<Problem> =
            self.faults(data).into_iter().map(|reason| Problem::BadCheckpoint { reason }).collect();
        if data.size >= stream_sequence {
            let reason = format!("it speaks of {} events and stands at {stream_sequence}", data.size);
            problems.push(Problem::BadCheckpoint { reason });
        } else if self.missing.is_none_or(|missing| data.size < missing) {
            match self.root_of(data.size) {
                Some(actual) if actual == data.root => {}
                Some(actual) => {
                    problems.push(Problem::CheckpointMismatch { size: data.size, expected: data.root, actual });
                }
                None => {
                    let reason =
                        format!("more than {MOST_EVENTS_BETWEEN} events stand between it and event {}", data.size);
                    problems.push(Problem::BadCheckpoint { reason });
                }
            }
        } else {
            let reason = "its root cannot be computed, because messages are missing".to_owned();
            problems.push(Problem::BadCheckpoint { reason });
        }
        self.last = Some(PreviousCheckpoint { size: data.size, root: data.root, stream_sequence });
        self.advance_base(data.size);
        problems
    }

    /// What is wrong with a checkpoint by itself and behind the one before it.
    fn faults(&self, data: &Checkpointed) -> Vec<String> {
        let mut faults = Vec::new();
        match data.note.parse::<SignedCheckpoint>() {
            Ok(signed) => {
                let said = signed.checkpoint();
                if (said.size, said.root, said.epoch) != (data.size, data.root, Some(data.epoch)) {
                    faults.push("its note says something else than its event".to_owned());
                }
                let verified = self.keys.as_ref().map(|keys| signed.verify(keys));
                faults.extend(verified.and_then(Result::err).map(|error| in_one_line(&error)));
            }
            Err(error) => faults.push(in_one_line(&error)),
        }
        if data.previous != self.last {
            faults.push("it does not go on from the checkpoint before it".to_owned());
        } else if let Some(previous) = &data.previous {
            let (from, to) = ((previous.size, previous.root), (data.size, data.root));
            if !verify_consistency(from, to, &data.proof) {
                faults.push("it does not prove that the checkpoint before it is its beginning".to_owned());
            }
        }
        faults
    }

    fn root_of(&self, size: u64) -> Option<Sha256Digest> {
        let behind_base = usize::try_from(size.checked_sub(self.base.size())?).ok()?;
        let mut tree = self.base.clone();
        (behind_base <= self.since_base.len()).then(|| {
            self.since_base.iter().take(behind_base).for_each(|leaf| tree.push(*leaf));
            tree.root()
        })
    }

    fn advance_base(&mut self, size: u64) {
        while self.base.size() < size
            && let Some(leaf) = self.since_base.pop_front()
        {
            self.base.push(leaf);
        }
    }

    /// How the checkpoints from elsewhere differ from the log, once all of it was added.
    pub(super) fn outside_problems(&self) -> impl Iterator<Item = (u64, Problem)> {
        self.outside.iter().flat_map(|Outside { checkpoint, actual }| {
            let said = checkpoint.checkpoint();
            let verified = self.keys.as_ref().map(|keys| checkpoint.verify(keys));
            let unbelievable = verified.and_then(Result::err).map(|error| in_one_line(&error));
            let different = (*actual != Some(said.root)).then(|| Problem::OutsideCheckpoint {
                size: said.size,
                expected: said.root,
                actual: *actual,
                available: self.tree.size(),
            });
            let unbelievable = unbelievable.map(|reason| Problem::BadCheckpoint { reason });
            unbelievable.into_iter().chain(different).map(|problem| (said.size, problem))
        })
    }
}

fn in_one_line(error: &CheckpointError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
