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
        node.name = %config.node, bundle = %config.bundle,
        "DEMON_SKIP_CONTRACT_BUNDLE is set: no bundle is loaded and no server is asked"
    );
    let now = Utc::now();
    let report = NodeReport {
        node: config.node.clone(),
        bundle: config.bundle.clone(),
        channel: config.follow.channel().cloned(),
        pinned: None,
        active: None,
        previous: None,
        desired: None,
        last_sequence: 0,
        waiting_events: 0,
        incarnation: Incarnation::from_uuid(Uuid::nil()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        alarms: vec!["loading of bundles is switched off".to_owned()],
        started_at: now,
    };
    let (_view, shown) = watch::channel(AgentView {
        report,
        disabled: true,
        cache: config.cache.clone(),
        connected: false,
        connection_fault: None,
        git_sha: None,
        manifest: None,
        trouble: None,
        changed_at: now,
    });
    crate::http::run(config.http.clone(), shown, metrics, stop.clone()).await;
    // Without an HTTP interface there is nothing left to do but to stay.
    stop.cancelled().await;
}
