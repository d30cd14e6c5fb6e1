//! The three streams that everything rests on, declared as data.
//!
//! Described in `docs/ARCHITECTURE.md`, "Names on the wire".
//!
//! Creating is safe when two processes start at once; nothing here deletes, recreates or changes a stream.
//! What our promises rest on must match the declaration, field by field; what belongs to operators (limits,
//! replicas, placement, descriptions, metadata) may differ.

mod drift;
mod provision;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Compression, Config, DiscardPolicy, Republish, RetentionPolicy, StorageType};
use shared::subjects::{EVENT_STREAM, EVENT_SUBJECTS, LIVE_PREFIX, NODE_TABLE, RELEASE_BUCKET};

pub use self::drift::Drift;
pub use self::provision::{LayoutError, Provisioned, ensure, ensure_memory_streams, missing};
use drift::Promise;

/// Sizes, which belong to the operator: they are used when a stream is created and never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutLimits {
    /// Room for events. 1 GiB holds about a million of them; the server refuses new ones when it is full, and
    /// agents keep theirs on disk until an operator makes room.
    pub event_bytes: i64,
    /// Room for releases. 8 GiB holds some hundred releases of tens of megabytes.
    pub release_bytes: i64,
    /// Room for the node table, in memory. 64 MiB holds 10,000 nodes with a state of 6 KiB each.
    pub node_table_bytes: i64,
    /// Copies of each stream: 1 on a single server, 3 on a cluster.
    pub replicas: usize,
}

impl Default for LayoutLimits {
    fn default() -> Self {
        Self { event_bytes: 1 << 30, release_bytes: 8 << 30, node_table_bytes: 64 << 20, replicas: 1 }
    }
}

/// An event is at most 32 KiB; twice that leaves room for headers, so that no event we can write is refused.
const MAX_EVENT_MESSAGE: i32 = 64 * 1024;
/// A chunk is 256 KiB; other writers of the standard layout use up to 1 MiB, the server's own default limit.
const MAX_OBJECT_MESSAGE: i32 = 1024 * 1024;
/// A node's entry is a few kilobytes.
const MAX_NODE_ENTRY: i32 = 64 * 1024;
/// An agent that was cut off for minutes sends the same bytes again; the expected sequence protects beyond that.
const DUPLICATE_WINDOW: Duration = Duration::from_hours(1);
/// Nothing of ours makes consumers, but operators' tools do (`nats sub --stream`, `nats object get`), one for each
/// reader. Stated, because the server's default of 1,000 would stop the 1,001st.
const MAX_CONSUMERS: i32 = 20_000;
/// The server's default, stated so that the bucket and the table do not change with it.
const SHORT_DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// The declared streams.
#[derive(Debug, Clone)]
pub struct Layout {
    pub(crate) streams: Vec<Declaration>,
}

/// One declared stream and which of its fields are promises.
#[derive(Debug, Clone)]
pub(crate) struct Declaration {
    pub(crate) config: Config,
    pub(crate) promises: Vec<Promise>,
}

impl Layout {
    /// The declared layout with these sizes.
    pub fn declared(limits: LayoutLimits) -> Self {
        Self { streams: vec![event_stream(limits), release_bucket(limits), node_table(limits)] }
    }

    /// Names of the streams.
    pub fn stream_names(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().map(|declaration| declaration.config.name.as_str())
    }
}

/// Stream behind the release bucket.
pub fn release_stream() -> String {
    format!("OBJ_{RELEASE_BUCKET}")
}

/// Stream behind the node table.
pub(crate) fn node_table_stream() -> String {
    format!("KV_{NODE_TABLE}")
}

fn event_stream(limits: LayoutLimits) -> Declaration {
    let config = Config {
        subjects: vec![EVENT_SUBJECTS.to_owned()],
        max_bytes: limits.event_bytes,
        max_message_size: MAX_EVENT_MESSAGE,
        storage: StorageType::File,
        compression: Some(Compression::S2),
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        deny_purge: true,
        republish: Some(Republish {
            source: EVENT_SUBJECTS.to_owned(),
            destination: format!("{LIVE_PREFIX}{EVENT_SUBJECTS}"),
            headers_only: false,
        }),
        ..base(
            EVENT_STREAM,
            limits,
            "Every bundle event, in order, for ever: the audit log and the source of all state",
        )
    };
    let promises = vec![
        Promise::Republish,
        Promise::Deny,
        Promise::NoRollup,
        Promise::NoExpiry,
        Promise::DuplicateWindowAtLeast(Duration::from_mins(10)),
        Promise::MessageSizeAtLeast(MAX_EVENT_MESSAGE),
    ];
    Declaration { config, promises }
}

fn release_bucket(limits: LayoutLimits) -> Declaration {
    let config = Config {
        subjects: vec![format!("$O.{RELEASE_BUCKET}.C.>"), format!("$O.{RELEASE_BUCKET}.M.>")],
        max_bytes: limits.release_bytes,
        max_message_size: MAX_OBJECT_MESSAGE,
        storage: StorageType::File,
        // Archives are compressed already.
        compression: Some(Compression::None),
        duplicate_window: SHORT_DUPLICATE_WINDOW,
        allow_rollup: true,
        ..base(&release_stream(), limits, "Releases: archives, deltas and release.json, each name written once")
    };
    let promises = vec![
        Promise::Rollup,
        Promise::NoExpiry,
        Promise::MessageSizeAtLeast(i32::try_from(crate::release_store::CHUNK_SIZE).unwrap_or(i32::MAX)),
    ];
    Declaration { config, promises }
}

fn node_table(limits: LayoutLimits) -> Declaration {
    let config = Config {
        subjects: vec![format!("$KV.{NODE_TABLE}.>")],
        max_bytes: limits.node_table_bytes,
        max_message_size: MAX_NODE_ENTRY,
        max_messages_per_subject: 1,
        // A projection that nodes renew every 30 s: losing it in a restart costs nothing.
        storage: StorageType::Memory,
        duplicate_window: SHORT_DUPLICATE_WINDOW,
        allow_rollup: true,
        deny_delete: true,
        allow_message_ttl: true,
        ..base(
            &node_table_stream(),
            limits,
            "One entry a node, gone 90 s after its last word; a projection, never the truth",
        )
    };
    Declaration { config, promises: vec![Promise::Rollup, Promise::OneMessagePerSubject, Promise::MessageTtl] }
}

fn base(name: &str, limits: LayoutLimits, description: &str) -> Config {
    Config {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        retention: RetentionPolicy::Limits,
        // A full stream refuses what is new; it never forgets what it has.
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: MAX_CONSUMERS,
        max_age: Duration::ZERO,
        num_replicas: limits.replicas,
        allow_direct: true,
        metadata: HashMap::from([
            ("owner".to_owned(), "demon-bundles".to_owned()),
            ("io.nats.monitor.enabled".to_owned(), "true".to_owned()),
        ]),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_stream_reads_as_designed() {
        let layout = Layout::declared(LayoutLimits::default());
        let names: Vec<&str> = layout.stream_names().collect();
        assert_eq!(names, ["BUNDLE_EVENTS", "OBJ_BUNDLES", "KV_BUNDLE_NODES"]);

        let wire = serde_json::to_value(&layout.streams[0].config).unwrap();
        for (field, value) in [
            ("subjects", serde_json::json!(["bundle.>"])),
            ("retention", "limits".into()),
            ("storage", "file".into()),
            ("discard", "new".into()),
            ("compression", "s2".into()),
            ("deny_delete", true.into()),
            ("deny_purge", true.into()),
            ("allow_direct", true.into()),
            ("max_age", 0.into()),
            ("max_msg_size", 65536.into()),
            ("max_consumers", 20_000.into()),
            ("republish", serde_json::json!({"src": "bundle.>", "dest": "live.bundle.>"})),
        ] {
            let actual = wire[field].clone();
            let actual = if field == "republish" {
                serde_json::json!({"src": actual["src"], "dest": actual["dest"]})
            } else {
                actual
            };
            assert_eq!(actual, value, "{field}");
        }
        assert!(wire.get("allow_rollup_hdrs").is_none());
    }

    #[test]
    fn a_declaration_does_not_drift_from_itself() {
        for declaration in Layout::declared(LayoutLimits::default()).streams {
            assert_eq!(drift::compare(&declaration, &declaration.config), []);
        }
    }
}
