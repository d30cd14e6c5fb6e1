//! Reading a stored delta back and applying it, as a node will.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use shared::delta::{DeltaReader, PatchedTree};
use shared::event::ObjectReference;
use shared::release::ReleaseFile;
use shared::verification::VerifyError;
use streams::release_store::ReleaseStore;
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::DeltaTarget;
use super::base_release::{BaseRelease, Section};
use crate::progress::Silent;
use crate::source::SourceTree;
use crate::stored_release::{ReadBackError, fetch};

/// A stored delta that must not be announced.
#[derive(Debug, Error)]
pub(super) enum CheckDeltaError {
    /// It does not come back.
    #[error("it cannot be read back")]
    Fetch(#[source] Box<ReadBackError>),
    /// It does not give the release.
    #[error("it does not give the release")]
    Refused(#[source] VerifyError),
    /// The work was given up in the middle.
    #[error("checking was interrupted")]
    Interrupted(#[source] JoinError),
}

/// Fetches a delta from the server and applies it.
pub(super) async fn check(
    bucket: &ReleaseStore,
    object: &ObjectReference,
    base: &Arc<BaseRelease>,
    target: &Arc<DeltaTarget>,
) -> Result<(), CheckDeltaError> {
    let fetched = fetch(bucket, object, &Silent).await;
    let delta = fetched.map_err(|error| CheckDeltaError::Fetch(Box::new(error)))?;
    let (base, target) = (Arc::clone(base), Arc::clone(target));
    spawn_blocking(move || {
        let reader = DeltaReader::open(BufReader::new(delta), base.release(), &target.announced, &target.limits)?;
        reader.apply(&NowhereTree { base: &base, tree: &target.tree }).map(|_| ())
    })
    .await
    .map_err(CheckDeltaError::Interrupted)?
    .map_err(CheckDeltaError::Refused)
}

/// What a delta gives is compared and forgotten.
struct NowhereTree<'a> {
    base: &'a BaseRelease,
    tree: &'a SourceTree,
}

impl PatchedTree for NowhereTree<'_> {
    type Base = Section;
    type New = io::Sink;
    type Written = Box<dyn Read>;

    fn open_base(&self, file: &ReleaseFile) -> io::Result<Section> {
        self.base.open(file)
    }

    fn clone_base(&self, base: &ReleaseFile, _file: &ReleaseFile) -> io::Result<Option<Self::Written>> {
        Ok(Some(Box::new(self.base.open(base)?)))
    }

    fn create(&self, _file: &ReleaseFile) -> io::Result<io::Sink> {
        Ok(io::sink())
    }

    fn open_written(&self, file: &ReleaseFile) -> io::Result<Self::Written> {
        // Its digest was compared when it was patched; what the source has is compared again.
        Ok(Box::new(self.tree.open(&file.path)?))
    }
}
