//! The fleet without replaying the log.
//!
//! A switch leaves behind all that was said of a node before: to know how a node stands, its last `bundle.loaded` is needed
//! and what came later, nothing else. So four things are read at once: the node table, the last switch of every node, the
//! heads of the channels, and the names of the subjects that nodes report on (a node that never switched has no other
//! trace). A node's entry says what its last event was when it last read the log, and how far the log went then. Where that
//! event is its switch, only what came later still is unknown; where it is another one, or the entry cannot be right, all
//! since the switch; without a switch, everything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shared::event::BundleEvent;
use shared::event_type::EventType;
use shared::identifiers::BundleName;
use shared::subjects::{EventSubject, Scope};
use streams::event_log::EventLog;
use streams::stored_event::StoredEvent;
use tokio::task::JoinHandle;

use super::connections::FleetConnections;
use super::reading_plan::plan;
use super::selection::Selection;
use super::view::{Entry, FleetView, NodeKey, ReadEvent};

/// Requests for single nodes under way together.
const NODES_AT_ONCE: usize = 32;

/// Reads the fleet without replaying the log; gives what [`super::view::read_whole_log`] gives. Needs operator rights.
pub(super) async fn read_heads(connections: &FleetConnections, selection: &Selection) -> anyhow::Result<FleetView> {
    let log = EventLog::new(connections.log.clone());
    // Before all else: what is stored later is read in any case.
    let begun_at = log.state().await.context("cannot read the event log")?.last_sequence;
    let table = tokio::spawn(FleetView::of_table(connections.table.clone(), selection.clone()));
    let last_switches = tokio::spawn(last_of(log.clone(), selection.reports_filter(EventType::Loaded.token())));
    let bundle = selection.bundle.as_ref().map_or("*", BundleName::as_str);
    let channels = format!("bundle.{}.{bundle}.channel.*", EventType::Promoted.token());
    let channels = tokio::spawn(last_of(log.clone(), channels));
    let names = EventLog::new(connections.names.clone());
    let mut reported: Vec<NodeKey> = Vec::new();
    let listings: Vec<_> = other_reports().map(|event_type| listed(&names, selection, event_type)).collect();
    for listing in listings {
        reported.extend(joined(listing).await?);
    }
    let mut view = joined(table).await?;
    let mut events = joined(last_switches).await?;
    let heads = joined(channels).await?;
    let up_to = log.state().await.context("cannot read the event log")?.last_sequence;

    // A head that is no event hides the valid one before it.
    for hidden in heads.iter().filter(|head| head.read.is_err()) {
        events.extend(whole_subject(&log, &hidden.event.subject).await?);
    }
    events.extend(heads);
    let switch_of = switches_of(&events);
    let others = reported.iter().filter(|key| !switch_of.contains_key(key)).map(|key| (key, None));
    let switched = switch_of.iter().map(|(key, switch)| (*key, *switch));
    let unknown = others.chain(switched).filter_map(|(key, switch)| {
        let from = unknown_from(switch, view.entries.get(key), up_to);
        // What came after the beginning is read in any case.
        (from <= begun_at).then(|| (from, key.clone()))
    });
    let plan = plan(unknown.collect::<BTreeSet<_>>().into_iter().collect(), begun_at, up_to);
    tracing::debug!(nodes = plan.one_by_one.len(), from = plan.for_all_from, up_to, "what the heads do not tell");
    let asked = stream::iter(plan.one_by_one).map(|(from, key)| of_node(&log, key, from, up_to));
    let mut asked = asked.buffer_unordered(NODES_AT_ONCE);
    while let Some(read) = asked.try_next().await? {
        events.extend(read);
    }
    drop(asked);
    view.fold_with_rest(events, &log, selection, plan.for_all_from, up_to).await?;
    view.history.nodes.retain(|(node, bundle), _| selection.takes(node, bundle));
    Ok(view)
}

/// From which sequence on a node's events are unknown, where its last switch has this one. An entry is believed where it
/// names the switch as the node's last event and says up to where the node had read the log when that was so.
fn unknown_from(switch: Option<u64>, entry: Option<&Entry>, log_end: u64) -> u64 {
    let switch = switch.unwrap_or(0);
    match entry.and_then(|entry| entry.report.logged) {
        Some(logged) if logged.last_sequence == switch && (switch..=log_end).contains(&logged.up_to_sequence) => {
            logged.up_to_sequence + 1
        }
        Some(_) | None => switch + 1,
    }
}

/// Each node's last switch; `None` where its last event of that type is none: damaged, or of a newer version.
fn switches_of(events: &[ReadEvent]) -> BTreeMap<&NodeKey, Option<u64>> {
    let mut switches: BTreeMap<&NodeKey, Option<u64>> = BTreeMap::new();
    for event in events {
        if let Some((key, EventType::Loaded)) = &event.node {
            let valid = event.read.as_ref().is_ok_and(|envelope| matches!(envelope.event, BundleEvent::Loaded(_)));
            let known = switches.entry(key).or_default();
            *known = valid.then_some(event.event.stream_sequence).max(*known);
        }
    }
    switches
}

/// The types of events by which nodes are known, the switch excepted.
fn other_reports() -> impl Iterator<Item = &'static EventType> {
    EventType::KNOWN.iter().filter(|event_type| match event_type {
        EventType::RefreshAttempt
        | EventType::Staged
        | EventType::VerificationFailed
        | EventType::DownloadFailed
        | EventType::FallbackActivated
        | EventType::StaleDetected
        | EventType::UpdateDetected
        | EventType::TamperDetected
        | EventType::Reverted => true,
        EventType::Loaded
        | EventType::Published
        | EventType::Promoted
        | EventType::Withdrawn
        | EventType::EpochStarted
        | EventType::Checkpointed
        | EventType::Other(_) => false,
    })
}

/// Whom a subject is about, and the type of its events.
pub(super) fn node_of(subject: &str) -> Option<(NodeKey, EventType)> {
    let subject: EventSubject = subject.parse().ok()?;
    match (subject.bundle(), subject.scope()) {
        (Some(bundle), Scope::Node(node)) => Some(((node.clone(), bundle.clone()), subject.event_type().clone())),
        _ => None,
    }
}

/// Nodes that reported events of a type.
fn listed(log: &EventLog, selection: &Selection, event_type: &EventType) -> JoinHandle<anyhow::Result<Vec<NodeKey>>> {
    let (log, filter) = (log.clone(), selection.reports_filter(event_type.token()));
    tokio::spawn(async move {
        let names = log.subject_names(&filter).await.context("the log cannot say which nodes reported")?;
        Ok(names.iter().filter_map(|name| node_of(name)).map(|(key, _)| key).collect())
    })
}

/// The last event of every subject that matches.
async fn last_of(log: EventLog, filter: String) -> anyhow::Result<Vec<ReadEvent>> {
    let mut pages = log.last_of_each(vec![filter]);
    let mut events = Vec::new();
    while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
        events.extend(page.into_iter().map(ReadEvent::from));
    }
    Ok(events)
}

async fn of_node(log: &EventLog, (node, bundle): NodeKey, from: u64, up_to: u64) -> anyhow::Result<Vec<ReadEvent>> {
    let pages = log.by_subject(format!("bundle.*.{bundle}.node.{node}"), from).up_to(up_to);
    Ok(read(pages.collect().await.context("cannot read the event log")?))
}

async fn whole_subject(log: &EventLog, subject: &str) -> anyhow::Result<Vec<ReadEvent>> {
    Ok(read(log.by_subject(subject, 1).collect().await.context("cannot read the event log")?))
}

fn read(events: Vec<StoredEvent>) -> Vec<ReadEvent> {
    events.into_iter().map(ReadEvent::from).collect()
}

async fn joined<T>(task: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    task.await.context("reading the fleet ended early")?
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    fn entry(up_to_sequence: u64, last_sequence: u64) -> Entry {
        let report = json!({
            "node": "n1", "bundle": "contracts", "last_sequence": last_sequence, "waiting_events": 0,
            "logged": { "up_to_sequence": up_to_sequence, "last_sequence": last_sequence },
            "incarnation": "0193b1c27e1f4a558c110242ac120002", "version": "0", "started_at": "2025-09-21T06:00:00Z"
        });
        Entry { report: serde_json::from_value(report).unwrap() }
    }

    #[test]
    fn an_entry_is_believed_where_it_can_be_right() {
        assert_eq!(unknown_from(Some(7), Some(&entry(20, 7)), 30), 21, "the switch was its last event");
        assert_eq!(unknown_from(Some(7), Some(&entry(20, 9)), 30), 8, "something came after the switch");
        assert_eq!(unknown_from(Some(25), Some(&entry(20, 7)), 30), 26, "it switched since");
        assert_eq!(unknown_from(Some(7), Some(&entry(31, 7)), 30), 8, "the log is not that long");
        assert_eq!(unknown_from(Some(7), Some(&entry(6, 7)), 30), 8, "it read no further than its switch");
        assert_eq!(unknown_from(Some(7), None, 30), 8, "silent");
        assert_eq!(unknown_from(None, Some(&entry(20, 0)), 30), 21, "it never reported");
        assert_eq!(unknown_from(None, Some(&entry(20, 4)), 30), 1, "it never switched");
        assert_eq!(unknown_from(None, None, 30), 1);
    }

    #[test]
    fn a_last_switch_that_is_no_event_is_none() {
        let garbage = |subject: &str, stream_sequence| {
            let payload = b"no event".as_slice().into();
            let event =
                StoredEvent { stream_sequence, stored_at: DateTime::UNIX_EPOCH, subject: subject.to_owned(), payload };
            ReadEvent::from(event)
        };
        let events = [
            garbage("bundle.loaded.contracts.node.n1", 4),
            garbage("bundle.staged.contracts.node.n2", 5),
            garbage("bundle.loaded.contracts.channel.n3", 6),
            garbage("else", 7),
        ];
        let switches: Vec<_> = switches_of(&events).into_iter().map(|((node, _), at)| (node.to_string(), at)).collect();
        assert_eq!(switches, [("n1".to_owned(), None)]);
    }
}
