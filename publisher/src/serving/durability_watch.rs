//! Whether the server keeps what it acknowledges: asked with each new connection and every few minutes, told once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::daemon::ErrorChain;
use streams::connection::Connection;
use streams::durability::{DurabilityFacts, DurabilityWarning, WarningKind, judge, survey};
use tokio::time::Instant;

use super::service_metrics::note_durability;
use crate::config::DurabilityConfig;
use crate::server_monitoring::read_sync_policy;

const INTERVAL: Duration = Duration::from_mins(5);
/// After a check that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Time for the monitoring page.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// What is known of the server's durability, as the status shows it.
#[derive(Debug, Clone, Serialize)]
pub struct DurabilityStatus {
    /// When it was last asked.
    pub checked_at: DateTime<Utc>,
    /// What it said; absent where it did not.
    pub facts: Option<DurabilityFacts>,
    /// What is wrong.
    pub warnings: Vec<DurabilityWarning>,
    /// Why nothing is known.
    pub error: Option<String>,
}

#[derive(Debug)]
pub(super) struct DurabilityWatch {
    config: DurabilityConfig,
    next: Instant,
    /// The connection that was last asked about.
    connects: u64,
    told: Vec<WarningKind>,
    told_error: Option<String>,
}

impl DurabilityWatch {
    /// Due at once.
    pub(super) fn new(config: DurabilityConfig) -> Self {
        Self { config, next: Instant::now(), connects: 0, told: Vec::new(), told_error: None }
    }

    pub(super) fn requires_durability(&self) -> bool {
        self.config.require_durable
    }

    /// How long until it is to be asked again.
    pub(super) fn pause(&self, connects: u64, now: Instant) -> Duration {
        if connects == self.connects { self.next.saturating_duration_since(now) } else { Duration::ZERO }
    }

    /// Asks the server, and logs what is new.
    pub(super) async fn check(&mut self, connection: &Connection) -> DurabilityStatus {
        let connects = connection.status().connects;
        let sync = read_sync_policy(self.config.nats_monitor_url.as_ref(), PAGE_LIMIT).await;
        let surveyed = survey(connection, sync).await;
        self.connects = connects;
        let checked_at = Utc::now();
        match surveyed {
            Ok(facts) => {
                self.next = Instant::now() + INTERVAL;
                self.told_error = None;
                let warnings = judge(&facts);
                self.tell(&warnings);
                note_durability(&facts, &warnings);
                DurabilityStatus { checked_at, facts: Some(facts), warnings, error: None }
            }
            Err(error) => {
                self.next = Instant::now() + RETRY_PAUSE;
                let text = ErrorChain(&error).to_string();
                if self.told_error.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "whether the server is durable cannot be asked");
                }
                self.told_error = Some(text.clone());
                DurabilityStatus { checked_at, facts: None, warnings: Vec::new(), error: Some(text) }
            }
        }
    }

    fn tell(&mut self, warnings: &[DurabilityWarning]) {
        for DurabilityWarning { kind, text } in warnings.iter().filter(|warning| !self.told.contains(&warning.kind)) {
            if *kind == WarningKind::SyncUnknown {
                tracing::info!(warning = kind.as_str(), "{text}");
            } else {
                tracing::warn!(warning = kind.as_str(), "DURABILITY: {text}");
            }
        }
        for over in self.told.iter().filter(|kind| !warnings.iter().any(|warning| warning.kind == **kind)) {
            tracing::info!(warning = over.as_str(), "over: a warning about the server's durability");
        }
        self.told = warnings.iter().map(|warning| warning.kind).collect();
    }
}
