//! A real nats-server as a child process, for `up`, `demo` and the tests: nothing to install, nothing left behind.
//!
//! The server runs under a supervisor (see [`supervisor`]), because nats-server outlives a killed parent. It listens on
//! loopback only, syncs every write, and keeps store, log and configuration in directories of the caller's.

mod accounts;
mod binary;
mod pinned_wheel;
mod server_config;
pub mod supervisor;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use thiserror::Error;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, timeout};

pub use self::accounts::{Accounts, AccountsError, OPERATOR, PUBLISHER};
pub use self::binary::{BinarySearch, INSTALL_HINT, LocateError, PINNED_VERSION, ServerBinary};
pub use self::server_config::{ServerTls, open_config};
use crate::durable_file;

/// A large store is recovered before the server listens.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The server says nothing when it is ready but for writing a file: how often that is looked for.
const START_POLL: Duration = Duration::from_millis(10);
/// The supervisor gives the server 5 s before it kills it.
const STOP_LIMIT: Duration = Duration::from_secs(8);
const LOG_TAIL_LINES: usize = 12;

/// How to run a server.
#[derive(Debug, Clone)]
pub struct EmbeddedServerOptions {
    /// The nats-server to run.
    pub binary: PathBuf,
    /// The command that runs it and ends with it: the caller's hidden subcommand that enters
    /// [`supervisor::supervise`]. Empty runs the server as a direct child, which a killed parent leaves behind.
    pub supervisor: Vec<OsString>,
    /// Where the streams live. Kept by the caller, or not.
    pub store_dir: PathBuf,
    /// Where configuration (with passwords), log and port file go. Made private to the owner.
    pub run_dir: PathBuf,
    /// The accounts part of the configuration: [`Accounts::render`], or [`open_config`] for a server without logins.
    pub accounts: String,
    /// The port, or any free one.
    pub port: Option<u16>,
    /// Serve TLS with these files.
    pub tls: Option<ServerTls>,
    /// More configuration, as it stands.
    pub extra_config: String,
}

/// A server that is not running.
#[derive(Debug, Error)]
pub enum EmbeddedServerError {
    /// A directory or file cannot be made.
    #[error("`{}` cannot be prepared for the embedded server", path.display())]
    Prepare {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command does not start.
    #[error("`{}` cannot be started", program.display())]
    Spawn {
        /// The command.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server ended instead of listening.
    #[error("nats-server ended with {status} while starting; its log ends with:\n{log_tail}")]
    Ended {
        /// How it ended.
        status: String,
        /// The end of its log and error output.
        log_tail: String,
    },
    /// The server does not listen.
    #[error("nats-server does not listen after {} s; its log ends with:\n{log_tail}", START_LIMIT.as_secs())]
    NotReady {
        /// The end of its log and error output.
        log_tail: String,
    },
    /// The server cannot be told to stop.
    #[error("the embedded server cannot be stopped")]
    Stop(#[source] io::Error),
}

/// A running server. Dropping it closes the supervisor's standard input, which stops the server; only
/// [`EmbeddedServer::stop`] waits for that.
#[derive(Debug)]
pub struct EmbeddedServer {
    child: Child,
    stdin: Option<ChildStdin>,
    pid: Pid,
    port: u16,
    scheme: &'static str,
    run_dir: PathBuf,
}

impl EmbeddedServer {
    /// Starts a server and returns once it listens.
    pub async fn start(options: &EmbeddedServerOptions) -> Result<Self, EmbeddedServerError> {
        let files = RunFiles::prepare(options)?;
        let mut command = command(options, &files);
        let mut child = command.spawn().map_err(|source| EmbeddedServerError::Spawn {
            program: PathBuf::from(command.as_std().get_program()),
            source,
        })?;
        let stdin = child.stdin.take();
        let (pid, port) = wait_until_ready(&mut child, &files).await?;
        let scheme = if options.tls.is_some() { "tls" } else { "nats" };
        tracing::debug!(port, pid = pid.as_raw_nonzero(), "nats-server is running");
        Ok(Self { child, stdin, pid, port, scheme, run_dir: options.run_dir.clone() })
    }

    /// Where it listens, without a login.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Where it listens, with a login.
    pub fn url_for(&self, user: &str, password: &crate::secret::Secret) -> String {
        format!("{}://{user}:{}@127.0.0.1:{}", self.scheme, password.expose(), self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of nats-server itself, not of its supervisor.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Process id of the supervisor (of nats-server itself, where there is none); `None` once it has ended.
    pub fn supervisor_pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The server's log file.
    pub fn log_file(&self) -> PathBuf {
        self.run_dir.join(LOG_FILE)
    }

    /// Completes once the server has ended, by whatever cause.
    pub async fn ended(&mut self) -> io::Result<()> {
        self.child.wait().await.map(|_| ())
    }

    /// Stops the server and waits until it and its supervisor have ended.
    pub async fn stop(mut self) -> Result<(), EmbeddedServerError> {
        self.ask_to_stop();
        if let Ok(ended) = timeout(STOP_LIMIT, self.child.wait()).await {
            return ended.map(|_| ()).map_err(EmbeddedServerError::Stop);
        }
        tracing::warn!("nats-server does not stop and is killed");
        self.kill().await
    }

    /// Kills the server at once, as a power failure would, and waits until it is gone.
    pub async fn kill(mut self) -> Result<(), EmbeddedServerError> {
        // Gone already is as good.
        let _ = kill_process(self.pid, Signal::KILL);
        self.stdin = None;
        match timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()).map_err(EmbeddedServerError::Stop),
            Err(_) => self.child.kill().await.map_err(EmbeddedServerError::Stop),
        }
    }

    fn ask_to_stop(&mut self) {
        self.stdin = None;
        if self.child.id() == Some(self.pid()) {
            // A direct child does not look at its standard input.
            let _ = kill_process(self.pid, Signal::TERM);
        }
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

const CONFIG_FILE: &str = "nats-server.conf";
const LOG_FILE: &str = "nats-server.log";
/// The log of the run before, so that it survives a restart and neither grows for ever.
const PREVIOUS_LOG_FILE: &str = "nats-server.previous.log";
const OUTPUT_FILE: &str = "nats-server.out";

struct RunFiles {
    run_dir: PathBuf,
    config: PathBuf,
    output: std::fs::File,
}

impl RunFiles {
    fn prepare(options: &EmbeddedServerOptions) -> Result<Self, EmbeddedServerError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EmbeddedServerError::Prepare { path, source }
        };
        for directory in [&options.run_dir, &options.store_dir] {
            durable_file::create_private_directory(directory).map_err(failed(directory))?;
        }
        let run_dir = options.run_dir.canonicalize().map_err(failed(&options.run_dir))?;
        let store_dir = options.store_dir.canonicalize().map_err(failed(&options.store_dir))?;
        // A killed server leaves its port file; it must not be taken for the new one's.
        for stale in port_files(&run_dir).map_err(failed(&run_dir))? {
            durable_file::remove(&stale).map_err(failed(&stale))?;
        }
        let (log, previous) = (run_dir.join(LOG_FILE), run_dir.join(PREVIOUS_LOG_FILE));
        match std::fs::rename(&log, previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&log)(error)),
            Ok(()) | Err(_) => {}
        }
        let config = run_dir.join(CONFIG_FILE);
        let text = server_config::render(options, &run_dir, &store_dir)
            .map_err(|source| EmbeddedServerError::Prepare { path: config.clone(), source })?;
        durable_file::write(&config, text.as_bytes()).map_err(failed(&config))?;
        let output = run_dir.join(OUTPUT_FILE);
        let output = std::fs::File::create(&output).map_err(failed(&output))?;
        Ok(Self { run_dir, config, output })
    }

    fn log_tail(&self) -> String {
        let read = |name| std::fs::read(self.run_dir.join(name)).unwrap_or_default();
        let text = [read(LOG_FILE), read(OUTPUT_FILE)].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

fn command(options: &EmbeddedServerOptions, files: &RunFiles) -> Command {
    let mut line = options.supervisor.clone();
    line.extend([options.binary.clone().into_os_string(), "-c".into(), files.config.clone().into_os_string()]);
    let mut command = Command::new(&line[0]);
    command
        .args(&line[1..])
        .stdin(Stdio::piped())
        // Ctrl-C in a terminal reaches a whole process group: the caller decides when its server stops.
        .process_group(0);
    match (files.output.try_clone(), files.output.try_clone()) {
        (Ok(stdout), Ok(stderr)) => command.stdout(stdout).stderr(stderr),
        _ => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    command
}

async fn wait_until_ready(child: &mut Child, files: &RunFiles) -> Result<(Pid, u16), EmbeddedServerError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(found) = listening(&files.run_dir) {
            return Ok(found);
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(EmbeddedServerError::Ended { status: status.to_string(), log_tail: files.log_tail() });
        }
        if Instant::now() >= deadline {
            // The child's standard input is closed with it, so nothing stays.
            let _ = child.start_kill();
            return Err(EmbeddedServerError::NotReady { log_tail: files.log_tail() });
        }
        tokio::time::sleep(START_POLL).await;
    }
}

/// What the port file says: nats-server writes it, named by its process id, once it listens.
fn listening(run_dir: &Path) -> Option<(Pid, u16)> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let file = port_files(run_dir).ok()?.into_iter().next()?;
    let pid = file.file_stem()?.to_str()?.rsplit_once('_')?.1.parse().ok()?;
    // It may be half written; then the next look finds it whole.
    let ports: Ports = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
    let port = ports.nats.first()?.rsplit_once(':')?.1.parse().ok()?;
    Some((Pid::from_raw(pid)?, port))
}

fn port_files(run_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_file_names_process_and_port_once_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nats-server_4711.ports");
        assert_eq!(listening(directory.path()), None);
        std::fs::write(&file, r#"{"nats":["nats://127."#).unwrap();
        assert_eq!(listening(directory.path()), None);
        std::fs::write(&file, r#"{"nats":["nats://127.0.0.1:35165"]}"#).unwrap();
        assert_eq!(listening(directory.path()), Some((Pid::from_raw(4711).unwrap(), 35165)));
    }
}
