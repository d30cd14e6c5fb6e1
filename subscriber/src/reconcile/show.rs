//! What the node shows of itself: its entry in the node table, alarms included.

use std::time::Duration;

use shared::identifiers::{Incarnation, NodeName, Tag};
use tokio::time::Instant;

use super::agent::Agent;
use crate::alarms::Subject;
use crate::config::Follow;
use crate::node_report::{ActiveReport, NodeReport};

/// How long another agent under this node's name is an alarm after it last wrote.
const RIVAL_MEMORY: Duration = Duration::from_mins(10);

/// What is known of other agents under this node's name.
#[derive(Debug, Default)]
pub(super) struct Rivalry {
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
    pub(super) fn seen_in_log(&mut self, sequence: u64, writer: Incarnation, now: Instant) {
        if sequence > self.sequence {
            self.sequence = sequence;
            self.last = Some((Some(writer), now + RIVAL_MEMORY));
        }
    }

    /// What operators are told, as long as there is something to tell.
    fn alarm(&self, node: &NodeName, now: Instant) -> Option<String> {
        let (writer, _) = self.last.filter(|(_, until)| now < *until)?;
        let writer = writer.map(|writer| format!(" (incarnation {writer})")).unwrap_or_default();
        Some(format!("another agent{writer} reports under the name `{node}`: give each node its own --node"))
    }
}

impl Agent {
    /// The tag that does not follow the channel: of the settings, or of the local pin.
    fn pinned_tag(&self) -> Option<Tag> {
        match &self.config.follow {
            Follow::Tag(tag) => Some(tag.clone()),
            Follow::Channel(_) => self.known_pin.pin.as_ref().map(|pin| pin.tag.clone()),
        }
    }

    /// Brings the node's entry up to date.
    pub(super) fn show(&mut self) {
        let outbox = self.outbox.status().borrow().clone();
        let now = Instant::now();
        if let Some(rival) = &outbox.rival {
            self.rivalry.noticed_by_outbox(outbox.rivals_noticed, rival.incarnation, now);
        }
        self.alarms.set(Subject::Rival, self.rivalry.alarm(&self.config.node, now));
        let blocked = outbox.blocked.map(|reason| format!("events wait in the outbox: {reason}"));
        let refused = (outbox.refused > 0).then(|| {
            format!("{} events could not be recorded since the start and are in the agent's log only", outbox.refused)
        });
        let complaints: Vec<String> = blocked.into_iter().chain(refused).collect();
        self.alarms.set(Subject::Outbox, (!complaints.is_empty()).then(|| complaints.join("; ")));
        let fault = self.connection.status().last_fault.map(|fault| fault.to_string());
        let alarms: Vec<String> = self.alarms.texts().map(str::to_owned).chain(fault).collect();
        let report = NodeReport {
            active: self.active().map(|active| ActiveReport {
                tag: active.id.tag.clone(),
                tree_digest: active.id.tree_digest,
                content_digest: active.content_digest,
                loaded_at: active.loaded_at,
            }),
            pinned: self.pinned_tag(),
            previous: self.state.previous.first().map(|previous| previous.id.tag.clone()),
            desired: self.desired.as_ref().map(|desired| desired.tag.clone()),
            last_sequence: self.own_last_sequence.max(outbox.last_stream_sequence.unwrap_or(0)),
            waiting_events: outbox.waiting,
            alarms,
            started_at: self.started_at,
            ..self.view.borrow().clone()
        };
        self.view.send_if_modified(|shown| {
            let changed = *shown != report;
            *shown = report;
            changed
        });
        self.show_view();
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
        assert_eq!(rivalry.alarm(&node, start), None);
        rivalry.seen_in_log(7, writer, start);
        assert!(rivalry.alarm(&node, start).unwrap().contains(&writer.to_string()));
        // The same event, read again later, prolongs nothing.
        rivalry.seen_in_log(7, writer, start + RIVAL_MEMORY);
        assert_eq!(rivalry.alarm(&node, start + RIVAL_MEMORY), None);
        rivalry.noticed_by_outbox(1, None, start + RIVAL_MEMORY);
        assert!(rivalry.alarm(&node, start + RIVAL_MEMORY).is_some());
    }
}
