//! Noticing that somebody else changed the cache: a release fetched by hand, a cache deleted or restored.
//!
//! Two looks at names every few seconds. A signal from whoever changed it would be faster, but a process id means nothing
//! in another container, and a copy restored with `cp` signals nobody.

use std::fs;
use std::time::{Duration, SystemTime};

use shared::identifiers::Tag;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::cache::{Cache, Current};
use crate::local_pin::{LocalPin, PinStamp};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// A change that goes on, such as `rm -rf` of the whole cache, is not interfered with: it has ended when nothing has
/// changed for so long.
const QUIET: Duration = Duration::from_millis(500);

/// What shows from outside: where `current` leads, and which pin there is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    current: Option<Current>,
    pin: PinStamp,
}

/// When the cache's own directories last changed; `None` for one that is not there.
type Activity = [Option<SystemTime>; 2];

/// Compares the cache with what its agent left there.
#[derive(Debug)]
pub(super) struct CacheWatch {
    cache: Cache,
    expected: Option<Shown>,
}

impl CacheWatch {
    pub(super) fn new(cache: Cache) -> Self {
        Self { cache, expected: None }
    }

    /// From now on anything else is a change. Without a current release of its own the agent expects what is there.
    pub(super) async fn expect(&mut self, current: Option<&Tag>, pin: PinStamp) {
        self.expected = match current {
            Some(tag) => Some(Shown { current: Some(Current::Release(tag.clone())), pin }),
            None => look(&self.cache).await.map(|shown| Shown { pin, ..shown }),
        };
    }

    /// Waits until the cache shows something else. Cancel safe.
    pub(super) async fn changed(&self) {
        loop {
            sleep(PERIOD).await;
            if self.has_changed().await {
                self.quiet().await;
                return;
            }
        }
    }

    async fn quiet(&self) {
        let mut before = (look(&self.cache).await, activity(&self.cache).await);
        loop {
            sleep(QUIET).await;
            let now = (look(&self.cache).await, activity(&self.cache).await);
            if now == before {
                return;
            }
            before = now;
        }
    }

    async fn has_changed(&self) -> bool {
        match (&self.expected, look(&self.cache).await) {
            (Some(expected), Some(shown)) => expected != &shown,
            (Some(_) | None, _) => false,
        }
    }
}

async fn look(cache: &Cache) -> Option<Shown> {
    let cache = cache.clone();
    let look = move || Shown { current: cache.current().ok(), pin: LocalPin::stamp(&cache) };
    spawn_blocking(look).await.ok()
}

async fn activity(cache: &Cache) -> Option<Activity> {
    let directories = [cache.root().to_owned(), cache.releases()];
    let look = move || directories.map(|path| fs::metadata(path).and_then(|found| found.modified()).ok());
    spawn_blocking(look).await.ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn a_change_by_somebody_else_is_noticed_and_what_was_expected_is_none() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        let mut watch = CacheWatch::new(cache.clone());
        watch.expect(None, PinStamp::default()).await;
        assert!(!watch.has_changed().await);
        symlink("releases/v1", cache.current_link()).unwrap();
        assert!(watch.has_changed().await);
        watch.expect(Some(&"v1".parse().unwrap()), PinStamp::default()).await;
        assert!(!watch.has_changed().await);
        fs::write(LocalPin::path(&cache), "{}").unwrap();
        assert!(watch.has_changed().await);
        fs::remove_dir_all(cache.root()).unwrap();
        assert!(watch.has_changed().await);
    }
}
