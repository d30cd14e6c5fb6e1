//! What a log lost when it was restored from a backup, as far as it says so itself: an epoch that continues another one
//! names the last message that is kept. Numbers that an incarnation gave before that and that are not there are no
//! unexplained gap, but they are counted.

use serde::Serialize;

use super::chain::MissingNumbers;
use crate::event::{ContinuedEpoch, EpochStarted};
use crate::identifiers::Incarnation;

/// A restore that the log speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restore {
    /// Stream sequence of the event that says so.
    pub stream_sequence: u64,
    /// The epoch that began.
    pub epoch: Incarnation,
    /// What it continues, and up to where that is kept.
    pub continues: ContinuedEpoch,
    /// How many events are known to be lost, because their writers went on numbering behind them.
    pub events_lost: u64,
}

/// The restores read so far, in stream order.
#[derive(Debug, Default)]
pub(super) struct Restores(Vec<Restore>);

impl Restores {
    /// Takes note of an epoch; one that continues nothing is no restore.
    pub(super) fn note(&mut self, data: &EpochStarted, stream_sequence: u64) {
        let Some(continues) = data.continues.clone() else { return };
        // One that claims to keep what comes behind it explains nothing.
        if continues.stream_sequence < stream_sequence {
            self.0.push(Restore { stream_sequence, epoch: data.epoch, continues, events_lost: 0 });
        }
    }

    /// Whether numbers are missing for a restore: their writer's message before them is of the part that was kept, the one
    /// behind them is not. The restore counts them.
    pub(super) fn explain(&mut self, gap: &MissingNumbers) -> bool {
        let restore = self.0.iter_mut().find(|restore| {
            let kept = restore.continues.stream_sequence;
            gap.behind <= kept && kept < gap.noticed_at
        });
        let Some(restore) = restore else { return false };
        restore.events_lost = restore.events_lost.saturating_add(gap.last - gap.first + 1);
        true
    }

    pub(super) fn finish(self) -> Vec<Restore> {
        self.0
    }
}
