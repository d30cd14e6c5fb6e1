//! Why a publisher cannot start, and why a run did not finish.

use shared::daemon::ErrorChain;
use shared::identifiers::Tag;
use shared::release_path::PathError;
use streams::connection::ConnectError;
use streams::epoch::EpochError;
use streams::event_log::ReadError;
use streams::event_writer::ChainFileError;
use streams::layout::LayoutError;
use thiserror::Error;
use tokio::task::JoinError;

use crate::build::BuildError;
use crate::channel::MoveError;
use crate::github::GitHubError;
use crate::publish_cycle::PublishError;

/// A publisher that cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state directory cannot be used, or another publisher uses it.
    #[error("the state directory cannot be used")]
    State(#[source] ChainFileError),
    /// There is no connection.
    #[error("the publisher cannot connect")]
    Connect(#[source] ConnectError),
    /// No request to GitHub can be made.
    #[error("the source cannot be asked")]
    GitHub(#[source] GitHubError),
}

/// A run that did not finish.
#[derive(Debug, Error)]
pub enum RunError {
    /// The server cannot be spoken to at this moment.
    #[error("the server is not connected{}", because(.last_fault.as_ref()))]
    NotConnected {
        /// Its or the network's last complaint.
        last_fault: Option<String>,
    },
    /// The server is too old.
    #[error("{0}")]
    ServerVersion(String),
    /// Stream, bucket or node table are missing and cannot be made, or are not as declared.
    #[error("the streams cannot be provisioned")]
    Layout(#[source] LayoutError),
    /// The log has no epoch and none can be started.
    #[error("the log cannot be begun")]
    Epoch(#[source] EpochError),
    /// The source cannot be read.
    #[error("the source cannot be published")]
    Source(#[source] BuildError),
    /// GitHub cannot be asked.
    #[error("the releases on GitHub cannot be read")]
    GitHub(#[source] Box<GitHubError>),
    /// A release on GitHub cannot be taken over. The others were.
    #[error("release `{tag}` on GitHub is not taken over")]
    GitHubRelease {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: Box<GitHubReleaseError>,
    },
    /// What is announced already cannot be read.
    #[error("the bundle's releases cannot be read")]
    Register(#[source] ReadError),
    /// A release that was announced is not promoted.
    #[error("release `{tag}` is published but not promoted")]
    Promote {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: Box<MoveError>,
    },
    /// Git could not be asked.
    #[error("asking git was interrupted")]
    Git(#[source] JoinError),
    /// The publish did not finish.
    #[error("the release is not published")]
    Publish(#[source] Box<PublishError>),
}

/// Why one release of GitHub was not taken over.
#[derive(Debug, Error)]
pub enum GitHubReleaseError {
    /// It is listed, but cannot be found or downloaded, or its files do not agree.
    #[error("it cannot be downloaded")]
    Download(#[source] GitHubError),
    /// Its files make no release.
    #[error("its files make no release")]
    Content(#[source] PathError),
    /// The publish did not finish.
    #[error("it is not published")]
    Publish(#[source] PublishError),
}

fn because(fault: Option<&String>) -> String {
    fault.map(|fault| format!(": {fault}")).unwrap_or_default()
}

/// What whoever asked for a run can do about its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing but change what is to be published: a rule forbids it.
    Refused,
    /// Wait: the server is not there.
    Unavailable,
    /// Look for the cause.
    Failed,
}

impl RunError {
    /// What can be done about it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotConnected { .. } => FailureKind::Unavailable,
            Self::Publish(error) => of_publish(error),
            Self::GitHubRelease { source, .. } => match &**source {
                GitHubReleaseError::Publish(error) => of_publish(error),
                GitHubReleaseError::Download(_) | GitHubReleaseError::Content(_) => FailureKind::Failed,
            },
            Self::ServerVersion(_)
            | Self::Layout(_)
            | Self::Epoch(_)
            | Self::Source(_)
            | Self::GitHub(_)
            | Self::Register(_)
            | Self::Promote { .. }
            | Self::Git(_) => FailureKind::Failed,
        }
    }

    /// The whole chain in one line.
    pub fn in_one_line(&self) -> String {
        ErrorChain(self).to_string()
    }
}

/// What can be done about a publish that did not finish.
fn of_publish(error: &PublishError) -> FailureKind {
    let refused = matches!(
        error,
        PublishError::Withdrawn { .. }
            | PublishError::TagTaken { .. }
            | PublishError::Frozen(_)
            | PublishError::Defects { .. }
            | PublishError::Incompatible { .. }
            | PublishError::NotComparable { .. }
    );
    if refused { FailureKind::Refused } else { FailureKind::Failed }
}
