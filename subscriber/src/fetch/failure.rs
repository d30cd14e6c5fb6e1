//! Why a release could not be staged, and what that means: wrong bytes, or bytes that could not be had or stored.

use std::error::Error;
use std::io;

use shared::daemon::ErrorChain;
use shared::event::FailedCheck;
use shared::verification::{VerificationFailure, VerifyError};
use streams::release_store::{FetchError, StoreReadError};
use thiserror::Error;
use tokio::task::JoinError;

use crate::activation::ActivationError;
use crate::cache::CacheError;
use crate::local_pin::PinError;
use crate::release_directory::ReleaseDirectoryError;
use crate::staging::StagingError;

/// Longest text of an error in an event, in characters.
const LONGEST_TEXT: usize = 1000;

/// A release that could not be staged or switched to.
#[derive(Debug, Error)]
pub(crate) enum StageFailure {
    /// The bytes are not what was announced.
    #[error(transparent)]
    Refused(#[from] VerificationFailure),
    /// An object could not be read.
    #[error("the release store cannot be read")]
    Store(#[source] FetchError),
    /// The disk has no room.
    #[error("the release needs {needed} bytes of disk, {available} are available")]
    NoRoom {
        /// Needed, with a reserve.
        needed: u64,
        /// Available.
        available: u64,
    },
    /// The archive could not be written to disk.
    #[error("the archive cannot be written to disk")]
    Archive(#[source] io::Error),
    /// A file could not be read or written.
    #[error("the release cannot be unpacked or read")]
    Files(#[source] VerifyError),
    /// What stands in the cache is no readable release.
    #[error("the release in the cache cannot be read")]
    Stored(#[from] ReleaseDirectoryError),
    /// The cache cannot be used.
    #[error("the cache cannot be used")]
    Cache(#[from] CacheError),
    /// The staging directory cannot be used.
    #[error("the release cannot be staged")]
    Staging(#[from] StagingError),
    /// The switch failed.
    #[error("the release cannot be switched to")]
    Activation(#[from] ActivationError),
    /// The cache's pin cannot be read or written.
    #[error("the local pin cannot be kept")]
    Pin(#[from] PinError),
    /// The work on the disk did not end as it should.
    #[error("work on the disk was interrupted")]
    Interrupted(#[from] JoinError),
}

impl StageFailure {
    /// What was compared and differs, where that is the failure; anything else means that the release was not to be had.
    pub(crate) fn refusal(&self) -> Option<&VerificationFailure> {
        match self {
            Self::Refused(failure) => Some(failure),
            Self::Store(_)
            | Self::NoRoom { .. }
            | Self::Archive(_)
            | Self::Files(_)
            | Self::Stored(_)
            | Self::Cache(_)
            | Self::Staging(_)
            | Self::Activation(_)
            | Self::Pin(_)
            | Self::Interrupted(_) => None,
        }
    }

    /// Whether a digest differs, and nothing is known to be wrong beside it.
    pub(crate) fn is_of_digests(&self) -> bool {
        self.refusal().is_some_and(|failure| matches!(failure.check, FailedCheck::Object | FailedCheck::File))
    }
}

impl From<VerifyError> for StageFailure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Refused(failure) => Self::Refused(failure),
            VerifyError::Read { .. } | VerifyError::Write { .. } => Self::Files(error),
        }
    }
}

impl From<FetchError> for StageFailure {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::DigestMismatch { object, expected, actual } => {
                Self::Refused(VerificationFailure::object(object, expected, actual))
            }
            FetchError::SizeMismatch { object, expected, actual } => Self::Refused(VerificationFailure {
                check: FailedCheck::Object,
                item: object,
                expected: format!("{expected} bytes"),
                actual: if actual > expected {
                    format!("more than {expected} bytes")
                } else {
                    format!("{actual} bytes")
                },
            }),
            FetchError::LookUp { object, source: StoreReadError::Meta { source, .. } } => {
                Self::Refused(VerificationFailure::rule(object, "a valid description", ErrorChain(&source).to_string()))
            }
            FetchError::NotFound { .. }
            | FetchError::LookUp { .. }
            | FetchError::Read { .. }
            | FetchError::Hashing { .. } => Self::Store(error),
        }
    }
}

impl StageFailure {
    /// What tells repeats of one failure from another failure: no offsets, no free space, nothing that changes by itself.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Refused(failure) => format!("refused: {} expected {}", failure.item, failure.expected),
            Self::Store(FetchError::NotFound { object }) => format!("not found: {object}"),
            Self::Store(FetchError::LookUp { object, .. }) => format!("look-up: {object}"),
            Self::Store(FetchError::Read { object, .. }) => format!("read: {object}"),
            Self::Store(
                FetchError::Hashing { object, .. }
                | FetchError::SizeMismatch { object, .. }
                | FetchError::DigestMismatch { object, .. },
            ) => format!("fetch: {object}"),
            Self::NoRoom { .. } => "no room".to_owned(),
            Self::Archive(error) => format!("archive: {:?}", error.kind()),
            Self::Files(_) => "files".to_owned(),
            Self::Stored(_) => "stored".to_owned(),
            Self::Cache(_) => "cache".to_owned(),
            Self::Staging(_) => "staging".to_owned(),
            Self::Activation(_) => "activation".to_owned(),
            Self::Pin(_) => "pin".to_owned(),
            Self::Interrupted(_) => "interrupted".to_owned(),
        }
    }

    /// Whether more room on the disk would have helped.
    pub(crate) fn is_of_room(&self) -> bool {
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        match self {
            Self::NoRoom { .. } => true,
            Self::Archive(error) | Self::Files(VerifyError::Write { source: error, .. }) => is_full(error),
            Self::Staging(error) => error.is_full(),
            Self::Refused(_)
            | Self::Store(_)
            | Self::Files(_)
            | Self::Stored(_)
            | Self::Cache(_)
            | Self::Activation(_)
            | Self::Pin(_)
            | Self::Interrupted(_) => false,
        }
    }

    /// The whole chain of causes, as events and logs show it.
    pub(crate) fn text(&self) -> String {
        ErrorChain(self).to_string().chars().take(LONGEST_TEXT).collect()
    }

    /// The network's or server's own words, where they are the cause.
    pub(crate) fn network_error(&self) -> Option<String> {
        let Self::Store(error) = self else { return None };
        let source = error.source()?;
        Some(ErrorChain(source).to_string().chars().take(LONGEST_TEXT).collect())
    }

    /// What an operator can do.
    pub(crate) fn remediation(&self) -> &'static str {
        match self {
            Self::Refused(_) => {
                "the stored bytes are not the announced ones: find out who wrote to the bucket, then publish the content \
                 again under a new tag; nodes keep their last good release until then"
            }
            Self::Store(FetchError::NotFound { .. }) => {
                "an announced object is missing from bucket BUNDLES: restore it from a backup or publish again"
            }
            Self::Store(_) => {
                "check the connection to NATS and this node's permissions for Direct Get; it is tried again"
            }
            Self::NoRoom { .. } => "free disk space or lower --keep-releases; it is tried again",
            Self::Archive(error) if error.kind() == io::ErrorKind::StorageFull => DISK_FULL,
            Self::Staging(error) if error.is_full() => DISK_FULL,
            Self::Archive(_)
            | Self::Files(_)
            | Self::Cache(_)
            | Self::Staging(_)
            | Self::Activation(_)
            | Self::Pin(_) => "check disk space and permissions of the cache directory; it is tried again",
            Self::Stored(_) => "the copy in the cache is damaged; the release is fetched again",
            Self::Interrupted(_) => "none needed: it is tried again",
        }
    }
}

const DISK_FULL: &str = "the disk is full: free disk space; it is tried again";

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;

    use super::*;

    #[test]
    fn wrong_content_is_a_refusal_with_both_sides() {
        let (expected, actual) = (Sha256Digest::of(b"1"), Sha256Digest::of(b"2"));
        let failure: StageFailure = FetchError::DigestMismatch { object: "o".to_owned(), expected, actual }.into();
        let StageFailure::Refused(failure) = failure else { panic!("{failure}") };
        assert_eq!((failure.expected, failure.actual), (expected.to_string(), actual.to_string()));
        let failure: StageFailure = FetchError::SizeMismatch { object: "o".to_owned(), expected: 3, actual: 2 }.into();
        assert!(matches!(failure, StageFailure::Refused(failure) if failure.actual == "2 bytes"));
    }

    #[test]
    fn what_is_not_there_says_nothing_about_the_release() {
        let failure: StageFailure = FetchError::NotFound { object: "o".to_owned() }.into();
        assert!(matches!(failure, StageFailure::Store(_)));
        assert_eq!(failure.cause(), "not found: o");
        assert_eq!(failure.text(), "the release store cannot be read: object `o` is not in the bucket");
    }

    #[test]
    fn a_cause_does_not_change_by_itself() {
        let one = StageFailure::NoRoom { needed: 2, available: 1 };
        let other = StageFailure::NoRoom { needed: 2, available: 0 };
        assert_eq!(one.cause(), other.cause());
        assert_ne!(one.text(), other.text());
    }
}
