//! One row a node: plain functions over what was read.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::fleet_history::NodeState;
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};
use subscriber::node_report::NodeReport;

use super::selection::Selection;
use super::time_cell;
use super::view::{Entry, FleetView, NodeKey};
use crate::output::printable;

/// Columns of the table.
pub(super) const COLUMNS: [&str; 8] = ["node", "bundle", "state", "runs", "since", "desired", "from", "why"];

/// How a node stands. Where several hold, the first of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Standing {
    /// It stopped reporting.
    Silent,
    /// It is not on the desired release, and its last attempt at it failed.
    Failed,
    /// It says that something is wrong.
    Alarm,
    /// It is not on the desired release.
    Behind,
    /// It runs what it is pinned to, whatever its channel says.
    Pinned,
    /// It runs the desired release.
    Ok,
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Silent => "silent",
            Self::Failed => "failed",
            Self::Alarm => "alarm",
            Self::Behind => "behind",
            Self::Pinned => "pinned",
            Self::Ok => "ok",
        })
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NodeRow {
    pub(super) node: NodeName,
    pub(super) bundle: BundleName,
    pub(super) state: Standing,
    /// What it runs; absent where that is nothing.
    pub(super) tag: Option<Tag>,
    pub(super) tree_digest: Option<Sha256Digest>,
    /// Since when, by its own clock.
    pub(super) since: Option<DateTime<Utc>>,
    /// What it should run.
    pub(super) desired: Option<Tag>,
    /// The channel it follows.
    pub(super) channel: Option<ChannelName>,
    /// What it is pinned to.
    pub(super) pinned: Option<Tag>,
    /// What it holds verified and has not switched to.
    pub(super) staged: Option<Tag>,
    /// When the server last heard of a node that is silent.
    pub(super) silent_since: Option<DateTime<Utc>>,
    /// Its last failure since it last switched, in words.
    pub(super) failure: Option<String>,
    /// Why it is not `ok`, in words.
    pub(super) reason: Option<String>,
    pub(super) alarms: Vec<String>,
    /// Stream sequence of its last event; 0 where the log has none.
    pub(super) last_sequence: u64,
    /// Events that it has recorded and not yet sent.
    pub(super) waiting_events: usize,
    /// Version of its agent, where it lives.
    pub(super) version: Option<String>,
    /// Where its entry in the table says something else than the log, or the log knows nothing of what it says.
    pub(super) contradiction: Option<String>,
}

/// The rows of all nodes that belong to the selection, by name.
pub(super) fn rows(view: &FleetView, selection: &Selection) -> Vec<NodeRow> {
    // Two sorted runs: the sort only merges them.
    let mut keys: Vec<&NodeKey> = view.history.nodes.keys().chain(view.entries.keys()).collect();
    keys.sort();
    keys.dedup();
    let last = last_events(view);
    let row = |key: &NodeKey| row(view, key, last.get(&key.0).copied());
    keys.into_iter().map(row).filter(|row| selection.takes_channel(row.channel.as_ref())).collect()
}

fn row(view: &FleetView, key: &NodeKey, last: Option<u64>) -> NodeRow {
    let (node, bundle) = key;
    let logged = view.history.nodes.get(key);
    let entry = view.entries.get(key);
    let report = entry.map(|entry| &entry.report);
    let loaded = logged.and_then(|state| state.active.as_ref());
    let running = match (loaded, report.and_then(|report| report.active.as_ref())) {
        (Some((loaded, since)), _) => Some((loaded.tag.clone(), loaded.tree_digest, *since)),
        (None, Some(active)) => Some((active.tag.clone(), active.tree_digest, active.loaded_at)),
        (None, None) => None,
    };
    let channel = match report {
        Some(report) => report.channel.clone(),
        None => loaded.and_then(|(loaded, _)| loaded.channel.clone()),
    };
    let pinned = report.and_then(|report| report.pinned.clone());
    let head = channel.as_ref().and_then(|channel| view.history.channels.get(&(bundle.clone(), channel.clone())));
    let desired = match (&pinned, head) {
        (Some(pinned), _) => Some(pinned.clone()),
        (None, Some(head)) => Some(head.head.tag.clone()),
        (None, None) => report.and_then(|report| report.desired.clone()),
    };
    let there = match (&pinned, head, &running) {
        (None, Some(head), Some((tag, tree, _))) => *tag == head.head.tag && *tree == head.head.tree_digest,
        (_, _, running) => desired.is_none() || running.as_ref().map(|(tag, ..)| tag) == desired.as_ref(),
    };
    let failure = logged.and_then(|state| state.failure.as_ref());
    let words = failure.map(|(tag, event_type)| {
        view.failures.get(key).map_or_else(|| format!("{tag}: {event_type}"), |words| format!("{tag}: {words}"))
    });
    let failed = failure.is_some_and(|(tag, _)| Some(tag) == desired.as_ref());
    let alarms: Vec<String> = report.map(|report| report.alarms.clone()).unwrap_or_default();
    let silent_since = if entry.is_none() { view.heard.get(key).copied() } else { None };
    let state = match () {
        () if entry.is_none() => Standing::Silent,
        () if !there && failed => Standing::Failed,
        () if !alarms.is_empty() => Standing::Alarm,
        () if !there => Standing::Behind,
        () if pinned.is_some() => Standing::Pinned,
        () => Standing::Ok,
    };
    let reason =
        reason(state, silent_since, words.as_deref(), &alarms, report.map_or(0, |report| report.waiting_events));
    NodeRow {
        node: node.clone(),
        bundle: bundle.clone(),
        state,
        tag: running.as_ref().map(|(tag, ..)| tag.clone()),
        tree_digest: running.as_ref().map(|(_, tree, _)| *tree),
        since: running.map(|(.., since)| since),
        desired,
        channel,
        pinned,
        staged: staged(report, logged),
        silent_since,
        failure: words,
        reason,
        alarms,
        last_sequence: logged.map_or(0, |state| state.stream_sequence),
        waiting_events: report.map_or(0, |report| report.waiting_events),
        version: report.map(|report| report.version.clone()),
        contradiction: entry.and_then(|entry| contradiction(entry, logged, last)),
    }
}

/// What a node holds ahead. Its entry knows best, as far as it is not behind the log: what was withdrawn, or gave way to
/// something else, is gone without an event.
fn staged(report: Option<&NodeReport>, logged: Option<&NodeState>) -> Option<Tag> {
    match (report, logged) {
        (Some(report), Some(logged)) if report.last_sequence >= logged.stream_sequence => report.staged.clone(),
        (_, logged) => logged?.staged.clone(),
    }
}

fn reason(
    state: Standing,
    silent_since: Option<DateTime<Utc>>,
    failure: Option<&str>,
    alarms: &[String],
    waiting_events: usize,
) -> Option<String> {
    match state {
        Standing::Silent => {
            let heard = silent_since.map_or_else(|| "an unknown time".to_owned(), time_cell);
            Some(format!("last event at {heard}; no entry in the node table"))
        }
        Standing::Failed => failure.map(str::to_owned),
        Standing::Alarm => Some(alarms.join("; ")),
        Standing::Behind if waiting_events > 0 => {
            Some(format!("it has not switched yet, or not told: {waiting_events} of its events wait to be sent"))
        }
        Standing::Behind => Some("it has not switched yet".to_owned()),
        Standing::Pinned => Some("pinned on the node".to_owned()),
        Standing::Ok => None,
    }
}

/// Each node's last event in the log, about whichever of its bundles. Not of a node that runs several of which only one
/// was asked for.
fn last_events(view: &FleetView) -> BTreeMap<&NodeName, u64> {
    let (mut last, mut entries) = (BTreeMap::new(), BTreeMap::new());
    for (node, _) in view.entries.keys() {
        last.insert(node, 0);
        *entries.entry(node).or_insert(0_usize) += 1;
    }
    for ((node, _), state) in &view.history.nodes {
        let known = last.entry(node).or_default();
        *known = state.stream_sequence.max(*known);
    }
    last.retain(|node, _| !view.several.contains(*node) || entries.get(node).is_some_and(|entries| *entries > 1));
    last
}

/// Where the table contradicts the log, which wins. `last` is the node's last event in the log, where it is known.
fn contradiction(entry: &Entry, logged: Option<&NodeState>, last: Option<u64>) -> Option<String> {
    let report = &entry.report;
    let said = report.active.as_ref().map(|active| (&active.tag, active.tree_digest));
    let known = logged.and_then(|state| state.active.as_ref()).map(|(loaded, _)| (&loaded.tag, loaded.tree_digest));
    let name = |of: Option<(&Tag, Sha256Digest)>| of.map_or("nothing", |(tag, _)| tag.as_str()).to_owned();
    if said == known {
        let last = last.filter(|last| report.last_sequence > *last)?;
        return Some(format!("the table names event {} as its last, the log ends with {last}", report.last_sequence));
    }
    if known.is_none() {
        return Some(format!("the table says it runs {}; the log has no event of a switch", name(said)));
    }
    let stale = if last.is_some_and(|last| report.last_sequence < last) { "is behind and " } else { "" };
    Some(format!("the table {stale}says it runs {}; the log says {}", name(said), name(known)))
}

/// The row's cells, one for each of [`COLUMNS`].
pub(super) fn cells(row: &NodeRow) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let from = match (&row.pinned, &row.channel) {
        (Some(_), _) => "pin".to_owned(),
        (None, channel) => or_dash(channel.as_ref().map(ToString::to_string)),
    };
    vec![
        row.node.to_string(),
        row.bundle.to_string(),
        row.state.to_string(),
        row.tag.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string),
        or_dash(row.since.map(time_cell)),
        or_dash(row.desired.as_ref().map(ToString::to_string)),
        from,
        or_dash(row.reason.as_deref().map(printable)),
    ]
}

#[cfg(test)]
mod tests;
