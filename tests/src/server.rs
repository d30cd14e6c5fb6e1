//! A real nats-server that belongs to one test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use streams::embedded_server::{BinarySearch, EmbeddedServer, EmbeddedServerOptions, ServerBinary, ServerTls};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::process::{continue_process, kill_process_and_wait, signal_process};
use crate::reserved_port::ReservedPort;
use crate::workspace_binary::WorkspaceBinary;

/// How a test's server differs from an open one.
#[derive(Debug, Default)]
pub struct ServerSetup {
    /// The accounts part of its configuration.
    pub accounts: String,
    /// Serve TLS.
    pub tls: Option<ServerTls>,
    /// Keep a port that outlives a kill.
    pub port: Option<ReservedPort>,
    /// The port it meets the others of its cluster on.
    pub route: Option<ReservedPort>,
}

/// The pinned nats-server under its supervisor, with a store of its own.
#[derive(Debug)]
pub struct Server {
    running: Option<EmbeddedServer>,
    options: EmbeddedServerOptions,
    directory: TempDir,
    _ports: [Option<ReservedPort>; 2],
}

impl Server {
    /// Starts one and returns once it listens.
    ///
    /// # Panics
    /// Where there is no nats-server, with the line that says how to get one.
    pub async fn start(setup: ServerSetup) -> Self {
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let options = EmbeddedServerOptions {
            binary: pinned_binary().await,
            supervisor: vec![WorkspaceBinary::Demonctl.path().into(), "supervise".into()],
            store_dir: directory.path().join("store"),
            run_dir: directory.path().join("run"),
            accounts: setup.accounts,
            port: setup.port.as_ref().map(ReservedPort::port),
            tls: setup.tls,
            extra_config: String::new(),
        };
        let running = EmbeddedServer::start(&options).await.unwrap_or_else(|error| panic!("{error}"));
        Self { running: Some(running), options, directory, _ports: [setup.port, setup.route] }
    }

    /// Where it listens, without a login.
    pub fn url(&self) -> String {
        self.running().url()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.running().port()
    }

    /// Where its monitoring pages are, if its configuration asks for them.
    pub fn monitoring(&self) -> SocketAddr {
        let ports = std::fs::read_dir(&self.options.run_dir).expect("the server runs").flatten();
        let ports = ports.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|kind| kind == "ports"));
        let ports = std::fs::read(ports.expect("the server writes its ports")).expect("they can be read");
        let ports: serde_json::Value = serde_json::from_slice(&ports).expect("they are JSON");
        let address = ports["monitoring"][0].as_str().and_then(|url| url.strip_prefix("http://"));
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no monitoring address in {ports}"))
    }

    /// The test's temporary directory, gone with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Process id of nats-server itself.
    pub fn id(&self) -> u32 {
        self.running().pid()
    }

    /// Where it keeps its streams: to be looked at or exchanged while it does not run.
    pub fn store(&self) -> PathBuf {
        self.options.store_dir.clone()
    }

    /// Ends it at once (`kill -9`) and waits until it is gone.
    pub async fn kill(&mut self) {
        let running = self.running.take().expect("the server runs");
        running.kill().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts it again after [`Server::kill`], on the same store and, where it was reserved, the same port.
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server still runs");
        let running = EmbeddedServer::start(&self.options).await.unwrap_or_else(|error| panic!("{error}"));
        self.running = Some(running);
    }

    /// Stops it in the middle of whatever it does (SIGSTOP): connections stay open and nothing is answered.
    pub fn pause(&self) -> Paused {
        let id = self.id();
        signal_process(id, Signal::STOP);
        Paused { id }
    }

    fn running(&self) -> &EmbeddedServer {
        self.running.as_ref().expect("the server runs")
    }
}

/// A stopped server; it continues when this is dropped.
#[derive(Debug)]
pub struct Paused {
    id: u32,
}

impl Drop for Paused {
    fn drop(&mut self) {
        continue_process(self.id);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        if std::thread::panicking() {
            let log = std::fs::read_to_string(running.log_file()).unwrap_or_default();
            #[expect(clippy::print_stderr, reason = "the test has failed; this is what its reader needs")]
            {
                eprintln!("--- log of nats-server\n{log}\n---");
            }
        }
        // The store is about to be removed, so nothing may write to it any more. Its supervisor ends with it.
        kill_process_and_wait(running.pid());
    }
}

/// The pinned server, looked for (and on a fresh machine downloaded) once a test run.
async fn pinned_binary() -> PathBuf {
    static PINNED: OnceCell<PathBuf> = OnceCell::const_new();
    let locate = || async {
        tokio::task::spawn_blocking(|| ServerBinary::locate(&BinarySearch::pinned_only()))
            .await
            .expect("looking for nats-server does not panic")
            .unwrap_or_else(|error| panic!("{}", shared::daemon::ErrorChain(&error)))
            .path
    };
    PINNED.get_or_init(locate).await.clone()
}
