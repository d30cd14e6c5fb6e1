//! The node table: one entry a node, gone by itself when the node falls silent.
//!
//! A projection for operators (`nats kv ls BUNDLE_NODES`), never the truth: the log says what happened.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::IgnoredAny;
use shared::daemon::ErrorChain;
use shared::identifiers::NodeName;
use shared::subjects::NODE_TABLE;
use thiserror::Error;

use crate::connection::Connection;
use crate::direct_get::{self, DirectGetError, DirectGetRequest, MAX_BATCH, MAX_BATCH_BYTES};
use crate::jetstream_api::{ApiError, api_request, code, publish};
use crate::layout::node_table_stream;
use crate::stream_consumer::{ConsumerEnd, StreamConsumer, Stretch};

/// How long an entry outlives its last put: three missed heartbeats.
pub const ENTRY_LIFETIME: Duration = Duration::from_secs(90);

/// An entry that was not written.
#[derive(Debug, Error)]
pub enum NodeTableError {
    /// The entry cannot be written as JSON.
    #[error("the entry of node `{node}` cannot be written as JSON")]
    Encode {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The server did not store it.
    #[error("the entry of node `{node}` was not stored")]
    Put {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// The table cannot be read.
    #[error("the node table cannot be read")]
    Read(#[source] DirectGetError),
}

/// One entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// The node, as its entry's key says; its credentials allow it no other.
    pub node: NodeName,
    /// When the server stored it.
    pub stored_at: DateTime<Utc>,
    /// What the node says about itself.
    pub value: Bytes,
}

/// The node table. Clones share the connection.
#[derive(Debug, Clone)]
pub struct NodeTable {
    connection: Connection,
}

impl NodeTable {
    /// The table behind a connection. Sends nothing.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Writes a node's entry as JSON and returns after the server has stored it (in memory: it does not outlive
    /// the server). It disappears after `lifetime`, rounded up to seconds.
    pub async fn put(
        &self,
        node: &NodeName,
        entry: &(impl Serialize + Sync),
        lifetime: Duration,
    ) -> Result<(), NodeTableError> {
        let value =
            serde_json::to_vec(entry).map_err(|source| NodeTableError::Encode { node: node.clone(), source })?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", whole_seconds(lifetime));
        publish(&self.connection, &key_subject(node), headers, value.into())
            .await
            .map(|_| ())
            .map_err(|source| NodeTableError::Put { node: node.clone(), source })
    }

    /// Whether the table is there: a server that was restarted has lost it with its memory. Needs operator rights.
    pub async fn exists(&self) -> Result<bool, ApiError> {
        let operation = format!("STREAM.INFO.{}", node_table_stream());
        match api_request::<IgnoredAny>(&self.connection, &operation, &serde_json::Map::new()).await {
            Ok(_) => Ok(true),
            Err(ApiError::Refused(refusal)) if refusal.err_code == code::STREAM_NOT_FOUND => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All entries, one for each node, in no order. Through a consumer that lives as long as the reading, or by direct reads
    /// where none can be made. Needs operator rights. Keys that are no node names are left out and logged.
    pub async fn list(&self) -> Result<Vec<NodeEntry>, NodeTableError> {
        let mut messages = match self.read_by_consumer().await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "the node table is read by direct reads");
                self.read_directly().await?
            }
        };
        // An entry that is renewed while the table is read can come twice: the later one holds.
        messages.sort_by_key(|message| message.sequence);
        let mut entries = BTreeMap::new();
        for message in messages {
            match node_of(&message.subject) {
                // Deleted by an operator's tool: the marker has no value.
                Some(node) if message.value.is_empty() => {
                    entries.remove(&node);
                }
                Some(node) => {
                    entries.insert(node, (message.stored_at, message.value));
                }
                None => tracing::warn!(subject = %message.subject, "a key of the node table is no node name"),
            }
        }
        let entry = |(node, (stored_at, value))| NodeEntry { node, stored_at, value };
        Ok(entries.into_iter().map(entry).collect())
    }

    async fn read_by_consumer(&self) -> Result<Vec<KeyValue>, ConsumerEnd> {
        let (stream, filters) = (node_table_stream(), [format!("$KV.{NODE_TABLE}.>")]);
        let mut consumer = StreamConsumer::start(&self.connection, &stream, &filters, Stretch::Moving).await?;
        let mut messages = Vec::new();
        while let Some(page) = consumer
            .next_page(|message, place| KeyValue {
                subject: message.subject.as_str().to_owned(),
                sequence: place.stream_sequence,
                stored_at: place.stored_at,
                value: message.payload,
            })
            .await?
        {
            messages.extend(page);
        }
        consumer.end().await;
        Ok(messages)
    }

    async fn read_directly(&self) -> Result<Vec<KeyValue>, NodeTableError> {
        let mut messages = Vec::new();
        let mut from = 1;
        loop {
            let request = DirectGetRequest {
                sequence: Some(from),
                next_by_subj: Some(format!("$KV.{NODE_TABLE}.>")),
                batch: Some(MAX_BATCH),
                max_bytes: Some(MAX_BATCH_BYTES),
                ..DirectGetRequest::default()
            };
            let batch = direct_get::batch(&self.connection, &node_table_stream(), &request)
                .await
                .map_err(NodeTableError::Read)?;
            let last = batch.messages.last().map(|message| message.sequence);
            messages.extend(batch.messages.into_iter().map(|message| KeyValue {
                subject: message.subject,
                sequence: message.sequence,
                stored_at: message.stored_at,
                value: message.payload,
            }));
            match last {
                Some(last) if batch.more => from = last + 1,
                Some(_) | None => return Ok(messages),
            }
        }
    }
}

/// A message of the table's stream.
struct KeyValue {
    subject: String,
    sequence: u64,
    stored_at: DateTime<Utc>,
    value: Bytes,
}

fn key_subject(node: &NodeName) -> String {
    format!("$KV.{NODE_TABLE}.{node}")
}

fn node_of(subject: &str) -> Option<NodeName> {
    subject.strip_prefix(&format!("$KV.{NODE_TABLE}."))?.parse().ok()
}

fn whole_seconds(duration: Duration) -> String {
    let rounded_up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    // The server takes no lifetime below one second.
    format!("{}s", rounded_up.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_nodes_name() {
        let node: NodeName = "edge-17".parse().unwrap();
        assert_eq!(key_subject(&node), "$KV.BUNDLE_NODES.edge-17");
        assert_eq!(node_of("$KV.BUNDLE_NODES.edge-17"), Some(node));
        assert_eq!(node_of("$KV.BUNDLE_NODES.a.b"), None);
        assert_eq!(node_of("$KV.OTHER.a"), None);
    }

    #[test]
    fn lifetimes_are_whole_seconds() {
        assert_eq!(whole_seconds(ENTRY_LIFETIME), "90s");
        assert_eq!(whole_seconds(Duration::from_millis(1500)), "2s");
        assert_eq!(whole_seconds(Duration::ZERO), "1s");
    }
}
