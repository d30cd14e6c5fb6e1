//! The listening side of the API.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use shared::daemon::http_server::{HttpLimits, serve};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{HttpApi, MOST_BODY_BYTES, router};

/// Long enough for whoever waits for the result of a publish.
const LONGEST_CONNECTION: Duration = Duration::from_hours(1);

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("address `{address}` cannot be listened on; --listen takes another one, or `off`")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// A server that answers until it is stopped.
#[derive(Debug)]
pub struct HttpServer {
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl HttpServer {
    /// Listens, logs the address, and answers in the background.
    pub async fn start(address: SocketAddr, api: HttpApi) -> Result<Self, ListenError> {
        let unusable = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(unusable)?;
        let bound = listener.local_addr().map_err(unusable)?;
        let triggers = if api.trigger_keys.is_some() { "on" } else { "off" };
        tracing::info!(address = %bound, triggers, "listening for health, metrics and triggers on http://{bound}");
        let stop = CancellationToken::new();
        // The routes have bounds of their own, because one of them may wait for a publish.
        let limits = HttpLimits {
            body_bytes: MOST_BODY_BYTES,
            request_time: None,
            connection_time: LONGEST_CONNECTION,
            ..HttpLimits::default()
        };
        let serving = tokio::spawn(serve(listener, router(api), limits, stop.clone()));
        Ok(Self { stop, serving })
    }

    /// Accepts nothing more, and returns when what was asked is answered; waits for that a moment only.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the HTTP server ended early");
        }
    }
}
