//! Writing one delta to a temporary file, on a blocking thread.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom};
use std::sync::Arc;

use shared::delta::{DeltaOptions, WriteDeltaError, write_delta};
use shared::digest::HashingWriter;
use shared::event::ObjectReference;
use shared::release::{Release, ReleaseError, ReleaseFile};
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::DeltaTarget;
use super::base_release::BaseRelease;

/// A delta that was not built.
#[derive(Debug, Error)]
pub(super) enum BuildDeltaError {
    /// The temporary file cannot be used.
    #[error("a temporary file cannot be used")]
    Spool(#[source] io::Error),
    /// The files make no release.
    #[error("the files make no release")]
    Release(#[source] ReleaseError),
    /// It could not be written.
    #[error("the delta cannot be written")]
    Write(#[source] WriteDeltaError),
    /// The work was given up in the middle.
    #[error("building was interrupted")]
    Interrupted(#[source] JoinError),
}

/// A delta on disk, from its beginning, in a file without a name.
#[derive(Debug)]
pub(super) struct BuiltDelta {
    pub(super) content: File,
    pub(super) reference: ObjectReference,
}

/// Builds the delta from a base; `None` where it would not be worth having.
pub(super) async fn build(
    base: &Arc<BaseRelease>,
    target: &Arc<DeltaTarget>,
    name: String,
) -> Result<Option<BuiltDelta>, BuildDeltaError> {
    let (base, target) = (Arc::clone(base), Arc::clone(target));
    spawn_blocking(move || match write(&base, &target, name) {
        Err(BuildDeltaError::Write(WriteDeltaError::TooLarge { .. })) => Ok(None),
        built => built.map(Some),
    })
    .await
    .map_err(BuildDeltaError::Interrupted)?
}

fn write(base: &BaseRelease, target: &DeltaTarget, name: String) -> Result<BuiltDelta, BuildDeltaError> {
    let announced = &target.announced;
    let files: Vec<ReleaseFile> = target.tree.files().cloned().collect();
    let (bundle, tag) = (announced.bundle.clone(), announced.tag.clone());
    let release = Release::new(bundle, tag, Some(announced.content_digest), files, &target.limits);
    let release = release.map_err(BuildDeltaError::Release)?;
    let output = tempfile::tempfile().map_err(BuildDeltaError::Spool)?;
    let output = HashingWriter::new(BufWriter::new(output));
    let options = DeltaOptions { at_most: target.at_most(), ..DeltaOptions::default() };
    let written = write_delta(
        [base.release(), &release],
        |file| base.open(file),
        |file| target.tree.open(&file.path),
        options,
        output,
    );
    let (output, sha256, size) = written.map_err(BuildDeltaError::Write)?.finish();
    let mut content = output.into_inner().map_err(|error| BuildDeltaError::Spool(error.into_error()))?;
    content.seek(SeekFrom::Start(0)).map_err(BuildDeltaError::Spool)?;
    Ok(BuiltDelta { content, reference: ObjectReference { name, size, sha256 } })
}
