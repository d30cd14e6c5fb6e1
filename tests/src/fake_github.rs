//! A GitHub of one repository on this machine: its API, its downloads, its faults.
//!
//! It knows what the product uses of the real one (and what the operators' playbook calls directly), insists on the
//! same things (a `User-Agent`, a valid token where one is sent), and records every request.

mod answering;
mod fault;
mod releases;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use streams::embedded_server::ServerTls;

pub use self::fault::Fault;
pub use self::releases::FakeRelease;

use crate::loopback_server::{LoopbackThread, free_listener, serve};
use crate::waiting::{PATIENCE, eventually, satisfied};

/// Largest body that a request may have.
const MOST_REQUEST_BYTES: usize = 1 << 20;

/// The server. Dropping it ends it: whoever asks then finds nobody.
#[derive(Debug)]
pub struct FakeGitHub {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<Mutex<Repository>>,
    _server: LoopbackThread,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    /// `GET`, `HEAD` or `POST`.
    pub method: String,
    /// Path with its query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What was answered; `None` where no answer was given.
    pub status: Option<u16>,
}

impl RecordedRequest {
    /// A header as text; empty where it was not sent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What the server knows.
#[derive(Debug)]
struct Repository {
    owner: String,
    name: String,
    base: String,
    token: Option<String>,
    private: bool,
    storage: Option<String>,
    releases: Vec<FakeRelease>,
    runs: Vec<Value>,
    faults: Vec<PlannedFault>,
    requests: Vec<RecordedRequest>,
    next_asset: u64,
}

#[derive(Debug)]
struct PlannedFault {
    path: String,
    fault: Fault,
    /// How many more times; `None` for ever.
    times: Option<usize>,
}

impl FakeGitHub {
    /// A public repository without releases.
    pub fn start(owner: &str, name: &str) -> Self {
        Self::start_on("http", owner, name, None)
    }

    /// The same over TLS.
    pub fn start_with_tls(owner: &str, name: &str, tls: &ServerTls) -> Self {
        Self::start_on("https", owner, name, Some(tls))
    }

    fn start_on(scheme: &'static str, owner: &str, name: &str, tls: Option<&ServerTls>) -> Self {
        let (listener, address) = free_listener();
        let state = Arc::new(Mutex::new(Repository {
            owner: owner.to_owned(),
            name: name.to_owned(),
            base: format!("{scheme}://{address}"),
            token: None,
            private: false,
            storage: None,
            releases: Vec::new(),
            runs: Vec::new(),
            faults: Vec::new(),
            requests: Vec::new(),
            next_asset: 1,
        }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&state));
        Self { address, scheme, state, _server: serve("fake GitHub", listener, tls, router) }
    }

    /// What `DEMONCTL_GITHUB_API_URL` and `DEMONCTL_GITHUB_DOWNLOAD_URL` take.
    pub fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address)
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The only token that is valid. Requests with another one are refused.
    pub fn accept_token(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// Makes the repository visible with this token only; others are told that it does not exist.
    pub fn make_private(&self, token: &str) {
        let mut state = self.state();
        state.token = Some(token.to_owned());
        state.private = true;
    }

    /// Sends whoever asks the API for an asset to another server, as GitHub does.
    pub fn store_assets_at(&self, storage: &Self) {
        self.state().storage = Some(storage.url());
    }

    /// Adds a release as the newest one, in place of an earlier one with its tag.
    pub fn publish(&self, mut release: FakeRelease) {
        let mut state = self.state();
        for asset in &mut release.assets {
            asset.id = state.next_asset;
            state.next_asset += 1;
        }
        state.releases.retain(|other| other.tag != release.tag);
        state.releases.insert(0, release);
    }

    /// Removes a release.
    pub fn remove(&self, tag: &str) {
        self.state().releases.retain(|release| release.tag != tag);
    }

    /// Adds a workflow run, as the API shows it.
    pub fn add_run(&self, run: Value) {
        self.state().runs.push(run);
    }

    /// From now on, every request whose path holds this text meets the fault. The fault planned last comes first.
    pub fn fail(&self, path: &str, fault: Fault) {
        self.state().faults.insert(0, PlannedFault { path: path.to_owned(), fault, times: None });
    }

    /// The same for this many requests.
    pub fn fail_times(&self, path: &str, times: usize, fault: Fault) {
        self.state().faults.insert(0, PlannedFault { path: path.to_owned(), fault, times: Some(times) });
    }

    /// Ends all faults.
    pub fn recover(&self) {
        self.state().faults.clear();
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.state().requests.clone()
    }

    /// How many requests were answered with this status.
    pub fn answered(&self, status: u16) -> usize {
        self.state().requests.iter().filter(|request| request.status == Some(status)).count()
    }

    /// Paths of the requests so far, queries included, in order.
    pub fn paths(&self) -> Vec<String> {
        self.state().requests.iter().map(|request| request.path.clone()).collect()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }

    /// Waits until so many requests have come whose path holds this text.
    pub async fn requested(&self, path: &str, times: usize) {
        eventually(&format!("{times} requests for `{path}`"), PATIENCE, async || {
            let count = self.paths().iter().filter(|requested| requested.contains(path)).count();
            satisfied(count >= times, || format!("{count} have come"))
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, Repository> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<Repository>) -> MutexGuard<'_, Repository> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(state): State<Arc<Mutex<Repository>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MOST_REQUEST_BYTES).await.unwrap_or_default();
    let path = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let request =
        RecordedRequest { method: parts.method.to_string(), path, headers: parts.headers, body, status: None };
    let (index, fault) = {
        let mut state = lock(&state);
        state.requests.push(request.clone());
        (state.requests.len() - 1, state.next_fault(&request.path))
    };
    let regular = || lock(&state).answer(&request);
    let response = match fault {
        None => regular(),
        Some(Fault::Hang) => loop {
            // Until the client goes away, which drops this.
            tokio::time::sleep(Duration::from_mins(1)).await;
        },
        Some(fault) => fault.apply(regular()).await,
    };
    // Forgotten meanwhile: the test is not interested any more.
    if let Some(recorded) = lock(&state).requests.get_mut(index) {
        recorded.status = Some(response.status().as_u16());
    }
    if request.method == "HEAD" { response.map(|_| Body::empty()) } else { response }
}

impl Repository {
    fn next_fault(&mut self, path: &str) -> Option<Fault> {
        let planned =
            self.faults.iter_mut().find(|planned| path.contains(&planned.path) && planned.times != Some(0))?;
        planned.times = planned.times.map(|times| times - 1);
        Some(planned.fault.clone())
    }
}
