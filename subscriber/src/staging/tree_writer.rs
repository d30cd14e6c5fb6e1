//! Writing a tree that nobody sees yet, and making all of it durable at once.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::daemon::crash_point::CrashPoint;
use shared::release::Release;
use shared::verification::VerifyError;

use super::batch_sync::{FileSystem, sync_all};
use super::write_failed;
use crate::release_directory::{CHECKSUM_FILE, FILES, RELEASE_JSON, checksum_line};

/// Writes a tree, from several threads where wanted, and remembers what has to be synced.
pub(super) struct TreeWriter {
    root: PathBuf,
    file_system: FileSystem,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    files: Vec<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

impl TreeWriter {
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        let mut made = Made::default();
        made.create_directory(root.to_owned())?;
        made.create_directory(root.join(FILES))?;
        // Opened before anything is written, so that it hears of every write that fails.
        let file_system = FileSystem::of(root)?;
        Ok(Self { root: root.to_owned(), file_system, made: Mutex::new(made) })
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn create_file(&self, path: &str, mode: u32) -> io::Result<File> {
        let mut directory = self.root.join(FILES);
        let mut components = path.split('/').peekable();
        while let Some(component) = components.next() {
            if components.peek().is_none() {
                return self.open_new(directory.join(component), mode);
            }
            directory.push(component);
            self.made().create_directory(directory.clone())?;
        }
        // Splitting gives at least one component.
        Err(io::ErrorKind::InvalidFilename.into())
    }

    /// Opens a file that was made before.
    pub(super) fn open_file(&self, path: &str) -> io::Result<File> {
        File::open(self.root.join(FILES).join(path))
    }

    /// Takes back a file that was made.
    pub(super) fn remove_file(&self, path: &str) -> io::Result<()> {
        let path = self.root.join(FILES).join(path);
        self.made().files.retain(|made| *made != path);
        fs::remove_file(path)
    }

    /// Writes the release's description beside its files.
    pub(super) fn describe(&self, release: &Release) -> io::Result<()> {
        let json = release.to_json().map_err(io::Error::other)?;
        self.write_beside(RELEASE_JSON, &json)
    }

    /// Writes what stands beside the files of a release that will lie at `home`, and makes all of it durable.
    pub(super) fn complete(self, release: &Release, home: &Path) -> Result<(), VerifyError> {
        self.describe(release).map_err(write_failed(RELEASE_JSON))?;
        if let Some(line) = checksum_line(release, home) {
            self.write_beside(CHECKSUM_FILE, &line).map_err(write_failed(CHECKSUM_FILE))?;
        }
        CrashPoint::TreeWritten.reach();
        self.sync().map_err(write_failed("release directory"))?;
        CrashPoint::TreeSynced.reach();
        Ok(())
    }

    fn write_beside(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.open_new(self.root.join(name), 0o444)?.write_all(content)
    }

    fn open_new(&self, path: PathBuf, mode: u32) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        CrashPoint::TreeFileMade.reach();
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        self.made().files.push(path);
        Ok(file)
    }

    /// Makes all of it durable at once.
    fn sync(self) -> io::Result<()> {
        let Made { files, directories } = self.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let entries: Vec<PathBuf> = files.into_iter().chain(directories).collect();
        sync_all(&self.file_system, &entries)
    }
}

impl Made {
    fn create_directory(&mut self, path: PathBuf) -> io::Result<()> {
        if !self.directories.contains(&path) {
            DirBuilder::new().mode(0o755).create(&path)?;
            CrashPoint::TreeDirectoryMade.reach();
            // The process's umask may have taken bits away.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            self.directories.insert(path);
        }
        Ok(())
    }
}
