//! Why a publish did not finish.

use shared::digest::Sha256Digest;
use shared::identifiers::{ActorName, BundleName, Tag};
use streams::event_log::ReadError;
use streams::event_writer::WriteError;
use streams::release_store::StoreReadError;
use thiserror::Error;
use tokio::task::JoinError;

use super::gates::BaseError;
use crate::announcement::AnnounceError;
use crate::build::BuildError;
use crate::channel::{FrozenSince, MoveError};
use crate::compatibility::BreakingChange;
use crate::contracts_document::Defect;
use crate::source::list;
use crate::stored_release::{ReadBackError, StoreError};
use crate::tag::TagError;

/// A publish that did not finish. Running it again goes on from where it ended.
#[derive(Debug, Error)]
pub enum PublishError {
    /// An event of an earlier run is not settled.
    #[error("an event of an earlier run is still open")]
    Settle(#[source] WriteError),
    /// The log cannot be read.
    #[error("the bundle's releases cannot be read")]
    Read(#[source] ReadError),
    /// The bucket cannot be read.
    #[error("the bucket cannot be read")]
    ReadStore(#[source] StoreReadError),
    /// This content must never be published again.
    #[error("content {content_digest} was withdrawn with release `{tag}` by `{actor}`: {reason}")]
    Withdrawn {
        /// The content digest.
        content_digest: Sha256Digest,
        /// The withdrawn release.
        tag: Tag,
        /// Who withdrew it.
        actor: ActorName,
        /// Their words.
        reason: String,
    },
    /// The tag belongs to other content.
    #[error("tag `{tag}` is taken by content {other}, this is content {content_digest}: give another tag")]
    TagTaken {
        /// The tag.
        tag: Tag,
        /// What it holds.
        other: String,
        /// What was to be published.
        content_digest: Sha256Digest,
    },
    /// The channel is frozen, and the request says that this refuses it. Nothing was stored.
    #[error("{0}: thaw it, or publish without moving it (--no-promote)")]
    Frozen(FrozenSince),
    /// The contracts are of no use to any reader. Nothing was stored.
    #[error("the contracts are not valid: {}", list(.defects))]
    Defects {
        /// Everything that is wrong, and where.
        defects: Vec<Defect>,
    },
    /// The contracts break who reads the release before them. Nothing was stored.
    #[error("the contracts break who reads release `{base}`: {}", all(.breaking))]
    Incompatible {
        /// The release they were compared with.
        base: Tag,
        /// Every change that breaks a reader.
        breaking: Vec<BreakingChange>,
    },
    /// Only contracts can be compared.
    #[error("compatibility is known of contracts only, bundle `{bundle}` holds none")]
    NotComparable {
        /// The bundle.
        bundle: BundleName,
    },
    /// There is nothing to compare with that could be read. Nothing was stored.
    #[error("compatibility cannot be judged")]
    Base(#[source] BaseError),
    /// The work was given up in the middle.
    #[error("checking the contracts was interrupted")]
    Interrupted(#[source] JoinError),
    /// No tag can be derived.
    #[error("the release has no tag")]
    Tag(#[source] TagError),
    /// The tag was announced, but the bucket has nothing of it any more, so it cannot be announced again.
    #[error("release `{tag}` was announced, but the bucket has nothing of it any more: give another tag")]
    ObjectsGone {
        /// The tag.
        tag: Tag,
    },
    /// The release cannot be built.
    #[error("the release cannot be built")]
    Build(#[source] BuildError),
    /// The release cannot be stored.
    #[error("the release cannot be stored")]
    Store(#[source] StoreError),
    /// The stored release does not come back as it was put.
    #[error("the stored release failed its check and is not announced")]
    ReadBack(#[source] ReadBackError),
    /// The release cannot be announced.
    #[error("the release is stored but not announced")]
    Announce(#[source] AnnounceError),
    /// The channel cannot be moved.
    #[error("release `{tag}` is published but not promoted")]
    Promote {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: Box<MoveError>,
    },
}

/// Every change, in one line: whoever has to repair them wants to know them all.
fn all(breaking: &[BreakingChange]) -> String {
    breaking.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
