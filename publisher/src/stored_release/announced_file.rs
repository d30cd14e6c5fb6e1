//! One file of a release that is in the log: fetched from the bucket, verified with the whole release it belongs to.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::rc::Rc;

use shared::archive::read_archive;
use shared::event::{ObjectReference, Published};
use shared::limits::ReleaseLimits;
use shared::release::Release;
use shared::verification::{VerificationFailure, VerifyError, verify_release_json};
use streams::release_store::ReleaseStore;
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use super::reading_back::{ReadBackError, fetch, whole};
use crate::progress::Silent;

/// Room for an archive's own words beside the files it holds.
const ARCHIVE_OVERHEAD: u64 = 64 << 20;

/// A file that the bucket does not give, or not as it was announced.
#[derive(Debug, Error)]
pub enum AnnouncedFileError {
    /// An object is announced larger than any release may be.
    #[error("object `{}` is announced with {} bytes, the limit is {limit}", .object.name, .object.size)]
    TooLarge {
        /// The object.
        object: ObjectReference,
        /// The limit in bytes.
        limit: u64,
    },
    /// An object does not come back.
    #[error("an object of the release does not come back")]
    Fetch(#[source] Box<ReadBackError>),
    /// The temporary file cannot be used.
    #[error("a temporary file cannot be used")]
    Spool(#[source] io::Error),
    /// The `release.json` is not the announced one.
    #[error("its `release.json` is not the announced one")]
    Refused(#[source] VerificationFailure),
    /// The archive does not hold the release.
    #[error("its archive does not hold the release")]
    Archive(#[source] VerifyError),
    /// The release has no such file.
    #[error("it has no file `{path}`")]
    NoSuchFile {
        /// The file.
        path: &'static str,
    },
    /// The work was given up in the middle.
    #[error("reading was interrupted")]
    Interrupted(#[source] JoinError),
}

/// Reads one file of an announced release into memory. Every file of the release is verified on the way, so what is
/// returned is what was published.
pub(crate) async fn read_announced_file(
    store: &ReleaseStore,
    announced: &Published,
    path: &'static str,
    limits: ReleaseLimits,
) -> Result<Vec<u8>, AnnouncedFileError> {
    let (release, archive) = fetch_announced(store, announced, limits).await?;
    spawn_blocking(move || file_of(archive, &release, path)).await.map_err(AnnouncedFileError::Interrupted)?
}

/// Fetches an announced release: its verified description, and its archive with the announced digest, not yet unpacked.
pub(crate) async fn fetch_announced(
    store: &ReleaseStore,
    announced: &Published,
    limits: ReleaseLimits,
) -> Result<(Release, File), AnnouncedFileError> {
    check_size(&announced.release, limits.release_json_bytes)?;
    check_size(&announced.archive, limits.total_bytes.saturating_add(ARCHIVE_OVERHEAD))?;
    let fetched = |error| AnnouncedFileError::Fetch(Box::new(error));
    let release_json = fetch(store, &announced.release, &Silent).await.map_err(fetched)?;
    let archive = fetch(store, &announced.archive, &Silent).await.map_err(fetched)?;
    let announced = announced.clone();
    let verified = spawn_blocking(move || {
        let release_json = whole(release_json).map_err(AnnouncedFileError::Spool)?;
        verify_release_json(&release_json, &announced, &limits).map_err(AnnouncedFileError::Refused)
    });
    Ok((verified.await.map_err(AnnouncedFileError::Interrupted)??, archive))
}

fn check_size(object: &ObjectReference, limit: u64) -> Result<(), AnnouncedFileError> {
    if object.size > limit { Err(AnnouncedFileError::TooLarge { object: object.clone(), limit }) } else { Ok(()) }
}

fn file_of(archive: File, release: &Release, path: &'static str) -> Result<Vec<u8>, AnnouncedFileError> {
    let wanted = Rc::new(RefCell::new(None));
    let outputs = |file: &shared::release::ReleaseFile| {
        let kept = (file.path.as_str() == path).then(|| {
            *wanted.borrow_mut() = Some(Vec::new());
            Rc::clone(&wanted)
        });
        Ok(Output { kept })
    };
    read_archive(archive, release, outputs).map_err(AnnouncedFileError::Archive)?;
    wanted.take().ok_or(AnnouncedFileError::NoSuchFile { path })
}

/// Keeps what is written where it is the wanted file.
struct Output {
    kept: Option<Rc<RefCell<Option<Vec<u8>>>>>,
}

impl Write for Output {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Some(kept) = &self.kept
            && let Some(content) = kept.borrow_mut().as_mut()
        {
            content.extend_from_slice(buffer);
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
