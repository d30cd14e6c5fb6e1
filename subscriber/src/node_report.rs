//! The node's entry in the table `BUNDLE_NODES`: what operators see at a glance. A projection, never the truth.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::identifiers::{BundleName, ChannelName, Incarnation, NodeName, Tag};

use crate::config::AgentConfig;

/// What a node says about itself with each heartbeat.
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
    /// Stream sequence of its last event; 0 before the first.
    pub last_sequence: u64,
    /// Events that are recorded and not yet in the log.
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
    /// What a node says before it has looked at anything.
    pub(crate) fn at_start(config: &AgentConfig, incarnation: Incarnation, started_at: DateTime<Utc>) -> Self {
        Self {
            node: config.node.clone(),
            bundle: config.bundle.clone(),
            channel: config.follow.channel().cloned(),
            pinned: config.follow.tag().cloned(),
            active: None,
            previous: None,
            desired: None,
            last_sequence: 0,
            waiting_events: 0,
            incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alarms: Vec::new(),
            started_at,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_an_entry_is_fixed() {
        let json = serde_json::json!({
            "node": "edge-17",
            "bundle": "contracts",
            "channel": "latest",
            "active": {
                "tag": "v1",
                "tree_digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "content_digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "loaded_at": "2025-09-21T06:00:00Z"
            },
            "previous": "v0",
            "desired": "v1",
            "last_sequence": 7,
            "waiting_events": 0,
            "incarnation": "0193b1c27e1f4a558c110242ac120002",
            "version": "0.1.0",
            "alarms": [],
            "started_at": "2025-09-21T06:00:00Z"
        });
        let report: NodeReport = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&report).unwrap(), json);
    }
}
