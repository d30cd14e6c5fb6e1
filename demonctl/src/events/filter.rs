//! Which events a command asks for. What a subject says is filtered by the server, the rest here.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use shared::event_type::EventType;
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};
use shared::subjects::{EVENT_SUBJECTS, EventSubject, Scope};
use streams::event_log::{EventLog, EventPages};
use streams::stored_event::StoredEvent;

use crate::point_in_time::parse_time;

#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Filters")]
pub(crate) struct EventFilter {
    /// Events of this bundle only.
    #[arg(long, env = "DEMON_FILTER_BUNDLE", value_name = "NAME")]
    bundle: Option<BundleName>,
    /// Events about this release only.
    #[arg(long, env = "DEMON_FILTER_TAG", value_name = "TAG")]
    tag: Option<Tag>,
    /// Events that this node wrote only.
    #[arg(long, env = "DEMON_FILTER_NODE", value_name = "NAME", conflicts_with = "channel")]
    node: Option<NodeName>,
    /// Moves of this channel only.
    #[arg(long, env = "DEMON_FILTER_CHANNEL", value_name = "NAME")]
    channel: Option<ChannelName>,
    /// Events of this type only, for example `bundle.loaded` or `loaded`; several with commas.
    #[arg(long = "type", env = "DEMON_FILTER_TYPE", value_name = "TYPE", value_delimiter = ',', value_parser = parse_type)]
    types: Vec<EventType>,
    /// Events that the server stored at or after this time: RFC 3339, `2025-09-21`, or how long ago (`2h`).
    #[arg(long, env = "DEMON_SINCE", value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,
}

/// How far a command that ends by itself reads.
#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Filters")]
pub(crate) struct UntilFilter {
    /// Events that the server stored at or before this time: RFC 3339, `2025-09-21`, or how long ago (`2h`).
    #[arg(long, env = "DEMON_UNTIL", value_name = "TIME", value_parser = parse_time)]
    pub(super) until: Option<DateTime<Utc>>,
    /// Last stream sequence.
    #[arg(long, env = "DEMON_TO_SEQUENCE", value_name = "SEQUENCE")]
    pub(super) to: Option<u64>,
}

impl UntilFilter {
    /// Whether an event, and so all behind it, lies beyond the end.
    pub(super) fn is_past(&self, event: &StoredEvent) -> bool {
        self.until.is_some_and(|until| event.stored_at > until) || self.to.is_some_and(|to| event.stream_sequence > to)
    }
}

impl EventFilter {
    /// The server's filter: what it returns holds all events asked for, and as few others as a subject can tell.
    fn subject(&self) -> String {
        let scope = match (&self.node, &self.channel) {
            (Some(node), _) => Some(("node", node.as_str())),
            (None, Some(channel)) => Some(("channel", channel.as_str())),
            (None, None) => None,
        };
        let one_type = if let [one] = self.types.as_slice() { Some(one.token()) } else { None };
        if scope.is_none() && one_type.is_none() && self.bundle.is_none() {
            // Strange subjects included.
            return EVENT_SUBJECTS.to_owned();
        }
        let bundle = self.bundle.as_ref().map_or("*", BundleName::as_str);
        let (scope, id) = scope.unwrap_or(("*", "*"));
        format!("bundle.{}.{bundle}.{scope}.{id}", one_type.unwrap_or("*"))
    }

    /// The pages to read: from a stream sequence, or from the time asked for where that is given.
    pub(super) fn pages(&self, log: &EventLog, from: u64) -> EventPages {
        match self.since {
            Some(since) => log.stored_since(self.subject(), since),
            None => log.by_subject(self.subject(), from),
        }
    }

    /// The pages behind those already read.
    pub(super) fn pages_after(&self, log: &EventLog, next: u64) -> EventPages {
        log.by_subject(self.subject(), next)
    }

    /// Whether a read starts at a time and not at a sequence.
    pub(super) fn begins_at_a_time(&self) -> bool {
        self.since.is_some()
    }

    /// Whether this is an event asked for.
    pub(super) fn accepts(&self, event: &StoredEvent) -> bool {
        if self.since.is_some_and(|since| event.stored_at < since) {
            return false;
        }
        let subject = event.subject.parse::<EventSubject>().ok();
        let by_subject = |condition: &dyn Fn(&EventSubject) -> bool| subject.as_ref().is_some_and(condition);
        let scope = |wanted: &Scope| by_subject(&|subject| subject.scope() == wanted);
        self.bundle.as_ref().is_none_or(|bundle| by_subject(&|subject| subject.bundle() == Some(bundle)))
            && (self.types.is_empty() || by_subject(&|subject| self.types.contains(subject.event_type())))
            && self.node.as_ref().is_none_or(|node| scope(&Scope::Node(node.clone())))
            && self.channel.as_ref().is_none_or(|channel| scope(&Scope::Channel(channel.clone())))
            && self.tag.as_ref().is_none_or(|tag| is_about(event, tag))
    }
}

/// The envelope's `subject` is the tag, in events of unknown type too.
fn is_about(event: &StoredEvent, tag: &Tag) -> bool {
    serde_json::from_slice::<Value>(&event.payload).is_ok_and(|payload| payload["subject"] == tag.as_str())
}

fn parse_type(text: &str) -> Result<EventType, String> {
    let token = text.strip_prefix("bundle.").unwrap_or(text);
    EventType::from_token(token).ok_or_else(|| {
        let known: Vec<_> = EventType::KNOWN.iter().map(EventType::token).collect();
        format!("no event type; known ones are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(change: impl FnOnce(&mut EventFilter)) -> EventFilter {
        let mut filter = EventFilter::default();
        change(&mut filter);
        filter
    }

    fn event(subject: &str, tag: &str) -> StoredEvent {
        StoredEvent {
            stream_sequence: 1,
            stored_at: DateTime::UNIX_EPOCH,
            subject: subject.to_owned(),
            payload: format!(r#"{{"subject":"{tag}"}}"#).into(),
        }
    }

    #[test]
    fn the_server_filters_what_subjects_say() {
        assert_eq!(filter(|_| ()).subject(), "bundle.>");
        assert_eq!(filter(|filter| filter.tag = Some("v1".parse().unwrap())).subject(), "bundle.>");
        assert_eq!(filter(|filter| filter.node = Some("n1".parse().unwrap())).subject(), "bundle.*.*.node.n1");
        let moves = filter(|filter| {
            filter.types = vec![EventType::Promoted];
            filter.bundle = Some("contracts".parse().unwrap());
            filter.channel = Some("latest".parse().unwrap());
        });
        assert_eq!(moves.subject(), "bundle.promoted.contracts.channel.latest");
        let two = filter(|filter| filter.types = vec![EventType::Promoted, EventType::Withdrawn]);
        assert_eq!(two.subject(), "bundle.>");
    }

    #[test]
    fn what_the_server_cannot_tell_is_filtered_here() {
        let loaded = event("bundle.loaded.contracts.node.n1", "v1");
        for (wanted, accepted) in [
            (filter(|filter| filter.tag = Some("v1".parse().unwrap())), true),
            (filter(|filter| filter.tag = Some("v2".parse().unwrap())), false),
            (filter(|filter| filter.types = vec![EventType::Promoted, EventType::Loaded]), true),
            (filter(|filter| filter.types = vec![EventType::Promoted, EventType::Staged]), false),
            (filter(|filter| filter.node = Some("n2".parse().unwrap())), false),
            (filter(|filter| filter.since = Some(Utc::now())), false),
        ] {
            assert_eq!(wanted.accepts(&loaded), accepted, "{wanted:?}");
        }
        assert!(EventFilter::default().accepts(&event("bundle.odd", "")));
    }

    #[test]
    fn types_are_named_with_or_without_their_prefix() {
        assert_eq!(parse_type("bundle.loaded"), Ok(EventType::Loaded));
        assert_eq!(parse_type("loaded"), Ok(EventType::Loaded));
        assert!(parse_type("Loaded").unwrap_err().contains("verification_failed"));
    }
}
