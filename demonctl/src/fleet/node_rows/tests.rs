//! Views in memory: a log of a few events, a table of a few entries, and the row that comes of them.

use chrono::TimeDelta;
use shared::event::{BundleEvent, DownloadFailed, Hold, LoadSource, Loaded, Promoted, PromotionCause};
use shared::event_chain::{EventChain, EventDraft};
use shared::fleet_history::StoredMessage;
use shared::identifiers::{EventId, Incarnation};
use subscriber::node_report::{ActiveReport, NodeReport};
use uuid::Uuid;

use super::*;

/// What was read of a fleet whose channel `latest` points at `v2`.
struct Fleet {
    view: FleetView,
}

fn key(node: &str) -> NodeKey {
    (node.parse().unwrap(), "contracts".parse().unwrap())
}

fn digest(tag: &str) -> Sha256Digest {
    Sha256Digest::of(tag.as_bytes())
}

fn minute(number: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(i64::try_from(number).unwrap())
}

fn report(node: &str, active: Option<&str>, last_sequence: u64) -> NodeReport {
    NodeReport {
        node: node.parse().unwrap(),
        bundle: "contracts".parse().unwrap(),
        channel: Some("latest".parse().unwrap()),
        pinned: None,
        active: active.map(|tag| ActiveReport {
            tag: tag.parse().unwrap(),
            tree_digest: digest(tag),
            content_digest: digest(tag),
            loaded_at: DateTime::UNIX_EPOCH,
        }),
        previous: None,
        desired: None,
        staged: None,
        last_sequence,
        logged: None,
        waiting_events: 0,
        incarnation: Incarnation::from_uuid(Uuid::from_u128(1)),
        version: "0".to_owned(),
        alarms: Vec::new(),
        started_at: DateTime::UNIX_EPOCH,
    }
}

impl Fleet {
    fn new() -> Self {
        let promoted = Promoted {
            bundle: "contracts".parse().unwrap(),
            channel: "latest".parse().unwrap(),
            tag: "v2".parse().unwrap(),
            tree_digest: digest("v2"),
            previous_tag: None,
            cause: PromotionCause::Promote,
            hold: Hold::None,
            reason: None,
            actor: "ada".parse().unwrap(),
        };
        Self { view: FleetView::default() }.event("/operators/ada", promoted)
    }

    fn event(mut self, source: &str, event: impl Into<BundleEvent>) -> Self {
        let stream_sequence = self.view.history.last_sequence + 1;
        let id = EventId::from_uuid(Uuid::from_u128(stream_sequence.into()));
        let draft = EventDraft { id, time: minute(stream_sequence), event: event.into() };
        let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(1)), None);
        let sealed = chain.seal(&source.parse().unwrap(), &draft).unwrap();
        let (subject, payload) = (sealed.subject.to_string(), sealed.bytes);
        let stored_at = minute(stream_sequence);
        self.view.history.apply(StoredMessage { stream_sequence, stored_at, subject: &subject, payload: &payload });
        if let Some(node) = source.strip_prefix("/nodes/") {
            self.view.heard.insert(key(node), stored_at);
        }
        self
    }

    fn loaded(self, node: &str, tag: &str) -> Self {
        let loaded = Loaded {
            bundle: "contracts".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: digest(tag),
            content_digest: digest(tag),
            channel: Some("latest".parse().unwrap()),
            source: LoadSource::Download,
            wire_bytes: 1,
            previous_tag: None,
            duration_ms: 1,
            activation_epoch: 1,
            verified: true,
            unrecorded_switches: 0,
        };
        self.event(&format!("/nodes/{node}"), loaded)
    }

    fn failed(self, node: &str, tag: &str) -> Self {
        let failed = DownloadFailed {
            bundle: "contracts".parse().unwrap(),
            tag: tag.parse().unwrap(),
            error: "no space left".to_owned(),
            network_error: None,
            remediation: "make room".to_owned(),
            running_tag: None,
            repeats: 0,
            ahead: false,
        };
        self.event(&format!("/nodes/{node}"), failed)
    }

    fn entry(mut self, report: NodeReport) -> Self {
        self.view.entries.insert((report.node.clone(), report.bundle.clone()), Entry { report });
        self
    }

    fn row(&self, node: &str) -> NodeRow {
        let rows = rows(&self.view, &Selection::default());
        rows.into_iter().find(|row| row.node.as_str() == node).unwrap()
    }
}

/// How the node stands, what it runs and why it is not `ok`.
fn told(row: &NodeRow) -> (Standing, Option<&str>, Option<&str>) {
    (row.state, row.tag.as_ref().map(Tag::as_str), row.reason.as_deref())
}

#[test]
fn a_node_on_the_channels_release_is_ok() {
    let fleet = Fleet::new().loaded("n1", "v2").entry(report("n1", Some("v2"), 2));
    let row = fleet.row("n1");
    assert_eq!(told(&row), (Standing::Ok, Some("v2"), None));
    assert_eq!((row.since, row.last_sequence, row.contradiction), (Some(minute(2)), 2, None));
}

#[test]
fn the_same_tag_with_another_tree_is_not_the_release() {
    let fleet = Fleet::new().loaded("n1", "v2").entry(report("n1", Some("v2"), 2));
    let mut view = fleet.view;
    view.history.channels.values_mut().for_each(|channel| channel.head.tree_digest = digest("other"));
    assert_eq!(Fleet { view }.row("n1").state, Standing::Behind);
}

#[test]
fn of_several_troubles_the_gravest_is_named() {
    let alarmed = |active| NodeReport { alarms: vec!["clock is off".to_owned()], ..report("n1", active, 3) };
    let failed = Fleet::new().loaded("n1", "v1").failed("n1", "v2");
    let gone = failed.row("n1");
    assert_eq!(gone.state, Standing::Silent, "no entry in the table");
    assert_eq!(gone.silent_since, Some(minute(3)));
    let failed = failed.entry(alarmed(Some("v1")));
    assert_eq!(failed.row("n1").state, Standing::Failed);
    assert_eq!(failed.row("n1").reason.as_deref(), Some("v2: bundle.download_failed"));
    let there = Fleet::new().loaded("n1", "v2").entry(alarmed(Some("v2")));
    assert_eq!(told(&there.row("n1")), (Standing::Alarm, Some("v2"), Some("clock is off")));
    let other = Fleet::new().loaded("n1", "v1").failed("n1", "v0").entry(report("n1", Some("v1"), 3));
    assert_eq!(other.row("n1").state, Standing::Behind, "a failure with another release is none with this one");
}

#[test]
fn a_node_behind_says_whether_its_events_wait() {
    let fleet = Fleet::new().loaded("n1", "v1");
    let quiet = fleet.entry(report("n1", Some("v1"), 2));
    assert_eq!(told(&quiet.row("n1")), (Standing::Behind, Some("v1"), Some("it has not switched yet")));
    let waiting = quiet.entry(NodeReport { waiting_events: 4, ..report("n1", Some("v1"), 2) });
    assert!(waiting.row("n1").reason.is_some_and(|reason| reason.contains("4 of its events wait")));
}

#[test]
fn a_pinned_node_is_compared_with_its_pin() {
    let pinned = |tag: &str| NodeReport { pinned: Some(tag.parse().unwrap()), ..report("n1", Some("v1"), 2) };
    let fleet = Fleet::new().loaded("n1", "v1").entry(pinned("v1"));
    assert_eq!(fleet.row("n1").state, Standing::Pinned);
    assert_eq!(cells(&fleet.row("n1"))[6], "pin");
    assert_eq!(fleet.entry(pinned("v0")).row("n1").state, Standing::Behind);
}

#[test]
fn where_the_table_is_behind_or_wrong_the_log_wins_and_it_is_said() {
    let fleet = Fleet::new().loaded("n1", "v1").loaded("n1", "v2");
    let behind = fleet.entry(report("n1", Some("v1"), 2));
    assert_eq!(told(&behind.row("n1")), (Standing::Ok, Some("v2"), None));
    let words = behind.row("n1").contradiction;
    assert_eq!(words.as_deref(), Some("the table is behind and says it runs v1; the log says v2"));
    let wrong = behind.entry(report("n1", Some("v0"), 3)).row("n1");
    assert_eq!(wrong.contradiction.as_deref(), Some("the table says it runs v0; the log says v2"));
    let ahead = Fleet::new().loaded("n1", "v2").entry(report("n1", Some("v2"), 9)).row("n1");
    assert_eq!(ahead.contradiction.as_deref(), Some("the table names event 9 as its last, the log ends with 2"));
}

#[test]
fn a_node_that_the_log_does_not_know_is_believed_and_marked() {
    let row = Fleet::new().entry(report("n1", Some("v2"), 0)).row("n1");
    assert_eq!(told(&row), (Standing::Ok, Some("v2"), None));
    let words = "the table says it runs v2; the log has no event of a switch";
    assert_eq!(row.contradiction.as_deref(), Some(words));
    let fresh = Fleet::new().entry(report("n1", None, 0)).row("n1");
    assert_eq!(told(&fresh), (Standing::Behind, None, Some("it has not switched yet")));
    assert_eq!(fresh.contradiction, None);
}

#[test]
fn a_selection_by_channel_takes_the_rows_that_follow_it() {
    let beta = NodeReport { channel: Some("beta".parse().unwrap()), ..report("n2", None, 0) };
    let fleet = Fleet::new().loaded("n1", "v2").entry(report("n1", Some("v2"), 2)).entry(beta);
    let selection = Selection { channel: Some("latest".parse().unwrap()), ..Selection::default() };
    let nodes: Vec<String> = rows(&fleet.view, &selection).iter().map(|row| row.node.to_string()).collect();
    assert_eq!(nodes, ["n1"]);
    assert_eq!(rows(&fleet.view, &Selection::default()).len(), 2);
}
