//! What is known of the fleet: from the node table, which says who lives, and from the log, which says what each runs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use shared::event_envelope::EventEnvelope;
use shared::event_type::EventType;
use shared::fleet_history::{FleetHistory, read};
use shared::identifiers::{BundleName, NodeName};
use shared::subjects::EVENT_SUBJECTS;
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::node_table::NodeTable;
use streams::stored_event::StoredEvent;
use subscriber::node_report::NodeReport;

use super::heads::node_of;
use super::selection::Selection;
use crate::event_text::describe;
use crate::output::printable;
use crate::timeline_reader::message;

/// A node, as far as one bundle is concerned.
pub(super) type NodeKey = (NodeName, BundleName);

/// A node's entry in the table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) report: NodeReport,
}

/// An event, and what it says or why it is none.
#[derive(Debug)]
pub(super) struct ReadEvent {
    pub(super) event: StoredEvent,
    /// Whom its subject is about, and the type that the subject names.
    pub(super) node: Option<(NodeKey, EventType)>,
    pub(super) read: Result<EventEnvelope, String>,
}

impl From<StoredEvent> for ReadEvent {
    fn from(event: StoredEvent) -> Self {
        Self { read: read(&event.subject, &event.payload), node: node_of(&event.subject), event }
    }
}

/// What was read of the fleet.
#[derive(Debug, Default)]
pub(super) struct FleetView {
    /// Channels and nodes, as the log has them.
    pub(super) history: FleetHistory,
    /// The table.
    pub(super) entries: BTreeMap<NodeKey, Entry>,
    /// Nodes that run several bundles. Their entries name the node's last event, not that of each bundle.
    pub(super) several: BTreeSet<NodeName>,
    /// When the server stored each node's last event that was read.
    pub(super) heard: BTreeMap<NodeKey, DateTime<Utc>>,
    /// Each node's last failure in words.
    pub(super) failures: BTreeMap<NodeKey, String>,
    /// Entries of the table that no agent of ours wrote.
    pub(super) not_understood: usize,
    /// Whether there is no table: the server has lost it with its memory.
    pub(super) table_missing: bool,
    /// Events read from the log.
    pub(super) events_read: usize,
}

/// Reads the fleet by folding the whole log. Needs operator rights.
pub(super) async fn read_whole_log(connection: &Connection, selection: &Selection) -> anyhow::Result<FleetView> {
    let mut view = FleetView::of_table(connection.clone(), selection.clone()).await?;
    let log = EventLog::new(connection.clone());
    let up_to = log.state().await.context("cannot read the event log")?.last_sequence;
    let mut pages = log.replay(EVENT_SUBJECTS, 1, up_to);
    while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
        view.fold(page.into_iter().map(ReadEvent::from).collect());
    }
    view.history.nodes.retain(|(node, bundle), _| selection.takes(node, bundle));
    Ok(view)
}

impl FleetView {
    /// What the node table says, and nothing of the log. Needs operator rights.
    pub(super) async fn of_table(connection: Connection, selection: Selection) -> anyhow::Result<Self> {
        let mut view = Self::default();
        let table = NodeTable::new(connection);
        let entries = match table.list().await {
            Ok(entries) => entries,
            Err(error) => {
                if table.exists().await.unwrap_or(true) {
                    return Err(error).context("the live nodes are not known");
                }
                view.table_missing = true;
                return Ok(view);
            }
        };
        for entry in entries {
            let reports = match NodeReport::read_entry(&entry.value) {
                Ok(reports) => reports,
                Err(error) => {
                    tracing::warn!(node = %entry.node, %error, "an entry of the node table is not understood");
                    view.not_understood += 1;
                    continue;
                }
            };
            if reports.len() > 1 {
                view.several.insert(entry.node.clone());
            }
            for report in reports {
                if selection.takes(&entry.node, &report.bundle) {
                    let key = (entry.node.clone(), report.bundle.clone());
                    view.entries.insert(key, Entry { report });
                }
            }
        }
        Ok(view)
    }

    /// Folds events in stream order.
    pub(super) fn fold(&mut self, mut events: Vec<ReadEvent>) {
        events.sort_by_key(|event| event.event.stream_sequence);
        events.dedup_by_key(|event| event.event.stream_sequence);
        self.events_read += events.len();
        for ReadEvent { event, node, read } in events {
            if let Ok(envelope) = &read
                && let Some((key, event_type)) = node
            {
                if is_failure(&event_type) && envelope.event.event_type() == event_type {
                    let words = format!("{event_type}: {}", printable(&describe(&envelope.event)));
                    self.failures.insert(key.clone(), words);
                }
                self.heard.insert(key, event.stored_at);
            }
            self.history.apply_read(message(&event), read);
        }
    }

    /// Folds events together with all that nodes reported in a stretch of the log, page by page.
    pub(super) async fn fold_with_rest(
        &mut self,
        mut events: Vec<ReadEvent>,
        log: &EventLog,
        selection: &Selection,
        from: u64,
        up_to: u64,
    ) -> anyhow::Result<()> {
        events.sort_by_key(|event| event.event.stream_sequence);
        let mut events = events.into_iter().peekable();
        let mut pages = log.replay(selection.reports_filter("*"), from, up_to);
        while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
            let last = page.last().map_or(0, |event| event.stream_sequence);
            let mut together: Vec<ReadEvent> = page.into_iter().map(ReadEvent::from).collect();
            while let Some(event) = events.next_if(|event| event.event.stream_sequence <= last) {
                together.push(event);
            }
            self.fold(together);
        }
        self.fold(events.collect());
        Ok(())
    }
}

/// Whether the type says that a node could not run a release.
fn is_failure(event_type: &EventType) -> bool {
    matches!(event_type, EventType::VerificationFailed | EventType::DownloadFailed | EventType::Reverted)
}
