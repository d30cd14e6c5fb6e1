//! Paths inside a release: the one place that decides which are allowed.
//!
//! Described in `docs/ARCHITECTURE.md`, "Releases".
//!
//! A path that parses can be joined to a directory without leaving it, means the same on every machine, and
//! is valid UTF-8 without control characters.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest path of all, in bytes, whatever the configured limits say.
pub const MAX_PATH_BYTES: usize = 1024;
const MAX_COMPONENT_BYTES: usize = 255;

/// A relative, normalised path with `/` between its components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleasePath(String);

/// A path that no release may hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("path `{path}` is refused: {rule}")]
pub struct PathError {
    /// The path, cut and with control characters escaped.
    pub path: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl PathError {
    fn new(path: &str, rule: &'static str) -> Self {
        Self { path: path.chars().take(200).flat_map(char::escape_debug).collect(), rule }
    }
}

impl ReleasePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path's components, none of them empty, `.` or `..`.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for ReleasePath {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        let refused = |rule| Err(PathError::new(path, rule));
        if path.is_empty() {
            return refused("it is empty");
        }
        if path.len() > MAX_PATH_BYTES {
            return refused("it is longer than 1024 bytes");
        }
        if path.starts_with('/') {
            return refused("it is absolute");
        }
        if path.contains('\\') {
            return refused("it holds a backslash");
        }
        if path.chars().any(char::is_control) {
            return refused("it holds a control character");
        }
        for component in path.split('/') {
            match component {
                "" => return refused("it has an empty component"),
                "." | ".." => return refused("it has a `.` or `..` component"),
                _ if component.len() > MAX_COMPONENT_BYTES => return refused("a component is longer than 255 bytes"),
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }
}

impl TryFrom<String> for ReleasePath {
    type Error = PathError;

    fn try_from(path: String) -> Result<Self, PathError> {
        path.parse()
    }
}

impl From<ReleasePath> for String {
    fn from(path: ReleasePath) -> Self {
        path.0
    }
}

impl fmt::Display for ReleasePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl fmt::Debug for ReleasePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReleasePath({})", self.0)
    }
}

/// Checks that a set of paths can stand beside each other on every file system: no path twice, none that
/// differs from another only in case (at any depth), none that is both file and directory.
#[derive(Debug, Default)]
pub struct PathSet {
    /// Folded prefix → its spelling, and whether it is a file.
    seen: BTreeMap<String, (String, bool)>,
}

impl PathSet {
    /// Adds a file's path.
    pub fn insert(&mut self, path: &ReleasePath) -> Result<(), PathError> {
        let text = path.as_str();
        let ends = text.match_indices('/').map(|(end, _)| end).chain([text.len()]);
        for end in ends {
            let (spelling, is_file) = (&text[..end], end == text.len());
            match self.seen.get(&fold(spelling)) {
                None => {
                    self.seen.insert(fold(spelling), (spelling.to_owned(), is_file));
                }
                Some((known, _)) if known != spelling => {
                    return Err(PathError::new(text, "it differs from another path only in case"));
                }
                Some((_, true)) if is_file => return Err(PathError::new(text, "it occurs twice")),
                Some((_, known_file)) if *known_file != is_file => {
                    return Err(PathError::new(text, "another path uses a file as a directory"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Simple case folding: what common case-insensitive file systems treat as equal.
fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "a\0b",
            "a\nb",
            "a\u{7f}b",
            &"x".repeat(256),
            &"a/".repeat(600),
        ] {
            assert!(bad.parse::<ReleasePath>().is_err(), "{bad:?}");
        }
        for good in ["a", "a/b.json", ".hidden", "...", "ä/ö", "a b/c", &"x".repeat(255)] {
            assert!(good.parse::<ReleasePath>().is_ok(), "{good:?}");
        }
    }

    fn insert_all(paths: &[&str]) -> Result<(), PathError> {
        let mut set = PathSet::default();
        paths.iter().try_for_each(|path| set.insert(&path.parse()?))
    }

    #[test]
    fn paths_must_be_able_to_stand_beside_each_other() {
        assert!(insert_all(&["a/b", "a/c", "ab"]).is_ok());
        for bad in
            [&["a", "a"][..], &["a", "A"], &["Dir/x", "dir/y"], &["a", "a/b"], &["a/b", "a"], &["straße", "STRASSE"]]
        {
            assert!(insert_all(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_its_directory(text in "[a-z./\\\\\\PC]{0,40}") {
            if let Ok(path) = text.parse::<ReleasePath>() {
                prop_assert!(Path::new(path.as_str()).components().all(|component| matches!(component, Component::Normal(_))));
                prop_assert_eq!(path.as_str(), text);
            }
        }
    }
}
