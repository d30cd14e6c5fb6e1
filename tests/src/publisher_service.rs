//! The publisher as a service: a real process, and plain HTTP to it, byte for byte as a test wants it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    /// Sends a body, with further header lines.
    pub async fn post(&self, path: &str, headers: &[&str], body: &str) -> HttpAnswer {
        let length = format!("Content-Length: {}", body.len());
        let fixed = [&format!("POST {path} HTTP/1.1"), "Host: x", "Connection: close", &length];
        let lines = [&fixed[..], headers].concat().join("\r\n");
        self.exchange(&format!("{lines}\r\n\r\n{body}")).await
    }

    /// Sends these bytes and reads the answer until the other side closes.
    pub async fn exchange(&self, request: &str) -> HttpAnswer {
        let mut stream = self.connect().await;
        // A server may answer before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        HttpAnswer::read(&mut stream, PATIENCE).await
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Its status code.
    pub status: u16,
    /// Its header, lower case.
    pub header: String,
    /// Its body.
    pub body: String,
}

impl HttpAnswer {
    /// Reads one answer up to the end of the connection.
    pub async fn read(stream: &mut TcpStream, limit: Duration) -> Self {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        loop {
            // A connection that is reset had bytes of ours unread; what was answered before counts.
            match timeout(limit, stream.read(&mut part)).await.expect("an answer comes in time") {
                Ok(0) | Err(_) => break,
                Ok(count) => bytes.extend_from_slice(&part[..count]),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let (header, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = header.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {text:?}"));
        Self { status, header: header.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
