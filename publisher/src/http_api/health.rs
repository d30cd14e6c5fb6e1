//! What can be read: liveness, readiness, status and metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use streams::connection::ConnectionState;

use super::{ApiState, Refusal, answer};

/// The process lives. Nothing else is looked at.
pub(super) async fn alive() -> &'static str {
    "OK"
}

/// Whether the publisher does its work, and why not.
pub(super) async fn ready(State(state): State<Arc<ApiState>>) -> Response {
    let status = state.api.status.read();
    let fault = if state.api.connected() { status.fault() } else { Some("the server is not connected".to_owned()) };
    let code = if fault.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let schedule = status.schedule.as_ref();
    answer(
        code,
        &json!({
            "ready": fault.is_none(),
            "reason": fault,
            "missed_schedules": schedule.map_or(0, |schedule| schedule.missed),
            "pending_schedule": schedule.and_then(|schedule| schedule.pending_due),
        }),
    )
}

/// Everything known.
pub(super) async fn status(State(state): State<Arc<ApiState>>) -> Response {
    let mut status = match serde_json::to_value(state.api.status.read()) {
        Ok(status) => status,
        Err(error) => return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    status["connection"] = connection(&state);
    status["triggers_enabled"] = state.api.trigger_keys.is_some().into();
    answer(StatusCode::OK, &status)
}

fn connection(state: &ApiState) -> Value {
    let status = state.api.connection.status();
    let word = match status.state {
        ConnectionState::Connecting => "connecting",
        ConnectionState::Connected => "connected",
        ConnectionState::Disconnected => "disconnected",
        ConnectionState::Closed => "closed",
    };
    let fault = status.last_fault.map(|fault| fault.to_string());
    json!({"state": word, "connects": status.connects, "last_fault": fault})
}

/// Numbers for Prometheus.
pub(super) async fn metrics(State(state): State<Arc<ApiState>>) -> Response {
    let text = state.api.metrics.render(&state.api.status.read(), state.api.connected());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
