//! Reading the current release from another process: opened once, whole, undisturbed by switches.
//!
//! A path through `current` or through the flat view is resolved anew by each call, so two reads may see two releases.
//! [`CurrentRelease`] resolves it once and then reads through handles; the release it holds is not removed while it
//! lives.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use shared::digest::Sha256Digest;
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use shared::release::{Release, ReleaseFile};
use shared::release_path::ReleasePath;
use thiserror::Error;

use crate::cache::CURRENT;
use crate::release_directory::{ReleaseDirectory, ReleaseDirectoryError};

/// How often resolving is tried again when the release found was taken away in that very moment.
const ATTEMPTS: usize = 16;

/// A current release that cannot be read.
#[derive(Debug, Error)]
pub enum ReadReleaseError {
    /// The cache has no current release, or it cannot be opened.
    #[error("cache `{}` has no current release that can be opened", cache.display())]
    NoCurrent {
        /// The cache.
        cache: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is current is no readable release.
    #[error("the current release cannot be read")]
    Release(#[source] ReleaseDirectoryError),
    /// Releases were replaced and removed faster than one could be opened.
    #[error("cache `{}` changes faster than it can be read", cache.display())]
    Unstable {
        /// The cache.
        cache: PathBuf,
    },
    /// The release has no such file.
    #[error("release `{tag}` has no file `{path}`")]
    NoFile {
        /// The release.
        tag: Tag,
        /// The path.
        path: String,
    },
    /// A file of the release cannot be read.
    #[error("file `{path}` of release `{tag}` cannot be read")]
    File {
        /// The release.
        tag: Tag,
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file on disk is not the one that was released.
    #[error("file `{path}` of release `{tag}` was changed: expected {expected}, actual {actual}")]
    Changed {
        /// The release.
        tag: Tag,
        /// The path.
        path: String,
        /// The digest of the released file.
        expected: Sha256Digest,
        /// The digest of what is on disk.
        actual: Sha256Digest,
    },
}

/// The release that was current when this was opened. Everything read from it belongs to that one release.
#[derive(Debug)]
pub struct CurrentRelease {
    directory: ReleaseDirectory,
}

impl CurrentRelease {
    /// Opens the current release of the cache at this path.
    pub fn open(cache: &Path) -> Result<Self, ReadReleaseError> {
        for _ in 0..ATTEMPTS {
            let failed = |source| ReadReleaseError::NoCurrent { cache: cache.to_owned(), source };
            // What is read is opened below this one handle; the link itself is looked at to tell a switch from a loss.
            let link = cache.join(CURRENT);
            let led_to = fs::read_link(&link).map_err(failed)?;
            let moved = || fs::read_link(&link).is_ok_and(|now| now != led_to);
            let handle = match File::open(&link) {
                Ok(handle) => handle,
                // Taken away after the link was followed and before its end was opened.
                Err(error) if error.kind() == io::ErrorKind::NotFound && moved() => continue,
                Err(error) => return Err(failed(error)),
            };
            match handle.try_lock_shared() {
                Ok(()) => {}
                // It is being removed at this moment, so it is not current any more.
                Err(TryLockError::WouldBlock) => continue,
                // A file system without locks: removal still waits ten minutes after a release was last current.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Retired after it was opened and before it was locked: it may be on its way out, and no lock keeps it.
            if !leads_to(&link, &handle).map_err(failed)? {
                continue;
            }
            match ReleaseDirectory::of_handle(handle, &link, &ReleaseLimits::default()) {
                Ok(directory) => return Ok(Self { directory }),
                // Removed between resolving and locking.
                Err(ReleaseDirectoryError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    if !moved() {
                        return Err(failed(source));
                    }
                }
                Err(error) => return Err(ReadReleaseError::Release(error)),
            }
        }
        Err(ReadReleaseError::Unstable { cache: cache.to_owned() })
    }

    /// The release's description: tag, digests, files.
    pub fn release(&self) -> &Release {
        self.directory.release()
    }

    /// Opens one file. Its content has not been compared with the release; [`CurrentRelease::read`] does that.
    pub fn open_file(&self, path: &str) -> Result<File, ReadReleaseError> {
        let path = &self.listed(path)?.path;
        self.directory.open_file(path).map_err(|source| self.failed(path, source))
    }

    /// Reads one file whole and compares it with its digest.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, ReadReleaseError> {
        let file = self.listed(path)?;
        let mut content = Vec::new();
        let opened = self.directory.open_file(&file.path).map_err(|source| self.failed(&file.path, source))?;
        opened
            .take(file.size.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(|source| self.failed(&file.path, source))?;
        let actual = Sha256Digest::of(&content);
        if actual == file.sha256 {
            return Ok(content);
        }
        Err(ReadReleaseError::Changed { tag: self.tag(), path: file.path.to_string(), expected: file.sha256, actual })
    }

    fn listed(&self, path: &str) -> Result<&ReleaseFile, ReadReleaseError> {
        let files = self.release().files();
        let found = files.binary_search_by(|file| file.path.as_str().cmp(path)).ok().map(|index| &files[index]);
        found.ok_or_else(|| ReadReleaseError::NoFile { tag: self.tag(), path: path.chars().take(200).collect() })
    }

    fn failed(&self, path: &ReleasePath, source: io::Error) -> ReadReleaseError {
        ReadReleaseError::File { tag: self.tag(), path: path.to_string(), source }
    }

    fn tag(&self) -> Tag {
        self.release().tag().clone()
    }
}

/// Whether the link still leads to the very directory that was opened.
fn leads_to(link: &Path, opened: &File) -> io::Result<bool> {
    let held = opened.metadata()?;
    match fs::metadata(link) {
        Ok(now) => Ok((now.dev(), now.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::activation::activate;
    use crate::cache::Cache;
    use crate::test_releases::store_release;

    fn store(cache: &Cache, tag: &str, content: &str) -> shared::verification::VerifiedRelease {
        let home = cache.release(&tag.parse().unwrap());
        fs::create_dir(&home).unwrap();
        store_release(&home, &[("a", content), ("b/c", content), ("d", content)], tag);
        ReleaseDirectory::open(&home, &ReleaseLimits::default()).unwrap().verify().unwrap()
    }

    #[test]
    fn readers_see_one_release_whole_during_a_thousand_switches() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        let releases = [store(&cache, "v1", "one"), store(&cache, "v2", "two")];
        let lock = cache.try_lock().unwrap().unwrap();
        activate(&cache, &lock, &releases[0]).unwrap();

        let done = AtomicBool::new(false);
        let read = thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut rounds = 0_u32;
                        while !done.load(Ordering::Relaxed) {
                            let current = CurrentRelease::open(cache.root()).unwrap();
                            let expected = if current.release().tag().as_str() == "v1" { "one" } else { "two" };
                            for path in ["a", "b/c", "d"] {
                                assert_eq!(current.read(path).unwrap(), expected.as_bytes());
                            }
                            rounds += 1;
                        }
                        rounds
                    })
                })
                .collect();
            for round in 0..1000 {
                activate(&cache, &lock, &releases[(round + 1) % 2]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>()
        });
        assert!(read > 0);
    }

    #[test]
    fn a_held_release_outlives_its_replacement() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        let lock = cache.try_lock().unwrap().unwrap();
        activate(&cache, &lock, &store(&cache, "v1", "one")).unwrap();
        let held = CurrentRelease::open(cache.root()).unwrap();
        activate(&cache, &lock, &store(&cache, "v2", "two")).unwrap();
        assert_eq!(held.read("a").unwrap(), b"one");
        assert!(matches!(held.read("../../v2/files/a"), Err(ReadReleaseError::NoFile { .. })));
    }

    #[test]
    fn a_release_opened_before_a_switch_is_known_as_not_current_any_more() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        let lock = cache.try_lock().unwrap().unwrap();
        activate(&cache, &lock, &store(&cache, "v1", "one")).unwrap();
        let link = cache.root().join(CURRENT);
        let opened = File::open(&link).unwrap();
        assert!(leads_to(&link, &opened).unwrap());
        activate(&cache, &lock, &store(&cache, "v2", "two")).unwrap();
        assert!(!leads_to(&link, &opened).unwrap());
        fs::remove_file(&link).unwrap();
        assert!(!leads_to(&link, &opened).unwrap());
    }

    #[test]
    fn a_changed_file_is_not_handed_out_as_the_released_one() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        assert!(matches!(CurrentRelease::open(cache.root()), Err(ReadReleaseError::NoCurrent { .. })));
        activate(&cache, &cache.try_lock().unwrap().unwrap(), &store(&cache, "v1", "one")).unwrap();
        let file = cache.root().join("current/files/a");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "two").unwrap();
        let current = CurrentRelease::open(cache.root()).unwrap();
        assert!(matches!(current.read("a"), Err(ReadReleaseError::Changed { .. })));
        assert_eq!(current.read("d").unwrap(), b"one");
    }
}
