//! What is wrong with the node as a whole, whichever of its bundles notices it: said once, shown with each of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::identifiers::{Incarnation, NodeName};
use streams::connection::Connection;
use streams::durability::clock_warning;
use streams::outbox::{CopiedState, LostEvents, Outbox};
use tokio::time::Instant;

use crate::alarms::{Alarms, Subject};
use crate::metrics::note_outbox;

/// How long another agent under this node's name is an alarm after it last wrote.
const RIVAL_MEMORY: Duration = Duration::from_mins(10);

/// The node's alarms, and what they are made from.
#[derive(Debug)]
pub(super) struct NodeAlarms {
    node: NodeName,
    connection: Connection,
    outbox: Outbox,
    noticed: Mutex<Noticed>,
}

#[derive(Debug, Default)]
struct Noticed {
    rivalry: Rivalry,
    /// The log has begun a new epoch since the start: that it lacks events of before is said by it.
    restored: bool,
    alarms: Alarms,
}

/// What is known of other agents under this node's name.
#[derive(Debug, Default)]
struct Rivalry {
    /// How often the outbox met one.
    noticed: u64,
    /// The newest event of one that the log showed.
    sequence: u64,
    /// Who wrote last, where that could be read, and until when it is an alarm.
    last: Option<(Option<Incarnation>, Instant)>,
}

impl Rivalry {
    /// The outbox counts the conflicts it met: a higher number is news.
    fn noticed_by_outbox(&mut self, noticed: u64, writer: Option<Incarnation>, now: Instant) {
        if noticed > self.noticed {
            self.noticed = noticed;
            self.last = Some((writer, now + RIVAL_MEMORY));
        }
    }

    /// The log shows an event by another writer behind our last one: a higher sequence is news.
    fn seen_in_log(&mut self, sequence: u64, writer: Incarnation, now: Instant) {
        if sequence > self.sequence {
            self.sequence = sequence;
            self.last = Some((Some(writer), now + RIVAL_MEMORY));
        }
    }

    /// What operators are told, as long as there is something to tell.
    fn alarm(&self, node: &NodeName, copied: Option<&CopiedState>, now: Instant) -> Option<String> {
        let (writer, _) = self.last.filter(|(_, until)| now < *until)?;
        if let Some(CopiedState { shared, begun, stream_sequence }) = copied.filter(|copy| writer == Some(copy.shared))
        {
            return Some(format!(
                "a copy of this agent's state directory is in use: an agent with incarnation {shared}, which was this one's, \
                 wrote event {stream_sequence} under the name `{node}`; this one goes on as incarnation {begun}: give the \
                 copy its own --node and an empty --state-dir"
            ));
        }
        let writer = writer.map(|writer| format!(" (incarnation {writer})")).unwrap_or_default();
        Some(format!("another agent{writer} reports under the name `{node}`: give each node its own --node"))
    }
}

impl NodeAlarms {
    pub(super) fn new(node: NodeName, connection: Connection, outbox: Outbox) -> Self {
        Self { node, connection, outbox, noticed: Mutex::default() }
    }

    /// Takes in that the log shows an event by another writer behind our last one.
    pub(super) fn seen_in_log(&self, sequence: u64, writer: Incarnation) {
        self.noticed().rivalry.seen_in_log(sequence, writer, Instant::now());
    }

    /// Takes in that the log has begun a new epoch.
    pub(super) fn log_was_restored(&self) {
        self.noticed().restored = true;
    }

    /// The texts of the alarms that are on now, in a fixed order.
    pub(super) fn texts(&self) -> Vec<String> {
        let (outbox, now) = (self.outbox.status().borrow().clone(), Instant::now());
        note_outbox(&outbox);
        let mut noticed = self.noticed();
        let Noticed { rivalry, restored, alarms } = &mut *noticed;
        if let Some(rival) = &outbox.rival {
            rivalry.noticed_by_outbox(outbox.rivals_noticed, rival.incarnation, now);
        }
        alarms.set(Subject::Rival, rivalry.alarm(&self.node, outbox.copied.as_ref(), now));
        let lost = outbox.lost.filter(|_| !*restored).map(|LostEvents { confirmed, found }| {
            format!(
                "the log holds this agent's events up to number {found}, of {confirmed} that were confirmed: it was restored \
                 from an older backup or has lost its end; look with `demonctl events verify`, and where it was restored run \
                 `demonctl log begin-epoch`"
            )
        });
        alarms.set(Subject::LostEvents, lost);
        alarms.set(Subject::Clock, outbox.clock.and_then(clock_warning));
        let blocked = outbox.blocked.map(|reason| format!("events wait in the outbox: {reason}"));
        let refused = (outbox.refused > 0).then(|| {
            format!("{} events could not be recorded since the start and are in the agent's log only", outbox.refused)
        });
        let complaints: Vec<String> = blocked.into_iter().chain(refused).collect();
        alarms.set(Subject::Outbox, (!complaints.is_empty()).then(|| complaints.join("; ")));
        let fault = self.connection.status().last_fault.map(|fault| fault.to_string());
        alarms.texts().map(str::to_owned).chain(fault).collect()
    }

    /// Plain data, whole after every step: a holder that panicked leaves nothing half done.
    fn noticed(&self) -> MutexGuard<'_, Noticed> {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_rival_is_an_alarm_until_it_has_been_silent_for_a_while() {
        let (mut rivalry, start) = (Rivalry::default(), Instant::now());
        let (node, writer): (NodeName, _) = ("edge-17".parse().unwrap(), Incarnation::from_uuid(Uuid::from_u128(1)));
        let begun = Incarnation::from_uuid(Uuid::from_u128(2));
        assert_eq!(rivalry.alarm(&node, None, start), None);
        rivalry.seen_in_log(7, writer, start);
        assert!(rivalry.alarm(&node, None, start).unwrap().contains(&writer.to_string()));
        // Who writes under the incarnation that was our own has a copy of our memory.
        let copied = CopiedState { shared: writer, begun, stream_sequence: 7 };
        let alarm = rivalry.alarm(&node, Some(&copied), start).unwrap();
        assert!(
            alarm.contains("a copy of this agent's state directory") && alarm.contains(&begun.to_string()),
            "{alarm}"
        );
        // The same event, read again later, prolongs nothing.
        rivalry.seen_in_log(7, writer, start + RIVAL_MEMORY);
        assert_eq!(rivalry.alarm(&node, None, start + RIVAL_MEMORY), None);
        rivalry.noticed_by_outbox(1, None, start + RIVAL_MEMORY);
        assert!(rivalry.alarm(&node, None, start + RIVAL_MEMORY).is_some());
    }
}
