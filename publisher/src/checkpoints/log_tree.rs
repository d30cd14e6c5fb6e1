//! The Merkle tree over the log, read from the server as far as it is needed.

use std::time::Duration;

use shared::checkpoint::event_leaf;
use shared::digest::Sha256Digest;
use shared::event::{BundleEvent, EpochStarted};
use shared::merkle::{Frontier, ProofBuilder};
use shared::subjects::{EVENT_STREAM, EVENT_SUBJECTS, EventSubject};
use streams::event_log::EventLog;
use streams::stored_event::StoredEvent;
use tokio::time::sleep;

use super::CheckpointError;

/// How long a replica may be behind its leader before a message counts as missing.
const LAG: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The tree over the first events of the log.
#[derive(Debug, Default)]
pub(super) struct LogTree {
    frontier: Frontier,
    epoch: Option<EpochStarted>,
}

impl LogTree {
    pub(super) fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    pub(super) fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub(super) fn root(&self) -> Sha256Digest {
        self.frontier.root()
    }

    /// How the epoch of its last event began.
    pub(super) fn epoch(&self) -> Option<&EpochStarted> {
        self.epoch.as_ref()
    }

    /// Reads on up to an event. Notes the root where the tree has `noted_size` events, and feeds the proof.
    pub(super) async fn read_to(
        &mut self,
        log: &EventLog,
        size: u64,
        noted_size: Option<u64>,
        noted: &mut Option<Sha256Digest>,
        mut proof: Option<&mut ProofBuilder>,
    ) -> Result<(), CheckpointError> {
        if noted_size == Some(self.size()) {
            *noted = Some(self.root());
        }
        let mut waited = Duration::ZERO;
        while self.size() < size {
            let mut pages = log.replay(EVENT_SUBJECTS, self.size() + 1, size);
            while let Some(page) = pages.next_page().await.map_err(CheckpointError::Read)? {
                for event in &page {
                    let leaf = self.add(event)?;
                    if let Some(proof) = proof.as_deref_mut() {
                        proof.push(leaf);
                    }
                    if noted_size == Some(self.size()) {
                        *noted = Some(self.root());
                    }
                }
            }
            if self.size() < size {
                if waited >= LAG {
                    return Err(CheckpointError::Missing { sequence: self.size() + 1 });
                }
                sleep(LOOK_AGAIN).await;
                waited += LOOK_AGAIN;
            }
        }
        Ok(())
    }

    fn add(&mut self, event: &StoredEvent) -> Result<Sha256Digest, CheckpointError> {
        let expected = self.size() + 1;
        if event.stream_sequence != expected {
            return Err(CheckpointError::Missing { sequence: expected });
        }
        let leaf = event_leaf(&event.subject, event.stored_at, &event.payload);
        self.frontier.push(leaf);
        if event.subject == EventSubject::epoch_started(EVENT_STREAM).to_string()
            && let Ok((_, envelope)) = event.envelope()
            && let BundleEvent::EpochStarted(epoch) = envelope.event
        {
            self.epoch = Some(epoch);
        }
        Ok(leaf)
    }
}
