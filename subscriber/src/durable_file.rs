//! Small files and directories that survive a crash: written beside, synced, renamed, directory synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use shared::daemon::crash_point::CrashPoint;

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file whole. After it returns the new content survives a crash; before that, one of the two does.
///
/// Only one writer at a time: the caller holds the lock that guards the file. A leftover of an interrupted
/// write is overwritten.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = beside(path, ".new");
    remove_file_if_present(&temporary)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    // The process's umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    CrashPoint::FileWritten.reach();
    file.sync_all()?;
    CrashPoint::FileSynced.reach();
    fs::rename(&temporary, path)?;
    CrashPoint::FileRenamed.reach();
    sync_directory(parent_of(path))
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove_file_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The path with a suffix appended to its last component.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory a path lies in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_over_the_leftover_of_an_interrupted_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        write_atomically(&path, b"one", 0o600).unwrap();
        fs::write(beside(&path, ".new"), b"half").unwrap();
        write_atomically(&path, b"two", 0o444).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        assert!(!beside(&path, ".new").exists());
    }

    #[test]
    fn a_relative_path_has_a_parent_too() {
        assert_eq!(parent_of(Path::new("state.json")), Path::new("."));
        assert_eq!(beside(Path::new("a/contracts"), ".lock"), Path::new("a/contracts.lock"));
    }
}
