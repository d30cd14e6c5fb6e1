//! What the log says about some nodes, read on as it grows: every event once, chains unbroken, no switch missing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use shared::fleet_history::{FleetHistory, StoredMessage as FoldedMessage};

use crate::raw_client::RawClient;
use crate::stored_log::{StoredMessage, checked_chains, event_log_after};

/// The log as far as it was read.
#[derive(Debug, Default)]
pub struct AuditTrail {
    log: Vec<StoredMessage>,
    ids: BTreeSet<String>,
    history: FleetHistory,
    /// The switches that each node reported: number and tag, in the order of the log.
    switches: BTreeMap<String, Vec<(u64, String)>>,
}

impl AuditTrail {
    /// Reads what was added since.
    ///
    /// # Panics
    /// Where an event stands in the log twice, or the product's own fold cannot apply one.
    pub async fn read_on(&mut self, operator: &RawClient) {
        let after = self.log.last().map_or(0, |last| last.sequence);
        for message in event_log_after(operator, after).await {
            let event = message.event();
            let id = event["id"].as_str().expect("an event has an id").to_owned();
            assert!(self.ids.insert(id.clone()), "event {id} is in the log twice: {event}");
            let stored_at: DateTime<Utc> = Utc::now();
            let (subject, payload) = (message.subject.as_str(), message.payload.as_slice());
            self.history.apply(FoldedMessage { stream_sequence: message.sequence, stored_at, subject, payload });
            // A switch to the embedded schemas is told by the fallback alone, which may be told again for another reason.
            let is_fallback = message.event_type() == "bundle.fallback_activated";
            if message.event_type() == "bundle.loaded" || is_fallback && event["data"]["source"] == "embedded" {
                let node = event["source"].as_str().unwrap_or_default().trim_start_matches("/nodes/").to_owned();
                let (epoch, tag) = (event["data"]["activation_epoch"].as_u64(), event["data"]["tag"].as_str());
                let switch = (epoch.expect("a switch has a number"), tag.expect("and a tag").to_owned());
                let told = self.switches.entry(node).or_default();
                if !is_fallback || told.last() != Some(&switch) {
                    told.push(switch);
                }
            }
            self.log.push(message);
        }
        assert!(self.history.oddities.is_empty(), "the fold refuses events: {:#?}", self.history.oddities);
    }

    /// The events, oldest first.
    pub fn log(&self) -> &[StoredMessage] {
        &self.log
    }

    /// Whether this event is in the log.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// # Panics
    /// Where a writer's chain has a gap, a fork or a doubled number.
    pub fn assert_chains_unbroken(&self) {
        checked_chains(&self.log);
    }

    /// How many switches a node reported.
    ///
    /// # Panics
    /// Where one is missing or told twice. Each time its memory was destroyed a node may begin to count anew.
    pub fn assert_each_switch_once(&self, node: &str, mut memories_destroyed: usize) -> usize {
        let switches = self.switches.get(node).map(Vec::as_slice).unwrap_or_default();
        let mut before = 0;
        for (position, (number, tag)) in switches.iter().enumerate() {
            if *number == 1 && before > 0 && memories_destroyed > 0 {
                memories_destroyed -= 1;
                before = 0;
            }
            assert_eq!(*number, before + 1, "{node}, report {position}: switch to {tag}, all: {switches:?}");
            before = *number;
        }
        switches.len()
    }

    /// What the fold says that a node runs.
    pub fn running(&self, node: &str, bundle: &str) -> Option<String> {
        let key = (node.parse().ok()?, bundle.parse().ok()?);
        let (loaded, _) = self.history.nodes.get(&key)?.active.as_ref()?;
        Some(loaded.tag.to_string())
    }
}
