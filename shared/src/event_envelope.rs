//! The envelope around every event: CloudEvents 1.0, structured JSON mode, with the extensions
//! `incarnation`, `sequence` (CloudEvents sequence extension) and `prevhash`.
//!
//! The stored payload is self-contained: what is stored, exported and hashed are the same bytes.

mod timestamp;
mod written_form;

use std::borrow::Cow;
use std::ops::Deref;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::digest::{DigestError, Sha256Digest};
use crate::event::BundleEvent;
use crate::event_type::EventType;
use crate::identifiers::{EventId, IdentifierError, Incarnation};
use crate::source::{Source, SourceError};
use crate::subjects::EventSubject;

/// Content type of a stored event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Largest event that can be constructed, in bytes. The stream takes twice as much, so that no event we can
/// write is ever refused for its size and blocks the ones behind it.
pub const MAX_EVENT_BYTES: usize = 32 * 1024;

const SCHEMA_PREFIX: &str = "urn:demon:contracts:";

/// One event in its envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct EventEnvelope {
    /// Id of the event, also its `Nats-Msg-Id`.
    pub id: EventId,
    /// Who wrote it.
    pub source: Source,
    /// When it happened, by the source's clock.
    pub time: DateTime<Utc>,
    /// Which continuous writer of that source.
    pub incarnation: Incarnation,
    /// Number within the incarnation, from 1, without gaps.
    pub sequence: u64,
    /// SHA-256 of the stored payload of the source's previous event; absent on the very first.
    pub prevhash: Option<Sha256Digest>,
    /// What happened.
    pub event: BundleEvent,
}

/// A payload that is no event of ours, or an event that cannot be written.
#[derive(Debug, Error)]
pub enum EnvelopeError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("not a CloudEvents envelope with our extensions")]
    Json(#[source] serde_json::Error),
    /// A field breaks its rule.
    #[error("envelope field `{field}` must be {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its rule.
        rule: &'static str,
    },
    /// A field holds an invalid name.
    #[error("envelope field `{field}` holds no valid name")]
    Name {
        /// The field.
        field: &'static str,
        /// Why.
        #[source]
        source: IdentifierError,
    },
    /// `source` names no source.
    #[error("envelope field `source` names no source")]
    Source(#[source] SourceError),
    /// `prevhash` is no digest.
    #[error("envelope field `prevhash` is no digest")]
    Hash(#[source] DigestError),
    /// The data does not fit the type's schema.
    #[error("data of `{event_type}` does not fit its schema")]
    Data {
        /// The event's type.
        event_type: EventType,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Larger than [`MAX_EVENT_BYTES`].
    #[error("event of {size} bytes exceeds the limit of {MAX_EVENT_BYTES}")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// Read from a newer writer: what is not understood cannot be written again without changing it.
    #[error("an event of unknown type or newer schema (`{event_type}`) cannot be written, only kept as it is stored")]
    NotUnderstood {
        /// The event's type.
        event_type: EventType,
    },
    /// The source may not write such an event.
    #[error("`{written_by}` may not write `{event_type}`")]
    WrongSource {
        /// The source.
        written_by: Source,
        /// The event's type.
        event_type: EventType,
    },
}

/// An envelope as it is written.
#[derive(Serialize)]
struct Written {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: String,
    datacontenttype: String,
    dataschema: String,
    incarnation: String,
    sequence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    prevhash: Option<String>,
    data: Value,
}

/// An envelope as anybody may have written it, borrowed from the payload; the data is read on its own once its type is
/// known, so that it is never built twice.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    specversion: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    source: Text<'a>,
    #[serde(rename = "type", borrow)]
    event_type: Text<'a>,
    #[serde(default, borrow)]
    subject: Option<Text<'a>>,
    #[serde(borrow)]
    time: Text<'a>,
    #[serde(rename = "datacontenttype", borrow)]
    datacontenttype: Text<'a>,
    #[serde(borrow)]
    dataschema: Text<'a>,
    #[serde(borrow)]
    incarnation: Text<'a>,
    #[serde(borrow)]
    sequence: Text<'a>,
    #[serde(default, borrow)]
    prevhash: Option<Text<'a>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Wire<'_> {
    fn head(&self) -> Head<'_> {
        Head {
            specversion: &self.specversion,
            id: &self.id,
            source: &self.source,
            event_type: &self.event_type,
            subject: self.subject.as_deref(),
            time: &self.time,
            _datacontenttype: &self.datacontenttype,
            dataschema: &self.dataschema,
            incarnation: &self.incarnation,
            sequence: &self.sequence,
            prevhash: self.prevhash.as_deref(),
            data: self.data.get(),
        }
    }
}

/// The fields of an envelope as texts, not yet understood.
#[derive(Debug, PartialEq, Eq)]
struct Head<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    event_type: &'a str,
    subject: Option<&'a str>,
    time: &'a str,
    _datacontenttype: &'a str,
    dataschema: &'a str,
    incarnation: &'a str,
    sequence: &'a str,
    prevhash: Option<&'a str>,
    /// JSON.
    data: &'a str,
}

/// A text that is copied only where it is written with escapes, within an `Option` too.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl EventEnvelope {
    /// The payload to store: compact JSON, at most [`MAX_EVENT_BYTES`], its time in whole milliseconds.
    ///
    /// Fails for [`BundleEvent::Unknown`]: such an event would be written under another schema than it was read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EnvelopeError> {
        let event_type = self.event.event_type();
        if matches!(self.event, BundleEvent::Unknown(_)) {
            return Err(EnvelopeError::NotUnderstood { event_type });
        }
        let data =
            self.event.data().map_err(|source| EnvelopeError::Data { event_type: event_type.clone(), source })?;
        let written = Written {
            specversion: "1.0".to_owned(),
            id: self.id.to_string(),
            source: self.source.to_string(),
            event_type: event_type.to_string(),
            subject: self.event.envelope_subject().map(str::to_owned),
            time: self.time.to_rfc3339_opts(SecondsFormat::Millis, true),
            datacontenttype: "application/json".to_owned(),
            dataschema: format!("{SCHEMA_PREFIX}{}.json", event_type.schema_name()),
            incarnation: self.incarnation.to_string(),
            sequence: format!("{:010}", self.sequence),
            prevhash: self.prevhash.map(|hash| hash.to_string()),
            data,
        };
        let bytes = serde_json::to_vec(&written).map_err(EnvelopeError::Json)?;
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(EnvelopeError::TooLarge { size: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads a stored payload. An unknown type, or a known type under a schema version this version does not
    /// know, becomes [`BundleEvent::Unknown`].
    pub fn parse(payload: &[u8]) -> Result<Self, EnvelopeError> {
        // Checked as a whole, no text in it is checked again; where it is not one, the reader says where.
        let text = std::str::from_utf8(payload);
        if let Some(envelope) = text.ok().and_then(written_form::read).and_then(|head| Self::from_head(&head).ok()) {
            return Ok(envelope);
        }
        let wire: Result<Wire<'_>, _> = match text {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(payload),
        };
        Self::from_head(&wire.map_err(EnvelopeError::Json)?.head())
    }

    fn from_head(head: &Head<'_>) -> Result<Self, EnvelopeError> {
        if head.specversion != "1.0" {
            return Err(EnvelopeError::Field { field: "specversion", rule: "`1.0`" });
        }
        let event_type = head
            .event_type
            .strip_prefix("bundle.")
            .and_then(EventType::from_token)
            .ok_or(EnvelopeError::Field { field: "type", rule: "`bundle.` and a lowercase name" })?;
        let sequence = parse_sequence(head.sequence)?;
        let time =
            timestamp::parse(head.time).ok_or(EnvelopeError::Field { field: "time", rule: "an RFC 3339 time" })?;
        let name = |field| move |source| EnvelopeError::Name { field, source };
        let schema = head.dataschema.strip_prefix(SCHEMA_PREFIX).and_then(|schema| schema.strip_suffix(".json"));
        let event = if schema.is_some_and(|schema| event_type.has_schema(schema)) {
            BundleEvent::from_data(&event_type, head.data)
        } else {
            BundleEvent::unknown_from_data(&event_type, head.data)
        };
        let event = match event {
            Ok(event) => event,
            Err(source) => return Err(EnvelopeError::Data { event_type, source }),
        };
        if event.envelope_subject().is_some_and(|subject| head.subject != Some(subject)) {
            return Err(EnvelopeError::Field { field: "subject", rule: "the tag that the data names" });
        }
        Ok(Self {
            id: head.id.parse().map_err(name("id"))?,
            source: head.source.parse().map_err(EnvelopeError::Source)?,
            time,
            incarnation: head.incarnation.parse().map_err(name("incarnation"))?,
            sequence,
            prevhash: head.prevhash.map(str::parse).transpose().map_err(EnvelopeError::Hash)?,
            event,
        })
    }

    /// Whether the event may stand under this subject: type, source and scope agree with it. Unknown events
    /// are compared by type only, because their scope cannot be derived.
    pub fn belongs_under(&self, subject: &EventSubject) -> bool {
        if let BundleEvent::Unknown(unknown) = &self.event {
            return unknown.event_type == *subject.event_type();
        }
        self.event.stored_subject(&self.source).as_ref() == Some(subject)
    }

    /// Whether a node wrote this event and this is the text of its subject. False says nothing of others' events; true
    /// spares reading the subject, for what are nearly all events of a log.
    pub(crate) fn is_nodes_own_under(&self, subject: &str) -> bool {
        let (Source::Node(node), Some((event_type, bundle))) = (&self.source, self.event.of_node()) else {
            return false;
        };
        let mut rest = Some(subject);
        for part in ["bundle.", event_type.token(), ".", bundle.as_str(), ".node.", node.as_str()] {
            rest = rest.and_then(|rest| rest.strip_prefix(part));
        }
        rest == Some("")
    }
}

fn parse_sequence(text: &str) -> Result<u64, EnvelopeError> {
    let rule = EnvelopeError::Field { field: "sequence", rule: "a decimal number from 1, at least ten digits" };
    if text.len() < 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(rule);
    }
    match text.parse() {
        Ok(sequence) if sequence > 0 => Ok(sequence),
        _ => Err(rule),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn stored(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut value = json!({
            "specversion": "1.0",
            "id": "0193b1c2-7e1f-7a55-8c11-0242ac120002",
            "source": "/operators/ada",
            "type": "bundle.promoted",
            "subject": "contracts-20250921-0658fb8b",
            "time": "2025-09-21T06:00:00.000Z",
            "datacontenttype": "application/json",
            "dataschema": "urn:demon:contracts:events.bundle.promoted.v1.json",
            "incarnation": "0193b1c27e1f4a558c110242ac120002",
            "sequence": "0000000001",
            "data": {
                "bundle": "contracts", "channel": "latest", "tag": "contracts-20250921-0658fb8b",
                "tree_digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "cause": "promote", "hold": "none", "actor": "ada"
            }
        });
        change(&mut value);
        value.to_string().into_bytes()
    }

    #[test]
    fn what_is_read_is_written_the_same() {
        let envelope = EventEnvelope::parse(&stored(|_| ())).unwrap();
        assert_eq!(EventEnvelope::parse(&envelope.to_bytes().unwrap()).unwrap(), envelope);
    }

    #[test]
    fn unknown_types_and_newer_schemas_are_kept() {
        let newer = stored(|value| value["dataschema"] = json!("urn:demon:contracts:events.bundle.promoted.v2.json"));
        let other = stored(|value| value["type"] = json!("bundle.approved"));
        for payload in [newer, other] {
            let envelope = EventEnvelope::parse(&payload).unwrap();
            assert!(matches!(&envelope.event, BundleEvent::Unknown(unknown) if unknown.data["channel"] == "latest"));
            assert!(matches!(envelope.to_bytes(), Err(EnvelopeError::NotUnderstood { .. })));
        }
    }

    #[test]
    fn additive_fields_are_tolerated() {
        let payload = stored(|value| {
            value["traceparent"] = json!("00-x");
            value["data"]["ticket"] = json!("OPS-1");
        });
        assert!(EventEnvelope::parse(&payload).is_ok());
    }

    #[test]
    fn broken_envelopes_are_refused_by_field() {
        for (field, value) in [
            ("specversion", json!("0.3")),
            ("id", json!("x")),
            ("source", json!("/robots/r2")),
            ("type", json!("com.example")),
            ("subject", json!("another-tag")),
            ("time", json!("yesterday")),
            ("sequence", json!("1")),
            ("sequence", json!("0000000000")),
            ("prevhash", json!("00")),
            ("data", json!({})),
        ] {
            let payload = stored(|envelope| envelope[field] = value);
            assert!(EventEnvelope::parse(&payload).is_err(), "{field}");
        }
    }

    #[test]
    fn an_event_belongs_under_its_own_subject_only() {
        let envelope = EventEnvelope::parse(&stored(|_| ())).unwrap();
        assert!(envelope.belongs_under(&"bundle.promoted.contracts.channel.latest".parse().unwrap()));
        assert!(!envelope.belongs_under(&"bundle.promoted.contracts.channel.production".parse().unwrap()));
        let of_node = EventEnvelope::parse(&stored(|value| value["source"] = json!("/nodes/edge-17"))).unwrap();
        assert!(!of_node.belongs_under(&"bundle.promoted.contracts.channel.latest".parse().unwrap()));
    }

    #[test]
    fn a_nodes_event_is_known_by_the_text_of_its_subject() {
        let loaded = include_bytes!("../testdata/events/bundle.loaded.v1.json");
        let envelope = EventEnvelope::parse(loaded).unwrap();
        let subject = envelope.event.stored_subject(&envelope.source).unwrap().to_string();
        assert!(envelope.is_nodes_own_under(&subject), "{subject}");
        for other in [&subject[1..], &subject[..subject.len() - 1], "", &format!("{subject}x"), &format!("{subject}.x")]
        {
            assert!(!envelope.is_nodes_own_under(other), "{other}");
        }
        let promoted = EventEnvelope::parse(&stored(|_| ())).unwrap();
        assert!(!promoted.is_nodes_own_under("bundle.promoted.contracts.channel.latest"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = EventEnvelope::parse(&payload);
        }

        #[test]
        fn parsing_altered_fields_never_panics(field in "id|source|type|subject|time|dataschema|incarnation|sequence|prevhash", value in "\\PC{0,40}") {
            let _ = EventEnvelope::parse(&stored(|envelope| envelope[field] = json!(value)));
        }
    }
}
