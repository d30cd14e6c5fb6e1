//! A publisher at work: one run.
//!
//! A run is: provision what is missing (until that has succeeded once), read the source, publish what changed. A run
//! may be cut off anywhere; the next one, of this process or another, finishes it.

mod description;
mod error;
mod github_source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::event::{GitFacts, Trigger};
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use shared::signed_note::SignerKey;
use streams::connection::Connection;
use streams::durability::too_old;
use streams::epoch::ensure_epoch;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutLimits, ensure, ensure_memory_streams};
use streams::release_store::ReleaseStore;
use tokio::task::spawn_blocking;

pub use self::description::{describe, log_report};
pub use self::error::{FailureKind, GitHubReleaseError, RunError, StartError};
use self::github_source::GitHubSource;
use crate::author::Author;
use crate::build::read_source;
use crate::checkpoints::{CheckpointError, CheckpointWriter, WrittenCheckpoint};
use crate::config::{PublisherConfig, SourceConfig};
use crate::git_facts::{Commit, TreeState, read_commit};
use crate::progress::Progress;
use crate::publish_cycle::{PublishReport, PublishRequest, ReleasePolicy, publish};

/// How long a run waits for a connection before it counts as failed.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// Whether a connection must stand before a publisher starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It must: a command for people or scripts.
    FailAtOnce,
    /// It may come later: a daemon.
    KeepTrying,
}

/// Whether a commit that was given names exactly the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenCommit {
    /// It does: there is one publish.
    NamesTheContent,
    /// It need not: the source may change while the publisher stays.
    MayBeOutdated,
}

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct RunOrder {
    /// What made us publish.
    pub trigger: Trigger,
    /// When there is a release although the content did not change.
    pub policy: ReleasePolicy,
    /// The tag, where it is not derived.
    pub tag: Option<Tag>,
    /// The release's time, where it is not now.
    pub timestamp: Option<DateTime<Utc>>,
    /// What a commit in the settings stands for.
    pub given_commit: GivenCommit,
}

impl RunOrder {
    /// A run of a publisher that stays.
    pub fn of_service(trigger: Trigger, policy: ReleasePolicy) -> Self {
        Self { trigger, policy, tag: None, timestamp: None, given_commit: GivenCommit::MayBeOutdated }
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunReport {
    /// The releases it looked at, oldest first; none where the source has none.
    pub releases: Vec<PublishReport>,
}

/// A publisher with its connection and its state directory.
#[derive(Debug)]
pub struct PublishService {
    config: PublisherConfig,
    connection: Connection,
    author: Author,
    source: ReleaseSource,
    /// Over which connection the streams were last looked at; `None` before the first time.
    provisioned: Option<u64>,
    checkpoints: Option<CheckpointWriter>,
}

#[derive(Debug)]
enum ReleaseSource {
    Directory(PathBuf),
    GitHub(Box<GitHubSource>),
}

impl PublishService {
    /// Takes the state directory, which no other publisher may use, and connects.
    pub async fn start(config: PublisherConfig, patience: Patience) -> Result<Self, StartError> {
        let source = match &config.source {
            SourceConfig::Directory(directory) => ReleaseSource::Directory(directory.clone()),
            SourceConfig::GitHub(settings) => {
                ReleaseSource::GitHub(Box::new(GitHubSource::new(settings).map_err(StartError::GitHub)?))
            }
        };
        let author = Author::publisher(config.name.clone(), &config.state_dir).map_err(StartError::State)?;
        let connection = match patience {
            Patience::FailAtOnce => Connection::open(&config.connection).await,
            Patience::KeepTrying => Connection::open_and_retry(&config.connection).await,
        };
        let connection = connection.map_err(StartError::Connect)?;
        Ok(Self { config, connection, author, source, provisioned: None, checkpoints: None })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether streams, bucket and node table are known to be there.
    pub fn is_provisioned(&self) -> bool {
        self.provisioned.is_some()
    }

    /// Whether a connection was made since the streams were last looked at: the server may have been restarted, and a
    /// single one loses what it keeps in memory.
    pub fn may_have_lost_memory(&self) -> bool {
        self.provisioned.is_some_and(|connects| connects != self.connection.status().connects)
    }

    /// Creates again what the server keeps in memory, where it has lost that.
    pub async fn restore_memory_streams(&mut self) -> Result<(), RunError> {
        let connects = self.connection.status().connects;
        ensure_memory_streams(&self.connection, &self.layout()).await.map_err(RunError::Layout)?;
        self.provisioned = Some(connects);
        Ok(())
    }

    /// Provisions what is missing, as a run does first.
    pub async fn prepare(&mut self) -> Result<(), RunError> {
        let log = EventLog::new(self.connection.clone());
        self.provision(&log).await
    }

    fn layout(&self) -> Layout {
        Layout::declared(LayoutLimits { replicas: self.config.replicas, ..LayoutLimits::default() })
    }

    /// One run. Returns only after everything it reports is confirmed by the server.
    pub async fn run(&mut self, order: &RunOrder, progress: &Progress) -> Result<RunReport, RunError> {
        if !self.connection.wait_until_connected(CONNECTION_WAIT).await {
            let last_fault = self.connection.status().last_fault.map(|fault| fault.to_string());
            return Err(RunError::NotConnected { last_fault });
        }
        let log = EventLog::new(self.connection.clone());
        self.provision(&log).await?;
        match &mut self.source {
            ReleaseSource::Directory(directory) => {
                let directory = directory.clone();
                let report = self.publish_directory(&log, &directory, order, progress).await?;
                Ok(RunReport { releases: vec![report] })
            }
            ReleaseSource::GitHub(source) => source.take_over(&log, &mut self.author, &self.config, progress).await,
        }
    }

    async fn publish_directory(
        &mut self,
        log: &EventLog,
        directory: &Path,
        order: &RunOrder,
        progress: &Progress,
    ) -> Result<PublishReport, RunError> {
        let config = &self.config;
        let limits = ReleaseLimits::default();
        let content = read_source(directory.to_owned(), config.bundle.clone(), limits, progress.clone());
        let content = content.await.map_err(RunError::Source)?;
        let request = PublishRequest {
            tag: order.tag.clone(),
            commit: commit(directory, config.git_sha.as_ref(), order.given_commit).await?,
            trigger: order.trigger,
            channel: config.channel.clone(),
            limits,
            policy: order.policy,
            require_compatible: config.require_compatible,
            deltas: config.deltas,
            ..PublishRequest::new(config.bundle.clone(), order.timestamp.unwrap_or_else(Utc::now))
        };
        let bucket = ReleaseStore::new(self.connection.clone());
        let published = publish(log, &bucket, &mut self.author, &content, &request, progress).await;
        published.map_err(|error| RunError::Publish(Box::new(error)))
    }

    async fn provision(&mut self, log: &EventLog) -> Result<(), RunError> {
        if let Some(text) = too_old(&self.connection.server_version()) {
            return Err(RunError::ServerVersion(text));
        }
        if self.may_have_lost_memory() {
            return self.restore_memory_streams().await;
        }
        if self.provisioned.is_some() {
            return Ok(());
        }
        let connects = self.connection.status().connects;
        ensure(&self.connection, &self.layout()).await.map_err(RunError::Layout)?;
        ensure_epoch(log, self.author.source().clone()).await.map_err(RunError::Epoch)?;
        self.provisioned = Some(connects);
        Ok(())
    }

    /// Has checkpoints signed with this key from now on.
    pub fn sign_checkpoints_with(&mut self, key: SignerKey) {
        self.checkpoints = Some(CheckpointWriter::new(key, Some(&self.config.state_dir)));
    }

    /// Writes a checkpoint of the log; `None` where nothing is new, or there is no key to sign with. Returns only after
    /// the server has confirmed it.
    pub async fn write_checkpoint(&mut self) -> Result<Option<WrittenCheckpoint>, CheckpointError> {
        let Some(writer) = &mut self.checkpoints else { return Ok(None) };
        writer.write(&EventLog::new(self.connection.clone()), &mut self.author).await
    }

    /// Sends what waits and closes the connection.
    pub async fn close(self) {
        self.connection.drain().await;
    }
}

/// The commit given, else what git says.
async fn commit(directory: &Path, sha: Option<&String>, given: GivenCommit) -> Result<Option<Commit>, RunError> {
    let directory = directory.to_owned();
    let found = spawn_blocking(move || read_commit(&directory)).await.map_err(RunError::Git)?;
    let Some(sha) = sha.cloned() else { return Ok(found) };
    let tree = match given {
        GivenCommit::NamesTheContent => TreeState::Clean,
        GivenCommit::MayBeOutdated => TreeState::Dirty,
    };
    let (repository, reference) = found.map_or((None, None), |found| (found.facts.repository, found.facts.reference));
    Ok(Some(Commit { facts: GitFacts { sha, repository, reference }, tree }))
}
