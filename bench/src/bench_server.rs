//! A nats-server of a case's own, with the product's streams, in a directory that is removed with it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use shared::source::Source;
use streams::connection::Connection;
use streams::connection_settings::ConnectionSettings;
use streams::embedded_server::{
    BinarySearch, EmbeddedServer, EmbeddedServerOptions, ServerBinary, open_config,
};
use streams::epoch::ensure_epoch;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutLimits, ensure};
use tempfile::TempDir;

use crate::process_usage::{self, ProcessUsage};

/// When the server writes to the disk what it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before it acknowledges: as the product runs it.
    Synced,
    /// Some time later: to fill a store quickly where only reading is measured.
    Later,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct BenchServer {
    running: EmbeddedServer,
    directory: TempDir,
}

impl BenchServer {
    /// Starts one below `parent` and creates the product's streams, with room for a million events.
    pub(crate) async fn start(parent: Option<&Path>, durability: Durability) -> anyhow::Result<Self> {
        let directory = match parent {
            Some(parent) => TempDir::with_prefix_in("demon-bench-", parent),
            None => TempDir::with_prefix("demon-bench-"),
        };
        let directory = directory.context("no temporary directory can be made")?;
        let running = EmbeddedServer::start(&options(directory.path(), durability, None).await?).await?;
        let server = Self { running, directory };
        let connection = server.connection("bench layout").await?;
        let limits = LayoutLimits { event_bytes: 16 << 30, release_bytes: 32 << 30, ..LayoutLimits::default() };
        ensure(&connection, &Layout::declared(limits)).await.context("the streams cannot be created")?;
        let operator: Source = "/operators/bench".parse().context("a source")?;
        ensure_epoch(&EventLog::new(connection.clone()), operator).await.context("the log cannot be begun")?;
        connection.drain().await;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        self.running.url()
    }

    /// The case's directory: removed with the server.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A directory in it, made if needed.
    pub(crate) fn subdirectory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("`{}` cannot be made", path.display()))?;
        Ok(path)
    }

    /// What the server has used so far.
    pub(crate) fn usage(&self) -> Option<ProcessUsage> {
        process_usage::of(self.running.pid())
    }

    /// How the product connects to it.
    pub(crate) fn settings(&self, name: &str) -> anyhow::Result<ConnectionSettings> {
        let address = self.url().parse().context("the server's address is not valid")?;
        Ok(ConnectionSettings::new(address, name))
    }

    /// A connection as the product makes it.
    pub(crate) async fn connection(&self, name: &str) -> anyhow::Result<Connection> {
        Connection::open(&self.settings(name)?).await.context("the bench's server cannot be reached")
    }

    /// A connection of the bare client library.
    pub(crate) async fn client(&self) -> anyhow::Result<async_nats::Client> {
        async_nats::connect(self.url()).await.context("the bench's server cannot be reached")
    }

    /// Stops it and waits for that.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.running.stop().await.context("the bench's server does not stop")
    }
}

async fn options(
    directory: &Path,
    durability: Durability,
    port: Option<u16>,
) -> anyhow::Result<EmbeddedServerOptions> {
    let binary = tokio::task::spawn_blocking(|| ServerBinary::locate(&BinarySearch::from_environment()))
        .await
        .context("looking for nats-server was interrupted")??
        .path;
    let own = std::env::current_exe().context("this program cannot be found")?;
    let store_dir = directory.join("store");
    let extra_config = match durability {
        Durability::Synced => String::new(),
        // The last of two blocks counts.
        Durability::Later => format!(
            "jetstream {{ store_dir: \"{}\", sync_interval: \"10m\", max_file_store: 64GB, max_memory_store: 1GB }}",
            store_dir.display()
        ),
    };
    Ok(EmbeddedServerOptions {
        binary,
        supervisor: vec![own.into_os_string(), "supervise".into()],
        store_dir,
        run_dir: directory.join("run"),
        accounts: open_config(),
        port,
        tls: None,
        extra_config,
    })
}
