//! A small file that is replaced often and survives a crash: two files take turns under its name.
//!
//! Making a file costs more than filling one, on some file systems many times more, and each replacement by a new file
//! makes one and gives one up. So the version before stays beside the current one and is overwritten by the next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use shared::daemon::crash_point::CrashPoint;

use crate::durable_file::{sync_parent, temporary_name};

/// Replaces a file's content. After it returns, the file holds the new content even after a power failure; before, the old
/// one. `written`, `synced` and `renamed` are the places between the steps. The file is readable for its owner only.
///
/// Only one writer at a time, and only in a directory that nobody else can write in.
pub fn write_in_turns(path: &Path, content: &[u8], [written, synced, renamed]: [CrashPoint; 3]) -> io::Result<()> {
    let spare = temporary_name(path);
    let mut file = open_spare(&spare, path)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    written.reach();
    file.sync_data()?;
    synced.reach();
    drop(file);
    match renameat_with(CWD, &spare, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // The first version, or a file system without the exchange.
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::rename(&spare, path)?,
        Err(error) => return Err(error.into()),
    }
    renamed.reach();
    sync_parent(path)
}

/// The version before, to be overwritten; a new file where there is none that can be.
fn open_spare(spare: &Path, path: &Path) -> io::Result<File> {
    // Without NONBLOCK a pipe under the name would block the open for ever.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    if let Ok(file) = OpenOptions::new().write(true).custom_flags(flags).open(spare) {
        let found = file.metadata()?;
        // After a crash in the middle of an exchange both names may be the same file.
        let apart = fs::symlink_metadata(path).is_ok_and(|current| current.ino() != found.ino());
        if found.is_file() && found.mode() & 0o777 == 0o600 && found.nlink() == 1 && apart {
            return Ok(file);
        }
    }
    match fs::remove_file(spare) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(spare)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(path: &Path, content: &[u8]) -> io::Result<()> {
        write_in_turns(path, content, [CrashPoint::FileWritten, CrashPoint::FileSynced, CrashPoint::FileRenamed])
    }

    #[test]
    fn two_files_take_turns_and_what_is_in_the_way_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (path, inode) = (directory.path().join("a.json"), |path: &Path| fs::metadata(path).unwrap().ino());
        write(&path, b"the first").unwrap();
        let first = inode(&path);
        write(&path, b"two").unwrap();
        let second = inode(&path);
        assert_ne!(first, second);
        write(&path, b"three").unwrap();
        assert_eq!((inode(&path), fs::read(&path).unwrap()), (first, b"three".to_vec()));
        assert_eq!(inode(&temporary_name(&path)), second);

        // Both names lead to the current version: it must not be written over.
        fs::remove_file(temporary_name(&path)).unwrap();
        fs::hard_link(&path, temporary_name(&path)).unwrap();
        let current = File::open(&path).unwrap();
        write(&path, b"four").unwrap();
        assert_eq!(io::read_to_string(current).unwrap(), "three");
        assert_eq!(fs::read(&path).unwrap(), b"four");

        fs::remove_file(temporary_name(&path)).unwrap();
        std::os::unix::fs::symlink("/dev/null", temporary_name(&path)).unwrap();
        write(&path, b"five").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"five");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
