//! Which path shows what.

use std::collections::BTreeSet;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use shared::daemon::api_keys::ApiKeys;
use tokio::sync::watch;

use super::authentication::require_key;
use super::contract_status::{ContractBundle, StatusDocument};
use super::health::{StrictHealth, StrictRules, is_ready};
use super::metrics_page::metrics;
use super::openapi::openapi;
use crate::agent_view::AgentView;
use crate::config::Requirement;
use crate::metrics::MetricsPage;

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-demon-api-version");
pub(super) const VERSION: &str = "v1";
/// The bundle that the status document is about.
const CONTRACTS: &str = "contracts";

/// What the handlers read.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// One for each bundle, in the order of the settings.
    pub(super) views: Vec<watch::Receiver<AgentView>>,
    pub(super) stale_after: TimeDelta,
    pub(super) requires: BTreeSet<Requirement>,
    pub(super) metrics: Option<MetricsPage>,
    pub(super) keys: Option<ApiKeys>,
}

impl Shown {
    /// Every bundle as it is now.
    pub(super) fn views(&self) -> Vec<AgentView> {
        self.views.iter().map(|view| view.borrow().clone()).collect()
    }

    fn bundle(&self, name: &str) -> Option<AgentView> {
        self.views.iter().find(|view| view.borrow().report.bundle.as_str() == name).map(|view| view.borrow().clone())
    }
}

/// Who may ask for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody who can connect: probes, and what holds no secret.
    Open,
    /// Whoever has a key, where one is set; the version of the API is negotiated.
    WithKey,
}

/// One path and what answers it.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) access: Access,
    handler: MethodRouter<Shown>,
}

/// Every route. Each is described in `openapi.json`.
pub(super) fn routes() -> Vec<Route> {
    let open = |path, handler| Route { path, access: Access::Open, handler };
    let api = |path, handler| Route { path, access: Access::WithKey, handler };
    vec![
        api("/api/contracts/status", get(contracts_status)),
        api("/api/bundles", get(bundles)),
        api("/api/bundles/{name}", get(bundle)),
        open("/health", get(async || "OK")),
        open("/healthz", get(async || "OK")),
        open("/ready", get(ready)),
        open("/healthz/strict", get(strict)),
        open("/metrics", get(metrics)),
        open("/openapi.json", get(openapi)),
    ]
}

/// All of them, with what guards them.
pub(super) fn router(shown: Shown) -> Router {
    let (mut open, mut api) = (Router::new(), Router::new());
    for Route { path, access, handler } in routes() {
        match access {
            Access::Open => open = open.route(path, handler),
            Access::WithKey => api = api.route(path, handler),
        }
    }
    let api = api.layer(from_fn(api_version)).layer(from_fn_with_state(shown.keys.clone(), require_key));
    open.merge(api)
        .fallback(async || (StatusCode::NOT_FOUND, Json(json!({ "error": "no such path" }))))
        .with_state(shown)
}

async fn contracts_status(State(shown): State<Shown>) -> Json<StatusDocument> {
    let contracts = shown.bundle(CONTRACTS);
    Json(StatusDocument::new(contracts.as_ref(), shown.stale_after, Utc::now()))
}

async fn bundles(State(shown): State<Shown>) -> Json<Value> {
    let entries: Vec<Value> = shown.views().iter().map(|view| bundle_entry(view, shown.stale_after)).collect();
    Json(json!({ "bundles": entries }))
}

async fn bundle(State(shown): State<Shown>, Path(name): Path<String>) -> Response {
    if let Some(view) = shown.bundle(&name) {
        return Json(bundle_entry(&view, shown.stale_after)).into_response();
    }
    (StatusCode::NOT_FOUND, Json(json!({ "error": "this agent does not run such a bundle" }))).into_response()
}

/// What the node table says of a bundle beside how it stands.
fn bundle_entry(view: &AgentView, stale_after: TimeDelta) -> Value {
    let standing = ContractBundle::new(view, stale_after, Utc::now());
    json!({ "name": view.report.bundle, "standing": standing, "node": view.report })
}

async fn ready(State(shown): State<Shown>) -> Response {
    let ready = shown.views().iter().all(is_ready);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready }))).into_response()
}

async fn strict(State(shown): State<Shown>) -> Response {
    let rules = StrictRules { stale_after: shown.stale_after, requires: shown.requires.clone() };
    let health = StrictHealth::of_all(&shown.views(), &rules, Utc::now());
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
        let views = vec![watch::channel(shown).1];
        let keys = keys.and_then(|keys| ApiKeys::parse(keys).unwrap());
        router(Shown { views, stale_after: TimeDelta::hours(24), requires: BTreeSet::new(), metrics: None, keys })
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
