//! Nodes in memory: what the log and the table say about them, and what that comes to.

use chrono::TimeDelta;
use shared::event::{DownloadFailed, Hold, LoadSource, Loaded, Promoted, PromotionCause};
use shared::event_chain::{EventChain, EventDraft};
use shared::fleet_history::StoredMessage;
use shared::identifiers::{EventId, Incarnation};
use subscriber::node_report::ActiveReport;
use uuid::Uuid;

use super::*;

/// The log, one event a minute.
#[derive(Default)]
struct Log {
    events: Vec<StoredEvent>,
    history: FleetHistory,
}

fn minute(number: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(i64::try_from(number).unwrap())
}

fn digest(tag: &str) -> Sha256Digest {
    Sha256Digest::of(tag.as_bytes())
}

impl Log {
    fn add(mut self, source: &str, event: impl Into<BundleEvent>) -> Self {
        let stream_sequence = self.events.len() as u64 + 1;
        let id = EventId::from_uuid(Uuid::from_u128(stream_sequence.into()));
        let draft = EventDraft { id, time: DateTime::UNIX_EPOCH, event: event.into() };
        let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(1)), None);
        let sealed = chain.seal(&source.parse().unwrap(), &draft).unwrap();
        let (subject, payload) = (sealed.subject.to_string(), sealed.bytes);
        let stored_at = minute(stream_sequence);
        self.history.apply(StoredMessage { stream_sequence, stored_at, subject: &subject, payload: &payload });
        self.events.push(StoredEvent { stream_sequence, stored_at, subject, payload: payload.into() });
        self
    }

    fn loaded(self, node: &str, tag: &str, channel: Option<&str>) -> Self {
        self.switched(node, tag, channel, true)
    }

    fn switched(self, node: &str, tag: &str, channel: Option<&str>, verified: bool) -> Self {
        let loaded = Loaded {
            bundle: "contracts".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: digest(tag),
            content_digest: digest(tag),
            channel: channel.map(|channel| channel.parse().unwrap()),
            source: LoadSource::Download,
            wire_bytes: 1,
            previous_tag: None,
            duration_ms: 1,
            activation_epoch: 1,
            unrecorded_switches: 0,
            verified,
        };
        self.add(&format!("/nodes/{node}"), loaded)
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
        self.add(&format!("/nodes/{node}"), failed)
    }

    fn promoted(self, tag: &str) -> Self {
        let promoted = Promoted {
            bundle: "contracts".parse().unwrap(),
            channel: "latest".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: digest(tag),
            previous_tag: None,
            cause: PromotionCause::Promote,
            hold: Hold::None,
            reason: None,
            actor: "ada".parse().unwrap(),
        };
        self.add("/operators/ada", promoted)
    }
}

/// A node's entry in the table, stored at a minute.
fn entry(node: &str, channel: Option<&str>, active: Option<&str>, stored: u64) -> NodeEntry {
    let report = NodeReport {
        node: node.parse().unwrap(),
        bundle: "contracts".parse().unwrap(),
        channel: channel.map(|channel| channel.parse().unwrap()),
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
        last_sequence: 0,
        logged: None,
        waiting_events: 0,
        incarnation: Incarnation::from_uuid(Uuid::from_u128(1)),
        version: "0".to_owned(),
        alarms: Vec::new(),
        started_at: DateTime::UNIX_EPOCH,
    };
    let value = serde_json::to_vec(&report).unwrap().into();
    NodeEntry { node: node.parse().unwrap(), stored_at: minute(stored), value }
}

/// Who follows and who does not, seen right after the log's last event.
fn told(log: &Log, tables: &[&[NodeEntry]], tag: &str) -> (Vec<String>, Vec<String>) {
    let (bundle, channel, tag) = ("contracts".parse().unwrap(), "latest".parse().unwrap(), tag.parse().unwrap());
    let goal = Goal { bundle: &bundle, channel: &channel, tree_digest: digest(Tag::as_str(&tag)), tag: &tag };
    let mut followers = Followers::default();
    for table in tables {
        followers.see_entries(&goal, table);
    }
    for page in log.events.chunks(2) {
        followers.see_events(&goal, page);
    }
    followers.see_history(&goal, &log.history, minute(log.events.len() as u64));
    let outcome = followers.outcome(&goal, &log.history);
    let followed = outcome.followed.iter().map(ToString::to_string).collect();
    (followed, outcome.stragglers.iter().map(ToString::to_string).collect())
}

#[test]
fn what_a_node_told_the_log_wins_over_its_entry() {
    let log = Log::default().promoted("v2").loaded("n1", "v2", Some("latest")).loaded("n2", "v1", Some("latest"));
    let table = [entry("n1", Some("latest"), Some("v1"), 3), entry("n2", Some("latest"), Some("v2"), 3)];
    let (followed, late) = told(&log, &[&table], "v2");
    assert_eq!(followed, ["n1"]);
    assert_eq!(late, ["node `n2` runs v1: it has not switched yet"]);
}

#[test]
fn a_switch_without_verification_is_not_enough() {
    let log = Log::default().promoted("v2").loaded("n1", "v2", Some("latest"));
    let log = log.switched("n2", "v2", Some("latest"), false);
    let (followed, late) = told(&log, &[], "v2");
    assert_eq!(followed, ["n1"]);
    assert_eq!(late, ["node `n2` runs v2: it switched without verifying, as its emergency switch allows"]);
    let (followed, late) = told(&log.loaded("n2", "v2", Some("latest")), &[], "v2");
    assert_eq!((followed.as_slice(), late.len()), (["n2".to_owned()].as_slice(), 0), "and verifying it later is");
}

#[test]
fn who_follows_something_else_or_is_long_gone_is_not_waited_for() {
    let log = Log::default()
        .loaded("gone", "v1", Some("latest"))
        .loaded("pinned", "v1", None)
        .loaded("beta", "v1", Some("beta"))
        .loaded("repinned", "v1", Some("latest"))
        .promoted("v2")
        .loaded("fresh", "v1", Some("latest"));
    let (followed, late) = told(&log, &[&[entry("repinned", None, Some("v1"), 5)]], "v2");
    assert!(followed.is_empty());
    assert_eq!(late, ["node `fresh` runs v1: it has not switched yet"], "alive by its event, without an entry yet");
}

#[test]
fn a_straggler_says_why() {
    let log = Log::default().loaded("n1", "v1", Some("latest")).loaded("n2", "v1", Some("latest"));
    let log = log.promoted("v2").failed("n2", "v2").failed("n3", "v0");
    let table = [
        entry("n1", Some("latest"), Some("v1"), 2),
        entry("n2", Some("latest"), Some("v1"), 2),
        entry("n3", Some("latest"), None, 4),
    ];
    let (_, late) = told(&log, &[&table], "v2");
    let expected = [
        "node `n1` runs v1: silent, last heard of at 1970-01-01T00:02:00Z",
        "node `n2` runs v1: its last attempt failed: bundle.download_failed: no space left",
        "node `n3` runs nothing: it has not switched yet",
    ];
    assert_eq!(late, expected, "and a failure with another release is none with this one");
}

#[test]
fn a_node_that_was_there_and_falls_silent_still_counts_and_one_that_turns_away_does_not() {
    let log = Log::default().promoted("v2");
    let there = [entry("n1", Some("latest"), Some("v1"), 0), entry("n2", Some("latest"), Some("v1"), 1)];
    let (_, late) = told(&log, &[&there, &[entry("n2", Some("beta"), Some("v1"), 2)]], "v2");
    assert_eq!(late, ["node `n1` runs v1: silent, last heard of at 1970-01-01T00:00:00Z"]);
}

#[test]
fn an_entry_that_is_none_says_nothing() {
    let mut broken = entry("n1", Some("latest"), Some("v1"), 1);
    broken.value = "{}".into();
    assert_eq!(told(&Log::default().promoted("v2"), &[&[broken]], "v2"), (Vec::new(), Vec::new()));
}
