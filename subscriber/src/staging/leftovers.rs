//! What is left of interrupted work and of releases that were taken out of use, and when it may go.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use shared::daemon::crash_point::CrashPoint;
use uuid::Uuid;

use super::StagingError;
use crate::cache::{Cache, CacheLock};

/// What stands before the name of a release directory that was taken out of `releases/` and waits to be removed.
const RETIRED_PREFIX: &str = "retired-";

/// Where a release directory goes that is taken out of `releases/`.
pub(super) fn retired_path(cache: &Cache) -> PathBuf {
    cache.staging().join(format!("{RETIRED_PREFIX}{}", Uuid::now_v7().simple()))
}

/// Sets a directory's time to now: from then on counts how long it has not been in use.
pub(crate) fn touch(directory: &Path) -> io::Result<()> {
    File::open(directory)?.set_modified(SystemTime::now())
}

/// Takes a release out of `releases/` to be removed; nobody finds it by its tag any more.
pub(crate) fn retire(cache: &Cache, _lock: &CacheLock, directory: &Path) -> io::Result<()> {
    fs::rename(directory, retired_path(cache))?;
    CrashPoint::ReleaseRetired.reach();
    Ok(())
}

/// Removes a release that was never current, so that nobody can have found it there. Where it is being read all the same,
/// as the base of a patch, it is only taken out, to be removed later.
pub(crate) fn remove_unused(cache: &Cache, _lock: &CacheLock, directory: &Path) -> io::Result<()> {
    let path = retired_path(cache);
    fs::rename(directory, &path)?;
    CrashPoint::ReleaseRetired.reach();
    if File::open(&path)?.try_lock().is_ok() {
        fs::remove_dir_all(&path)?;
        CrashPoint::LeftoverRemoved.reach();
    }
    Ok(())
}

/// Removes what nobody works in or reads any more: staging directories of agents that are gone, and retired
/// releases that were last touched before `retired_before`. Returns how many.
pub(crate) fn remove_leftovers(
    cache: &Cache,
    _lock: &CacheLock,
    retired_before: SystemTime,
) -> Result<usize, StagingError> {
    let staging = cache.staging();
    let failed = || StagingError::at(&staging);
    let mut removed = 0;
    for entry in fs::read_dir(&staging).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let path = entry.path();
        if is_abandoned(&entry, retired_before).map_err(StagingError::at(&path))? {
            CrashPoint::LeftoverFound.reach();
            let gone = if entry.path().is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(StagingError::at(&path))?;
            CrashPoint::LeftoverRemoved.reach();
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_abandoned(entry: &fs::DirEntry, retired_before: SystemTime) -> io::Result<bool> {
    let metadata = entry.metadata()?;
    let retired = entry.file_name().to_string_lossy().starts_with(RETIRED_PREFIX);
    if retired && metadata.modified()? > retired_before {
        return Ok(false);
    }
    if !metadata.is_dir() {
        return Ok(true);
    }
    // Held by a worker for a staging directory, by readers for a retired release.
    Ok(File::open(entry.path())?.try_lock().is_ok())
}
