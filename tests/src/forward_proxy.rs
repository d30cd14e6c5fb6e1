//! A forward proxy on this machine: tunnels (`CONNECT`) and plain requests with an absolute address. Records who was
//! asked for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::loopback_server::{LoopbackThread, free_listener};

/// Longest request header that is read.
const MOST_HEADER_BYTES: u64 = 64 << 10;

/// The proxy. Dropping it ends it.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
    _server: LoopbackThread,
}

impl ForwardProxy {
    /// A proxy for everybody.
    pub fn start() -> Self {
        Self::start_for(None)
    }

    /// A proxy for those who log in.
    pub fn start_with_login(user: &str, password: &str) -> Self {
        Self::start_for(Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }

    fn start_for(login: Option<String>) -> Self {
        let (listener, address) = free_listener();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&targets);
        let server = LoopbackThread::start("forward proxy", move || async move {
            let listener = TcpListener::from_std(listener).expect("the listener can be served");
            while let Ok((client, _)) = listener.accept().await {
                let (record, login) = (Arc::clone(&record), login.clone());
                tokio::spawn(async move {
                    // Whoever breaks a connection off knows why.
                    let _ = forward(client, login.as_deref(), &record).await;
                });
            }
        });
        Self { address, targets, _server: server }
    }

    /// What `HTTPS_PROXY` takes.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `host:port` of every connection that was asked for and allowed, in order.
    pub fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn forward(client: TcpStream, login: Option<&str>, record: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let mut lines = Vec::new();
    let mut header = (&mut client).take(MOST_HEADER_BYTES);
    loop {
        let mut line = String::new();
        if header.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let Some((request, headers)) = lines.split_first() else { return Ok(()) };
    let mut words = request.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
    let sent = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim())
    });
    if login.is_some() && sent != login {
        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        return client.write_all(answer.as_bytes()).await;
    }
    let note = |target: &str| record.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    if method == "CONNECT" {
        note(target);
        let Ok(mut server) = TcpStream::connect(target).await else { return bad_gateway(&mut client).await };
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let rest = target.strip_prefix("http://").unwrap_or(target);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    note(host);
    let Ok(mut server) = TcpStream::connect(host).await else { return bad_gateway(&mut client).await };
    // One request for each connection, so that each is seen.
    let kept = headers.iter().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !matches!(name.as_str(), "proxy-authorization" | "proxy-connection" | "connection")
    });
    let mut request = format!("{method} /{path} HTTP/1.1\r\nconnection: close\r\n");
    for line in kept {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    server.write_all(request.as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn bad_gateway(client: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await
}
