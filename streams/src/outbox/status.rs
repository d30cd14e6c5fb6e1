//! How an outbox is doing: what its owner shows and raises alarms from.

use shared::identifiers::Incarnation;

use crate::durability::ClockSkew;

/// Another writer under the same node name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// Its incarnation, where its event could be read.
    pub incarnation: Option<Incarnation>,
    /// Where its event stands in the log.
    pub stream_sequence: u64,
}

/// A copy of the outbox's state that another process writes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedState {
    /// The incarnation that both had.
    pub shared: Incarnation,
    /// The one that this outbox has begun since.
    pub begun: Incarnation,
    /// Where the event stands in the log that this outbox never wrote.
    pub stream_sequence: u64,
}

/// Events that were confirmed and that the log does not hold any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostEvents {
    /// Number of the last one that was confirmed.
    pub confirmed: u64,
    /// Number of the last one that the log holds; 0 where it holds none.
    pub found: u64,
}

/// How an outbox is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Events recorded and not yet in the log.
    pub waiting: usize,
    /// Events stored by this process.
    pub stored: u64,
    /// Place in the log of the last one.
    pub last_stream_sequence: Option<u64>,
    /// Why the first event in the queue is not getting through, if it is not.
    pub blocked: Option<String>,
    /// Events of this process that could not be recorded: the disk fails, or as many wait as may.
    pub refused: u64,
    /// The last other writer noticed under this node's name: an alarm. Both keep running.
    pub rival: Option<Rival>,
    /// How often one was noticed.
    pub rivals_noticed: u64,
    /// The last copy of this outbox's state that was noticed.
    pub copied: Option<CopiedState>,
    /// What the log has lost, confirmed by the leader through the next append.
    pub lost: Option<LostEvents>,
    /// How far the server's clock is ahead of ours, by the last event that was measured.
    pub clock: Option<ClockSkew>,
}
