//! A web server on this machine for one test, with or without TLS, in a thread of its own: a test that blocks does not
//! stop it.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::serve::Listener;
use streams::embedded_server::ServerTls;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// A thread with a runtime of its own, ended with the test.
#[derive(Debug)]
pub struct LoopbackThread {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl LoopbackThread {
    /// Runs something until it ends or the test does.
    pub fn start<F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()>,
    {
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                tokio::select! {
                    () = work() => {}
                    () = stopping.cancelled() => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread can be made");
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for LoopbackThread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It has panicked: whoever asked it something has failed already.
            let _ = thread.join();
        }
    }
}

/// Takes a free port of this machine and keeps it.
pub fn free_listener() -> (StdTcpListener, SocketAddr) {
    let listener = StdTcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("a socket can be told not to block");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, address)
}

/// Serves a router on a listener until the returned thread is dropped.
pub fn serve(name: &str, listener: StdTcpListener, tls: Option<&ServerTls>, router: Router) -> LoopbackThread {
    let tls = tls.map(acceptor);
    LoopbackThread::start(name, move || async move {
        let listener = TcpListener::from_std(listener).expect("the listener can be served");
        let served = match tls {
            None => axum::serve(listener, router).await,
            Some(acceptor) => axum::serve(TlsListener { listener, acceptor }, router).await,
        };
        served.expect("serving never ends by itself");
    })
}

fn acceptor(tls: &ServerTls) -> TlsAcceptor {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&tls.certificate).expect("the certificate can be read").collect();
    let key = PrivateKeyDer::from_pem_file(&tls.key).expect("the key can be read");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows the protocol's versions")
        .with_no_client_auth()
        .with_single_cert(certificates.expect("the certificates are PEM"), key)
        .expect("the key fits the certificate");
    TlsAcceptor::from(Arc::new(config))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            // A client that does not trust us is what some tests are about.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
