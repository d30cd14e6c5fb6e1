//! What a release is made from: files that were found, checked and hashed, wherever they lie.
//!
//! A source only yields bytes and their description. It neither verifies nor stores nor announces anything.

pub mod directory;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::PathBuf;

use bytes::Bytes;
use shared::digest::Sha256Digest;
use shared::release::{FileMode, ReleaseFile};
use shared::release_path::{PathError, ReleasePath};
use thiserror::Error;

/// Problems that an error's text names one by one; the others are counted.
const PROBLEMS_SHOWN: usize = 20;

/// The files of a source, sorted by path. Every path fits beside every other.
#[derive(Debug, Clone)]
pub struct SourceTree {
    files: BTreeMap<ReleasePath, SourceFile>,
}

#[derive(Debug, Clone)]
struct SourceFile {
    file: ReleaseFile,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    OnDisk(PathBuf),
    InMemory(Bytes),
}

/// The content of one file of a source.
#[derive(Debug)]
pub enum ContentReader {
    /// Read from a disk.
    OnDisk(File),
    /// Made by us.
    InMemory(Cursor<Bytes>),
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::OnDisk(file) => file.read(buffer),
            Self::InMemory(bytes) => bytes.read(buffer),
        }
    }
}

impl SourceTree {
    /// A tree of plain files made by the caller.
    pub fn in_memory(contents: impl IntoIterator<Item = (ReleasePath, Bytes)>) -> Self {
        let file = |(path, content): (ReleasePath, Bytes)| {
            let file = ReleaseFile {
                path: path.clone(),
                size: content.len() as u64,
                mode: FileMode::Plain,
                sha256: Sha256Digest::of(&content),
            };
            (path, SourceFile { file, content: Content::InMemory(content) })
        };
        Self { files: contents.into_iter().map(file).collect() }
    }

    fn on_disk(files: impl IntoIterator<Item = (ReleaseFile, PathBuf)>) -> Self {
        let file = |(file, path): (ReleaseFile, PathBuf)| {
            (file.path.clone(), SourceFile { file, content: Content::OnDisk(path) })
        };
        Self { files: files.into_iter().map(file).collect() }
    }

    /// The files, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = &ReleaseFile> {
        self.files.values().map(|entry| &entry.file)
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.files().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// Opens a file's content. What is read may have changed since it was hashed; whoever packs it compares again.
    pub fn open(&self, path: &ReleasePath) -> io::Result<ContentReader> {
        let entry = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(match &entry.content {
            Content::OnDisk(location) => ContentReader::OnDisk(directory::open_regular(location)?),
            Content::InMemory(bytes) => ContentReader::InMemory(Cursor::new(bytes.clone())),
        })
    }

    /// Reads a file whole, comparing it with its digest.
    pub(crate) fn read(&self, file: &ReleaseFile) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // One byte more than listed, so that a file that grew shows.
        self.open(&file.path)?.take(file.size.saturating_add(1)).read_to_end(&mut content)?;
        if Sha256Digest::of(&content) == file.sha256 {
            Ok(content)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it changed while it was read"))
        }
    }
}

/// One reason why a source makes no release.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SourceProblem {
    /// Links may point outside, and mean something else on every machine.
    #[error("`{path}` is a symbolic link")]
    SymbolicLink {
        /// The link, relative to the source.
        path: String,
    },
    /// A pipe, socket or device.
    #[error("`{path}` is a {kind}, not a regular file")]
    SpecialFile {
        /// The file, relative to the source.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// A name that not every machine could write.
    #[error("`{path}` has a name that is not valid UTF-8")]
    NotUtf8 {
        /// The file, with what cannot be shown replaced.
        path: String,
    },
    /// A path that breaks the rules of a release.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A limit is exceeded.
    #[error("{what} of {actual} exceeds the limit of {limit}{}", at(.path.as_ref()))]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What was found; of counts and sums, where reading stopped.
        actual: u64,
        /// The file concerned.
        path: Option<String>,
    },
    /// The disk or its permissions do not let us.
    #[error("`{path}` cannot be read: {reason}")]
    Unreadable {
        /// The file or directory, relative to the source.
        path: String,
        /// The system's words.
        reason: String,
    },
}

fn at(path: Option<&String>) -> String {
    path.map(|path| format!(" at `{path}`")).unwrap_or_default()
}

/// A source that cannot be read, or makes no release.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It is not there, or no directory.
    #[error("source directory `{}` cannot be opened", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("source directory `{}` holds no files", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// Everything that is wrong with its files, as far as it was found.
    #[error("source directory `{}` makes no release: {}", path.display(), list(.problems))]
    Problems {
        /// The directory.
        path: PathBuf,
        /// The problems, by path.
        problems: Vec<SourceProblem>,
    },
}

/// Problems in one line: the first ones in words, the others as a number.
pub(crate) fn list<P: std::fmt::Display>(problems: &[P]) -> String {
    let mut text = String::new();
    for (index, problem) in problems.iter().take(PROBLEMS_SHOWN).enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{problem}");
    }
    if problems.len() > PROBLEMS_SHOWN {
        let _ = write!(text, "; and {} more", problems.len() - PROBLEMS_SHOWN);
    }
    text
}
