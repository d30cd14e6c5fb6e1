//! Reading a stored release back: what the server gives is compared, never what it was given.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use shared::archive::read_archive;
use shared::event::ObjectReference;
use shared::verification::VerifyError;
use streams::release_store::{FetchError, ReleaseStore};
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::{PutRelease, StoredRelease};
use crate::progress::{ProgressReporter, Silent, Stage};

/// Reads of one object before a replica that does not have it yet counts as an error.
const READ_ATTEMPTS: u32 = 10;
const READ_PAUSE: Duration = Duration::from_millis(200);

/// A stored release that did not come back as it was put. It must not be announced.
#[derive(Debug, Error)]
pub enum ReadBackError {
    /// An object does not come back, or with other bytes.
    #[error("the stored release cannot be read back")]
    Fetch(#[source] FetchError),
    /// The `release.json` that came back is another.
    #[error("object `{object}` came back with another release")]
    OtherRelease {
        /// The object.
        object: String,
    },
    /// The archive does not hold the release's files.
    #[error("object `{object}` came back but does not hold the release")]
    Refused {
        /// The object.
        object: String,
        /// What differs.
        #[source]
        source: VerifyError,
    },
    /// The temporary file cannot be used.
    #[error("a temporary file for reading back cannot be used")]
    Spool(#[source] io::Error),
    /// The work was given up in the middle.
    #[error("reading back was interrupted")]
    Interrupted(#[source] JoinError),
}

/// Fetches both objects from the server, compares their digests, decodes the archive and verifies every file.
pub async fn read_back(
    store: &ReleaseStore,
    put: PutRelease,
    progress: &dyn ProgressReporter,
) -> Result<StoredRelease, ReadBackError> {
    let PutRelease { built, archive, storing } = put;
    let release_json = built.release_reference().clone();
    let came_back = fetch(store, &release_json, &Silent).await?;
    let came_back = spawn_blocking(move || whole(came_back)).await.map_err(ReadBackError::Interrupted)?;
    if came_back.map_err(ReadBackError::Spool)? != built.release_json() {
        return Err(ReadBackError::OtherRelease { object: release_json.name });
    }

    progress.begin(Stage::ReadBack, Some(archive.size));
    let packed = fetch(store, &archive, progress).await?;
    let release = built.release().clone();
    let verified = spawn_blocking(move || read_archive(packed, &release, |_| Ok(io::sink())))
        .await
        .map_err(ReadBackError::Interrupted)?
        .map_err(|source| ReadBackError::Refused { object: archive.name.clone(), source })?;
    let (facts, deltas) = (built.facts().clone(), Vec::new());
    Ok(StoredRelease { facts, verified, archive, release_json, deltas, storing })
}

pub(super) fn whole(mut file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    io::Read::read_to_end(&mut file, &mut content)?;
    Ok(content)
}

/// Fetches an object into a temporary file, rewound. A replica may lag behind what the leader has just confirmed, so
/// what is missing is asked for again; wrong bytes are not.
pub(crate) async fn fetch(
    store: &ReleaseStore,
    expected: &ObjectReference,
    progress: &dyn ProgressReporter,
) -> Result<File, ReadBackError> {
    let mut attempt = 1;
    loop {
        match fetch_once(store, expected, progress).await {
            Err(ReadBackError::Fetch(error)) if attempt < READ_ATTEMPTS && may_come(&error) => {
                attempt += 1;
                tokio::time::sleep(READ_PAUSE).await;
            }
            fetched => return fetched,
        }
    }
}

fn may_come(error: &FetchError) -> bool {
    match error {
        FetchError::NotFound { .. } | FetchError::Read { .. } => true,
        FetchError::SizeMismatch { expected, actual, .. } => actual < expected,
        FetchError::LookUp { .. } | FetchError::DigestMismatch { .. } | FetchError::Hashing { .. } => false,
    }
}

async fn fetch_once(
    store: &ReleaseStore,
    expected: &ObjectReference,
    progress: &dyn ProgressReporter,
) -> Result<File, ReadBackError> {
    let mut stream = store.open(expected).await.map_err(ReadBackError::Fetch)?;
    let mut file =
        spawn_blocking(tempfile::tempfile).await.map_err(ReadBackError::Interrupted)?.map_err(ReadBackError::Spool)?;
    while let Some(chunk) = stream.next_chunk().await.map_err(ReadBackError::Fetch)? {
        progress.advance(chunk.len() as u64);
        let written = spawn_blocking(move || file.write_all(&chunk).map(|()| file)).await;
        file = written.map_err(ReadBackError::Interrupted)?.map_err(ReadBackError::Spool)?;
    }
    file.seek(SeekFrom::Start(0)).map_err(ReadBackError::Spool)?;
    Ok(file)
}
