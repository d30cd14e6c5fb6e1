//! The publisher over HTTP: health, status, metrics, and orders to publish.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz`, `/health` | 200 while the process lives |
//! | `GET /readyz`, `/ready` | 200 where connected, provisioned and the last run ended well; else 503 with the reason |
//! | `GET /api/publisher/status` | everything known, as JSON |
//! | `GET /metrics` | numbers for Prometheus |
//! | `POST /api/publish` | publishes; 202, or 200 with the result where the body says `"wait": true` |
//! | `POST /repos/{owner}/{repository}/actions/workflows/contracts-release.yml/dispatches` | the same in GitHub's form: 204 |
//!
//! Every request has bounds on its header, body and time, and none of them can hold up the publishing: what a request
//! asks for is queued, and the status is a copy.

mod authorization;
mod health;
mod publish_request;
mod request_body;
mod server;
mod workflow_dispatch;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use shared::daemon::api_keys::ApiKeys;
use shared::daemon::refused_keys::RefusedKeys;
use streams::connection::{Connection, ConnectionState};
use tower_http::timeout::TimeoutLayer;

use self::authorization::WrongAttempts;
pub use self::server::{HttpServer, ListenError};
use crate::serving::{RunQueue, ServiceMetrics, StatusBoard};

/// Most bytes of a request's body.
const MOST_BODY_BYTES: usize = 64 * 1024;
/// How long an answer may take that waits for nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// What the HTTP side reads and where it leaves orders.
#[derive(Debug)]
pub struct HttpApi {
    /// The publisher's status.
    pub status: Arc<StatusBoard>,
    /// Orders to publish.
    pub queue: Arc<RunQueue>,
    /// The connection, for its state only.
    pub connection: Connection,
    /// The numbers.
    pub metrics: ServiceMetrics,
    /// Who may order; nobody without it.
    pub trigger_keys: Option<ApiKeys>,
}

impl HttpApi {
    fn connected(&self) -> bool {
        self.connection.status().state == ConnectionState::Connected
    }
}

/// The API with what it remembers between requests.
#[derive(Debug)]
struct ApiState {
    api: HttpApi,
    wrong_attempts: WrongAttempts,
    refused_keys: RefusedKeys,
}

fn router(api: HttpApi) -> Router {
    let state =
        Arc::new(ApiState { api, wrong_attempts: WrongAttempts::default(), refused_keys: RefusedKeys::default() });
    let quick = Router::new()
        .route("/healthz", get(health::alive))
        .route("/health", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/ready", get(health::ready))
        .route("/api/publisher/status", get(health::status))
        .route("/metrics", get(health::metrics))
        .route("/repos/{owner}/{repository}/actions/workflows/{workflow}/dispatches", post(workflow_dispatch::dispatch))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, ANSWER_LIMIT));
    // This one may be told to wait for a run; its own bounds hold.
    let waiting = Router::new().route("/api/publish", post(publish_request::publish));
    quick.merge(waiting).fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(state)
}

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing here")
}

async fn method_not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take this method")
}

/// An answer that says why not.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(self.status, &json!({"message": self.message, "status": self.status.as_u16()}))
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
