//! Staging: a private directory in which a release is unpacked, verified and made durable, and from which it
//! moves into `releases/` with one rename.
//!
//! A staging directory is locked by whoever works in it, for as long as the process lives. So what a killed agent
//! left behind is told apart from what another agent on the same cache is working on, and only the former is removed.

mod batch_sync;
mod leftovers;
mod patching;
mod tree_writer;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use rustix::io::Errno;
use shared::archive::{read_archive_side_by_side, read_archive_without_digests};
use shared::daemon::crash_point::CrashPoint;
use shared::release::{Release, ReleaseFile};
use shared::verification::{Activatable, EmergencyFlag, UnverifiedRelease, VerifiedRelease, VerifyError, verify_files};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::leftovers::retired_path;
pub(crate) use self::leftovers::{remove_leftovers, retire, touch};
pub(crate) use self::patching::PatchPlace;
use self::tree_writer::TreeWriter;
use crate::cache::{Cache, CacheLock};
use crate::durable_file::sync_directory;
use crate::tamper::Copying;

/// A staging directory that cannot be used.
#[derive(Debug, Error)]
#[error("staging directory `{}` cannot be used", path.display())]
pub(crate) struct StagingError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl StagingError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, source }
    }

    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

/// A private directory for one release on its way. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct StagingDirectory {
    path: PathBuf,
    /// Locked; see the module.
    _owner: File,
}

impl StagingDirectory {
    /// Makes one. The cache's lock keeps others from taking it for a leftover before it is locked.
    pub(crate) fn create(cache: &Cache, _lock: &CacheLock) -> Result<Self, StagingError> {
        let path = cache.staging().join(Uuid::now_v7().simple().to_string());
        DirBuilder::new().mode(0o700).create(&path).map_err(StagingError::at(&path))?;
        CrashPoint::StagingMade.reach();
        let owner = File::open(&path).and_then(|owner| owner.lock().map(|()| owner));
        match owner {
            Ok(owner) => {
                CrashPoint::StagingLocked.reach();
                Ok(Self { path, _owner: owner })
            }
            Err(source) => {
                // Empty, so this cannot lose anything; an error would only repeat the one that is reported.
                let _ = fs::remove_dir(&path);
                Err(StagingError { path, source })
            }
        }
    }

    /// Makes a file that takes an object's bytes. It has no name any more, so what is read from it is what was written
    /// to it, and its room is free once it is closed.
    pub(crate) fn create_object(&self) -> Result<File, StagingError> {
        let path = self.path.join("object");
        let file = OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(StagingError::at(&path))?;
        CrashPoint::ArchiveCreated.reach();
        fs::remove_file(&path).map_err(StagingError::at(&path))?;
        Ok(file)
    }

    fn release(&self) -> PathBuf {
        self.path.join("release")
    }

    /// A path for a file on its way.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Builds a release from files that are here already, compares every byte on the way, and makes the tree durable.
    /// `open` gives the content of a file. `home` is where the release will lie, for its checksum file.
    pub(crate) fn assemble<R: Read>(
        &self,
        release: &Release,
        home: &Path,
        open: impl Fn(&ReleaseFile) -> io::Result<R> + Sync,
    ) -> Result<VerifiedRelease, VerifyError> {
        let failed = |item: &str| {
            let item = item.to_owned();
            move |source| VerifyError::Write { item, source }
        };
        let tree = TreeWriter::create(&self.release()).map_err(failed("release directory"))?;
        let verified = verify_files(release, |file| {
            let source = open(file)?;
            Ok(Copying::new(source, tree.create_file(file.path.as_str(), file.mode.node_bits())?))
        })?;
        tree.complete(release, home)?;
        Ok(verified)
    }

    /// Unpacks an archive, verifies every file on the way, several side by side, and makes the tree durable in one go
    /// after the last byte is written. Ends early once `stop` is cancelled.
    ///
    /// `home` is where the release will lie, for its checksum file.
    pub(crate) fn unpack(
        &self,
        archive: impl Read,
        release: &Release,
        home: &Path,
        stop: &CancellationToken,
    ) -> Result<VerifiedRelease, VerifyError> {
        let root = self.release();
        let tree = TreeWriter::create(&root).map_err(write_failed("release directory"))?;
        let verified = read_archive_side_by_side(Stoppable { inner: archive, stop }, release, |file| {
            if stop.is_cancelled() {
                Err(stopped())
            } else {
                tree.create_file(file.path.as_str(), file.mode.node_bits())
            }
        })?;
        tree.complete(release, home)?;
        Ok(verified)
    }

    /// Unpacks an archive as [`StagingDirectory::unpack`] does, but compares no digests.
    pub(crate) fn unpack_without_digests(
        &self,
        archive: impl Read,
        release: &Release,
        home: &Path,
        flag: EmergencyFlag,
    ) -> Result<UnverifiedRelease, VerifyError> {
        let failed = |source| VerifyError::Write { item: "release directory".to_owned(), source };
        let tree = TreeWriter::create(&self.release()).map_err(failed)?;
        let unverified = read_archive_without_digests(archive, release, flag, |file| {
            tree.create_file(file.path.as_str(), file.mode.node_bits())
        })?;
        tree.complete(release, home)?;
        Ok(unverified)
    }

    /// Moves the verified release to its place in `releases/`, durably. What stood there before, which the caller
    /// found to be something else, is moved out of the way and removed later: somebody may still be reading it.
    pub(crate) fn install(
        self,
        cache: &Cache,
        _lock: &CacheLock,
        release: &impl Activatable,
    ) -> Result<(), StagingError> {
        let (staged, home) = (self.release(), cache.release(release.release().tag()));
        let failed = StagingError::at(&home);
        let moved = if fs::symlink_metadata(&home).is_ok() {
            replace(&staged, &home, &retired_path(cache))
        } else {
            fs::rename(&staged, &home)
        };
        let durable = moved.and_then(|()| {
            CrashPoint::ReleaseInstalled.reach();
            sync_directory(&cache.releases())
        });
        durable.map_err(failed)?;
        CrashPoint::ReleaseDurable.reach();
        Ok(())
    }
}

impl Drop for StagingDirectory {
    fn drop(&mut self) {
        CrashPoint::StagingClearing.reach();
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a staging directory could not be removed");
        }
    }
}

/// Puts `staged` in the place of `home`, so that at every instant one of them stands there, and `home` aside.
fn replace(staged: &Path, home: &Path, retired: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, renameat_with};
    match renameat_with(CWD, staged, CWD, home, RenameFlags::EXCHANGE) {
        Ok(()) => {
            CrashPoint::ReleaseExchanged.reach();
            fs::rename(staged, retired)?;
        }
        // A file system without the exchange: for a moment nothing stands there. Only a release that is not what
        // its tag says is ever replaced, so nothing good goes missing.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::rename(home, retired)?;
            fs::rename(staged, home)?;
        }
        Err(error) => return Err(error.into()),
    }
    CrashPoint::ReleaseReplaced.reach();
    touch(retired)
}

/// A reader that fails once somebody wants to stop.
struct Stoppable<'a, R> {
    inner: R,
    stop: &'a CancellationToken,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() { Err(stopped()) } else { self.inner.read(buffer) }
    }
}

fn write_failed(item: &str) -> impl FnOnce(io::Error) -> VerifyError {
    let item = item.to_owned();
    move |source| VerifyError::Write { item, source }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "stopped")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, SystemTime};

    use shared::limits::ReleaseLimits;

    use super::*;
    use crate::release_directory::{CHECKSUM_FILE, ReleaseDirectory, checksum_line};
    use crate::test_releases::{archive_of, contracts_files, contracts_release, release_of, store_release};

    const FILES_V1: [(&str, &str); 2] = [("a.json", "{}"), ("deep/er/b.wasm", "x")];

    struct World {
        _root: tempfile::TempDir,
        cache: Cache,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let cache = Cache::new(root.path().join("contracts"));
            cache.ensure().unwrap();
            Self { _root: root, cache }
        }

        fn staging(&self) -> StagingDirectory {
            StagingDirectory::create(&self.cache, &self.lock()).unwrap()
        }

        fn lock(&self) -> CacheLock {
            self.cache.try_lock().unwrap().unwrap()
        }

        fn stage(&self, files: &[(&str, &str)], tag: &str) -> (StagingDirectory, VerifiedRelease) {
            let (staging, release) = (self.staging(), release_of(files, tag));
            let home = self.cache.release(release.tag());
            let archive = archive_of(files, tag);
            let verified = staging.unpack(&archive[..], &release, &home, &CancellationToken::new()).unwrap();
            (staging, verified)
        }

        fn verify(&self, tag: &str) -> VerifiedRelease {
            let path = self.cache.release(&tag.parse().unwrap());
            ReleaseDirectory::open(&path, &ReleaseLimits::default()).unwrap().verify().unwrap()
        }

        fn staged_entries(&self) -> usize {
            fs::read_dir(self.cache.staging()).unwrap().count()
        }
    }

    #[test]
    fn a_staged_release_is_whole_read_only_and_in_its_place_only_when_installed() {
        let world = World::new();
        let (staging, verified) = world.stage(&FILES_V1, "v1");
        assert!(!world.cache.release(&"v1".parse().unwrap()).exists());
        staging.install(&world.cache, &world.lock(), &verified).unwrap();

        assert_eq!(world.verify("v1"), verified);
        let mode = |path: &str| fs::metadata(world.cache.releases().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("v1"), mode("v1/files/deep/er"), mode("v1/files/a.json")), (0o755, 0o755, 0o444));
        assert_eq!(world.staged_entries(), 0);
    }

    #[test]
    fn an_archive_with_other_content_leaves_nothing_behind() {
        let world = World::new();
        let staging = world.staging();
        let archive = archive_of(&[("a.json", "[]"), ("deep/er/b.wasm", "x")], "v1");
        let release = release_of(&FILES_V1, "v1");
        let home = world.cache.release(release.tag());
        let error = staging.unpack(&archive[..], &release, &home, &CancellationToken::new()).unwrap_err();
        assert!(matches!(error, VerifyError::Refused(_)), "{error}");
        drop(staging);
        assert_eq!(world.staged_entries(), 0);
    }

    #[test]
    fn a_stop_ends_unpacking_without_a_verdict_about_the_release() {
        let world = World::new();
        let staging = world.staging();
        let stop = CancellationToken::new();
        stop.cancel();
        let archive = archive_of(&FILES_V1, "v1");
        let home = world.cache.release(&"v1".parse().unwrap());
        assert!(staging.unpack(&archive[..], &release_of(&FILES_V1, "v1"), &home, &stop).is_err());
    }

    #[test]
    fn a_wrong_release_under_the_tag_is_replaced_and_kept_for_its_readers() {
        let world = World::new();
        let home = world.cache.release(&"v1".parse().unwrap());
        fs::create_dir(&home).unwrap();
        store_release(&home, &[("other", "content")], "v1");

        let (staging, verified) = world.stage(&FILES_V1, "v1");
        staging.install(&world.cache, &world.lock(), &verified).unwrap();
        assert_eq!(world.verify("v1"), verified);
        assert_eq!(world.staged_entries(), 1, "the replaced one waits");

        assert_eq!(
            remove_leftovers(&world.cache, &world.lock(), SystemTime::now() - Duration::from_mins(10)).unwrap(),
            0
        );
        assert_eq!(remove_leftovers(&world.cache, &world.lock(), SystemTime::now()).unwrap(), 1);
    }

    #[test]
    fn leftovers_are_removed_but_never_what_somebody_works_in_or_reads() {
        let world = World::new();
        let live = world.staging();
        let abandoned = world.cache.staging().join("0193");
        fs::create_dir_all(abandoned.join("release/files")).unwrap();
        fs::write(world.cache.staging().join("stray"), "").unwrap();
        let read = world.cache.staging().join("retired-1");
        fs::create_dir(&read).unwrap();
        let reader = File::open(&read).unwrap();
        reader.lock_shared().unwrap();

        assert_eq!(remove_leftovers(&world.cache, &world.lock(), SystemTime::now()).unwrap(), 2);
        assert!(live.path.is_dir() && read.is_dir() && !abandoned.exists());
        drop(reader);
        assert_eq!(remove_leftovers(&world.cache, &world.lock(), SystemTime::now()).unwrap(), 1);
    }

    #[test]
    fn a_contracts_release_gets_a_checksum_file_with_an_absolute_path() {
        let world = World::new();
        let files = contracts_files("{\"version\":\"1.0.0\"}");
        let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_str())).collect();
        let (staging, verified) = world.stage(&files, "v1");
        staging.install(&world.cache, &world.lock(), &verified).unwrap();
        let home = world.cache.release(&"v1".parse().unwrap());
        let line = checksum_line(&contracts_release("v1", files[0].1), &home).unwrap();
        assert_eq!(fs::read(home.join(CHECKSUM_FILE)).unwrap(), line);
    }
}
