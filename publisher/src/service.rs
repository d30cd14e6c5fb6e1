//! A publisher at work: once, or looking at its source again and again.
//!
//! A round is: provision what is missing (until that has succeeded once), read the source, publish what changed. A
//! round may be cut off anywhere; the next one, of this process or another, finishes it.

use std::time::Duration;

use chrono::Utc;
use shared::daemon::ErrorChain;
use shared::event::GitFacts;
use shared::limits::ReleaseLimits;
use streams::connection::{ConnectError, Connection};
use streams::epoch::{EpochError, ensure_epoch};
use streams::event_log::EventLog;
use streams::event_writer::ChainFileError;
use streams::layout::{Layout, LayoutError, LayoutLimits, ensure};
use streams::release_store::ReleaseStore;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::author::Author;
use crate::build::{BuildError, read_source};
use crate::channel::AutomaticPromotion;
use crate::config::PublisherConfig;
use crate::git_facts::{Commit, TreeState, read_commit};
use crate::progress::Progress;
use crate::publish_cycle::{Novelty, PublishError, PublishReport, PublishRequest, publish};

/// After a round that failed: soon enough for a server that was away, rare enough to be no burden.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// How long a round waits for a connection before it counts as failed.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// A publisher that cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state directory cannot be used, or another publisher uses it.
    #[error("the state directory cannot be used")]
    State(#[source] ChainFileError),
    /// There is no connection.
    #[error("the publisher cannot connect")]
    Connect(#[source] ConnectError),
}

/// A round that did not finish.
#[derive(Debug, Error)]
pub enum RoundError {
    /// The server cannot be spoken to at this moment.
    #[error("the server is not connected{}", because(.last_fault.as_ref()))]
    NotConnected {
        /// Its or the network's last complaint.
        last_fault: Option<String>,
    },
    /// Stream, bucket or node table are missing and cannot be made, or are not as declared.
    #[error("the streams cannot be provisioned")]
    Layout(#[source] LayoutError),
    /// The log has no epoch and none can be started.
    #[error("the log cannot be begun")]
    Epoch(#[source] EpochError),
    /// The source cannot be read.
    #[error("the source cannot be published")]
    Source(#[source] BuildError),
    /// Git could not be asked.
    #[error("asking git was interrupted")]
    Git(#[source] JoinError),
    /// The publish did not finish.
    #[error("the release is not published")]
    Publish(#[source] Box<PublishError>),
}

fn because(fault: Option<&String>) -> String {
    fault.map(|fault| format!(": {fault}")).unwrap_or_default()
}

/// Whether a connection must stand before a publisher starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It must: a command for people or scripts.
    FailAtOnce,
    /// It may come later: a daemon.
    KeepTrying,
}

/// A publisher with its connection and its state directory.
#[derive(Debug)]
pub struct PublishService {
    config: PublisherConfig,
    connection: Connection,
    author: Author,
    provisioned: bool,
}

impl PublishService {
    /// Takes the state directory, which no other publisher may use, and connects.
    pub async fn start(config: PublisherConfig, patience: Patience) -> Result<Self, StartError> {
        let author = Author::publisher(config.name.clone(), &config.state_dir).map_err(StartError::State)?;
        let connection = match patience {
            Patience::FailAtOnce => Connection::open(&config.connection).await,
            Patience::KeepTrying => Connection::open_and_retry(&config.connection).await,
        };
        Ok(Self { connection: connection.map_err(StartError::Connect)?, config, author, provisioned: false })
    }

    /// One round. Returns only after everything it reports is confirmed by the server.
    pub async fn publish(&mut self, progress: &Progress) -> Result<PublishReport, RoundError> {
        if !self.connection.wait_until_connected(CONNECTION_WAIT).await {
            let last_fault = self.connection.status().last_fault.map(|fault| fault.to_string());
            return Err(RoundError::NotConnected { last_fault });
        }
        let log = EventLog::new(self.connection.clone());
        self.provision(&log).await?;
        let limits = ReleaseLimits::default();
        let config = &self.config;
        let content = read_source(config.source.clone(), config.bundle.clone(), limits, progress.clone());
        let content = content.await.map_err(RoundError::Source)?;
        let request = PublishRequest {
            tag: config.tag.clone(),
            commit: commit(config).await?,
            trigger: config.trigger,
            channel: config.channel.clone(),
            limits,
            ..PublishRequest::new(config.bundle.clone(), config.timestamp.unwrap_or_else(Utc::now))
        };
        let bucket = ReleaseStore::new(self.connection.clone());
        let published = publish(&log, &bucket, &mut self.author, &content, &request, progress).await;
        published.map_err(|error| RoundError::Publish(Box::new(error)))
    }

    async fn provision(&mut self, log: &EventLog) -> Result<(), RoundError> {
        if self.provisioned {
            return Ok(());
        }
        let limits = LayoutLimits { replicas: self.config.replicas, ..LayoutLimits::default() };
        ensure(&self.connection, &Layout::declared(limits)).await.map_err(RoundError::Layout)?;
        ensure_epoch(log, self.author.source().clone()).await.map_err(RoundError::Epoch)?;
        self.provisioned = true;
        Ok(())
    }

    /// Publishes what changed, at each interval and on SIGHUP, until `stop` is cancelled. A round that fails is logged
    /// and tried again; the same failure or the same result is logged once.
    pub async fn serve(&mut self, progress: &Progress, stop: &CancellationToken) -> std::io::Result<()> {
        let mut look_now = signal(SignalKind::hangup())?;
        let mut said = String::new();
        loop {
            let round = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                round = self.publish(progress) => round,
            };
            let pause = match &round {
                Ok(_) => self.config.interval,
                Err(_) => self.config.interval.min(RETRY_PAUSE),
            };
            log_round(&round, &mut said);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                _ = look_now.recv() => tracing::info!("looking at the source now"),
            }
        }
    }

    /// Sends what waits and closes the connection.
    pub async fn close(self) {
        self.connection.drain().await;
    }
}

/// The commit given, else what git says. A given commit names the content of one publish only: a source that changes
/// while the publisher stays is no longer that commit.
async fn commit(config: &PublisherConfig) -> Result<Option<Commit>, RoundError> {
    let source = config.source.clone();
    let found = spawn_blocking(move || read_commit(&source)).await.map_err(RoundError::Git)?;
    let Some(sha) = config.git_sha.clone() else { return Ok(found) };
    let tree = if config.once { TreeState::Clean } else { TreeState::Dirty };
    let (repository, reference) = found.map_or((None, None), |found| (found.facts.repository, found.facts.reference));
    Ok(Some(Commit { facts: GitFacts { sha, repository, reference }, tree }))
}

/// Logs a round, unless the one before ended in the same words.
fn log_round(round: &Result<PublishReport, RoundError>, said: &mut String) {
    let words = match round {
        Ok(report) => describe(report),
        Err(error) => ErrorChain(error).to_string(),
    };
    match round {
        _ if words == *said => tracing::debug!("{words}"),
        Ok(report) => log_report(report),
        Err(_) => tracing::error!(error = %words, "publishing failed"),
    }
    *said = words;
}

/// Logs what a publish did, with its facts as fields.
pub fn log_report(report: &PublishReport) {
    let release = &report.release;
    tracing::info!(
        bundle.name = %release.published.bundle,
        bundle.tag = %release.published.tag,
        bundle.digest = %release.published.tree_digest,
        event.sequence = release.stream_sequence,
        size_bytes = release.published.total_bytes,
        "{}",
        describe(report)
    );
}

/// What a publish did, in one sentence.
pub fn describe(report: &PublishReport) -> String {
    let tag = &report.release.published.tag;
    let release = match report.novelty {
        Novelty::Announced => format!("release `{tag}` is published"),
        Novelty::AnnouncedAgain => format!("release `{tag}` is announced again"),
        Novelty::AlreadyAnnounced => format!("release `{tag}` was published before"),
        Novelty::Unchanged => format!("unchanged: release `{tag}` has this content"),
    };
    let channel = match &report.promotion {
        None => return release,
        Some(AutomaticPromotion::Promoted(head)) => format!("channel `{}` points at it now", head.promoted.channel),
        Some(AutomaticPromotion::AlreadyActive(head)) => format!("channel `{}` points at it", head.promoted.channel),
        Some(AutomaticPromotion::MovedAwaySince(head)) => format!(
            "channel `{}` was moved from it to `{}` by `{}` and stays there",
            head.promoted.channel, head.promoted.tag, head.promoted.actor
        ),
        Some(AutomaticPromotion::Held(head)) => format!(
            "channel `{}` is held at `{}` by `{}` and stays there",
            head.promoted.channel, head.promoted.tag, head.promoted.actor
        ),
        Some(AutomaticPromotion::Frozen(head)) => format!(
            "channel `{}` is frozen at `{}` by `{}` and stays there",
            head.promoted.channel, head.promoted.tag, head.promoted.actor
        ),
    };
    format!("{release}; {channel}")
}
