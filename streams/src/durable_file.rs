//! Small files that survive a crash: written beside, synced, renamed, and the directory synced too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use shared::daemon::crash_point::CrashPoint;

/// Replaces a file's content. After it returns, the file holds the new content even after a power failure; before,
/// the old one. The file is readable for its owner only.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    // A leftover of an interrupted write may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    CrashPoint::OutboxFileWritten.reach();
    file.sync_all()?;
    CrashPoint::OutboxFileSynced.reach();
    drop(file);
    fs::rename(&temporary, path)?;
    CrashPoint::OutboxFileRenamed.reach();
    sync_parent(path)
}

/// Adds to the end of a file, which is made where it is missing. After it returns, what was added survives a power failure,
/// and so does everything that was added before; where it fails, the file is as long as it was, as far as that can be had.
pub(crate) fn append(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    let added = file.write_all(content).and_then(|()| {
        CrashPoint::OutboxFileWritten.reach();
        file.sync_data()
    });
    if let Err(error) = added {
        // What is left of it else is recognised by its end.
        let _ = file.set_len(length);
        return Err(error);
    }
    CrashPoint::OutboxFileSynced.reach();
    if length == 0 { sync_parent(path) } else { Ok(()) }
}

/// Adds to the end of a file that is there. What was added survives a kill of the process; a power failure only once
/// [`append`] or a replacement of the file followed.
pub(crate) fn append_unsynced(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(content)?;
    CrashPoint::OutboxLineAdded.reach();
    Ok(())
}

/// Removes a file for good; one that is gone already is as well.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The content, or `None` where there is no such file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a directory, and those above it, for its owner only.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether a name is that of an interrupted write.
pub(crate) fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}

pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Makes the name itself durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write(&path, b"one").unwrap();
        fs::write(temporary_name(&path), b"left over").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!temporary_name(&path).exists());
    }

    #[test]
    fn what_is_appended_follows_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        assert!(append_unsynced(&path, b"x").is_err());
        append(&path, b"one\n").unwrap();
        append(&path, b"two\n").unwrap();
        append_unsynced(&path, b"three\n").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"one\ntwo\nthree\n");
    }

    #[test]
    fn removing_twice_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write(&path, b"one").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }
}
