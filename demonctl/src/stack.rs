//! A whole local stack: a real nats-server with two accounts, and agents as processes of their own.
//!
//! `demo` and `up` are made of it. Everything lies in one directory; every process ends with this one.

mod agent_process;
mod directory;
pub(crate) mod publishing;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use shared::daemon::ErrorChain;
use shared::identifiers::{ActorName, NodeName};
use shared::source::Source;
use streams::connection::Connection;
use streams::connection_settings::ConnectionSettings;
use streams::embedded_server::{
    Accounts, BinarySearch, EmbeddedServer, EmbeddedServerOptions, OPERATOR, PUBLISHER, ServerBinary,
};
use streams::epoch::ensure_epoch;
use streams::event_log::EventLog;
use streams::layout::{self, Layout, LayoutLimits};
use streams::secret::Secret;

use self::agent_process::AgentOptions;
pub(crate) use self::agent_process::AgentProcess;
pub(crate) use self::directory::wait_until_ended;
use self::directory::{RecordedProcess, RunRecord, StackDirectory};

/// What to run.
pub(crate) struct StackOptions {
    /// Where everything lies.
    pub(crate) directory: PathBuf,
    /// The nodes that have a login; agents are started for them later.
    pub(crate) nodes: Vec<NodeName>,
}

/// A running stack.
pub(crate) struct LocalStack {
    directory: StackDirectory,
    server: EmbeddedServer,
    server_version: String,
    accounts: Accounts,
    operator: Connection,
    nodes: Vec<NodeName>,
    agents: Vec<AgentProcess>,
    /// Where the first agent answers over HTTP; 0 where only its log says.
    http_port: u16,
}

/// `edge-1`, `edge-2`, …
pub(crate) fn node_names(count: u16) -> anyhow::Result<Vec<NodeName>> {
    (1..=count).map(|number| format!("edge-{number}").parse().map_err(anyhow::Error::from)).collect()
}

/// The directory `contracts` here or in a directory above.
pub(crate) fn find_contracts() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("cannot find the current directory")?;
    here.ancestors()
        .map(|directory| directory.join("contracts"))
        .find(|contracts| contracts.join("schemas").is_dir())
        .ok_or_else(|| {
            anyhow!("no directory `contracts` with `schemas` in it here or above: name one with --contracts")
        })
}

/// The port, where nobody listens on it yet; else 0.
fn free(port: u16) -> u16 {
    let taken = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_err();
    if taken { 0 } else { port }
}

impl LocalStack {
    /// Starts the server in the directory, on the port of the last run there where there was one, and connects
    /// to it as operator. Passwords are made on the first run and kept.
    pub(crate) async fn start(options: &StackOptions) -> anyhow::Result<Self> {
        let directory = StackDirectory::lock(&options.directory)?;
        directory.wait_for_earlier_run().await;
        let accounts = accounts(&directory, &options.nodes)?;
        let binary = tokio::task::spawn_blocking(|| ServerBinary::locate(&BinarySearch::from_environment()))
            .await
            .context("the search for nats-server was interrupted")??;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let port = directory.last_run().map(|record| record.port);
        let server = EmbeddedServer::start(&EmbeddedServerOptions {
            binary: binary.path,
            supervisor: vec![program.into_os_string(), OsString::from("supervise")],
            store_dir: directory.server().join("store"),
            run_dir: directory.server(),
            accounts: accounts.render(),
            port,
            tls: None,
            extra_config: String::new(),
        })
        .await
        .with_context(|| match port {
            Some(port) => format!("cannot start nats-server on port {port}, which the last run in this directory used"),
            None => "cannot start nats-server".to_owned(),
        })?;
        // Before anything else can fail: who cleans up must know of it.
        directory.record(&RunRecord { port: server.port(), processes: server_processes(&server) })?;
        let operator = connect(&server, OPERATOR, accounts.operator(), "demonctl").await?;
        let nodes = options.nodes.clone();
        let (server_version, agents) = (binary.version, Vec::new());
        Ok(Self { directory, server, server_version, accounts, operator, nodes, agents, http_port: 0 })
    }

    /// Creates what is missing on the server; refuses what differs from the declaration.
    pub(crate) async fn provision(&self, actor: &ActorName) -> anyhow::Result<Vec<String>> {
        let provisioned = layout::ensure(&self.operator, &Layout::declared(LayoutLimits::default())).await?;
        ensure_epoch(&EventLog::new(self.operator.clone()), Source::Operator(actor.clone())).await?;
        Ok(provisioned.created)
    }

    /// Starts an agent for every node.
    /// The first one's HTTP interface gets the port, if it is free; every other one takes a free port.
    pub(crate) fn start_agents(&mut self, http_port: u16) -> anyhow::Result<()> {
        self.http_port = free(http_port);
        for (number, node) in self.nodes.iter().enumerate() {
            let password = self.accounts.node(node).context("a node of this stack has no login")?.clone();
            self.agents.push(AgentProcess::start(&AgentOptions {
                node: node.clone(),
                password,
                nats_url: self.server.url(),
                http_port: if number == 0 { self.http_port } else { 0 },
                directory: self.directory.node(node),
            })?);
        }
        self.record()
    }

    /// The operator's connection.
    pub(crate) fn operator(&self) -> &Connection {
        &self.operator
    }

    /// A connection as the publisher.
    pub(crate) async fn connect_publisher(&self) -> anyhow::Result<Connection> {
        connect(&self.server, PUBLISHER, self.accounts.publisher(), "demonctl publisher").await
    }

    /// A connection with a node's own login, as its agent has it.
    pub(crate) async fn connect_node(&self, node: &NodeName) -> anyhow::Result<Connection> {
        let password = self.accounts.node(node).context("no such node in this stack")?;
        let settings = ConnectionSettings::new(self.server.url().parse()?, format!("demonctl as {node}"))
            .with_login(node.as_str(), password.clone())
            .with_inbox_prefix(format!("_INBOX_{node}"));
        Ok(Connection::open(&settings).await?)
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> &[NodeName] {
        &self.nodes
    }

    /// The running agents.
    pub(crate) fn agents(&self) -> &[AgentProcess] {
        &self.agents
    }

    /// One line about the server.
    pub(crate) fn describe_server(&self) -> String {
        format!("nats-server {} on port {}, process {}", self.server_version, self.server.port(), self.server.pid())
    }

    /// The end of every agent's log, for an error message.
    pub(crate) fn agent_logs(&self) -> String {
        let logs: Vec<String> =
            self.agents.iter().map(|agent| format!("\nlog of {}:\n{}", agent.node(), agent.log_tail())).collect();
        logs.concat()
    }

    /// Returns, in words, which process ended first by itself.
    pub(crate) async fn first_end(&mut self) -> anyhow::Result<String> {
        let agents = self.agents.iter_mut().map(|agent| Box::pin(agent.ended())).collect::<Vec<_>>();
        tokio::select! {
            ended = self.server.ended() => {
                ended.context("cannot wait for nats-server")?;
                Ok(format!("nats-server ended by itself; its log is `{}`", self.server.log_file().display()))
            }
            ended = first(agents) => ended,
        }
    }

    /// The commands with which a person looks around, as they can be typed.
    pub(crate) fn commands_to_look_around(&self) -> anyhow::Result<Vec<String>> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let program = as_typed(&program);
        let mut lines = vec![
            "Look around, in another terminal:".to_owned(),
            String::new(),
            format!("  export NATS_URL={}", self.server.url_for(OPERATOR, self.accounts.operator())),
            format!("  {program} events list"),
            format!("  {program} channel list"),
            format!("  {program} fleet status"),
            "  nats stream info BUNDLE_EVENTS".to_owned(),
            "  nats sub 'live.bundle.>'".to_owned(),
            "  nats object ls BUNDLES".to_owned(),
            "  nats kv ls BUNDLE_NODES".to_owned(),
        ];
        if let Some(node) = self.nodes.first() {
            let directory = self.directory.node(node);
            if self.http_port != 0 {
                lines.push(format!("  curl localhost:{}/api/contracts/status | jq .", self.http_port));
            }
            lines.push(format!("  tail -f {}", as_typed(&directory.join("agent.log"))));
            lines.push(format!("  ls -l {}", as_typed(&directory.join("contracts"))));
        }
        lines.push(String::new());
        Ok(lines)
    }

    /// Stops the agents, all at once, then the server. Returns when all have ended.
    pub(crate) async fn stop(self) {
        let stopping: Vec<_> = self.agents.into_iter().map(|agent| tokio::spawn(agent.stop())).collect();
        for agent in stopping {
            // A stop that panicked was reported by its own thread; the rest is stopped all the same.
            let _ = agent.await;
        }
        self.operator.drain().await;
        if let Err(error) = self.server.stop().await {
            tracing::warn!("{}", ErrorChain(&error));
        }
    }

    fn record(&self) -> anyhow::Result<()> {
        let mut processes = server_processes(&self.server);
        processes.extend(self.agents.iter().filter_map(|agent| {
            Some(RecordedProcess { role: format!("agent {}", agent.node()), process_id: agent.process_id()? })
        }));
        self.directory.record(&RunRecord { port: self.server.port(), processes })
    }
}

/// A path as one word of a shell's command line.
fn as_typed(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+@%".contains(character);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn server_processes(server: &EmbeddedServer) -> Vec<RecordedProcess> {
    let mut processes = vec![RecordedProcess { role: "nats-server".to_owned(), process_id: server.pid() }];
    let supervisor = server.supervisor_pid();
    processes.extend(supervisor.map(|process_id| RecordedProcess { role: "supervisor".to_owned(), process_id }));
    processes
}

/// The first of the futures to finish; waits for ever where there are none.
async fn first<T>(mut futures: Vec<impl Future<Output = T> + Unpin>) -> T {
    std::future::poll_fn(|context| {
        for future in &mut futures {
            if let std::task::Poll::Ready(value) = std::pin::Pin::new(future).poll(context) {
                return std::task::Poll::Ready(value);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn accounts(directory: &StackDirectory, nodes: &[NodeName]) -> anyhow::Result<Accounts> {
    let path = directory.accounts();
    let accounts = match Accounts::load(&path)? {
        Some(accounts) => accounts.with_nodes(nodes.iter().cloned()),
        None => Accounts::generate(nodes.iter().cloned()),
    };
    accounts.save(&path)?;
    Ok(accounts)
}

async fn connect(server: &EmbeddedServer, user: &str, password: &Secret, name: &str) -> anyhow::Result<Connection> {
    let settings = ConnectionSettings::new(server.url().parse()?, name).with_login(user, password.clone());
    Connection::open(&settings).await.with_context(|| format!("cannot connect to the embedded server as `{user}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_paths_survive_a_shell() {
        assert_eq!(as_typed(Path::new("/tmp/a-b_c.d/e")), "/tmp/a-b_c.d/e");
        assert_eq!(as_typed(Path::new("/tmp/my stack")), "'/tmp/my stack'");
        assert_eq!(as_typed(Path::new("/tmp/it's")), "'/tmp/it'\\''s'");
    }
}
