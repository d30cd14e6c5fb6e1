//! What the node shows of this bundle: its part of the entry in the node table, alarms included.

use shared::identifiers::Tag;

use super::agent::Agent;
use crate::config::Follow;
use crate::node_report::{ActiveReport, NodeReport};

impl Agent {
    /// The tag that does not follow the channel: of the settings, or of the local pin.
    fn pinned_tag(&self) -> Option<Tag> {
        match &self.target.follow {
            Follow::Tag(tag) => Some(tag.clone()),
            Follow::Channel(_) => self.known_pin.pin.as_ref().map(|pin| pin.tag.clone()),
        }
    }

    /// Brings what the node says about this bundle up to date.
    pub(super) fn show(&mut self) {
        let outbox = self.outbox.status().borrow().clone();
        let of_bundle: Vec<String> = self.alarms.texts().map(str::to_owned).collect();
        let alarms = of_bundle.into_iter().chain(self.node_alarms.texts()).collect();
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
            staged: self.state.ahead.staged.as_ref().map(|staged| staged.id.tag.clone()),
            last_sequence: self.own_last_sequence.max(outbox.last_stream_sequence.unwrap_or(0)),
            logged: self.logged,
            waiting_events: outbox.waiting,
            alarms,
            started_at: self.started_at,
            incarnation: self.outbox.incarnation(),
            ..self.view.borrow().clone()
        };
        self.view.send_if_modified(|shown| {
            // How far the log was read is told with the next entry; alone it is no reason to write one.
            shown.logged = report.logged;
            let changed = *shown != report;
            *shown = report;
            changed
        });
        self.show_view();
    }
}
