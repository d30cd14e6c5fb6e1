//! A release and its `release.json`: which files, how large, with which digests.
//!
//! Described in `docs/ARCHITECTURE.md`, "Releases".
//!
//! `release.json` is canonical JSON (see [`crate::canonical_json`]). The **tree digest** is the SHA-256 of the
//! canonical JSON of its `files` list; it depends on paths, sizes, modes and contents and on nothing else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::canonical_json::{CanonicalError, to_canonical_json};
use crate::digest::Sha256Digest;
use crate::identifiers::{BundleName, Tag};
use crate::limits::ReleaseLimits;
use crate::release_path::{PathError, PathSet, ReleasePath};

/// Version of the `release.json` form that this version writes and reads.
pub const RELEASE_FORMAT: u32 = 1;

/// Permission bits that travel with a file: executable or not, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileMode {
    /// A plain file, `0644` in the archive.
    #[serde(rename = "0644")]
    Plain,
    /// A program, `0755` in the archive.
    #[serde(rename = "0755")]
    Executable,
}

impl FileMode {
    /// The mode of a file whose permission bits are these: executable if its owner may execute it.
    pub fn from_bits(bits: u32) -> Self {
        if bits & 0o100 == 0 { Self::Plain } else { Self::Executable }
    }

    /// The permission bits in the archive.
    pub fn archive_bits(self) -> u32 {
        match self {
            Self::Plain => 0o644,
            Self::Executable => 0o755,
        }
    }

    /// The permission bits on a node: nobody writes to a released file.
    pub fn node_bits(self) -> u32 {
        match self {
            Self::Plain => 0o444,
            Self::Executable => 0o555,
        }
    }
}

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseFile {
    /// Where it lies.
    pub path: ReleasePath,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is executable.
    pub mode: FileMode,
    /// SHA-256 of its content.
    pub sha256: Sha256Digest,
}

/// What a release consists of. The files are sorted by path; every rule of [`Release::new`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    bundle: BundleName,
    tag: Tag,
    content_digest: Sha256Digest,
    tree_digest: Sha256Digest,
    files: Vec<ReleaseFile>,
}

/// Why files make no release, or bytes no `release.json`.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// There is nothing to release.
    #[error("a release needs at least one file")]
    Empty,
    /// A path breaks the rules.
    #[error("a path breaks the rules of a release")]
    Path(#[source] PathError),
    /// A limit is exceeded.
    #[error("{what} of {actual} exceeds the limit of {limit}{where_}", where_ = at(.path.as_ref()))]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What was found.
        actual: u64,
        /// The file concerned.
        path: Option<ReleasePath>,
    },
    /// Not the JSON of a release.
    #[error("not a release.json")]
    Json(#[source] serde_json::Error),
    /// Not the canonical form of what it says.
    #[error("release.json is not in canonical form")]
    NotCanonical,
    /// It has no canonical form at all.
    #[error("release.json has no canonical form")]
    Canonical(#[source] CanonicalError),
    /// Written by a version with another form.
    #[error("release.json has format {actual}, this version reads format {RELEASE_FORMAT}")]
    Format {
        /// The format it says.
        actual: u32,
    },
    /// Its tree digest is not that of its files.
    #[error("release.json does not match its own files: expected tree digest {expected}, actual {actual}")]
    TreeDigest {
        /// What it says.
        expected: Sha256Digest,
        /// What its files give.
        actual: Sha256Digest,
    },
}

fn at(path: Option<&ReleasePath>) -> String {
    path.map(|path| format!(" at `{path}`")).unwrap_or_default()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    bundle: BundleName,
    content_digest: Sha256Digest,
    files: Vec<ReleaseFile>,
    format: u32,
    tag: Tag,
    tree_digest: Sha256Digest,
}

/// The tree digest of files that are sorted by path.
pub fn digest_of_tree(files: &[ReleaseFile]) -> Result<Sha256Digest, ReleaseError> {
    Ok(Sha256Digest::of(&to_canonical_json(&files).map_err(ReleaseError::Canonical)?))
}

impl Release {
    /// Makes a release of these files, in any order. `content_digest` is `None` where the tree digest is the
    /// content digest.
    ///
    /// Fails on no files, on a path that breaks the rules or clashes with another, and on an exceeded limit.
    pub fn new(
        bundle: BundleName,
        tag: Tag,
        content_digest: Option<Sha256Digest>,
        mut files: Vec<ReleaseFile>,
        limits: &ReleaseLimits,
    ) -> Result<Self, ReleaseError> {
        files.sort_by(|one, other| one.path.cmp(&other.path));
        check_files(&files, limits)?;
        let tree_digest = digest_of_tree(&files)?;
        Ok(Self { bundle, tag, content_digest: content_digest.unwrap_or(tree_digest), tree_digest, files })
    }

    /// Reads a `release.json` and checks everything that can be checked without the files themselves.
    pub fn parse(bytes: &[u8], limits: &ReleaseLimits) -> Result<Self, ReleaseError> {
        if bytes.len() as u64 > limits.release_json_bytes {
            return Err(ReleaseError::Limit {
                what: "size in bytes",
                limit: limits.release_json_bytes,
                actual: bytes.len() as u64,
                path: None,
            });
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(ReleaseError::Json)?;
        if wire.format != RELEASE_FORMAT {
            return Err(ReleaseError::Format { actual: wire.format });
        }
        check_files(&wire.files, limits)?;
        let actual = digest_of_tree(&wire.files)?;
        if actual != wire.tree_digest {
            return Err(ReleaseError::TreeDigest { expected: wire.tree_digest, actual });
        }
        let sorted = wire.files.is_sorted_by(|one, other| one.path < other.path);
        let release = Self {
            bundle: wire.bundle,
            tag: wire.tag,
            content_digest: wire.content_digest,
            tree_digest: wire.tree_digest,
            files: wire.files,
        };
        if !sorted || release.to_json()? != bytes {
            return Err(ReleaseError::NotCanonical);
        }
        Ok(release)
    }

    /// The `release.json` of this release.
    pub fn to_json(&self) -> Result<Vec<u8>, ReleaseError> {
        let wire = Wire {
            bundle: self.bundle.clone(),
            content_digest: self.content_digest,
            files: self.files.clone(),
            format: RELEASE_FORMAT,
            tag: self.tag.clone(),
            tree_digest: self.tree_digest,
        };
        to_canonical_json(&wire).map_err(ReleaseError::Canonical)
    }

    /// The bundle.
    pub fn bundle(&self) -> &BundleName {
        &self.bundle
    }

    /// The tag.
    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// What "unchanged" compares.
    pub fn content_digest(&self) -> Sha256Digest {
        self.content_digest
    }

    /// The release's identity.
    pub fn tree_digest(&self) -> Sha256Digest {
        self.tree_digest
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[ReleaseFile] {
        &self.files
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }
}

fn check_files(files: &[ReleaseFile], limits: &ReleaseLimits) -> Result<(), ReleaseError> {
    if files.is_empty() {
        return Err(ReleaseError::Empty);
    }
    let exceeds = |what, limit, actual, path: Option<&ReleasePath>| {
        if actual > limit { Err(ReleaseError::Limit { what, limit, actual, path: path.cloned() }) } else { Ok(()) }
    };
    exceeds("number of files", limits.files, files.len() as u64, None)?;
    let mut paths = PathSet::default();
    let mut total = 0_u64;
    for file in files {
        exceeds("path length in bytes", limits.path_bytes as u64, file.path.as_str().len() as u64, Some(&file.path))?;
        exceeds("file size in bytes", limits.file_bytes, file.size, Some(&file.path))?;
        total = total.saturating_add(file.size);
        exceeds("total size in bytes", limits.total_bytes, total, Some(&file.path))?;
        paths.insert(&file.path).map_err(ReleaseError::Path)?;
    }
    Ok(())
}

impl fmt::Display for FileMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04o}", self.archive_bits())
    }
}

impl FromStr for Release {
    type Err = ReleaseError;

    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        Self::parse(text.as_bytes(), &ReleaseLimits::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn file(path: &str, content: &[u8]) -> ReleaseFile {
        ReleaseFile {
            path: path.parse().unwrap(),
            size: content.len() as u64,
            mode: FileMode::Plain,
            sha256: Sha256Digest::of(content),
        }
    }

    fn release(files: Vec<ReleaseFile>) -> Result<Release, ReleaseError> {
        Release::new("contracts".parse().unwrap(), "v1".parse().unwrap(), None, files, &ReleaseLimits::default())
    }

    #[test]
    fn the_form_of_release_json_is_fixed() {
        let release = release(vec![file("b", b"2"), file("a", b"1")]).unwrap();
        let golden = include_str!("../testdata/release.v1.json").trim_end();
        assert_eq!(String::from_utf8(release.to_json().unwrap()).unwrap(), golden);
        assert_eq!(golden.parse::<Release>().unwrap(), release);
    }

    #[test]
    fn the_tree_digest_does_not_depend_on_the_order_of_reading_or_the_tag() {
        let one = release(vec![file("a", b"1"), file("b", b"2")]).unwrap();
        let other = release(vec![file("b", b"2"), file("a", b"1")]).unwrap();
        assert_eq!(one.tree_digest(), other.tree_digest());
        let changed = release(vec![file("b", b"2"), file("a", b"x")]).unwrap();
        assert_ne!(one.tree_digest(), changed.tree_digest());
    }

    #[test]
    fn an_altered_release_json_is_refused() {
        let text = String::from_utf8(release(vec![file("a", b"1")]).unwrap().to_json().unwrap()).unwrap();
        for (from, to) in [("\"size\":1", "\"size\":2"), ("\"0644\"", "\"0755\""), ("\"path\":\"a\"", "\"path\":\"b\"")]
        {
            let altered = text.replace(from, to);
            assert_ne!(altered, text);
            assert!(matches!(altered.parse::<Release>(), Err(ReleaseError::TreeDigest { .. })), "{to}");
        }
        assert!(matches!(format!("{text}\n").parse::<Release>(), Err(ReleaseError::NotCanonical)));
        assert!(matches!(
            text.replace("\"format\":1", "\"format\":2").parse::<Release>(),
            Err(ReleaseError::Format { actual: 2 })
        ));
        assert!(matches!(
            text.replace("\"path\":\"a\"", "\"path\":\"../a\"").parse::<Release>(),
            Err(ReleaseError::Json(_))
        ));
    }

    #[test]
    fn limits_are_named_with_both_numbers() {
        let limits = ReleaseLimits { files: 1, ..ReleaseLimits::default() };
        let files = vec![file("a", b"1"), file("b", b"2")];
        let error =
            Release::new("x".parse().unwrap(), "v1".parse().unwrap(), None, files.clone(), &limits).unwrap_err();
        assert_eq!(error.to_string(), "number of files of 2 exceeds the limit of 1");
        let limits = ReleaseLimits { total_bytes: 1, ..ReleaseLimits::default() };
        let error = Release::new("x".parse().unwrap(), "v1".parse().unwrap(), None, files, &limits).unwrap_err();
        assert_eq!(error.to_string(), "total size in bytes of 2 exceeds the limit of 1 at `b`");
    }
}
