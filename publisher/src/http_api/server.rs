//! The listening side: a bounded number of connections, each with bounds on what and how slowly it may send.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{HttpApi, router};

/// Connections at once; further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 128;
/// How long a request's header may take to arrive, and an idle connection is kept.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
const MOST_HEADER_BYTES: usize = 32 * 1024;
const MOST_HEADERS: usize = 64;
/// How long answers may still take when the publisher stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// After a connection that could not be accepted: no file handle is left, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("address `{address}` cannot be listened on; --listen takes another one, or `off`")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Who sent a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// A server that answers until it is stopped.
#[derive(Debug)]
pub struct HttpServer {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl HttpServer {
    /// Listens, logs the address, and answers in the background.
    pub async fn start(address: SocketAddr, api: HttpApi) -> Result<Self, ListenError> {
        let unusable = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(unusable)?;
        let bound = listener.local_addr().map_err(unusable)?;
        let triggers = if api.trigger_keys.is_some() { "on" } else { "off" };
        tracing::info!(address = %bound, triggers, "listening for health, metrics and triggers on http://{bound}");
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, router(api), stop.clone(), tasks.clone()));
        Ok(Self { stop, tasks })
    }

    /// Accepts nothing more, and returns when what was asked is answered; waits for that a moment only.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(LAST_ANSWERS, self.tasks.wait()).await.is_err() {
            tracing::debug!("some requests were not answered");
        }
    }
}

async fn accept(listener: TcpListener, router: Router, stop: CancellationToken, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = next(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let router = router.clone().layer(Extension(Peer(peer.ip())));
                tasks.spawn(answer_on(stream, router, place, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

async fn answer_on(stream: TcpStream, router: Router, place: OwnedSemaphorePermit, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(MOST_HEADER_BYTES)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
    drop(place);
}
