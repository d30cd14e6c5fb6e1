//! The cache directory: where everything in it lies, which release is current, and its lock.
//!
//! Described in `docs/ARCHITECTURE.md`, "On a node".
//!
//! ```text
//! <cache>/current -> releases/<tag>        the switch
//! <cache>/releases/<tag>/{release.json,files/…}
//! <cache>/staging/<unique>/                private
//! <cache>.lock                             beside the cache: it may be deleted at any time, its lock may not
//! ```
//! Nothing here decides anything, and nothing here changes which release is current.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::daemon::crash_point::CrashPoint;
use shared::identifiers::Tag;
use thiserror::Error;

use crate::durable_file::{beside, parent_of};

/// Name of the link that says which release is current.
pub const CURRENT: &str = "current";
/// Name of the directory that holds the releases.
pub const RELEASES: &str = "releases";
const STAGING: &str = "staging";
/// How long to wait before a lock that another process holds is tried again. There is no way to be woken.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// A cache that cannot be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The cache is something else than a directory, for example a link to one.
    #[error("cache `{}` is no directory of its own; links are refused", path.display())]
    NotADirectory {
        /// The cache.
        path: PathBuf,
    },
    /// A directory of the cache cannot be made or read.
    #[error("cache directory `{}` cannot be used", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock beside the cache cannot be taken, for a reason other than that somebody holds it.
    #[error("cache lock `{}` cannot be used", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What `current` points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// There is no such link.
    Absent,
    /// A release of this cache; whether it is there and intact has not been looked at.
    Release(Tag),
    /// Anything else: not made by us.
    Foreign,
}

/// A cache directory by its path. Making one touches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache at a path, which should be absolute: `bundle.sha256` repeats it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the releases lie.
    pub fn releases(&self) -> PathBuf {
        self.root.join(RELEASES)
    }

    /// Where one release lies. Tags hold no separators, so this never leaves [`Cache::releases`].
    pub fn release(&self, tag: &Tag) -> PathBuf {
        self.root.join(RELEASES).join(tag.as_str())
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    pub(crate) fn current_link(&self) -> PathBuf {
        self.root.join(CURRENT)
    }

    /// The lock's path, beside the cache.
    pub fn lock_path(&self) -> PathBuf {
        beside(&self.root, ".lock")
    }

    /// Makes the directories that are missing, also after somebody deleted the whole cache.
    pub fn ensure(&self) -> Result<(), CacheError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CacheError::Directory { path, source }
        };
        let parent = parent_of(&self.root);
        fs::create_dir_all(parent).map_err(failed(parent))?;
        create_directory(&self.root, 0o755).map_err(failed(&self.root))?;
        let kind = fs::symlink_metadata(&self.root).map_err(failed(&self.root))?;
        if !kind.is_dir() {
            return Err(CacheError::NotADirectory { path: self.root.clone() });
        }
        for (path, mode) in [(self.releases(), 0o755), (self.staging(), 0o700)] {
            create_directory(&path, mode).map_err(failed(&path))?;
            CrashPoint::CacheDirectoryMade.reach();
        }
        Ok(())
    }

    /// What `current` points at now.
    pub fn current(&self) -> Result<Current, CacheError> {
        let link = self.current_link();
        match fs::read_link(&link) {
            Ok(target) => Ok(tag_of(&target).map_or(Current::Foreign, Current::Release)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Current::Absent),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Current::Foreign),
            Err(source) => Err(CacheError::Directory { path: link, source }),
        }
    }

    /// Takes the cache's lock if nobody holds it.
    pub fn try_lock(&self) -> Result<Option<CacheLock>, CacheError> {
        let path = self.lock_path();
        let failed = |source| CacheError::Lock { path: path.clone(), source };
        let parent = parent_of(&path);
        fs::create_dir_all(parent).map_err(failed)?;
        loop {
            let file =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o644).open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Somebody may have deleted the file in between: a lock on a deleted file excludes nobody.
            let held = file.metadata().map_err(failed)?;
            match fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(CacheLock { _file: file }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(failed(source)),
            }
        }
    }

    /// Waits for the cache's lock. Cancel safe: dropped, it holds nothing.
    pub async fn lock(&self) -> Result<CacheLock, CacheError> {
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// The right to change which release is current and what stands in `releases/`. Given back when dropped, and by
/// the kernel when the process ends.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn tag_of(target: &Path) -> Option<Tag> {
    let name = target.to_str()?.strip_prefix(RELEASES)?.strip_prefix('/')?;
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("a/contracts"));
        (directory, cache)
    }

    #[test]
    fn a_deleted_cache_is_made_again() {
        let (_directory, cache) = cache();
        cache.ensure().unwrap();
        fs::remove_dir_all(cache.root()).unwrap();
        cache.ensure().unwrap();
        assert!(cache.releases().is_dir() && cache.staging().is_dir());
        assert_eq!(cache.current().unwrap(), Current::Absent);
    }

    #[test]
    fn a_link_as_cache_is_refused() {
        let (directory, cache) = cache();
        fs::create_dir_all(directory.path().join("a/elsewhere")).unwrap();
        symlink("elsewhere", cache.root()).unwrap();
        assert!(matches!(cache.ensure(), Err(CacheError::NotADirectory { .. })));
    }

    #[test]
    fn only_a_link_to_a_release_names_one() {
        let (_directory, cache) = cache();
        cache.ensure().unwrap();
        for (target, expected) in [
            ("releases/v1.2", Current::Release("v1.2".parse().unwrap())),
            ("releases/../..", Current::Foreign),
            ("/releases/v1", Current::Foreign),
            ("releases/a/b", Current::Foreign),
        ] {
            let _ = fs::remove_file(cache.current_link());
            symlink(target, cache.current_link()).unwrap();
            assert_eq!(cache.current().unwrap(), expected, "{target}");
        }
        fs::remove_file(cache.current_link()).unwrap();
        fs::write(cache.current_link(), "x").unwrap();
        assert_eq!(cache.current().unwrap(), Current::Foreign);
    }

    #[test]
    fn the_lock_has_one_holder_and_outlives_the_cache() {
        let (_directory, cache) = cache();
        cache.ensure().unwrap();
        let held = cache.try_lock().unwrap().unwrap();
        fs::remove_dir_all(cache.root()).unwrap();
        cache.ensure().unwrap();
        assert!(cache.try_lock().unwrap().is_none());
        drop(held);
        assert!(cache.try_lock().unwrap().is_some());
    }

    #[tokio::test]
    async fn waiting_for_the_lock_ends_when_it_is_given_back() {
        let (_directory, cache) = cache();
        let held = cache.lock().await.unwrap();
        let waiting = tokio::spawn({
            let cache = cache.clone();
            async move { cache.lock().await.map(drop) }
        });
        drop(held);
        waiting.await.unwrap().unwrap();
    }
}
