//! What one event changes in the state before it, in words.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::event::{BundleEvent, Hold, Loaded};
use shared::event_envelope::EventEnvelope;
use shared::fleet_history;
use shared::fleet_history::timeline::{FleetTimeline, NodeTimeline};
use shared::identifiers::{BundleName, Tag};
use shared::source::Source;
use streams::stored_event::StoredEvent;

use crate::point_in_time::to_the_millisecond;
use crate::state_report::{cause, hold};

pub(super) const COLUMNS: [&str; 5] = ["seq", "time", "event", "by", "change"];

/// One line of a replay.
#[derive(Debug, Serialize)]
pub(super) struct ReplayStep {
    stream_sequence: u64,
    stored_at: DateTime<Utc>,
    /// By the source's clock; absent where the message is no event.
    happened_at: Option<DateTime<Utc>>,
    subject: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    source: Option<Source>,
    change: String,
}

impl ReplayStep {
    pub(super) fn of(before: &FleetTimeline, event: &StoredEvent) -> Self {
        let step = |envelope: Option<&EventEnvelope>, change| Self {
            stream_sequence: event.stream_sequence,
            stored_at: event.stored_at,
            happened_at: envelope.map(|envelope| envelope.time),
            subject: event.subject.clone(),
            event_type: envelope.map(|envelope| envelope.event.event_type().to_string()),
            source: envelope.map(|envelope| envelope.source.clone()),
            change,
        };
        match fleet_history::read(&event.subject, &event.payload) {
            Ok(envelope) => step(Some(&envelope), change(before, &envelope)),
            Err(reason) => step(None, format!("nothing: {reason}")),
        }
    }

    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            self.stream_sequence.to_string(),
            to_the_millisecond(self.stored_at),
            self.event_type.clone().unwrap_or_else(|| self.subject.clone()),
            self.source.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string),
            self.change.clone(),
        ]
    }
}

fn change(before: &FleetTimeline, envelope: &EventEnvelope) -> String {
    match &envelope.event {
        BundleEvent::EpochStarted(data) => format!("epoch {}", data.epoch),
        BundleEvent::Published(data) => {
            if before.announcements.contains_key(&(data.bundle.clone(), data.tag.clone())) {
                format!("nothing: {} {} was announced before", data.bundle, data.tag)
            } else {
                format!("release {} {} can be fetched", data.bundle, data.tag)
            }
        }
        BundleEvent::Promoted(data) => {
            let head = before.state.channels.get(&(data.bundle.clone(), data.channel.clone()));
            let what = format!("channel {} of {}", data.channel, data.bundle);
            let lock = if data.hold == Hold::None { String::new() } else { format!(", {}", hold(data.hold)) };
            let moved = arrow(&what, head.map(|channel| &channel.head.tag), &data.tag);
            format!("{moved} ({}{lock})", cause(data.cause))
        }
        BundleEvent::Withdrawn(data) => format!("{} {} must not run any more", data.bundle, data.tag),
        BundleEvent::RefreshAttempt(data) => format!("node {} fetches {}", name(envelope), data.tag),
        BundleEvent::Staged(data) => format!("node {} holds {} verified", name(envelope), data.tag),
        BundleEvent::Loaded(data) => switch(before, envelope, data),
        BundleEvent::VerificationFailed(data) => format!("node {} refuses {}", name(envelope), data.tag),
        BundleEvent::DownloadFailed(data) => format!("node {} cannot fetch {}", name(envelope), data.tag),
        BundleEvent::FallbackActivated(data) => match data.as_loaded() {
            Some(loaded) => switch(before, envelope, &loaded),
            None => format!("node {} keeps running {}", name(envelope), data.tag),
        },
        BundleEvent::StaleDetected(data) => format!("node {} runs {}, which is stale", name(envelope), data.tag),
        BundleEvent::UpdateDetected(data) => {
            format!("node {} stays at {} although there is {}", name(envelope), data.tag, data.newer_tag)
        }
        BundleEvent::TamperDetected(data) => {
            let state = if data.healed { "whole again" } else { "not what it was" };
            format!("the copy of {} on node {} is {state}", data.tag, name(envelope))
        }
        BundleEvent::Reverted(data) => match data.as_loaded() {
            Some(loaded) => switch(before, envelope, &loaded),
            None => format!("node {} has nothing to go back to from {}", name(envelope), data.tag),
        },
        BundleEvent::Unknown(_) => "nothing: of a type this version does not know".to_owned(),
    }
}

fn switch(before: &FleetTimeline, envelope: &EventEnvelope, loaded: &Loaded) -> String {
    let node = node(before, envelope, &loaded.bundle);
    let running = node.and_then(NodeTimeline::active).map(|active| &active.loaded.tag);
    arrow(&format!("node {} of {}", name(envelope), loaded.bundle), running, &loaded.tag)
}

fn arrow(what: &str, before: Option<&Tag>, after: &Tag) -> String {
    match before {
        Some(before) if before == after => format!("{what}: stays at {after}"),
        Some(before) => format!("{what}: {before} → {after}"),
        None => format!("{what}: nothing → {after}"),
    }
}

fn name(envelope: &EventEnvelope) -> String {
    match &envelope.source {
        Source::Node(node) => node.to_string(),
        Source::Publisher(name) | Source::Operator(name) => name.to_string(),
    }
}

fn node<'a>(before: &'a FleetTimeline, envelope: &EventEnvelope, bundle: &BundleName) -> Option<&'a NodeTimeline> {
    let Source::Node(node) = &envelope.source else { return None };
    before.nodes.get(&(node.clone(), bundle.clone()))
}
