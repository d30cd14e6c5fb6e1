//! Whether a log was restored from a backup, and what its new epoch continues. Decided over plain data.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::event::ContinuedEpoch;
use shared::identifiers::{Incarnation, NodeName};
use thiserror::Error;

/// The epoch that the log is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CurrentEpoch {
    pub(super) epoch: Incarnation,
    pub(super) stream_sequence: u64,
    pub(super) begun_at: DateTime<Utc>,
    pub(super) continues: Option<ContinuedEpoch>,
}

/// A checkpoint that was kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptCheckpoint {
    pub(super) size: u64,
    pub(super) epoch: Option<Incarnation>,
    /// Whether the log holds all that it speaks of.
    pub(super) held: bool,
}

/// A node that has stored an event behind the end of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeAhead {
    pub(super) node: NodeName,
    pub(super) last_sequence: u64,
    /// When the server stored the entry that says so.
    pub(super) said_at: DateTime<Utc>,
}

/// Numbers that a writer gave and that the log does not have, although no message is missing from it: the writer went on
/// behind an end that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostNumbers {
    pub(super) source: String,
    pub(super) count: u64,
    /// Stream sequence of the writer's first message behind them.
    pub(super) noticed_at: u64,
}

/// What was found out about the log.
#[derive(Debug, Clone)]
pub(super) struct Findings {
    pub(super) last_sequence: u64,
    pub(super) epoch: CurrentEpoch,
    /// Numbers that are missing since the epoch began.
    pub(super) lost_numbers: Vec<LostNumbers>,
    /// How much else is wrong with it.
    pub(super) flaws: u64,
    pub(super) checkpoints: Vec<KeptCheckpoint>,
    pub(super) nodes_ahead: Vec<NodeAhead>,
}

/// What the operator says.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    /// Up to where the log is the backup's.
    pub(super) kept_up_to: Option<u64>,
    /// The epoch that was lost, where it is known.
    pub(super) continues: Option<Incarnation>,
    /// Begin it although nothing shows a restore, or something is wrong with the log.
    pub(super) force: bool,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Plan {
    pub(super) continues: ContinuedEpoch,
    /// What shows that the log was restored.
    pub(super) evidence: Vec<String>,
    /// Up to which event the log is known to have gone once.
    pub(super) known_up_to: u64,
}

/// Why no epoch is begun.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error(
        "nothing shows that the log was restored: no node has stored an event behind its end, event {last_sequence}{}; \
         name a checkpoint kept elsewhere with --checkpoint (the publisher's is `checkpoint.txt` in its state directory), \
         or say --force where you know it",
        if *.checkpoints == 0 { "" } else { ", and it holds what the checkpoints named speak of" }
    )]
    NotRestored { last_sequence: u64, checkpoints: usize },
    #[error("epoch {epoch}, begun with event {stream_sequence}, says already that the log was restored")]
    AlreadyBegun { epoch: Incarnation, stream_sequence: u64 },
    #[error(
        "the log has {flaws} findings beside its missing end: look at them with `demonctl events verify`; where the backup \
         had them already, say --force"
    )]
    Flawed { flaws: u64 },
    #[error(
        "the log went on after it was restored and is now longer than the checkpoint of events 1 to {size}: say with \
         --kept-up-to up to which event it is the backup's"
    )]
    WentOn { size: u64 },
    #[error("--kept-up-to {kept_up_to} is not between {first}, where the epoch began, and {last}, the log's end")]
    OutOfRange { kept_up_to: u64, first: u64, last: u64 },
}

/// Decides whether a new epoch may begin, and what it continues.
pub(super) fn plan(found: &Findings, order: &Order) -> Result<Plan, Refusal> {
    let (epoch, last) = (&found.epoch, found.last_sequence);
    let lacking: Vec<&KeptCheckpoint> = found.checkpoints.iter().filter(|checkpoint| !checkpoint.held).collect();
    let said_already = |checkpoint: &&KeptCheckpoint| {
        epoch.continues.as_ref().is_some_and(|continued| {
            checkpoint.epoch == Some(continued.epoch) && continued.stream_sequence < checkpoint.size
        })
    };
    let unsaid: Vec<&KeptCheckpoint> = lacking.iter().filter(|checkpoint| !said_already(checkpoint)).copied().collect();
    // An entry from before the epoch speaks of the log that the epoch continues.
    let ahead = found.nodes_ahead.iter().filter(|node| node.last_sequence > last && node.said_at > epoch.begun_at);
    let ahead: Vec<&NodeAhead> = ahead.collect();
    let shown = !(unsaid.is_empty() && ahead.is_empty() && found.lost_numbers.is_empty());
    if !shown && !order.force {
        if lacking.is_empty() {
            return Err(Refusal::NotRestored { last_sequence: last, checkpoints: found.checkpoints.len() });
        }
        return Err(Refusal::AlreadyBegun { epoch: epoch.epoch, stream_sequence: epoch.stream_sequence });
    }
    if found.flaws > 0 && !order.force {
        return Err(Refusal::Flawed { flaws: found.flaws });
    }
    let went_on = found.lost_numbers.iter().map(|lost| lost.noticed_at - 1).min();
    let kept = order.kept_up_to.or(went_on).unwrap_or(last);
    if !(epoch.stream_sequence..=last).contains(&kept) {
        return Err(Refusal::OutOfRange { kept_up_to: kept, first: epoch.stream_sequence, last });
    }
    if let Some(passed) =
        unsaid.iter().filter(|checkpoint| checkpoint.size <= kept).map(|checkpoint| checkpoint.size).min()
        && !order.force
    {
        return Err(Refusal::WentOn { size: passed });
    }
    let newest = unsaid.iter().max_by_key(|checkpoint| checkpoint.size);
    let continued = order.continues.or(newest.and_then(|newest| newest.epoch)).unwrap_or(epoch.epoch);
    let lost_numbers = found.lost_numbers.iter().map(|lost| {
        let LostNumbers { source, count, noticed_at } = lost;
        format!("{count} events that `{source}` numbered before its event {noticed_at} are not in the log")
    });
    let lost_checkpoints = unsaid.iter().map(|checkpoint| {
        format!("the log does not hold what the checkpoint of events 1 to {} speaks of", checkpoint.size)
    });
    let nodes = ahead.iter().map(|ahead| {
        let NodeAhead { node, last_sequence, .. } = ahead;
        format!("node `{node}` has stored event {last_sequence}, and the log ends with event {last}")
    });
    let evidence = lost_checkpoints.chain(nodes).chain(lost_numbers).collect();
    let known_up_to =
        unsaid.iter().map(|checkpoint| checkpoint.size).chain(ahead.iter().map(|node| node.last_sequence));
    Ok(Plan {
        continues: ContinuedEpoch { epoch: continued, stream_sequence: kept },
        evidence,
        known_up_to: known_up_to.max().unwrap_or(kept).max(kept),
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> Incarnation {
        Incarnation::from_uuid(Uuid::from_u128(number))
    }

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn checkpoint(size: u64, epoch: u128, held: bool) -> KeptCheckpoint {
        KeptCheckpoint { size, epoch: Some(id(epoch)), held }
    }

    /// A log of ten events in epoch 1.
    fn found(checkpoints: &[KeptCheckpoint]) -> Findings {
        let epoch = CurrentEpoch { epoch: id(1), stream_sequence: 1, begun_at: time(100), continues: None };
        Findings {
            last_sequence: 10,
            epoch,
            lost_numbers: Vec::new(),
            flaws: 0,
            checkpoints: checkpoints.to_vec(),
            nodes_ahead: Vec::new(),
        }
    }

    fn ahead(last_sequence: u64, said_at: i64) -> NodeAhead {
        NodeAhead { node: "edge-1".parse().unwrap(), last_sequence, said_at: time(said_at) }
    }

    #[test]
    fn a_log_that_was_not_restored_is_left_alone_unless_told() {
        let refused = Refusal::NotRestored { last_sequence: 10, checkpoints: 1 };
        assert_eq!(plan(&found(&[checkpoint(8, 1, true)]), &Order::default()), Err(refused));
        assert!(plan(&found(&[]), &Order::default()).is_err());
        let forced = plan(&found(&[]), &Order { force: true, ..Order::default() }).unwrap();
        assert_eq!(forced.continues, ContinuedEpoch { epoch: id(1), stream_sequence: 10 });
        assert!(forced.evidence.is_empty());
    }

    #[test]
    fn a_checkpoint_that_the_log_lacks_or_a_node_ahead_of_it_shows_a_restore() {
        let by_checkpoint = plan(&found(&[checkpoint(15, 1, false)]), &Order::default()).unwrap();
        assert_eq!(by_checkpoint.continues, ContinuedEpoch { epoch: id(1), stream_sequence: 10 });
        assert_eq!((by_checkpoint.known_up_to, by_checkpoint.evidence.len()), (15, 1));
        let mut by_node = found(&[]);
        by_node.nodes_ahead = vec![ahead(12, 200)];
        assert_eq!(plan(&by_node, &Order::default()).unwrap().known_up_to, 12);
        // Its entry is older than the epoch, or it is not ahead.
        for nobody in [ahead(12, 90), ahead(10, 200)] {
            by_node.nodes_ahead = vec![nobody];
            assert!(matches!(plan(&by_node, &Order::default()), Err(Refusal::NotRestored { .. })));
        }
    }

    #[test]
    fn an_epoch_that_the_backup_does_not_know_is_the_one_continued() {
        let plan_of =
            |order: &Order| plan(&found(&[checkpoint(15, 2, false), checkpoint(12, 1, false)]), order).unwrap();
        assert_eq!(plan_of(&Order::default()).continues.epoch, id(2));
        assert_eq!(plan_of(&Order { continues: Some(id(3)), ..Order::default() }).continues.epoch, id(3));
    }

    #[test]
    fn the_same_restore_is_said_once() {
        let mut said = found(&[checkpoint(15, 1, false)]);
        said.epoch.continues = Some(ContinuedEpoch { epoch: id(1), stream_sequence: 9 });
        assert!(matches!(plan(&said, &Order::default()), Err(Refusal::AlreadyBegun { .. })));
    }

    #[test]
    fn what_was_written_after_the_restore_is_not_taken_for_the_backups() {
        let went_on = found(&[checkpoint(8, 1, false)]);
        assert_eq!(plan(&went_on, &Order::default()), Err(Refusal::WentOn { size: 8 }));
        let order = |kept_up_to| Order { kept_up_to: Some(kept_up_to), ..Order::default() };
        assert_eq!(plan(&went_on, &order(5)).unwrap().continues.stream_sequence, 5);
        for outside in [0, 11] {
            assert!(matches!(plan(&went_on, &order(outside)), Err(Refusal::OutOfRange { .. })));
        }
    }

    #[test]
    fn a_writer_that_went_on_numbering_shows_where_the_backup_ends() {
        let mut went_on = found(&[]);
        let lost = |noticed_at| LostNumbers { source: "/publishers/main".to_owned(), count: 3, noticed_at };
        went_on.lost_numbers = vec![lost(9), lost(7)];
        let planned = plan(&went_on, &Order::default()).unwrap();
        assert_eq!((planned.continues.stream_sequence, planned.evidence.len()), (6, 2));
        let order = Order { kept_up_to: Some(5), ..Order::default() };
        assert_eq!(plan(&went_on, &order).unwrap().continues.stream_sequence, 5);
    }

    #[test]
    fn a_log_with_other_faults_is_looked_at_first() {
        let mut flawed = found(&[checkpoint(15, 1, false)]);
        flawed.flaws = 2;
        assert_eq!(plan(&flawed, &Order::default()), Err(Refusal::Flawed { flaws: 2 }));
        assert!(plan(&flawed, &Order { force: true, ..Order::default() }).is_ok());
    }
}
