//! What is known of the fleet: from the node table, and from as little of the log as gives the same answer as all of it.
//!
//! The table says who lives and how far each has written. The log says what each runs: the last event of a subject is
//! found without reading those before it. A node whose entry is absent, or names another last event than the log has,
//! is read in full: the last event on each of its subjects. So is a node that runs several bundles.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use shared::event_type::EventType;
use shared::fleet_history::FleetHistory;
use shared::identifiers::{BundleName, NodeName};
use shared::subjects::{EVENT_SUBJECTS, EventSubject, Scope};
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::node_table::NodeTable;
use streams::stored_event::StoredEvent;
use subscriber::node_report::NodeReport;

use super::selection::Selection;
use crate::event_text::describe;
use crate::output::printable;
use crate::timeline_reader::message;

/// Subjects in one request: below what the server returns at most.
const SUBJECTS_A_REQUEST: usize = 1000;
/// What the clocks of a server's streams may differ in.
const CLOCK_MARGIN: TimeDelta = TimeDelta::seconds(5);

/// A node, as far as one bundle is concerned.
pub(super) type NodeKey = (NodeName, BundleName);

/// A node's entry in the table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) report: NodeReport,
    pub(super) stored_at: DateTime<Utc>,
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

/// Reads the fleet without replaying the log. Needs operator rights.
pub(super) async fn read_heads(connection: &Connection, selection: &Selection) -> anyhow::Result<FleetView> {
    let mut view = FleetView::default();
    view.read_table(connection, selection).await?;
    let log = EventLog::new(connection.clone());
    let names = log.subject_names(&selection.reports_filter("*")).await;
    let subjects = Subjects::new(&names.context("the log cannot say which nodes reported")?);

    let mut events = Vec::new();
    let heads = selection.bundle.as_ref().map_or("*", BundleName::as_str);
    let heads = format!("bundle.{}.{heads}.channel.*", EventType::Promoted.token());
    let names = log.subject_names(&heads).await.context("the log cannot say which channels exist")?;
    read_last(&log, names, &mut events).await?;
    let decisive = subjects.of(|key, event_type| !view.entries.contains_key(key) || is_decisive(event_type));
    read_last(&log, decisive, &mut events).await?;
    let behind = view.read_since_oldest_entry(&log, selection, &subjects).await?;

    let mut last: BTreeMap<NodeKey, u64> = BTreeMap::new();
    note_newest(&events, &mut last);
    let doubtful: BTreeSet<NodeKey> = view
        .entries
        .iter()
        .filter(|(key, entry)| {
            let known = last.get(*key).copied().unwrap_or(0);
            let several = view.several.contains(&key.0);
            several || entry.report.last_sequence != known || behind.get(*key).is_some_and(|newer| *newer > known)
        })
        .map(|(key, _)| key.clone())
        .collect();
    let rest = subjects.of(|key, event_type| doubtful.contains(key) && !is_decisive(event_type));
    read_last(&log, rest, &mut events).await?;

    // A last event that is none hides the valid one before it.
    let hidden: BTreeSet<String> =
        events.iter().filter(|event| event.envelope().is_err()).map(|event| event.subject.clone()).collect();
    for subject in hidden {
        events.extend(log.by_subject(subject, 1).collect().await.context("cannot read the event log")?);
    }
    view.fold(events);
    Ok(view)
}

/// Reads the fleet by folding the whole log. Needs operator rights.
pub(super) async fn read_whole_log(connection: &Connection, selection: &Selection) -> anyhow::Result<FleetView> {
    let mut view = FleetView::default();
    view.read_table(connection, selection).await?;
    let log = EventLog::new(connection.clone());
    let up_to = log.state().await.context("cannot read the event log")?.last_sequence;
    let mut pages = log.replay(EVENT_SUBJECTS, 1, up_to);
    while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
        view.fold(page);
    }
    view.history.nodes.retain(|(node, bundle), _| selection.takes(node, bundle));
    Ok(view)
}

impl FleetView {
    async fn read_table(&mut self, connection: &Connection, selection: &Selection) -> anyhow::Result<()> {
        let table = NodeTable::new(connection.clone());
        let entries = match table.list().await {
            Ok(entries) => entries,
            Err(error) => {
                if table.exists().await.unwrap_or(true) {
                    return Err(error).context("the live nodes are not known");
                }
                self.table_missing = true;
                return Ok(());
            }
        };
        for entry in entries {
            let reports = match NodeReport::read_entry(&entry.value) {
                Ok(reports) => reports,
                Err(error) => {
                    tracing::warn!(node = %entry.node, %error, "an entry of the node table is not understood");
                    self.not_understood += 1;
                    continue;
                }
            };
            if reports.len() > 1 {
                self.several.insert(entry.node.clone());
            }
            for report in reports {
                if selection.takes(&entry.node, &report.bundle) {
                    let key = (entry.node.clone(), report.bundle.clone());
                    self.entries.insert(key, Entry { report, stored_at: entry.stored_at });
                }
            }
        }
        Ok(())
    }

    /// The attempts that entries cannot know of, because they are older: an attempt begins every switch. While a release
    /// goes out, the fleet writes several events a node in the lifetime of an entry. So no more of them are read than there
    /// are nodes that wrote any; where there are more, the last of each node's is.
    async fn read_since_oldest_entry(
        &mut self,
        log: &EventLog,
        selection: &Selection,
        subjects: &Subjects,
    ) -> anyhow::Result<BTreeMap<NodeKey, u64>> {
        let mut newest = BTreeMap::new();
        let Some(oldest) = self.entries.values().map(|entry| entry.stored_at).min() else { return Ok(newest) };
        for event_type in [EventType::RefreshAttempt, EventType::Staged] {
            let written = subjects.of(|key, kind| *kind == event_type && self.entries.contains_key(key));
            let mut budget = written.len().max(SUBJECTS_A_REQUEST);
            let filter = selection.reports_filter(event_type.token());
            let mut pages = log.stored_since(filter, oldest - CLOCK_MARGIN);
            while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
                self.events_read += page.len();
                note_newest(&page, &mut newest);
                if page.len() > budget {
                    let mut last = Vec::new();
                    read_last(log, written, &mut last).await?;
                    self.events_read += last.len();
                    note_newest(&last, &mut newest);
                    break;
                }
                budget -= page.len();
            }
        }
        Ok(newest)
    }

    /// Folds events in stream order.
    fn fold(&mut self, mut events: Vec<StoredEvent>) {
        events.sort_by_key(|event| event.stream_sequence);
        events.dedup_by_key(|event| event.stream_sequence);
        self.events_read += events.len();
        for event in &events {
            self.history.apply(message(event));
            let Some((key, event_type)) = node_of(&event.subject) else { continue };
            if is_failure(&event_type)
                && let Ok((_, envelope)) = event.envelope()
                && envelope.event.event_type() == event_type
            {
                self.failures.insert(key.clone(), format!("{event_type}: {}", printable(&describe(&envelope.event))));
            }
            self.heard.insert(key, event.stored_at);
        }
    }
}

/// Notes each node's highest stream sequence among the events.
fn note_newest(events: &[StoredEvent], newest: &mut BTreeMap<NodeKey, u64>) {
    for event in events {
        if let Some((key, _)) = node_of(&event.subject) {
            let known = newest.entry(key).or_default();
            *known = event.stream_sequence.max(*known);
        }
    }
}

/// The subjects that nodes reported on.
struct Subjects(Vec<(String, NodeKey, EventType)>);

impl Subjects {
    fn new(names: &[String]) -> Self {
        let of = |name: &String| node_of(name).map(|(key, event_type)| (name.clone(), key, event_type));
        Self(names.iter().filter_map(of).collect())
    }

    fn of(&self, wanted: impl Fn(&NodeKey, &EventType) -> bool) -> Vec<String> {
        self.0.iter().filter(|(_, key, event_type)| wanted(key, event_type)).map(|(name, ..)| name.clone()).collect()
    }
}

/// Whether the type's last event says what a node runs or failed with.
fn is_decisive(event_type: &EventType) -> bool {
    matches!(event_type, EventType::Loaded | EventType::FallbackActivated) || is_failure(event_type)
}

/// Whether the type says that a node could not run a release.
fn is_failure(event_type: &EventType) -> bool {
    matches!(event_type, EventType::VerificationFailed | EventType::DownloadFailed | EventType::Reverted)
}

fn node_of(subject: &str) -> Option<(NodeKey, EventType)> {
    let subject: EventSubject = subject.parse().ok()?;
    match (subject.bundle(), subject.scope()) {
        (Some(bundle), Scope::Node(node)) => Some(((node.clone(), bundle.clone()), subject.event_type().clone())),
        _ => None,
    }
}

/// Adds the last event on each of the subjects.
async fn read_last(log: &EventLog, subjects: Vec<String>, events: &mut Vec<StoredEvent>) -> anyhow::Result<()> {
    let unique: HashSet<String> = subjects.into_iter().collect();
    let unique: Vec<String> = unique.into_iter().collect();
    for part in unique.chunks(SUBJECTS_A_REQUEST) {
        events.extend(log.last_of(part).await.context("cannot read the event log")?.events);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: &str, stream_sequence: u64) -> StoredEvent {
        let payload = Vec::new().into();
        StoredEvent { stream_sequence, stored_at: DateTime::UNIX_EPOCH, subject: subject.to_owned(), payload }
    }

    #[test]
    fn a_nodes_newest_event_is_its_highest_whatever_its_type() {
        let mut newest = BTreeMap::new();
        note_newest(&[event("bundle.refresh_attempt.contracts.node.n1", 10)], &mut newest);
        let others = ["bundle.staged.contracts.node.n1", "bundle.promoted.contracts.channel.latest", "else"];
        note_newest(&others.map(|subject| event(subject, 8)), &mut newest);
        assert_eq!(newest.into_values().collect::<Vec<_>>(), [10]);
    }

    #[test]
    fn only_subjects_of_nodes_are_asked_for() {
        let names = ["bundle.loaded.contracts.node.n1", "bundle.staged.contracts.node.n1", "bundle.loaded.x.channel.y"];
        let subjects = Subjects::new(&names.map(str::to_owned));
        assert_eq!(subjects.of(|_, event_type| is_decisive(event_type)), ["bundle.loaded.contracts.node.n1"]);
        assert_eq!(subjects.of(|_, _| true).len(), 2);
    }
}
