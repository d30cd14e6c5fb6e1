//! Whether what the server has acknowledged is safe: what can be found out over a connection, and what to say of it.
//!
//! Two things the protocol does not show, and somebody else finds out: how often the server flushes its files (see
//! [`SyncPolicy`]), and whether its disk tells the truth. What each warning means for operators is in `docs/durability.md`.

mod judgement;

use async_nats::ServerInfo;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use shared::subjects::EVENT_STREAM;

pub use self::judgement::{DurabilityWarning, WarningKind, clock_warning, judge, too_old};
use crate::connection::Connection;
use crate::jetstream_api::{ApiError, api_request};
use crate::layout::release_stream;

/// The oldest nats-server that has what we need: reads of many subjects at once, and an expected sequence over a wildcard.
pub const OLDEST_SERVER: (u64, u64) = (2, 11);

/// When the server flushes what it has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
pub enum SyncPolicy {
    /// Before it acknowledges (`sync_interval: always`).
    Always,
    /// Some time later: until then a crash of the machine loses it.
    Later {
        /// How long that is, in seconds.
        seconds: u64,
    },
    /// Nobody could be asked, or did not say.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// What the server says of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamFacts {
    /// Its name.
    pub stream: String,
    /// Copies that it is configured to have.
    pub replicas: u64,
    /// Whether its server is one of a cluster.
    pub clustered: bool,
    /// What it holds, in bytes.
    pub bytes: u64,
    /// What it may hold, in bytes; absent where nothing limits it.
    pub max_bytes: Option<u64>,
}

impl StreamFacts {
    /// How full it is, from 0 to 1; absent where nothing limits it.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people and alerts")]
    pub fn fill_ratio(&self) -> Option<f64> {
        self.max_bytes.filter(|most| *most > 0).map(|most| self.bytes as f64 / most as f64)
    }
}

/// How far a server's clock is ahead of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClockSkew {
    /// Milliseconds; below zero where it is behind.
    pub milliseconds: i64,
    /// What the measurement may be off by: half the time that the answer took, in milliseconds.
    pub uncertainty: i64,
}

impl ClockSkew {
    /// Measured by an answer that says when the server wrote it.
    pub fn measured(asked: DateTime<Utc>, server: DateTime<Utc>, answered: DateTime<Utc>) -> Self {
        let half = (answered - asked).max(TimeDelta::zero()) / 2;
        Self { milliseconds: (server - (asked + half)).num_milliseconds(), uncertainty: half.num_milliseconds() }
    }
}

/// All that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DurabilityFacts {
    /// The version of the server that we are connected to.
    pub server_version: String,
    /// Its name.
    pub server_name: String,
    /// When it flushes.
    pub sync: SyncPolicy,
    /// The event stream and the release bucket.
    pub streams: Vec<StreamFacts>,
    /// Its clock; absent where its answers bear no time.
    pub clock: Option<ClockSkew>,
}

#[derive(Deserialize)]
struct InfoAnswer {
    config: StreamConfig,
    state: StreamState,
    #[serde(default)]
    cluster: Option<Cluster>,
    #[serde(default, rename = "ts")]
    time: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct StreamConfig {
    #[serde(default, rename = "num_replicas")]
    replicas: u64,
    #[serde(default)]
    max_bytes: i64,
}

#[derive(Deserialize)]
struct StreamState {
    bytes: u64,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    name: Option<String>,
}

/// Asks the server about its durability. How it flushes has been found out elsewhere. Needs operator rights.
pub async fn survey(connection: &Connection, sync: SyncPolicy) -> Result<DurabilityFacts, ApiError> {
    let ServerInfo { version, server_name, .. } = connection.client().server_info();
    let mut facts = DurabilityFacts { server_version: version, server_name, sync, streams: Vec::new(), clock: None };
    for stream in [EVENT_STREAM.to_owned(), release_stream()] {
        let asked = Utc::now();
        let operation = format!("STREAM.INFO.{stream}");
        let answer: InfoAnswer = api_request(connection, &operation, &serde_json::Map::new()).await?;
        let measured = answer.time.map(|server| ClockSkew::measured(asked, server, Utc::now()));
        // The quicker answer measures better.
        facts.clock = [facts.clock, measured].into_iter().flatten().min_by_key(|skew| skew.uncertainty);
        facts.streams.push(StreamFacts {
            stream,
            replicas: answer.config.replicas.max(1),
            clustered: answer.cluster.and_then(|cluster| cluster.name).is_some_and(|name| !name.is_empty()),
            bytes: answer.state.bytes,
            max_bytes: u64::try_from(answer.config.max_bytes).ok().filter(|most| *most > 0),
        });
    }
    Ok(facts)
}
