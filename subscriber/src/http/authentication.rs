//! Who may ask: everybody where no key is set, else whoever sends one in `x-api-key`. Probes and metrics stay open.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use shared::daemon::api_keys::ApiKeys;

const HEADER: &str = "x-api-key";

/// Lets a request through, or answers 401.
pub(super) async fn require_key(State(keys): State<Option<ApiKeys>>, request: Request, next: Next) -> Response {
    let Some(keys) = keys else { return next.run(request).await };
    let given = request.headers().get(HEADER).map(axum::http::HeaderValue::as_bytes);
    match given {
        Some(given) if keys.accept(given) => next.run(request).await,
        given => {
            let what = if given.is_some() { "wrong" } else { "missing" };
            tracing::warn!(path = request.uri().path(), "HTTP request refused: {what} key");
            let body = json!({ "error": format!("{what} API key: send it in the header {HEADER}") });
            (StatusCode::UNAUTHORIZED, Json(body)).into_response()
        }
    }
}
