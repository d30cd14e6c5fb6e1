//! HTTP requests of a test: plain bytes over a socket, so that nothing of the product's own code is trusted.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::waiting::PATIENCE;

/// An answer, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Head with its status line, lower case.
    pub head: String,
    /// Body as text.
    pub body: String,
}

impl HttpAnswer {
    /// Reads one answer up to the end of the connection.
    ///
    /// # Panics
    /// Where none comes within `limit`.
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
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {text:?}"));
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks for a path, with further header lines, and waits for the whole answer.
pub async fn get(address: SocketAddr, path: &str, headers: &[&str]) -> HttpAnswer {
    exchange(address, &request("GET", path, headers, "")).await
}

/// Sends a body, with further header lines, and waits for the whole answer.
pub async fn post(address: SocketAddr, path: &str, headers: &[&str], body: &str) -> HttpAnswer {
    exchange(address, &request("POST", path, headers, body)).await
}

/// Sends these bytes and reads the answer until the other side closes.
///
/// # Panics
/// Where nobody listens, or no answer comes.
pub async fn exchange(address: SocketAddr, request: &str) -> HttpAnswer {
    let mut stream = TcpStream::connect(address).await.expect("the server accepts connections");
    // A server may answer before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    HttpAnswer::read(&mut stream, PATIENCE).await
}

fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let length = format!("Content-Length: {}", body.len());
    let fixed = [&format!("{method} {path} HTTP/1.1"), "Host: x", "Connection: close", &length];
    let lines = [&fixed[..], headers].concat().join("\r\n");
    format!("{lines}\r\n\r\n{body}")
}
