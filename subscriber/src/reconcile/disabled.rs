//! The emergency switch is on: no bundle is loaded, nothing is asked for, no server is needed. Only HTTP answers.

use chrono::Utc;
use shared::identifiers::Incarnation;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::agent_view::AgentView;
use crate::config::AgentConfig;
use crate::metrics::MetricsPage;
use crate::node_report::NodeReport;

/// Shows that loading is switched off until `stop` is cancelled.
pub(super) async fn run(config: AgentConfig, metrics: Option<MetricsPage>, stop: CancellationToken) {
    tracing::warn!(
        node.name = %config.node,
        "DEMON_SKIP_CONTRACT_BUNDLE is set: no bundle is loaded and no server is asked"
    );
    // It writes no events, so it is no writer.
    let (nobody, now) = (Incarnation::from_uuid(Uuid::nil()), Utc::now());
    let shown = config.bundles.bundles.iter().map(|target| {
        let report = NodeReport::at_start(&config, target, nobody, now);
        watch::channel(AgentView::at_start(report, &config, target)).1
    });
    crate::http::run(config.http.clone(), shown.collect(), metrics, stop.clone()).await;
    // Without an HTTP interface there is nothing left to do but to stay.
    stop.cancelled().await;
}
