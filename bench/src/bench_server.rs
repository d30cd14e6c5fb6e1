//! A nats-server (or three) of a case's own, with the product's streams, in a directory that is removed with it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::daemon::ErrorChain;
use shared::source::Source;
use streams::connection::Connection;
use streams::connection_settings::ConnectionSettings;
use streams::embedded_server::{BinarySearch, EmbeddedServer, EmbeddedServerOptions, ServerBinary, open_config};
use streams::epoch::ensure_epoch;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutLimits, ensure as ensure_layout};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::process_usage::{self, ProcessUsage};

/// A cluster elects its leaders first.
const CLUSTER_LIMIT: Duration = Duration::from_mins(1);
const TRY_AGAIN: Duration = Duration::from_millis(200);
const STREAM_NOT_FOUND: u64 = 10_059;
const STREAMS: [&str; 3] = ["BUNDLE_EVENTS", "OBJ_BUNDLES", "KV_BUNDLE_NODES"];

/// When the server writes to the disk what it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before it acknowledges: as the product runs it.
    Synced,
    /// Some time later: to fill a store quickly where only reading is measured.
    Later,
}

/// How many servers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServerKind {
    /// One.
    Local,
    /// Three on this machine, with three copies of every stream.
    Cluster,
}

/// Running servers.
#[derive(Debug)]
pub(crate) struct BenchServer {
    running: Vec<EmbeddedServer>,
    options: Vec<EmbeddedServerOptions>,
    directory: TempDir,
}

impl BenchServer {
    /// Starts one below `parent` and creates the product's streams, with room for millions of events.
    pub(crate) async fn start(parent: Option<&Path>, durability: Durability) -> anyhow::Result<Self> {
        Self::start_as(ServerKind::Local, parent, durability).await
    }

    /// The same with one server or three.
    pub(crate) async fn start_as(
        kind: ServerKind,
        parent: Option<&Path>,
        durability: Durability,
    ) -> anyhow::Result<Self> {
        let directory = match parent {
            Some(parent) => TempDir::with_prefix_in("demon-bench-", parent),
            None => TempDir::with_prefix("demon-bench-"),
        };
        let directory = directory.context("no temporary directory can be made")?;
        let options = all_options(kind, directory.path(), durability).await?;
        let mut running = Vec::new();
        for options in &options {
            running.push(EmbeddedServer::start(options).await?);
        }
        let server = Self { running, options, directory };
        server.provision(options_replicas(kind)).await?;
        Ok(server)
    }

    async fn provision(&self, replicas: usize) -> anyhow::Result<()> {
        let connection = self.connection("bench layout").await?;
        let limits =
            LayoutLimits { event_bytes: 8 << 30, release_bytes: 16 << 30, replicas, ..LayoutLimits::default() };
        let deadline = Instant::now() + CLUSTER_LIMIT;
        while let Err(error) = ensure_layout(&connection, &Layout::declared(limits)).await {
            ensure!(replicas > 1 && Instant::now() < deadline, "the streams cannot be created: {}", ErrorChain(&error));
            sleep(TRY_AGAIN).await;
        }
        let operator: Source = "/operators/bench".parse().context("a source")?;
        ensure_epoch(&EventLog::new(connection.clone()), operator).await.context("the log cannot be begun")?;
        connection.drain().await;
        Ok(())
    }

    /// Where they listen.
    pub(crate) fn url(&self) -> String {
        self.running.iter().map(EmbeddedServer::url).collect::<Vec<_>>().join(",")
    }

    /// A directory of the case's, made if needed; removed with the server.
    pub(crate) fn subdirectory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("`{}` cannot be made", path.display()))?;
        Ok(path)
    }

    /// What the servers have used so far, together.
    pub(crate) fn usage(&self) -> Option<ProcessUsage> {
        let mut sum = ProcessUsage::default();
        for server in &self.running {
            let usage = process_usage::of(server.pid())?;
            sum.processor += usage.processor;
            sum.resident += usage.resident;
            sum.peak_resident += usage.peak_resident;
        }
        Some(sum)
    }

    /// A connection as the product makes it.
    pub(crate) async fn connection(&self, name: &str) -> anyhow::Result<Connection> {
        let address = self.url().parse().context("the server's address is not valid")?;
        let settings = ConnectionSettings::new(address, name);
        Connection::open(&settings).await.context("the bench's server cannot be reached")
    }

    /// A connection of the bare client library.
    pub(crate) async fn client(&self) -> anyhow::Result<async_nats::Client> {
        async_nats::connect(self.running[0].url()).await.context("the bench's server cannot be reached")
    }

    /// Consumers on the product's streams at this moment.
    pub(crate) async fn consumers(&self) -> anyhow::Result<u64> {
        let client = self.client().await?;
        let mut consumers = 0;
        for stream in STREAMS {
            let answer = client.request(format!("$JS.API.STREAM.INFO.{stream}"), Vec::new().into()).await?;
            let info: Value = serde_json::from_slice(&answer.payload)?;
            if info["error"]["err_code"] == STREAM_NOT_FOUND {
                // The node table is held in memory and gone with a single server, until somebody provisions again.
                continue;
            }
            consumers += info["state"]["consumer_count"].as_u64().context("a stream that says nothing")?;
        }
        Ok(consumers)
    }

    /// Requests of the JetStream API that the server has refused so far.
    pub(crate) async fn api_errors(&self) -> anyhow::Result<u64> {
        let answer = self.client().await?.request("$JS.API.INFO", Vec::new().into()).await?;
        let info: Value = serde_json::from_slice(&answer.payload)?;
        Ok(info["api"]["errors"].as_u64().unwrap_or(0))
    }

    /// Stops one server and starts it again on its port and store; returns how long it took to listen again.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let port = self.running[0].port();
        self.running.remove(0).stop().await.context("the bench's server does not stop")?;
        self.options[0].port = Some(port);
        self.running.insert(0, EmbeddedServer::start(&self.options[0]).await?);
        Ok(begun.elapsed())
    }

    /// Stops all and waits for that.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for server in self.running {
            server.stop().await.context("the bench's server does not stop")?;
        }
        Ok(())
    }

    /// Address of the first server's monitoring pages.
    pub(crate) fn monitoring(&self) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct Ports {
            #[serde(default)]
            monitoring: Vec<String>,
        }
        for entry in std::fs::read_dir(&self.options[0].run_dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "ports") {
                let ports: Ports = serde_json::from_slice(&std::fs::read(path)?)?;
                return ports.monitoring.into_iter().next().context("the server serves no monitoring pages");
            }
        }
        anyhow::bail!("the server has written no port file")
    }
}

fn options_replicas(kind: ServerKind) -> usize {
    match kind {
        ServerKind::Local => 1,
        ServerKind::Cluster => 3,
    }
}

async fn all_options(
    kind: ServerKind,
    directory: &Path,
    durability: Durability,
) -> anyhow::Result<Vec<EmbeddedServerOptions>> {
    let binary = tokio::task::spawn_blocking(|| ServerBinary::locate(&BinarySearch::from_environment()))
        .await
        .context("looking for nats-server was interrupted")??
        .path;
    let own = std::env::current_exe().context("this program cannot be found")?;
    let servers = options_replicas(kind);
    let routes = free_ports(servers)?;
    let one = |number: usize| {
        let place = directory.join(format!("server-{number}"));
        let store_dir = place.join("store");
        let mut extra_config = vec!["http: \"127.0.0.1:-1\"".to_owned()];
        if durability == Durability::Later {
            // Of two blocks the later one counts.
            let limits = "sync_interval: \"10m\", max_file_store: 64GB, max_memory_store: 1GB";
            extra_config.push(format!("jetstream {{ store_dir: \"{}\", {limits} }}", store_dir.display()));
        }
        if kind == ServerKind::Cluster {
            let all: Vec<String> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
            let (own, all) = (routes[number], all.join(", "));
            extra_config.push(format!("server_name: bench-{number}"));
            extra_config.push(format!("cluster {{ name: bench, listen: \"127.0.0.1:{own}\", routes: [{all}] }}"));
        }
        EmbeddedServerOptions {
            binary: binary.clone(),
            supervisor: vec![own.clone().into_os_string(), "supervise".into()],
            store_dir,
            run_dir: place.join("run"),
            accounts: open_config(),
            port: None,
            tls: None,
            extra_config: extra_config.join("\n"),
        }
    };
    Ok((0..servers).map(one).collect())
}

/// Ports that are free now, for what cannot take any free one by itself.
fn free_ports(number: usize) -> anyhow::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..number).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().context("no free port")?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Lets this process and its servers open as many files as a case needs.
pub(crate) fn raise_file_limit(needed: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "{needed} open files are needed and {} allowed: raise the hard limit (`ulimit -Hn`) or take fewer nodes",
        limit.maximum.unwrap_or_default()
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .with_context(|| format!("the limit of open files cannot be raised to {needed}: try `ulimit -n {needed}`"))
}
