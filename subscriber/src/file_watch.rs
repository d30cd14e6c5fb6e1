//! A hint that somebody changed files of the running release, from the system where it can tell.
//!
//! Never trusted alone: it can be missed (a queue that ran over, a mount, another machine) and says nothing about what
//! changed. It makes the next comparison come earlier, no more. On systems without inotify there is none, and the schedule
//! has to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// Directories that are watched at most; the system's own limit is shared by everybody.
const MOST_DIRECTORIES: usize = 512;
/// A change that goes on is looked at when it has been quiet for so long, or at the latest after [`LONGEST`].
const QUIET: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(2);

/// Watches the directories of one release.
#[derive(Debug, Default)]
pub(crate) struct FileWatch {
    system: Option<system::Watch>,
    /// A change that was seen: since when, and when it was seen last.
    hint: Option<(Instant, Instant)>,
}

impl FileWatch {
    /// Watches a release directory from now on, in place of any before. Where the system cannot, there are no hints.
    pub(crate) async fn watch(&mut self, home: PathBuf) {
        self.hint = None;
        let found = spawn_blocking(move || directories(&home)).await.unwrap_or_default();
        self.system = system::Watch::new(&found)
            .inspect_err(|error| tracing::debug!(%error, "the system gives no hints about changed files"))
            .ok();
    }

    /// Watches nothing.
    pub(crate) fn stop(&mut self) {
        *self = Self::default();
    }

    /// Waits until something changed and is quiet again. For ever, where the system gives no hints. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        let Some(watch) = &mut self.system else { return std::future::pending().await };
        loop {
            match self.hint {
                None => {
                    watch.changed().await;
                    let now = Instant::now();
                    self.hint = Some((now, now));
                }
                Some((first, last)) => {
                    let until = (last + QUIET).min(first + LONGEST);
                    tokio::select! {
                        () = sleep_until(until) => {
                            self.hint = None;
                            return;
                        }
                        () = watch.changed() => self.hint = Some((first, Instant::now())),
                    }
                }
            }
        }
    }
}

/// The release directory and every directory below it, without following links.
fn directories(home: &Path) -> Vec<PathBuf> {
    let mut found = vec![home.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if found.len() < MOST_DIRECTORIES && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;

    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    use rustix::io::Errno;
    use tokio::io::unix::AsyncFd;

    /// One inotify instance; closing it ends its watches.
    #[derive(Debug)]
    pub(super) struct Watch(AsyncFd<OwnedFd>);

    impl Watch {
        pub(super) fn new(directories: &[PathBuf]) -> io::Result<Self> {
            let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            // Not what reading causes: comparing must not be its own hint.
            let changes = WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            for directory in directories {
                match add_watch(&instance, directory, changes) {
                    // It went away meanwhile: its parent tells.
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            #[expect(
                deprecated,
                reason = "sound for an owned descriptor; the replacement is unsafe, which is forbidden"
            )]
            let instance = AsyncFd::new(instance)?;
            Ok(Self(instance))
        }

        /// Waits for any change and takes every one that is there. Cancel safe.
        pub(super) async fn changed(&self) {
            loop {
                let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut reader = Reader::new(self.0.get_ref(), &mut buffer);
                let mut seen = false;
                let ended = loop {
                    match reader.next() {
                        Ok(_) => seen = true,
                        Err(error) => break error,
                    }
                };
                if ended == Errno::AGAIN {
                    ready.clear_ready();
                }
                if seen {
                    return;
                }
                if ended != Errno::AGAIN && ended != Errno::INTR {
                    // Cannot happen with a descriptor of ours; without hints the schedule still stands.
                    return std::future::pending().await;
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::path::PathBuf;

    /// There are no hints on this system.
    #[derive(Debug)]
    pub(super) enum Watch {}

    impl Watch {
        pub(super) fn new(_directories: &[PathBuf]) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        #[expect(clippy::unused_async, reason = "the other system's form")]
        pub(super) async fn changed(&self) {
            match *self {}
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NOT_YET: Duration = Duration::from_millis(600);

    #[tokio::test]
    async fn a_change_anywhere_below_is_a_hint_and_reading_is_none() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("files/deep");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("a"), "1").unwrap();
        let mut watch = FileWatch::default();
        watch.watch(root.path().to_owned()).await;
        assert_eq!(fs::read(deep.join("a")).unwrap(), b"1");
        assert!(timeout(NOT_YET, watch.changed()).await.is_err(), "reading changes nothing");
        fs::write(deep.join("a"), "2").unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        fs::remove_file(deep.join("a")).unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        watch.stop();
        fs::write(deep.join("b"), "").unwrap();
        assert!(timeout(NOT_YET, watch.changed()).await.is_err());
    }
}
