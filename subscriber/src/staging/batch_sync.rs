//! Making many files and directories durable at once.
//!
//! One sync of the whole file system costs one commit of its journal, where a sync of each file costs one for every few
//! files. It also waits for what everybody else has written and not synced, so it is only asked for where that is little,
//! and only of file systems that are known to do it, and to tell of writes that failed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use shared::daemon::crash_point::CrashPoint;

/// Syncs that run side by side. They wait for the disk, not for a processor.
const SYNC_THREADS: usize = 16;
/// Unwritten bytes of the whole machine up to which everybody's are written with ours.
#[cfg(target_os = "linux")]
const LITTLE: u64 = 256 << 20;

/// The file system that a tree is written to.
#[derive(Debug)]
pub(super) struct FileSystem {
    /// Its root, or any directory of it, where it can be synced as a whole.
    handle: Option<File>,
}

impl FileSystem {
    /// The one that a directory is on. What cannot be found out about it counts against it.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let handle = File::open(directory)?;
        let handle = whole::is_synced_whole(&handle).then_some(handle);
        Ok(Self { handle })
    }
}

/// Makes entries of a file system durable: everything that was written to them before, and their names where their
/// directories are among them. Returns only after the disk has confirmed it.
pub(super) fn sync_all(file_system: &FileSystem, entries: &[PathBuf]) -> io::Result<()> {
    if let Some(handle) = &file_system.handle
        && whole::little_is_unwritten()
    {
        whole::sync(handle)?;
        CrashPoint::TreeEntrySynced.reach();
        return Ok(());
    }
    sync_each(entries)
}

/// Syncs that run side by side share commits of the journal: 200 files took 17 ms this way and 340 ms one by one.
fn sync_each(entries: &[PathBuf]) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        while let Some(path) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
            File::open(path)?.sync_all()?;
            CrashPoint::TreeEntrySynced.reach();
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..SYNC_THREADS.min(entries.len())).map(|_| scope.spawn(work)).collect();
        let mut ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
        ended.try_for_each(|end| end.unwrap_or_else(|_| Err(io::Error::other("a syncing thread panicked"))))
    })
}

#[cfg(target_os = "linux")]
mod whole {
    use std::fs::File;
    use std::io;

    use super::LITTLE;

    /// File systems on disks of this machine whose sync is complete when it returns: ext4, XFS, Btrfs and F2FS, by the
    /// numbers of Linux's `magic.h`. Network, stacked and user-space file systems are not.
    const SYNCED_WHOLE: [i128; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];
    /// The first kernel whose sync of a file system tells of writes that failed.
    const TELLS_FROM: (u32, u32) = (5, 8);

    /// Whether a whole sync makes everything on the file system durable or says that it did not.
    pub(super) fn is_synced_whole(directory: &File) -> bool {
        let kernel = rustix::system::uname();
        let tells = kernel.release().to_str().is_ok_and(tells_of_failures);
        tells && rustix::fs::fstatfs(directory).is_ok_and(|state| SYNCED_WHOLE.contains(&i128::from(state.f_type)))
    }

    pub(super) fn sync(handle: &File) -> io::Result<()> {
        Ok(rustix::fs::syncfs(handle)?)
    }

    /// Whether the machine has so little to write that it can be written with ours. One that does not say has much.
    pub(super) fn little_is_unwritten() -> bool {
        let told = std::fs::read_to_string("/proc/meminfo").ok();
        told.and_then(|told| unwritten_bytes(&told)).is_some_and(|bytes| bytes <= LITTLE)
    }

    /// `Dirty:` of `/proc/meminfo`.
    pub(super) fn unwritten_bytes(meminfo: &str) -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix("Dirty:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    }

    pub(super) fn tells_of_failures(release: &str) -> bool {
        let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map_while(|part| part.parse().ok());
        matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= TELLS_FROM)
    }
}

#[cfg(not(target_os = "linux"))]
mod whole {
    use std::fs::File;
    use std::io;

    pub(super) fn is_synced_whole(_directory: &File) -> bool {
        false
    }

    pub(super) fn little_is_unwritten() -> bool {
        false
    }

    pub(super) fn sync(_handle: &File) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_synced_and_a_missing_one_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..40).map(|number| root.path().join(number.to_string())).collect();
        for path in &paths {
            std::fs::write(path, "x").unwrap();
        }
        sync_each(&paths).unwrap();
        std::fs::remove_file(&paths[7]).unwrap();
        assert_eq!(sync_each(&paths).unwrap_err().kind(), io::ErrorKind::NotFound);
        sync_all(&FileSystem::of(root.path()).unwrap(), &paths[..7]).unwrap();
        sync_all(&FileSystem { handle: None }, &paths[..7]).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn kernels_that_keep_failures_to_themselves_are_not_relied_on() {
        for (release, tells) in [
            ("5.8.0", true),
            ("5.7.19-generic", false),
            ("6.1", true),
            ("4.19.0", false),
            ("10.0-rc1", true),
            ("x", false),
        ] {
            assert_eq!(whole::tells_of_failures(release), tells, "{release}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unwritten_bytes_are_read_from_the_kernels_table() {
        let table = "MemTotal:       24684844 kB\nDirty:              1532 kB\nWriteback:             0 kB\n";
        assert_eq!(whole::unwritten_bytes(table), Some(1532 * 1024));
        assert_eq!(whole::unwritten_bytes("Dirty: many kB"), None);
        assert_eq!(whole::unwritten_bytes(""), None);
    }
}
