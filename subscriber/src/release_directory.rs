//! One release on disk: `release.json` and `files/`, opened once and read through handles.
//!
//! What is read here cannot be led out of the directory: every component is opened without following links.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use shared::digest::Sha256Digest;
use shared::event::FailedCheck;
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, Release, ReleaseError};
use shared::release_path::ReleasePath;
use shared::verification::{VerificationFailure, VerifiedRelease, VerifyError, verify_files};
use thiserror::Error;

use crate::node_state::ReleaseId;

/// Name of the description of a release in its directory.
pub(crate) const RELEASE_JSON: &str = "release.json";
/// Name of the directory below a release that holds its files.
pub(crate) const FILES: &str = "files";
/// Beside the files of a contracts release: its checksum line with an absolute path.
pub(crate) const CHECKSUM_FILE: &str = "bundle.sha256";
/// The file whose checksum that is.
pub(crate) const CONTRACTS_FILE: &str = "bundle.json";

const CONTRACTS_TREE: [&str; 3] = ["bundle.json", "bundle.sha256", "manifest.json"];

/// A directory that holds no readable release.
#[derive(Debug, Error)]
pub enum ReleaseDirectoryError {
    /// Something is missing or cannot be opened.
    #[error("release directory `{}` cannot be read", path.display())]
    Open {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its `release.json` is none.
    #[error("`{}` is no valid release.json", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReleaseError,
    },
}

/// A release's directory, held open: later switches and renames do not change what it reads.
#[derive(Debug)]
pub(crate) struct ReleaseDirectory {
    path: PathBuf,
    /// A reader's shared lock hangs on it.
    _handle: File,
    files: File,
    release: Release,
}

impl ReleaseDirectory {
    /// Opens the directory at a path and reads its description. The files have not been compared with it.
    pub(crate) fn open(path: &Path, limits: &ReleaseLimits) -> Result<Self, ReleaseDirectoryError> {
        let handle =
            File::open(path).map_err(|source| ReleaseDirectoryError::Open { path: path.to_owned(), source })?;
        Self::of_handle(handle, path, limits)
    }

    /// The same for a directory that is open already; `path` is for messages and for [`ReleaseDirectory::verify`].
    pub(crate) fn of_handle(handle: File, path: &Path, limits: &ReleaseLimits) -> Result<Self, ReleaseDirectoryError> {
        let failed = |name: &str| {
            let path = path.join(name);
            move |source| ReleaseDirectoryError::Open { path, source }
        };
        let description = open_at(&handle, RELEASE_JSON, OFlags::empty()).map_err(failed(RELEASE_JSON))?;
        let mut bytes = Vec::new();
        let bound = limits.release_json_bytes.saturating_add(1);
        description.take(bound).read_to_end(&mut bytes).map_err(failed(RELEASE_JSON))?;
        let release = Release::parse(&bytes, limits)
            .map_err(|source| ReleaseDirectoryError::Description { path: path.join(RELEASE_JSON), source })?;
        let files = open_at(&handle, FILES, OFlags::DIRECTORY).map_err(failed(FILES))?;
        Ok(Self { path: path.to_owned(), _handle: handle, files, release })
    }

    /// What the directory says it holds.
    pub(crate) fn release(&self) -> &Release {
        &self.release
    }

    /// Opens one file. A link on the way is an error, whatever it points at.
    pub(crate) fn open_file(&self, path: &ReleasePath) -> io::Result<File> {
        let mut directory: Option<File> = None;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let last = components.peek().is_none();
            let flags = if last { OFlags::empty() } else { OFlags::DIRECTORY };
            let opened = open_at(directory.as_ref().unwrap_or(&self.files), component, flags)?;
            if last {
                return Ok(opened);
            }
            directory = Some(opened);
        }
        // A release path has at least one component.
        Err(io::ErrorKind::NotFound.into())
    }

    /// Reads every file, several side by side, and compares the tree with its description: nothing missing, changed or
    /// added.
    pub(crate) fn verify(&self) -> Result<VerifiedRelease, VerifyError> {
        self.check_listing()?;
        verify_files(&self.release, |file| self.open_file(&file.path))
    }

    fn check_listing(&self) -> Result<(), VerifyError> {
        let known: BTreeMap<&str, FileMode> =
            self.release.files().iter().map(|file| (file.path.as_str(), file.mode)).collect();
        let mut directories = vec![String::new()];
        while let Some(directory) = directories.pop() {
            let failed = |source| VerifyError::Read { item: format!("{FILES}/{directory}"), source };
            for entry in fs::read_dir(self.path.join(FILES).join(&directory)).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                let metadata = entry.metadata().map_err(failed)?;
                if metadata.is_dir() {
                    directories.push(path);
                    continue;
                }
                let found = FileMode::from_bits(metadata.permissions().mode());
                let (expected, actual) = match known.get(path.as_str()) {
                    Some(mode) if metadata.is_file() && *mode == found => continue,
                    Some(_) if !metadata.is_file() => ("a regular file".to_owned(), "something else".to_owned()),
                    Some(mode) => (format!("mode {mode}"), format!("mode {found}")),
                    None => ("no such file".to_owned(), "a file".to_owned()),
                };
                return Err(VerificationFailure { check: FailedCheck::File, item: path, expected, actual }.into());
            }
        }
        Ok(())
    }
}

/// Whether a directory holds a release that says to be this one. Says nothing about its files.
pub(crate) fn says_to_be(directory: &Path, id: &ReleaseId) -> bool {
    #[derive(Deserialize)]
    struct Said {
        tag: Tag,
        tree_digest: Sha256Digest,
    }
    let Ok(file) = File::open(directory.join(RELEASE_JSON)) else { return false };
    let said: Result<Said, _> = serde_json::from_reader(BufReader::new(file));
    said.is_ok_and(|said| said.tag == id.tag && said.tree_digest == id.tree_digest)
}

/// Whether the release is a contracts bundle, by its tree: such a release gets the flat view and the checksum file.
pub(crate) fn is_contracts_bundle(release: &Release) -> bool {
    release.files().iter().map(|file| file.path.as_str()).eq(CONTRACTS_TREE)
}

/// The line of [`CHECKSUM_FILE`]: with an absolute path, `shasum -c` passes from any working directory.
/// `None` for a release that is no contracts bundle.
pub(crate) fn checksum_line(release: &Release, directory: &Path) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    if !is_contracts_bundle(release) {
        return None;
    }
    let file = release.files().iter().find(|file| file.path.as_str() == CONTRACTS_FILE)?;
    let path = directory.join(FILES).join(CONTRACTS_FILE);
    let mut line = format!("{}  ", file.sha256).into_bytes();
    line.extend_from_slice(path.as_os_str().as_bytes());
    line.push(b'\n');
    Some(line)
}

fn open_at(directory: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    // Without NONBLOCK a pipe planted under the name would block the open for ever.
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::test_releases::{contracts_release, store_release};

    fn failed_item(path: &Path) -> String {
        let directory = ReleaseDirectory::open(path, &ReleaseLimits::default()).unwrap();
        match directory.verify() {
            Err(VerifyError::Refused(failure)) => failure.item,
            other => panic!("{other:?}"),
        }
    }

    fn writable(path: &Path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    #[test]
    fn an_intact_directory_is_verified() {
        let root = tempfile::tempdir().unwrap();
        store_release(root.path(), &[("a.json", "{}"), ("b/c.wasm", "x")], "v1");
        let directory = ReleaseDirectory::open(root.path(), &ReleaseLimits::default()).unwrap();
        assert_eq!(directory.verify().unwrap().release(), directory.release());
    }

    #[test]
    fn what_was_changed_added_removed_or_linked_is_named() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("a.json", |files| {
                writable(&files.join("a.json"));
                fs::write(files.join("a.json"), "[]").unwrap();
            }),
            ("b/new", |files| fs::write(files.join("b/new"), "").unwrap()),
            ("b/c.wasm", |files| fs::remove_file(files.join("b/c.wasm")).unwrap()),
            ("a.json", |files| {
                fs::remove_file(files.join("a.json")).unwrap();
                symlink("b/c.wasm", files.join("a.json")).unwrap();
            }),
            ("a.json", |files| {
                fs::set_permissions(files.join("a.json"), fs::Permissions::from_mode(0o555)).unwrap();
            }),
        ];
        for (expected, damage) in damages {
            let root = tempfile::tempdir().unwrap();
            store_release(root.path(), &[("a.json", "{}"), ("b/c.wasm", "x")], "v1");
            damage(&root.path().join(FILES));
            assert_eq!(failed_item(root.path()), expected);
        }
    }

    #[test]
    fn a_linked_directory_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        store_release(root.path(), &[("b/c.wasm", "x")], "v1");
        let files = root.path().join(FILES);
        fs::rename(files.join("b"), root.path().join("outside")).unwrap();
        symlink("../outside", files.join("b")).unwrap();
        let directory = ReleaseDirectory::open(root.path(), &ReleaseLimits::default()).unwrap();
        assert!(directory.open_file(&"b/c.wasm".parse().unwrap()).is_err());
        assert!(directory.verify().is_err());
    }

    #[test]
    fn the_checksum_line_names_the_file_absolutely() {
        let release = contracts_release("v1", "{}");
        let line = checksum_line(&release, Path::new("/c/releases/v1")).unwrap();
        let digest = Sha256Digest::of(b"{}");
        assert_eq!(String::from_utf8(line).unwrap(), format!("{digest}  /c/releases/v1/files/bundle.json\n"));
    }
}
