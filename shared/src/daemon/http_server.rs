//! The HTTP server of our daemons: few connections, small requests, short times, so that nobody outside can hold up
//! what the daemon is there for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::http::StatusCode;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

/// After an error of accepting, for example too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds on what a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once; more wait until one ends.
    pub connections: usize,
    /// Lines in a request's head.
    pub headers: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Time for a request's head to arrive, and for a kept connection to send the next one.
    pub head_time: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Time for a request with its body and its answer; `None` where the router bounds each of its routes itself.
    pub request_time: Option<Duration>,
    /// Age at which a connection is closed, whatever it does.
    pub connection_time: Duration,
    /// Time for answers that are being given when the server stops.
    pub last_answers: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            headers: 64,
            head_bytes: 16 << 10,
            head_time: Duration::from_secs(5),
            body_bytes: 64 << 10,
            request_time: Some(Duration::from_secs(30)),
            connection_time: Duration::from_mins(5),
            last_answers: Duration::from_secs(1),
        }
    }
}

/// Answers requests until `stop` is cancelled; answers that are being given then have a moment left. Never fails: a client
/// that breaks off, is slow or sends nonsense ends its own connection only. Handlers find the peer in
/// `ConnectInfo<SocketAddr>`.
pub async fn serve(listener: TcpListener, router: Router, limits: HttpLimits, stop: CancellationToken) {
    let mut router = router.layer(DefaultBodyLimit::disable()).layer(RequestBodyLimitLayer::new(limits.body_bytes));
    if let Some(request_time) = limits.request_time {
        router = router.layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, request_time));
    }
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, stop) = (router.clone().layer(Extension(ConnectInfo(peer))), stop.clone());
        connections.spawn(async move {
            answer(stream, router, limits, stop).await;
            drop(slot);
        });
    }
    connections.close();
    if tokio::time::timeout(limits.last_answers, connections.wait()).await.is_err() {
        tracing::debug!("some requests were not answered");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

async fn answer(stream: TcpStream, router: Router, limits: HttpLimits, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = tokio::time::sleep(limits.connection_time) => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn start(limits: HttpLimits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let router = Router::new()
            .route("/", get(async || "well"))
            .route("/echo", post(async |body: String| body))
            .route("/endless", get(std::future::pending::<&'static str>));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        (address, stop.clone(), tokio::spawn(serve(listener, router, limits, stop)))
    }

    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server ends the connection");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn requests_are_answered_within_their_limits() {
        let limits =
            HttpLimits { body_bytes: 10, request_time: Some(Duration::from_millis(50)), ..HttpLimits::default() };
        let (address, stop, serving) = start(limits).await;
        let ask = |text: &'static str| exchange(address, text);
        assert!(ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ends_with("well"));
        let large = ask("POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 11\r\n\r\n12345678901");
        assert!(large.await.starts_with("HTTP/1.1 413"));
        let endless = ask("GET /endless HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(endless.starts_with("HTTP/1.1 408"), "{endless}");
        stop.cancel();
        timeout(PATIENCE, serving).await.expect("it stops").unwrap();
    }

    #[tokio::test]
    async fn a_head_that_never_ends_or_is_too_large_ends_its_connection() {
        let limits = HttpLimits { head_time: Duration::from_millis(50), ..HttpLimits::default() };
        let (address, _stop, _serving) = start(limits).await;
        assert!(!exchange(address, "GET / HTTP/1.1\r\nHost:").await.contains("200 OK"));
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
        assert!(exchange(address, &head).await.starts_with("HTTP/1.1 431"));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
        assert!(exchange(address, &many).await.starts_with("HTTP/1.1 431"));
    }

    #[tokio::test]
    async fn slow_clients_do_not_keep_others_out_for_long() {
        let limits = HttpLimits { connections: 2, head_time: Duration::from_millis(100), ..HttpLimits::default() };
        let (address, _stop, _serving) = start(limits).await;
        let mut slow = Vec::new();
        for _ in 0..8 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HT").await.unwrap();
            slow.push(stream);
        }
        assert!(exchange(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ends_with("well"));
    }
}
