//! Reading a request's body: bounded in bytes and, as a whole, in time.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{MOST_BODY_BYTES, Refusal};

/// How long a whole body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// The body as JSON. An empty one counts as `{}`.
pub(super) async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = timeout(BODY_LIMIT, to_bytes(body, MOST_BODY_BYTES))
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive"))?
        .map_err(|_| {
            let message = format!("the body cannot be read, or has more than {MOST_BODY_BYTES} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        })?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| {
        let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Refusal::new(status, format!("the body is not what is expected: {error}"))
    })
}
