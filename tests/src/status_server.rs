//! The status page of a node, for scripts that ask for it: what a test wants it to say, on a port of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::http::HeaderMap;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Serves `/api/contracts/status` until it is dropped.
#[derive(Debug)]
pub struct StatusServer {
    address: SocketAddr,
    status: watch::Sender<Value>,
    requests: Arc<AtomicUsize>,
    asked: Arc<Mutex<HeaderMap>>,
    task: JoinHandle<()>,
}

impl StatusServer {
    /// A node with this status, and an alert where it is not `loaded`.
    pub async fn start(status: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (sender, receiver) = watch::channel(answer(status));
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let asked = Arc::new(Mutex::new(HeaderMap::new()));
        let last = Arc::clone(&asked);
        let handler = async move |headers: HeaderMap| {
            counter.fetch_add(1, Ordering::Relaxed);
            *last.lock().expect("nobody panics with it") = headers;
            Json(receiver.borrow().clone())
        };
        let router = axum::Router::new().route("/api/contracts/status", get(handler));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serving goes on") });
        Self { address, status: sender, requests, asked, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says from now on.
    pub fn set(&self, status: &str) {
        self.status.send_replace(answer(status));
    }

    /// How often it was asked.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// A header of the last request.
    pub fn header(&self, name: &str) -> Option<String> {
        let asked = self.asked.lock().expect("nobody panics with it");
        Some(asked.get(name)?.to_str().expect("headers are text").to_owned())
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(status: &str) -> Value {
    let alert = json!({
        "severity": "error",
        "message": format!("the bundle is {status}"),
        "remediation": "look at the log",
        "timestamp": "2026-02-03T07:12:44Z",
    });
    let alerts = if status == "loaded" { json!([]) } else { json!([alert]) };
    json!({"contractBundle": {
        "status": status, "metadata": null, "alerts": alerts, "lastCheck": "2026-02-03T07:12:44Z",
        "usingFallback": false, "cacheDir": ".demon/contracts", "source": "primary",
    }})
}
