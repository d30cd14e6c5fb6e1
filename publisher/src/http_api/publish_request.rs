//! The plain order to publish: `{"force": false, "wait": true}`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::authorization::authorize;
use super::request_body::read_json;
use super::{ApiState, Refusal, answer};
use crate::serving::RunResult;

/// How long a caller may wait for its run.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    force: bool,
    wait: bool,
}

pub(super) async fn publish(
    State(state): State<Arc<ApiState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    authorize(&state, &headers, peer.ip())?;
    let order: Order = read_json(body).await?;
    tracing::info!(force = order.force, wait = order.wait, "a publish was asked for");
    if !order.wait {
        state.api.queue.ask(order.force);
        return Ok(answer(StatusCode::ACCEPTED, &json!({"queued": true})));
    }
    let Some(run) = state.api.queue.ask_and_wait(order.force) else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many wait for a run already: try again"));
    };
    let run = match timeout(LONGEST_WAIT, run).await {
        Ok(Ok(run)) => run,
        Ok(Err(_)) => return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the publisher stops")),
        Err(_) => return Ok(answer(StatusCode::ACCEPTED, &json!({"queued": true, "ended": false}))),
    };
    let status = match run.result {
        RunResult::Published | RunResult::Unchanged => StatusCode::OK,
        RunResult::Refused => StatusCode::CONFLICT,
        RunResult::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RunResult::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut body = serde_json::to_value(&run)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    body["message"] = run.words().into();
    Ok(answer(status, &body))
}
