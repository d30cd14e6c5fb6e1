//! A directory as the source of a release.
//!
//! Everything below it travels, hidden files too, except entries named `.git` at any depth. Only regular files make a
//! release: symbolic links, pipes, sockets and devices are refused, and an empty directory leaves no trace. Of a file's
//! permissions only "its owner may execute it" is kept. The directory itself may be reached through a link.
//!
//! Reads in two passes: first names, kinds and sizes, reporting everything that is wrong, then the contents. So nothing
//! is read of a tree that is refused anyway, however large it is.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use shared::digest::HashingReader;
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, ReleaseFile};
use shared::release_path::{PathSet, ReleasePath};

use super::{SourceError, SourceProblem, SourceTree};
use crate::progress::{ProgressReporter, Stage};

/// What stays behind.
const LEFT_OUT: &str = ".git";

/// Reads a directory into the files of a release, hashing every one. Reports all problems it finds, not only the
/// first. Blocks: call it on a blocking thread.
pub fn read_directory(
    root: &Path,
    limits: &ReleaseLimits,
    progress: &dyn ProgressReporter,
) -> Result<SourceTree, SourceError> {
    let unusable = |source| SourceError::Root { path: root.to_owned(), source };
    let resolved = root.canonicalize().map_err(unusable)?;
    let entries = fs::read_dir(&resolved).map_err(unusable)?;

    let mut walk = Walk { root: &resolved, limits, found: Vec::new(), directories: 0, total: 0, problems: Vec::new() };
    walk.run(entries);
    let Walk { mut found, mut problems, total, .. } = walk;
    let refused = |problems| Err(SourceError::Problems { path: root.to_owned(), problems });
    found.sort_by(|one, other| one.path.cmp(&other.path));
    let mut paths = PathSet::default();
    for file in &found {
        if let Err(error) = paths.insert(&file.path) {
            problems.push(error.into());
        }
    }
    if !problems.is_empty() {
        problems.sort_by_cached_key(ToString::to_string);
        return refused(problems);
    }
    if found.is_empty() {
        return Err(SourceError::Empty { path: root.to_owned() });
    }

    progress.begin(Stage::Read, Some(total));
    let mut files = Vec::with_capacity(found.len());
    for file in found {
        match hash(&file, limits) {
            Ok(listed) => {
                progress.advance(listed.size);
                files.push((listed, file.location));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(SourceTree::on_disk(files)) } else { refused(problems) }
}

/// Opens a file that must still be a regular one, and not have become a link since it was looked at.
pub(super) fn open_regular(location: &Path) -> io::Result<File> {
    let seen = fs::symlink_metadata(location)?;
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "it is no longer a regular file");
    if !seen.is_file() {
        return Err(refused());
    }
    let file = File::open(location)?;
    let opened = file.metadata()?;
    if (seen.dev(), seen.ino()) == (opened.dev(), opened.ino()) { Ok(file) } else { Err(refused()) }
}

struct FoundFile {
    path: ReleasePath,
    location: PathBuf,
    mode: FileMode,
}

struct Walk<'a> {
    root: &'a Path,
    limits: &'a ReleaseLimits,
    found: Vec<FoundFile>,
    directories: u64,
    total: u64,
    problems: Vec<SourceProblem>,
}

/// Whether to look further.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

impl Walk<'_> {
    fn run(&mut self, entries: fs::ReadDir) {
        let mut waiting = Vec::new();
        if self.take_entries(entries, Path::new(""), &mut waiting) == Next::Stop {
            return;
        }
        while let Some(directory) = waiting.pop() {
            let next = match fs::read_dir(self.root.join(&directory)) {
                Ok(entries) => self.take_entries(entries, &directory, &mut waiting),
                Err(error) => {
                    self.unreadable(&directory, &error);
                    Next::GoOn
                }
            };
            if next == Next::Stop {
                return;
            }
        }
    }

    fn take_entries(&mut self, entries: fs::ReadDir, directory: &Path, waiting: &mut Vec<PathBuf>) -> Next {
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.unreadable(directory, &error);
                    return Next::GoOn;
                }
            };
            if entry.file_name() == OsStr::new(LEFT_OUT) {
                continue;
            }
            let relative = directory.join(entry.file_name());
            if self.take_entry(&entry, relative, waiting) == Next::Stop {
                return Next::Stop;
            }
        }
        Next::GoOn
    }

    fn take_entry(&mut self, entry: &DirEntry, relative: PathBuf, waiting: &mut Vec<PathBuf>) -> Next {
        // Of the entry itself: links are not followed.
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                self.unreadable(&relative, &error);
                return Next::GoOn;
            }
        };
        let kind = metadata.file_type();
        let shown = shown(&relative);
        if kind.is_symlink() {
            self.problems.push(SourceProblem::SymbolicLink { path: shown });
        } else if !kind.is_dir() && !kind.is_file() {
            self.problems.push(SourceProblem::SpecialFile { path: shown, kind: special_kind(kind) });
        } else if let Some(text) = relative.to_str() {
            match text.parse::<ReleasePath>() {
                Err(error) => self.problems.push(error.into()),
                Ok(path) if kind.is_file() => return self.take_file(path, entry.path(), &metadata),
                Ok(_) => {
                    self.directories += 1;
                    if self.exceeds("number of directories", self.limits.files, self.directories, None) {
                        return Next::Stop;
                    }
                    waiting.push(relative);
                }
            }
        } else {
            self.problems.push(SourceProblem::NotUtf8 { path: shown });
        }
        Next::GoOn
    }

    fn take_file(&mut self, path: ReleasePath, location: PathBuf, metadata: &Metadata) -> Next {
        let shown = || Some(path.to_string());
        let length = path.as_str().len() as u64;
        self.exceeds("path length in bytes", self.limits.path_bytes as u64, length, shown());
        self.exceeds("file size in bytes", self.limits.file_bytes, metadata.len(), shown());
        let before = self.total;
        self.total = self.total.saturating_add(metadata.len());
        if before <= self.limits.total_bytes {
            self.exceeds("total size in bytes", self.limits.total_bytes, self.total, shown());
        }
        let mode = FileMode::from_bits(metadata.permissions().mode());
        self.found.push(FoundFile { path, location, mode });
        // A directory of a million files is refused without looking at them all.
        if self.exceeds("number of files", self.limits.files, self.found.len() as u64, None) {
            Next::Stop
        } else {
            Next::GoOn
        }
    }

    fn exceeds(&mut self, what: &'static str, limit: u64, actual: u64, path: Option<String>) -> bool {
        if actual > limit {
            self.problems.push(SourceProblem::Limit { what, limit, actual, path });
        }
        actual > limit
    }

    fn unreadable(&mut self, relative: &Path, error: &io::Error) {
        self.problems.push(SourceProblem::Unreadable { path: shown(relative), reason: error.to_string() });
    }
}

fn hash(file: &FoundFile, limits: &ReleaseLimits) -> Result<ReleaseFile, SourceProblem> {
    let failed =
        |error: io::Error| SourceProblem::Unreadable { path: file.path.to_string(), reason: error.to_string() };
    let content = open_regular(&file.location).map_err(failed)?;
    // A file may grow without end while it is read.
    let mut content = HashingReader::new(io::Read::take(content, limits.file_bytes.saturating_add(1)));
    io::copy(&mut content, &mut io::sink()).map_err(failed)?;
    let (sha256, size) = content.finish();
    Ok(ReleaseFile { path: file.path.clone(), size, mode: file.mode, sha256 })
}

fn special_kind(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "named pipe"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "device"
    } else {
        "special file"
    }
}

/// A path for a message: on one line, whatever is in it.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.is_empty() { ".".to_owned() } else { text.chars().take(300).flat_map(char::escape_debug).collect() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::progress::Silent;

    fn read(root: &Path) -> Result<SourceTree, SourceError> {
        read_directory(root, &ReleaseLimits::default(), &Silent)
    }

    fn problems(error: SourceError) -> Vec<SourceProblem> {
        let SourceError::Problems { problems, .. } = error else { panic!("{error}") };
        problems
    }

    fn write(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn everything_below_travels_but_git_and_empty_directories() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["b/c.json", "a.json", ".hidden", "b/.git/config", ".git"] {
            write(root, path, b"x");
        }
        fs::create_dir(root.join("empty")).unwrap();
        fs::set_permissions(root.join("a.json"), fs::Permissions::from_mode(0o750)).unwrap();

        let tree = read(root).unwrap();
        let files: Vec<(&str, FileMode)> = tree.files().map(|file| (file.path.as_str(), file.mode)).collect();
        assert_eq!(
            files,
            [(".hidden", FileMode::Plain), ("a.json", FileMode::Executable), ("b/c.json", FileMode::Plain)]
        );
    }

    // Other file systems refuse such names themselves, or fold their case.
    #[cfg(target_os = "linux")]
    #[test]
    fn all_problems_are_named_at_once() {
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::net::UnixListener;

        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "fine", b"x");
        symlink("/etc/passwd", root.join("link")).unwrap();
        symlink("fine", root.join("inner-link")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        write(root, "back\\slash", b"x");
        write(root, "Case", b"x");
        write(root, "case", b"x");
        fs::write(root.join(OsStr::from_bytes(b"bad-\xff")), b"x").unwrap();

        let text = read(root).unwrap_err().to_string();
        for part in [
            "`link` is a symbolic link",
            "`inner-link` is a symbolic link",
            "`socket` is a socket",
            "back\\\\slash",
            "bad-\u{fffd}` has a name that is not valid UTF-8",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("path `case` is refused") || text.contains("path `Case` is refused"), "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_a_writer() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo is part of every system we claim");
        let found = problems(read(directory.path()).unwrap_err());
        assert_eq!(found, [SourceProblem::SpecialFile { path: "pipe".to_owned(), kind: "named pipe" }]);
        assert!(open_regular(&pipe).is_err());
    }

    #[test]
    fn limits_stop_before_contents_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["a", "b", "c/d"] {
            write(root, name, b"12345");
        }
        let refused = |limits: ReleaseLimits| {
            let error = read_directory(root, &limits, &Silent).unwrap_err();
            problems(error).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let limits = ReleaseLimits::default();
        assert_eq!(refused(ReleaseLimits { files: 2, ..limits }), "number of files of 3 exceeds the limit of 2");
        let text = refused(ReleaseLimits { file_bytes: 4, ..limits });
        assert!(text.contains("file size in bytes of 5 exceeds the limit of 4 at `c/d`"), "{text}");
        let text = refused(ReleaseLimits { total_bytes: 14, ..limits });
        assert!(text.starts_with("total size in bytes of 15 exceeds the limit of 14"), "{text}");
        let text = refused(ReleaseLimits { path_bytes: 2, ..limits });
        assert_eq!(text, "path length in bytes of 3 exceeds the limit of 2 at `c/d`");
    }

    #[test]
    fn missing_empty_and_no_directories_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read(directory.path()).unwrap_err(), SourceError::Empty { .. }));
        assert!(matches!(read(&directory.path().join("missing")).unwrap_err(), SourceError::Root { .. }));
        write(directory.path(), "file", b"x");
        assert!(matches!(read(&directory.path().join("file")).unwrap_err(), SourceError::Root { .. }));
    }

    #[test]
    fn a_file_replaced_by_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "a", b"x");
        let tree = read(directory.path()).unwrap();
        let path = tree.files().next().unwrap().path.clone();
        fs::remove_file(directory.path().join("a")).unwrap();
        symlink("/etc/hostname", directory.path().join("a")).unwrap();
        assert!(tree.open(&path).is_err());
    }

    proptest! {
           #![proptest_config(ProptestConfig::with_cases(32))]
           #[test]
           fn the_order_of_creation_does_not_matter(
               names in proptest::collection::btree_map("[a-z]{1,3}/[a-z]{1,6}\\.json", proptest::collection::vec(any::<u8>(), 0..40), 1..12)
                   .prop_flat_map(|files| { let order: Vec<_> = files.into_iter().collect(); (Just(order.clone()), Just(order).prop_shuffle()) })
           ) {
               let listed = |order: &[(String, Vec<u8>)]| {
                   let directory = tempfile::tempdir().unwrap();
                   for (path, content) in order {
    write(directory.path(), path, content); }
                   read(directory.path()).unwrap().files().cloned().collect::<Vec<_>>()
               };
               prop_assert_eq!(listed(&names.0), listed(&names.1));
           }
       }
}
