//! Removing releases that nobody needs any more.
//!
//! What stays: the current release, the last good one before it, so many more as configured, the one that is to run or
//! waits to be promoted, everything that was in use during the last ten minutes, and everything that a reader holds.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use shared::identifiers::Tag;
use thiserror::Error;

use crate::cache::{Cache, CacheError, CacheLock, Current};
use crate::staging::{StagingError, remove_leftovers, retire};

/// How long a release is left alone after it was last in use: a reader that resolved `current` just before a switch
/// reads on undisturbed.
pub(crate) const QUIET_TIME: Duration = Duration::from_mins(10);

/// A collection that did not finish. What it removed until then is gone; the rest is tried again next time.
#[derive(Debug, Error)]
pub(crate) enum RetentionError {
    /// The cache cannot be used.
    #[error("the cache cannot be used")]
    Cache(#[from] CacheError),
    /// A release cannot be looked at or moved.
    #[error("old release `{}` cannot be removed", path.display())]
    Release {
        /// The release's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was taken out cannot be removed.
    #[error("what was taken out of the cache cannot be removed")]
    Leftovers(#[from] StagingError),
}

/// Removes old releases. `previous` are the releases loaded before the current one, newest first; `keep` of them
/// stay, at least one, and all of `awaited`: what is to run, or may be one day. Returns how many releases and leftovers were removed.
pub(crate) fn collect(
    cache: &Cache,
    lock: &CacheLock,
    previous: &[Tag],
    keep: usize,
    awaited: &[Tag],
    now: SystemTime,
) -> Result<usize, RetentionError> {
    let quiet_since = now.checked_sub(QUIET_TIME).unwrap_or(SystemTime::UNIX_EPOCH);
    let kept: BTreeSet<&Tag> = previous.iter().take(keep.max(1)).chain(awaited).collect();
    let current = match cache.current()? {
        Current::Release(tag) => Some(tag),
        Current::Absent | Current::Foreign => None,
    };
    for (tag, path) in stored_releases(cache)? {
        if current.as_ref() == Some(&tag) || kept.contains(&tag) {
            continue;
        }
        let failed = |source| RetentionError::Release { path: path.clone(), source };
        let handle = File::open(&path).map_err(failed)?;
        let last_used = handle.metadata().and_then(|metadata| metadata.modified()).map_err(failed)?;
        // A reader holds a shared lock on the directory of the release it reads.
        if last_used <= quiet_since && handle.try_lock().is_ok() {
            retire(cache, lock, &path).map_err(failed)?;
        }
    }
    Ok(remove_leftovers(cache, lock, quiet_since)?)
}

/// The releases that stand in the cache, by their directories' names; nothing about them has been checked.
pub(crate) fn stored_releases(cache: &Cache) -> Result<Vec<(Tag, PathBuf)>, CacheError> {
    let directory = cache.releases();
    let failed = |source| CacheError::Directory { path: directory.clone(), source };
    let mut releases = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let tag = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(tag) = tag
            && entry.file_type().map_err(failed)?.is_dir()
        {
            releases.push((tag, entry.path()));
        }
    }
    releases.sort();
    Ok(releases)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    struct World {
        _root: tempfile::TempDir,
        cache: Cache,
    }

    impl World {
        fn with_releases(tags: &[&str], current: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            let cache = Cache::new(root.path().join("contracts"));
            cache.ensure().unwrap();
            for name in tags {
                fs::create_dir(cache.release(&tag(name))).unwrap();
            }
            symlink(format!("releases/{current}"), cache.current_link()).unwrap();
            Self { _root: root, cache }
        }

        fn collect(&self, previous: &[&str], keep: usize, now: SystemTime) -> Vec<String> {
            let previous: Vec<Tag> = previous.iter().map(|name| tag(name)).collect();
            let lock = self.cache.try_lock().unwrap().unwrap();
            collect(&self.cache, &lock, &previous, keep, &[tag("awaited")], now).unwrap();
            stored_releases(&self.cache).unwrap().into_iter().map(|(tag, _)| tag.to_string()).collect()
        }
    }

    fn later() -> SystemTime {
        SystemTime::now() + QUIET_TIME + Duration::from_secs(1)
    }

    #[test]
    fn current_previous_and_as_many_as_configured_stay() {
        let tags = ["v1", "v2", "v3", "v4", "v5"];
        let world = World::with_releases(&tags, "v5");
        assert_eq!(world.collect(&["v4", "v3", "v2", "v1"], 2, later()), ["v3", "v4", "v5"]);
        assert_eq!(world.collect(&["v4", "v3"], 0, later()), ["v4", "v5"], "the last good one always");
    }

    #[test]
    fn what_waits_to_be_promoted_stays() {
        let world = World::with_releases(&["v1", "v2", "awaited", "superseded"], "v2");
        assert_eq!(world.collect(&["v1"], 1, later()), ["awaited", "v1", "v2"]);
    }

    #[test]
    fn what_was_in_use_a_moment_ago_stays() {
        let world = World::with_releases(&["v1", "v2", "v3"], "v3");
        assert_eq!(world.collect(&["v2"], 1, SystemTime::now()), ["v1", "v2", "v3"]);
    }

    #[test]
    fn what_a_reader_holds_stays() {
        let world = World::with_releases(&["v1", "v2", "v3"], "v3");
        let reader = File::open(world.cache.release(&tag("v1"))).unwrap();
        reader.lock_shared().unwrap();
        assert_eq!(world.collect(&["v2"], 1, later()), ["v1", "v2", "v3"]);
        drop(reader);
        assert_eq!(world.collect(&["v2"], 1, later()), ["v2", "v3"]);
    }
}
