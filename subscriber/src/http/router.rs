//! Which path shows what.

use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use shared::daemon::api_keys::ApiKeys;
use tokio::sync::watch;

use super::authentication::require_key;
use super::contract_status::{ContractBundle, StatusDocument};
use super::health::{StrictHealth, is_ready};
use super::metrics_page::metrics;
use super::schema_lookup::schema_metadata;
use crate::agent_view::AgentView;
use crate::metrics::MetricsPage;

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-demon-api-version");
const VERSION: &str = "v1";

/// What the handlers read.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) view: watch::Receiver<AgentView>,
    pub(super) stale_after: TimeDelta,
    pub(super) metrics: Option<MetricsPage>,
    pub(super) keys: Option<ApiKeys>,
}

/// Every route.
pub(super) fn router(shown: Shown) -> Router {
    let api = Router::new()
        .route("/api/contracts/status", get(contracts_status))
        .route("/api/schema/metadata", get(schema_metadata))
        .route("/api/bundles", get(bundles))
        .route("/api/bundles/{name}", get(bundle))
        .layer(from_fn(api_version))
        .layer(from_fn_with_state(shown.keys.clone(), require_key));
    Router::new()
        .route("/health", get(async || "OK"))
        .route("/healthz", get(async || "OK"))
        .route("/ready", get(ready))
        .route("/healthz/strict", get(strict))
        .route("/metrics", get(metrics))
        .merge(api)
        .fallback(async || (StatusCode::NOT_FOUND, Json(json!({ "error": "no such path" }))))
        .with_state(shown)
}

async fn contracts_status(State(shown): State<Shown>) -> Json<StatusDocument> {
    Json(StatusDocument::new(&shown.view.borrow(), shown.stale_after, Utc::now()))
}

async fn bundles(State(shown): State<Shown>) -> Json<Value> {
    Json(json!({ "bundles": [bundle_entry(&shown)] }))
}

async fn bundle(State(shown): State<Shown>, Path(name): Path<String>) -> Response {
    if shown.view.borrow().report.bundle.as_str() == name {
        return Json(bundle_entry(&shown)).into_response();
    }
    (StatusCode::NOT_FOUND, Json(json!({ "error": "this agent does not run such a bundle" }))).into_response()
}

/// The node's entry in the node table beside how the bundle stands.
fn bundle_entry(shown: &Shown) -> Value {
    let view = shown.view.borrow();
    let standing = ContractBundle::new(&view, shown.stale_after, Utc::now());
    json!({ "name": view.report.bundle, "standing": standing, "node": view.report })
}

async fn ready(State(shown): State<Shown>) -> Response {
    let ready = is_ready(&shown.view.borrow());
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready }))).into_response()
}

async fn strict(State(shown): State<Shown>) -> Response {
    let health = StrictHealth::new(&shown.view.borrow(), shown.stale_after, Utc::now());
    let code = if health.passed() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(health)).into_response()
}

/// Says which version of the API answers, and refuses requests for another one.
async fn api_version(request: Request, next: Next) -> Response {
    let requested = request.headers().get(&VERSION_HEADER).cloned();
    let mut response = match requested {
        Some(requested) if requested != VERSION => {
            let requested: String = String::from_utf8_lossy(requested.as_bytes()).chars().take(40).collect();
            let body = json!({
                "error": "unsupported API version",
                "requested_version": requested,
                "supported_versions": [VERSION],
                "message": format!("API version '{requested}' is not supported. Please use one of: {VERSION}"),
            });
            (StatusCode::NOT_ACCEPTABLE, Json(body)).into_response()
        }
        Some(_) | None => next.run(request).await,
    };
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt as _;

    use super::*;
    use crate::agent_view::tests::view;

    fn routes(keys: Option<&str>, loaded: bool) -> Router {
        let mut shown = view();
        if !loaded {
            shown.report.active = None;
        }
        let (_, view) = watch::channel(shown);
        let keys = keys.and_then(|keys| ApiKeys::parse(keys).unwrap());
        router(Shown { view, stale_after: TimeDelta::hours(24), metrics: None, keys })
    }

    async fn ask(router: Router, path: &str, headers: &[(&str, &str)]) -> (StatusCode, Option<String>, String) {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let version = response.headers().get(&VERSION_HEADER).map(|value| value.to_str().unwrap().to_owned());
        let (status, body) = (response.status(), to_bytes(response.into_body(), 1 << 20).await.unwrap());
        (status, version, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn versions_are_answered_and_refused() {
        let (status, version, body) = ask(routes(None, true), "/api/contracts/status", &[]).await;
        assert_eq!((status, version.as_deref()), (StatusCode::OK, Some("v1")));
        assert!(body.starts_with("{\"contractBundle\":{"), "{body}");
        let asked = [("X-Demon-API-Version", "v9")];
        let (status, version, body) = ask(routes(None, true), "/api/contracts/status", &asked).await;
        assert_eq!((status, version.as_deref()), (StatusCode::NOT_ACCEPTABLE, Some("v1")));
        assert!(body.contains("\"requested_version\":\"v9\""), "{body}");
    }

    #[tokio::test]
    async fn keys_protect_the_api_and_leave_probes_open() {
        let key = "0123456789abcdef";
        for (path, headers, expected) in [
            ("/api/contracts/status", vec![], StatusCode::UNAUTHORIZED),
            ("/api/contracts/status", vec![("x-api-key", "0123456789abcdeF")], StatusCode::UNAUTHORIZED),
            ("/api/contracts/status", vec![("x-api-key", key)], StatusCode::OK),
            ("/api/bundles/contracts", vec![("x-api-key", key)], StatusCode::OK),
            ("/api/bundles/policies", vec![("x-api-key", key)], StatusCode::NOT_FOUND),
            ("/health", vec![], StatusCode::OK),
            ("/healthz", vec![], StatusCode::OK),
            ("/healthz/strict", vec![], StatusCode::OK),
            ("/ready", vec![], StatusCode::OK),
            ("/elsewhere", vec![], StatusCode::NOT_FOUND),
        ] {
            assert_eq!(ask(routes(Some(key), true), path, &headers).await.0, expected, "{path} {headers:?}");
        }
    }

    #[tokio::test]
    async fn a_node_without_a_release_lives_but_is_not_ready() {
        for (path, expected) in [
            ("/healthz", StatusCode::OK),
            ("/ready", StatusCode::SERVICE_UNAVAILABLE),
            ("/healthz/strict", StatusCode::SERVICE_UNAVAILABLE),
        ] {
            assert_eq!(ask(routes(None, false), path, &[]).await.0, expected, "{path}");
        }
    }
}
