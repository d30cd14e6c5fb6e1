//! Before one publish: whether the server keeps what it acknowledges, where that is required, and whether clocks agree.

use std::time::Duration;

use shared::daemon::ErrorChain;
use streams::connection::Connection;
use streams::durability::{DurabilityWarning, WarningKind, judge, survey};
use thiserror::Error;

use crate::config::DurabilityConfig;
use crate::server_monitoring::read_sync_policy;

/// Time for the monitoring page.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// A server that may lose what it has acknowledged, while `--require-durable` is set.
#[derive(Debug, Error)]
#[error(
    "the server may lose what it has acknowledged, and --require-durable (DEMON_REQUIRE_DURABLE) forbids that: {0}"
)]
pub struct NotDurable(String);

/// Asks the server once, with streams that are there. Logs what is wrong, and refuses where durability is required and not
/// known to be there. Needs operator rights.
pub async fn look_before_publishing(connection: &Connection, config: &DurabilityConfig) -> Result<(), NotDurable> {
    let sync = read_sync_policy(config.nats_monitor_url.as_ref(), PAGE_LIMIT).await;
    let warnings = match survey(connection, sync).await {
        Ok(facts) => judge(&facts),
        Err(error) if config.require_durable => {
            return Err(NotDurable(format!("it cannot be asked: {}", ErrorChain(&error))));
        }
        Err(error) => {
            tracing::debug!(error = %ErrorChain(&error), "whether the server is durable cannot be asked");
            return Ok(());
        }
    };
    if config.require_durable
        && let Some(text) = refusal(&warnings)
    {
        return Err(NotDurable(text));
    }
    for warning in warnings.iter().filter(|warning| warning.kind != WarningKind::SyncUnknown) {
        tracing::warn!(warning = warning.kind.as_str(), "DURABILITY: {}", warning.text);
    }
    Ok(())
}

/// Why a server is refused where durability is required, in one line.
pub(crate) fn refusal(warnings: &[DurabilityWarning]) -> Option<String> {
    let texts: Vec<&str> =
        warnings.iter().filter(|warning| warning.kind.refuses()).map(|warning| warning.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}
