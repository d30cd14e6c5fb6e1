//! `GET /metrics`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::Utc;

use super::router::Shown;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page, or 404 where another program of the process serves its own.
pub(super) async fn metrics(State(shown): State<Shown>) -> Response {
    let Some(page) = &shown.metrics else { return StatusCode::NOT_FOUND.into_response() };
    let text = page.render(&shown.views(), shown.stale_after, Utc::now());
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
}
