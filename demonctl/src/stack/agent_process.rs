//! One node agent as a child process of its own: own cache, own state, own credentials.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use shared::identifiers::NodeName;
use streams::secret::Secret;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

/// An agent that does not stop by itself within this is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How much of an agent's log an error shows.
const LOG_TAIL_BYTES: u64 = 2000;

/// What an agent is started with.
pub(crate) struct AgentOptions {
    /// Its name, also its NATS user.
    pub(crate) node: NodeName,
    /// Its password.
    pub(crate) password: Secret,
    /// Server address without login.
    pub(crate) nats_url: String,
    /// Where its HTTP interface listens on loopback; 0 takes a free port, which its log names.
    pub(crate) http_port: u16,
    /// Holds its cache `contracts`, its state `agent` and its log `agent.log`.
    pub(crate) directory: PathBuf,
}

/// A running agent. Ends with this process, however this process ends: its standard input closes.
pub(crate) struct AgentProcess {
    node: NodeName,
    child: Child,
    /// Open for as long as the agent shall run. Not left in `child`, whose `wait` would close it.
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl AgentProcess {
    /// Starts the agent; its log goes to `agent.log` in its directory.
    pub(crate) fn start(options: &AgentOptions) -> anyhow::Result<Self> {
        let directory = &options.directory;
        fs::create_dir_all(directory).with_context(|| format!("cannot create `{}`", directory.display()))?;
        let log = directory.join("agent.log");
        let output = open_log(&log)?;
        let errors = output.try_clone().context("cannot share the log file")?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let flag = |name: &str, value: &Path| [OsString::from(name), value.as_os_str().to_owned()];
        let mut child = Command::new(program)
            .arg("run-agent")
            .args(["--node", options.node.as_str(), "--nats-url", &options.nats_url])
            .args(flag("--cache", &directory.join("contracts")))
            .args(flag("--state-dir", &directory.join("agent")))
            .env("PORT", options.http_port.to_string())
            .env("NATS_USER", options.node.as_str())
            // Through the environment, where `ps` does not show it.
            .env("NATS_PASSWORD", options.password.expose())
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C at the terminal reaches us alone; we stop the children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start agent `{}`", options.node))?;
        let stdin = child.stdin.take();
        Ok(Self { node: options.node.clone(), child, stdin, log })
    }

    /// The node's name.
    pub(crate) fn node(&self) -> &NodeName {
        &self.node
    }

    /// Its process id, while it runs.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it ends by itself, and says so in words with the end of its log.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<String> {
        let status = self.child.wait().await.with_context(|| format!("cannot wait for agent `{}`", self.node))?;
        Ok(format!("agent `{}` ended by itself ({status}); its log ends with:\n{}", self.node, self.log_tail()))
    }

    /// The end of its log, for error messages.
    pub(crate) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let size = file.metadata()?.len();
            file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Asks it to stop by closing its standard input; kills it where it does not within 5 s.
    pub(crate) async fn stop(mut self) {
        drop(self.stdin.take());
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            tracing::warn!(node = %self.node, "agent did not stop in time and is killed");
            // It may have ended just now; there is nothing more to do either way.
            let _ = self.child.kill().await;
        }
    }
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open `{}`", path.display()))
}
