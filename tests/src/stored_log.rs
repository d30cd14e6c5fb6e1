//! The event stream as the server holds it, read message by message with a raw client.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;

use crate::raw_client::RawClient;

/// The event stream.
pub const EVENT_STREAM: &str = "BUNDLE_EVENTS";
/// The stream behind the release bucket.
pub const RELEASE_STREAM: &str = "OBJ_BUNDLES";
/// The stream behind the node table.
pub const NODE_TABLE_STREAM: &str = "KV_BUNDLE_NODES";

/// One stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its place in the stream.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers, as text.
    pub headers: String,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl StoredMessage {
    /// The payload as JSON.
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.payload)
            .unwrap_or_else(|error| panic!("message {} on `{}` is no JSON: {error}", self.sequence, self.subject))
    }

    /// The event's type, for example `bundle.loaded`.
    pub fn event_type(&self) -> String {
        text(&self.event(), "type")
    }

    /// The event's data.
    pub fn data(&self) -> Value {
        self.event()["data"].take()
    }

    /// One header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The whole event stream, oldest first.
pub async fn event_log(operator: &RawClient) -> Vec<StoredMessage> {
    event_log_after(operator, 0).await
}

/// What stands in the event stream behind a sequence, oldest first.
pub async fn event_log_after(operator: &RawClient, after: u64) -> Vec<StoredMessage> {
    #[derive(Deserialize)]
    struct Wire {
        subject: String,
        seq: u64,
        #[serde(default)]
        hdrs: String,
        #[serde(default)]
        data: String,
    }
    let decoded = |text: &str| BASE64_STANDARD.decode(text).expect("the server encodes messages in base64");
    let last = operator.stream_state(EVENT_STREAM).await.last_sequence;
    let mut log = Vec::new();
    for sequence in after + 1..=last {
        let answer = operator.api(&format!("STREAM.MSG.GET.{EVENT_STREAM}"), &json!({ "seq": sequence })).await;
        let wire: Wire = serde_json::from_value(answer["message"].clone())
            .unwrap_or_else(|error| panic!("message {sequence} of the log is missing: {error}: {answer}"));
        log.push(StoredMessage {
            sequence: wire.seq,
            subject: wire.subject,
            headers: String::from_utf8_lossy(&decoded(&wire.hdrs)).into_owned(),
            payload: decoded(&wire.data),
        });
    }
    log
}

/// The events of one type that a node wrote, oldest first.
pub fn of_node<'a>(log: &'a [StoredMessage], event_type: &str, node: &str) -> Vec<&'a StoredMessage> {
    let tail = format!(".node.{node}");
    let of_both = |message: &&StoredMessage| message.subject.ends_with(&tail) && message.event_type() == event_type;
    log.iter().filter(of_both).collect()
}

/// The types of the events under a subject's tail, oldest first: the story of one node or channel.
pub fn types_of<'a>(log: &'a [StoredMessage], tail: &str) -> Vec<String> {
    let told = |message: &&'a StoredMessage| message.subject.ends_with(tail);
    log.iter().filter(told).map(StoredMessage::event_type).collect()
}

/// Follows every writer's hash chain over the stored bytes and returns how many events each incarnation wrote.
///
/// # Panics
/// Where a number is missing or doubled, or an event does not name the bytes before it.
pub fn checked_chains(log: &[StoredMessage]) -> BTreeMap<(String, String), u64> {
    let mut last_of_incarnation: BTreeMap<(String, String), (u64, Sha256Digest)> = BTreeMap::new();
    let mut all_of_source: BTreeMap<String, Vec<Sha256Digest>> = BTreeMap::new();
    for message in log {
        let event = message.event();
        let writer = (text(&event, "source"), text(&event, "incarnation"));
        let number: u64 = text(&event, "sequence").parse().expect("a sequence is a number");
        let named = event.get("prevhash").map(|hash| hash.as_str().unwrap_or_default().to_owned());
        let before = last_of_incarnation.get(&writer);
        let expected = before.map_or(1, |(number, _)| number + 1);
        assert_eq!(number, expected, "message {}: number within its incarnation", message.sequence);
        if let Some((_, digest)) = before {
            assert_eq!(named, Some(digest.to_string()), "message {}: prevhash", message.sequence);
        } else {
            // The first of an incarnation names its predecessor's last event, where it knows one.
            let earlier = all_of_source.get(&writer.0).map(Vec::as_slice).unwrap_or_default();
            let known = named.as_ref().is_none_or(|named| earlier.iter().any(|hash| hash.to_string() == *named));
            assert!(known, "message {} names {named:?}, which its source never wrote", message.sequence);
        }
        let digest = Sha256Digest::of(&message.payload);
        all_of_source.entry(writer.0.clone()).or_default().push(digest);
        last_of_incarnation.insert(writer, (number, digest));
    }
    last_of_incarnation.into_iter().map(|(writer, (number, _))| (writer, number)).collect()
}

/// A member that must be a text.
pub fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("`{member}` is no text in {value}")).to_owned()
}
