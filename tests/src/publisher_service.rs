//! The publisher as a service: a real process, and HTTP to it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::http_request::{self, HttpAnswer};
use crate::process::Process;
use crate::waiting::PATIENCE;

/// A publisher that stays.
#[derive(Debug)]
pub struct PublisherService {
    /// Its process.
    pub process: Process,
    address: SocketAddr,
}

impl PublisherService {
    /// Starts it and waits until it listens. Its log is called `name`, which no other process of the test may have.
    pub async fn start(name: &str, command: Command, logs: &Path) -> Self {
        let mut process = Process::start(name, command, logs);
        let line = process.log_line("its address", PATIENCE, |line| line.contains("listening for health")).await;
        let line: Value = serde_json::from_str(&line).expect("log lines are JSON");
        let address = line["address"].as_str().and_then(|text| text.parse().ok()).expect("the line has the address");
        Self { process, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection to it.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the publisher accepts connections")
    }

    /// Asks for something.
    pub async fn get(&self, path: &str) -> HttpAnswer {
        http_request::get(self.address, path, &[]).await
    }

    /// Sends a body, with further header lines.
    pub async fn post(&self, path: &str, headers: &[&str], body: &str) -> HttpAnswer {
        http_request::post(self.address, path, headers, body).await
    }

    /// Sends these bytes and reads the answer until the other side closes.
    pub async fn exchange(&self, request: &str) -> HttpAnswer {
        http_request::exchange(self.address, request).await
    }
}
