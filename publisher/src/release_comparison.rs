//! Compares two announced releases: what a channel that moves from one to the other takes away from its readers.

use shared::event::Published;
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use streams::release_store::ReleaseStore;
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use crate::compatibility::{BreakingChange, breaking_changes};
use crate::contracts_bundle::BUNDLE_FILE;
use crate::contracts_document::{ContractsDocument, DocumentError};
use crate::stored_release::{AnnouncedFileError, read_announced_file};

/// Two releases that cannot be compared.
#[derive(Debug, Error)]
pub enum ReleaseComparisonError {
    /// One of them does not come back from the bucket as it was announced.
    #[error("the contracts of release `{tag}` cannot be read")]
    Read {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: AnnouncedFileError,
    },
    /// One of them holds no valid contracts.
    #[error("release `{tag}` holds no contracts that could be compared")]
    Document {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// The comparison did not come to its end.
    #[error("the comparison was interrupted")]
    Interrupted(#[source] JoinError),
}

/// What breaks for who reads `base` and gets `new`. `None` where one of them is no contracts bundle: of other content
/// nothing is known. Reads both archives from the bucket and verifies them on the way.
pub async fn compare_releases(
    bucket: &ReleaseStore,
    base: &Published,
    new: &Published,
    limits: ReleaseLimits,
) -> Result<Option<Vec<BreakingChange>>, ReleaseComparisonError> {
    // The content of anything but contracts is its tree.
    if [base, new].iter().any(|release| release.content_digest == release.tree_digest) {
        return Ok(None);
    }
    if base.content_digest == new.content_digest {
        return Ok(Some(Vec::new()));
    }
    let (old, new) =
        (announced_contracts(bucket, base, limits).await?, announced_contracts(bucket, new, limits).await?);
    let breaking = spawn_blocking(move || breaking_changes(&old, &new)).await;
    breaking.map(Some).map_err(ReleaseComparisonError::Interrupted)
}

/// The contracts of an announced release. Reads its archive from the bucket and verifies it on the way.
pub(crate) async fn announced_contracts(
    bucket: &ReleaseStore,
    release: &Published,
    limits: ReleaseLimits,
) -> Result<ContractsDocument, ReleaseComparisonError> {
    let tag = release.tag.clone();
    let bytes = read_announced_file(bucket, release, BUNDLE_FILE, limits).await;
    let bytes = bytes.map_err(|source| ReleaseComparisonError::Read { tag: tag.clone(), source })?;
    let parsed = spawn_blocking(move || ContractsDocument::parse(&bytes)).await;
    let parsed = parsed.map_err(ReleaseComparisonError::Interrupted)?;
    parsed.map_err(|source| ReleaseComparisonError::Document { tag, source })
}
