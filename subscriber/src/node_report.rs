//! The node's entry in the table `BUNDLE_NODES`: what operators see at a glance. A projection, never the truth.
//!
//! A node has one entry, whatever it runs: its last [`NodeHeartbeat`]. Readers mostly ask about one bundle, so an entry is read as one
//! [`NodeReport`] for each bundle; that is also the form an entry had while a node ran one bundle only.

use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::identifiers::{BundleName, ChannelName, Incarnation, NodeName, Tag};

use crate::config::{AgentConfig, BundleConfig};

/// What a node says about itself and one of its bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node.
    pub node: NodeName,
    /// The bundle it runs.
    pub bundle: BundleName,
    /// The channel it follows; absent where the settings pin a tag.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<ChannelName>,
    /// The tag that runs instead of the channel's release: pinned in the settings, or put into the cache by hand.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pinned: Option<Tag>,
    /// The release that is current.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub active: Option<ActiveReport>,
    /// The release before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Tag>,
    /// The release it should run, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub desired: Option<Tag>,
    /// The newest release that it holds verified and has not switched to: fetched before it is promoted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub staged: Option<Tag>,
    /// Stream sequence of the node's last event, about whichever bundle; 0 before the first.
    pub last_sequence: u64,
    /// What the log said of this bundle when the node last read it; absent before that, and from agents that do not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub logged: Option<LoggedReport>,
    /// The node's events that are recorded and not yet in the log.
    pub waiting_events: usize,
    /// Which continuous writer it is: two that alternate under one name are two agents.
    pub incarnation: Incarnation,
    /// Version of the agent.
    pub version: String,
    /// What is wrong, in words; empty where all is well.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// When the agent started, by its own clock.
    pub started_at: DateTime<Utc>,
}

impl NodeReport {
    /// What a node says about a bundle before it has looked at anything.
    pub(crate) fn at_start(
        config: &AgentConfig,
        target: &BundleConfig,
        incarnation: Incarnation,
        started_at: DateTime<Utc>,
    ) -> Self {
        Self {
            node: config.node.clone(),
            bundle: target.bundle.clone(),
            channel: target.follow.channel().cloned(),
            pinned: target.follow.tag().cloned(),
            active: None,
            previous: None,
            desired: None,
            staged: None,
            last_sequence: 0,
            logged: None,
            waiting_events: 0,
            incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alarms: Vec::new(),
            started_at,
        }
    }

    /// Reads the value of an entry of the table, of this version or of one whose agents ran one bundle: a report for each
    /// bundle of the node, in the order the entry has them.
    pub fn read_entry(value: &[u8]) -> Result<Vec<Self>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Form {
            bundles: Option<IgnoredAny>,
        }
        match serde_json::from_slice::<Form>(value)?.bundles {
            Some(IgnoredAny) => Ok(serde_json::from_slice::<NodeHeartbeat>(value)?.reports()),
            None => Ok(vec![serde_json::from_slice(value)?]),
        }
    }
}

/// The value of a node's entry: what holds for the node, and what holds for each of its bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHeartbeat {
    /// The node.
    pub node: NodeName,
    /// What it runs: at least one.
    pub bundles: Vec<BundleHeartbeat>,
    /// Stream sequence of its last event; 0 before the first.
    pub last_sequence: u64,
    /// Events that are recorded and not yet in the log.
    pub waiting_events: usize,
    /// Which continuous writer it is: two that alternate under one name are two agents.
    pub incarnation: Incarnation,
    /// Version of the agent.
    pub version: String,
    /// What is wrong with the node as a whole, in words; empty where all is well.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// When the agent started, by its own clock.
    pub started_at: DateTime<Utc>,
}

/// One bundle in a node's entry. The fields are those of [`NodeReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleHeartbeat {
    /// The bundle.
    pub bundle: BundleName,
    /// The channel that is followed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<ChannelName>,
    /// The tag that runs instead of the channel's release.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pinned: Option<Tag>,
    /// The release that is current.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub active: Option<ActiveReport>,
    /// The release before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Tag>,
    /// The release that should run, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub desired: Option<Tag>,
    /// What the log said of this bundle when the node last read it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub logged: Option<LoggedReport>,
    /// The release that was fetched before it is promoted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub staged: Option<Tag>,
    /// What is wrong with this bundle alone, in words.
    #[serde(default)]
    pub alarms: Vec<String>,
}

impl NodeHeartbeat {
    /// The entry of a node from its reports; `None` where there are none. An alarm of the node stands in it once, not
    /// with each bundle.
    pub(crate) fn of(reports: Vec<NodeReport>, alarms: Vec<String>) -> Option<Self> {
        let first = reports.first()?;
        Some(Self {
            node: first.node.clone(),
            last_sequence: reports.iter().map(|report| report.last_sequence).max().unwrap_or(0),
            waiting_events: reports.iter().map(|report| report.waiting_events).max().unwrap_or(0),
            incarnation: first.incarnation,
            version: first.version.clone(),
            started_at: first.started_at,
            bundles: reports.into_iter().map(|report| BundleHeartbeat::of(report, &alarms)).collect(),
            alarms,
        })
    }

    fn reports(self) -> Vec<NodeReport> {
        let Self { node, bundles, last_sequence, waiting_events, incarnation, version, alarms, started_at } = self;
        let report = |entry: BundleHeartbeat| NodeReport {
            node: node.clone(),
            bundle: entry.bundle,
            channel: entry.channel,
            pinned: entry.pinned,
            active: entry.active,
            previous: entry.previous,
            desired: entry.desired,
            staged: entry.staged,
            last_sequence,
            logged: entry.logged,
            waiting_events,
            incarnation,
            version: version.clone(),
            alarms: entry.alarms.into_iter().chain(alarms.iter().cloned()).collect(),
            started_at,
        };
        bundles.into_iter().map(report).collect()
    }
}

impl BundleHeartbeat {
    fn of(report: NodeReport, of_node: &[String]) -> Self {
        Self {
            bundle: report.bundle,
            channel: report.channel,
            pinned: report.pinned,
            active: report.active,
            previous: report.previous,
            desired: report.desired,
            logged: report.logged,
            staged: report.staged,
            alarms: report.alarms.into_iter().filter(|alarm| !of_node.contains(alarm)).collect(),
        }
    }
}

/// The current release in a node's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveReport {
    /// Its tag.
    pub tag: Tag,
    /// Its identity.
    pub tree_digest: Sha256Digest,
    /// Its content digest.
    pub content_digest: Sha256Digest,
    /// When the node switched to it, by its own clock.
    pub loaded_at: DateTime<Utc>,
}

/// What the log held of a node and a bundle as of one instant, as the node read it: whoever knows that needs to read what came
/// later only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedReport {
    /// The stream sequence up to which the log was complete then.
    pub up_to_sequence: u64,
    /// Stream sequence of the node's last event about the bundle; 0 where there was none.
    pub last_sequence: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn active() -> Value {
        json!({
            "tag": "v1",
            "tree_digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "content_digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "loaded_at": "2025-09-21T06:00:00Z"
        })
    }

    fn entry() -> Value {
        json!({
            "node": "edge-17",
            "bundles": [
                {
                    "bundle": "contracts",
                    "channel": "latest",
                    "active": active(),
                    "previous": "v0",
                    "desired": "v1",
                    "logged": { "up_to_sequence": 9, "last_sequence": 6 },
                    "staged": "v2",
                    "alarms": []
                },
                { "bundle": "policies", "pinned": "p1", "alarms": ["release `p1` is not announced yet"] }
            ],
            "last_sequence": 7,
            "waiting_events": 2,
            "incarnation": "0193b1c27e1f4a558c110242ac120002",
            "version": "0.1.0",
            "alarms": ["events wait in the outbox: the log is full"],
            "started_at": "2025-09-21T06:00:00Z"
        })
    }

    #[test]
    fn the_form_of_an_entry_is_fixed() {
        let entry_read: NodeHeartbeat = serde_json::from_value(entry()).unwrap();
        assert_eq!(serde_json::to_value(&entry_read).unwrap(), entry());
    }

    #[test]
    fn an_entry_is_read_as_a_report_for_each_bundle_and_made_of_them_again() {
        let reports = NodeReport::read_entry(entry().to_string().as_bytes()).unwrap();
        let names: Vec<&str> = reports.iter().map(|report| report.bundle.as_str()).collect();
        assert_eq!(names, ["contracts", "policies"]);
        assert_eq!((reports[1].last_sequence, reports[1].waiting_events), (7, 2));
        let logged = |report: &NodeReport| report.logged.map(|logged| (logged.up_to_sequence, logged.last_sequence));
        assert_eq!((logged(&reports[0]), logged(&reports[1])), (Some((9, 6)), None));
        assert_eq!((reports[0].alarms.len(), reports[1].alarms.len()), (1, 2), "the node's alarm concerns both");
        let again = NodeHeartbeat::of(reports, vec!["events wait in the outbox: the log is full".to_owned()]).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), entry());
        assert_eq!(NodeHeartbeat::of(Vec::new(), Vec::new()), None);
    }

    #[test]
    fn the_entry_of_an_agent_that_ran_one_bundle_only_is_still_read() {
        let json = json!({
            "node": "edge-17",
            "bundle": "contracts",
            "channel": "latest",
            "active": active(),
            "previous": "v0",
            "desired": "v1",
            "last_sequence": 7,
            "waiting_events": 0,
            "incarnation": "0193b1c27e1f4a558c110242ac120002",
            "version": "0.1.0",
            "alarms": [],
            "started_at": "2025-09-21T06:00:00Z"
        });
        let reports = NodeReport::read_entry(json.to_string().as_bytes()).unwrap();
        assert_eq!(reports.len(), 1);
        assert_eq!(serde_json::to_value(&reports[0]).unwrap(), json);
        assert!(NodeReport::read_entry(b"{\"bundles\":[]}").is_err(), "no agent of ours");
        assert!(NodeReport::read_entry(b"[]").is_err());
    }
}
