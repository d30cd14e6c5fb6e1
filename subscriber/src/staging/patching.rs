//! Making a staged release of another release and a delta.
//!
//! What both have is cloned where the file system shares storage until it is written to, else copied; never linked: an
//! edit of one release must not reach the other, which may be the last good one.

use std::fs::File;
use std::io::{self, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};

use shared::delta::{DeltaReader, PatchedTree};
use shared::event::Published;
use shared::limits::ReleaseLimits;
use shared::release::ReleaseFile;
use shared::verification::{VerifiedRelease, VerifyError};
use tokio_util::sync::CancellationToken;

use super::tree_writer::TreeWriter;
use super::{StagingDirectory, stopped, write_failed};
use crate::cache::Cache;
use crate::release_directory::ReleaseDirectory;

/// What stands before the number of a release that is made only to be patched further.
const STEP_PREFIX: &str = "step-";

/// Where the release of one patch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchPlace {
    /// It is patched further: not durable.
    Step(usize),
    /// It is what was wanted.
    Last,
}

impl StagingDirectory {
    /// Opens the release that a step has made.
    pub(crate) fn open_step(
        &self,
        number: usize,
        limits: &ReleaseLimits,
    ) -> Result<ReleaseDirectory, crate::release_directory::ReleaseDirectoryError> {
        ReleaseDirectory::open(&self.step(number), limits)
    }

    /// Removes the release of a step that is patched by now.
    pub(crate) fn remove_step(&self, number: usize) {
        // What stays goes with the directory.
        let _ = std::fs::remove_dir_all(self.step(number));
    }

    fn step(&self, number: usize) -> std::path::PathBuf {
        self.path.join(format!("{STEP_PREFIX}{number}"))
    }

    /// Applies a delta to a release and verifies every file of what comes out, against the announcement. A last one is
    /// made durable. Ends early once `stop` is cancelled.
    pub(crate) fn patch(
        &self,
        delta: File,
        base: &ReleaseDirectory,
        gives: &Published,
        place: PatchPlace,
        (cache, limits): (&Cache, &ReleaseLimits),
        stop: &CancellationToken,
    ) -> Result<VerifiedRelease, VerifyError> {
        let root = match place {
            PatchPlace::Step(number) => self.step(number),
            PatchPlace::Last => self.release(),
        };
        let reader = DeltaReader::open(BufReader::new(delta), base.release(), gives, limits)?;
        let release = reader.release().clone();
        let tree = TreeWriter::create(&root).map_err(write_failed("release directory"))?;
        let patched = PatchedDirectory { base, tree, clones: AtomicBool::new(true), stop };
        let verified = reader.apply(&patched)?;
        match place {
            PatchPlace::Step(_) => patched.tree.describe(&release).map_err(write_failed("release.json"))?,
            PatchPlace::Last => patched.tree.complete(&release, &cache.release(release.tag()))?,
        }
        Ok(verified)
    }
}

/// A release that is made of another one on the same disk.
struct PatchedDirectory<'a> {
    base: &'a ReleaseDirectory,
    tree: TreeWriter,
    /// Whether the file system may be able to clone; the first refusal decides.
    clones: AtomicBool,
    stop: &'a CancellationToken,
}

impl PatchedDirectory<'_> {
    fn refuse_stopped(&self) -> io::Result<()> {
        if self.stop.is_cancelled() { Err(stopped()) } else { Ok(()) }
    }
}

impl PatchedTree for PatchedDirectory<'_> {
    type Base = File;
    type New = File;
    type Written = File;

    fn open_base(&self, file: &ReleaseFile) -> io::Result<File> {
        self.refuse_stopped()?;
        self.base.open_file(&file.path)
    }

    fn clone_base(&self, base: &ReleaseFile, file: &ReleaseFile) -> io::Result<Option<File>> {
        self.refuse_stopped()?;
        if !self.clones.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Ok(found) = self.base.open_file(&base.path) else { return Ok(None) };
        let new = self.tree.create_file(file.path.as_str(), file.mode.node_bits())?;
        if share_storage(&new, &found) {
            return self.tree.open_file(file.path.as_str()).map(Some);
        }
        self.clones.store(false, Ordering::Relaxed);
        self.tree.remove_file(file.path.as_str())?;
        Ok(None)
    }

    fn create(&self, file: &ReleaseFile) -> io::Result<File> {
        self.refuse_stopped()?;
        self.tree.create_file(file.path.as_str(), file.mode.node_bits())
    }

    fn open_written(&self, file: &ReleaseFile) -> io::Result<File> {
        self.tree.open_file(file.path.as_str())
    }
}

/// Makes an empty file a clone of another, where the file system can.
#[cfg(target_os = "linux")]
fn share_storage(new: &File, found: &File) -> bool {
    rustix::fs::ioctl_ficlone(new, found).is_ok()
}

/// Elsewhere files are copied.
#[cfg(not(target_os = "linux"))]
fn share_storage(_new: &File, _found: &File) -> bool {
    false
}
