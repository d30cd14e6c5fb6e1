//! A server with two accounts and the layout in place, and ways to act in it as operator, publisher or node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shared::daemon::ErrorChain;
use shared::identifiers::NodeName;
use shared::source::Source;
use streams::connection::Connection;
use streams::connection_settings::ConnectionSettings;
use streams::embedded_server::{Accounts, OPERATOR, PUBLISHER, ServerTls};
use streams::epoch::ensure_epoch;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutLimits, ensure};
use streams::secret::Secret;

use crate::agent::{Agent, AgentDirectories};
use crate::cluster::{Routes, start_cluster};
use crate::raw_client::{Login, RawClient};
use crate::reserved_port::ReservedPort;
use crate::server::{Server, ServerSetup};
use crate::waiting::{PATIENCE, eventually};
use crate::workspace_binary::WorkspaceBinary;

/// A server, its accounts and a directory for everything else.
#[derive(Debug)]
pub struct World {
    /// The server; of a cluster the first.
    pub server: Server,
    /// The other servers of a cluster.
    pub peers: Vec<Server>,
    routes: Option<Routes>,
    accounts: Accounts,
    address: Option<String>,
}

impl World {
    /// A server that these nodes can log in to, with the layout and the log's first event.
    pub async fn start(nodes: &[&str]) -> Self {
        let world = Self::unprovisioned(nodes).await;
        world.provision().await;
        world
    }

    /// The same on a port that outlives a kill of the server.
    pub async fn with_reserved_port(nodes: &[&str]) -> Self {
        let world = Self::build(nodes, None, Some(ReservedPort::take())).await;
        world.provision().await;
        world
    }

    /// The same with the rights that nodes had before they read together.
    pub async fn without_multicast(nodes: &[&str]) -> Self {
        let accounts = Accounts::generate(nodes.iter().map(|name| node_name(name)));
        let config = accounts.render();
        let older = config.replace(", \"multicast.BUNDLES.>\"", "");
        assert_ne!(config, older, "the right has another form");
        let server = Server::start(ServerSetup { accounts: older, ..ServerSetup::default() }).await;
        let world = Self { server, peers: Vec::new(), routes: None, accounts, address: None };
        world.provision().await;
        world
    }

    /// The same with the server's monitoring pages.
    pub async fn monitored(nodes: &[&str]) -> Self {
        let accounts = Accounts::generate(nodes.iter().map(|name| node_name(name)));
        let config = format!("{}\nhttp: \"127.0.0.1:-1\"\n", accounts.render());
        let server = Server::start(ServerSetup { accounts: config, ..ServerSetup::default() }).await;
        let world = Self { server, peers: Vec::new(), routes: None, accounts, address: None };
        world.provision().await;
        world
    }

    /// A server without streams.
    pub async fn unprovisioned(nodes: &[&str]) -> Self {
        Self::build(nodes, None, None).await
    }

    /// A server without streams that speaks TLS only.
    pub async fn with_tls(nodes: &[&str], tls: ServerTls) -> Self {
        Self::build(nodes, Some(tls), None).await
    }

    async fn build(nodes: &[&str], tls: Option<ServerTls>, port: Option<ReservedPort>) -> Self {
        let accounts = Accounts::generate(nodes.iter().map(|name| node_name(name)));
        let server = Server::start(ServerSetup { accounts: accounts.render(), tls, port, route: None }).await;
        Self { server, peers: Vec::new(), routes: None, accounts, address: None }
    }

    /// Three servers in a cluster, with three copies of every stream. Each keeps its port over a kill.
    pub async fn cluster(nodes: &[&str]) -> Self {
        let accounts = Accounts::generate(nodes.iter().map(|name| node_name(name)));
        let (mut servers, routes) = start_cluster(&accounts.render()).await;
        let server = servers.remove(0);
        let world = Self { server, peers: servers, routes: Some(routes), accounts, address: None };
        provision_copies(&world.operator().await, 3).await;
        world
    }

    /// Everything that is made from now on reaches the server by this address: a fault proxy's.
    pub fn reached_by(&mut self, address: Option<String>) {
        self.address = address;
    }

    /// Where clients connect to: the server, all of a cluster, or what stands in front of it.
    pub fn url(&self) -> String {
        let all = || self.servers().map(Server::url).collect::<Vec<_>>().join(",");
        self.address.clone().unwrap_or_else(all)
    }

    /// The servers, of which at least one is there.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.server).chain(&self.peers)
    }

    /// The lines between the servers of a cluster.
    ///
    /// # Panics
    /// Where there is one server only.
    pub fn routes(&self) -> &Routes {
        self.routes.as_ref().expect("this world has a cluster")
    }

    /// One of them, counted from 0.
    pub fn server_at(&mut self, place: usize) -> &mut Server {
        if place == 0 { &mut self.server } else { &mut self.peers[place - 1] }
    }

    /// The same, to look at.
    pub fn server_ref(&self, place: usize) -> &Server {
        if place == 0 { &self.server } else { &self.peers[place - 1] }
    }

    /// Creates the streams and starts the log's epoch, as an operator.
    pub async fn provision(&self) {
        let connection = self.operator().await;
        provision(&connection).await;
        connection.drain().await;
    }

    /// The test's temporary directory.
    pub fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// A directory in it, made if needed.
    pub fn subdirectory(&self, name: &str) -> PathBuf {
        let path = self.directory().join(name);
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        path
    }

    /// A connection with all rights.
    pub async fn operator(&self) -> Connection {
        open(&self.operator_settings()).await
    }

    /// How to open one.
    pub fn operator_settings(&self) -> ConnectionSettings {
        self.settings("test operator").with_login(OPERATOR, self.accounts.operator().clone())
    }

    /// A connection with a node's rights.
    pub async fn node(&self, node: &str) -> Connection {
        let inbox = format!("_INBOX_{node}");
        open(&self.settings(node).with_login(node, self.password(node)).with_inbox_prefix(inbox)).await
    }

    /// The event log, with all rights.
    pub async fn log(&self) -> EventLog {
        EventLog::new(self.operator().await)
    }

    /// A raw connection with all rights.
    pub async fn raw_operator(&self) -> RawClient {
        RawClient::connect(&self.operator_login()).await
    }

    /// The operator's login.
    pub fn operator_login(&self) -> Login {
        self.login(OPERATOR, self.accounts.operator(), "_INBOX")
    }

    /// A raw connection with a node's rights.
    pub async fn raw_node(&self, node: &str) -> RawClient {
        RawClient::connect(&self.login(node, &self.password(node), &format!("_INBOX_{node}"))).await
    }

    /// The publisher's program, to publish once, with its login, name and state directory.
    pub fn publisher(&self) -> Command {
        self.publisher_command("publish")
    }

    /// The same to stay. It listens on a free port.
    pub fn publisher_service(&self) -> Command {
        let mut command = self.publisher_command("serve");
        command.env("DEMON_PUBLISHER_LISTEN", "127.0.0.1:0");
        command
    }

    fn publisher_command(&self, subcommand: &str) -> Command {
        let mut command = WorkspaceBinary::Publisher.command();
        command.args([subcommand, "--nats-url", &self.url()]);
        command.arg("--state-dir").arg(self.subdirectory("publisher"));
        command.env("NATS_USER", PUBLISHER).env("NATS_PASSWORD", self.accounts.publisher().expose());
        command
    }

    /// The agent's program with a node's login and name.
    pub fn agent_command(&self, node: &str) -> Command {
        let mut command = WorkspaceBinary::Runtime.command();
        command.args(["--node", node, "--nats-url", &self.url()]);
        command.env("NATS_USER", node).env("NATS_PASSWORD", self.password(node).expose());
        // Many on one host: each takes a free port and names it in its log.
        command.env("PORT", "0");
        command
    }

    /// Starts an agent in directories of its own.
    pub fn start_agent(&self, node: &str) -> Agent {
        self.start_agent_in(node, node, AgentDirectories::below(self.directory(), node))
    }

    /// Starts an agent in given directories, with a log of its own name.
    pub fn start_agent_in(&self, node: &str, log: &str, directories: AgentDirectories) -> Agent {
        Agent::start(log, self.agent_command(node), directories, self.directory())
    }

    /// The operator's command line, with its login.
    pub fn demonctl(&self) -> Command {
        let mut command = WorkspaceBinary::Demonctl.command();
        command.env("NATS_URL", self.url());
        command.env("NATS_USER", OPERATOR).env("NATS_PASSWORD", self.accounts.operator().expose());
        command
    }

    /// A node's password.
    pub fn password(&self, node: &str) -> Secret {
        self.accounts.node(&node_name(node)).expect("the node has a login").clone()
    }

    fn settings(&self, name: &str) -> ConnectionSettings {
        let address = self.url().parse().expect("the server's address is valid");
        ConnectionSettings::new(address, name)
    }

    fn login(&self, user: &str, password: &Secret, inbox_prefix: &str) -> Login {
        Login {
            url: self.url(),
            user: user.to_owned(),
            password: password.expose().to_owned(),
            inbox_prefix: inbox_prefix.to_owned(),
        }
    }
}

/// Creates the streams and starts the log's epoch over a connection with operator rights.
pub async fn provision(connection: &Connection) {
    provision_copies(connection, 1).await;
}

/// The same with so many copies of each stream. A cluster that has just started elects its leaders first.
async fn provision_copies(connection: &Connection, replicas: usize) {
    let layout = Layout::declared(LayoutLimits { replicas, ..LayoutLimits::default() });
    if replicas == 1 {
        ensure(connection, &layout).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
    } else {
        eventually("the cluster to make the streams", PATIENCE, async || {
            ensure(connection, &layout).await.map_err(|error| ErrorChain(&error).to_string())
        })
        .await;
    }
    let operator: Source = "/operators/tests".parse().expect("a valid source");
    let log = EventLog::new(connection.clone());
    ensure_epoch(&log, operator).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// Where it fails, with both its outputs.
pub async fn succeeded(command: Command) -> Output {
    let output = finished(command).await;
    assert!(output.status.success(), "it ended with {}: {}", output.status, both_outputs(&output));
    output
}

/// Runs a command to its end, whatever that is.
pub async fn finished(mut command: Command) -> Output {
    command.stdin(std::process::Stdio::null());
    let program = command.get_program().to_owned();
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("running a command does not panic")
        .unwrap_or_else(|error| panic!("`{}` does not start: {error}", program.display()))
}

/// Both outputs of a command as text.
pub fn both_outputs(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn open(settings: &ConnectionSettings) -> Connection {
    Connection::open(settings).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)))
}

fn node_name(name: &str) -> NodeName {
    name.parse().expect("a valid node name")
}
