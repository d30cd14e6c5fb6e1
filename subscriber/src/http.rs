//! The agent's HTTP interface: status, health, metrics. It reads what the reconcile loop shows and changes nothing.

mod authentication;
mod contract_status;
mod health;
mod metrics_page;
mod openapi;
mod router;

use std::io;
use std::net::SocketAddr;

use chrono::TimeDelta;
use shared::daemon::http_server::{HttpLimits, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use self::router::{Shown, router};
use crate::agent_view::AgentView;
use crate::config::HttpConfig;
use crate::metrics::MetricsPage;

/// Before an address that is in use is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(5);

/// Serves on every address of the settings until `stop` is cancelled. An address that cannot be had is logged and tried
/// again: distribution goes on without it.
pub(crate) async fn run(
    config: HttpConfig,
    views: Vec<watch::Receiver<AgentView>>,
    metrics: Option<MetricsPage>,
    stop: CancellationToken,
) {
    let shown = Shown {
        views,
        stale_after: TimeDelta::hours(i64::from(config.stale_threshold_hours)),
        requires: config.strict_requires.clone(),
        metrics,
        keys: config.api_keys.clone(),
    };
    let serving = config.addresses().into_iter().map(|address| {
        let (router, stop) = (router(shown.clone()), stop.clone());
        async move {
            if let Some(Some(listener)) = stop.run_until_cancelled(bind(address)).await {
                serve(listener, router, HttpLimits::default(), stop).await;
            }
        }
    });
    futures_util::future::join_all(serving).await;
}

/// The listener, once the address is free; `None` where it never can be.
async fn bind(address: SocketAddr) -> Option<TcpListener> {
    let mut said = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let bound = listener.local_addr().unwrap_or(address);
                tracing::info!(address = %bound, "HTTP interface listens");
                return Some(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !said {
                    tracing::error!(%address, "HTTP interface: the address is in use and tried again; set PORT");
                    said = true;
                }
                sleep(BIND_PAUSE).await;
            }
            Err(error) => {
                tracing::error!(%address, %error, "HTTP interface cannot listen; set PORT and BIND_ADDR");
                return None;
            }
        }
    }
}
