//! Who may ask: everybody where no key is set, else whoever sends one in `x-api-key`. Probes and metrics stay open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use shared::daemon::api_keys::ApiKeys;
use shared::daemon::refused_keys::{PeerClass, RefusedKeys};

use crate::metrics::count_refused_request;

const HEADER: &str = "x-api-key";

/// What guards the API of one address.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    keys: Option<ApiKeys>,
    refused: Arc<RefusedKeys>,
}

impl Guard {
    /// A guard with these keys; without any it lets everybody through.
    pub(super) fn new(keys: Option<ApiKeys>) -> Self {
        Self { keys, refused: Arc::default() }
    }
}

/// Lets a request through, or answers 401. Each refusal is counted, and one a minute is said for each class of peers.
pub(super) async fn require_key(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Some(keys) = &guard.keys else { return next.run(request).await };
    let given = request.headers().get(HEADER).map(axum::http::HeaderValue::as_bytes);
    let what = match given {
        Some(given) if keys.accept(given) => return next.run(request).await,
        Some(_) => "wrong",
        None => "missing",
    };
    count_refused_request(what);
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let class = PeerClass::of(peer);
    if let Some(count) = guard.refused.note(class, Instant::now()) {
        tracing::warn!(
            path = request.uri().path(), peer = peer.map(tracing::field::display), %class, count,
            "HTTP requests refused: {what} key; at most one line a minute"
        );
    }
    let body = json!({ "error": format!("{what} API key: send it in the header {HEADER}") });
    (StatusCode::UNAUTHORIZED, Json(body)).into_response()
}
