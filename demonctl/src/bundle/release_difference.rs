//! What differs between two lists of files. Pure.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::release::{FileMode, ReleaseFile};

/// How one file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Other content, perhaps another mode.
    Changed,
    /// The same content, executable in one of them only.
    Mode,
    /// The same content under another path.
    Renamed,
}

impl Change {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Mode => "mode",
            Self::Renamed => "renamed",
        }
    }
}

/// One file on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Side {
    path: String,
    pub(super) size: u64,
    mode: FileMode,
    sha256: Sha256Digest,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    pub(super) change: Change,
    /// Where it lies, in the second where it is in both.
    pub(super) path: String,
    pub(super) from: Option<Side>,
    pub(super) to: Option<Side>,
}

impl Difference {
    fn new(change: Change, from: Option<&ReleaseFile>, to: Option<&ReleaseFile>) -> Self {
        let path = to.or(from).map(|file| file.path.to_string()).unwrap_or_default();
        Self { change, path, from: from.map(side), to: to.map(side) }
    }

    /// The path on the first side, where it is another.
    pub(super) fn old_path(&self) -> Option<&str> {
        self.from.as_ref().map(|from| from.path.as_str()).filter(|old| *old != self.path)
    }
}

fn side(file: &ReleaseFile) -> Side {
    Side { path: file.path.to_string(), size: file.size, mode: file.mode, sha256: file.sha256 }
}

/// Every difference, sorted by path.
pub(super) fn differences(from: &[ReleaseFile], to: &[ReleaseFile]) -> Vec<Difference> {
    let by_path = |files: &[ReleaseFile]| -> BTreeMap<String, ReleaseFile> {
        files.iter().map(|file| (file.path.to_string(), file.clone())).collect()
    };
    let (old, new) = (by_path(from), by_path(to));
    let mut found = Vec::new();
    for (path, one) in &old {
        if let Some(other) = new.get(path) {
            if one.sha256 != other.sha256 {
                found.push(Difference::new(Change::Changed, Some(one), Some(other)));
            } else if one.mode != other.mode {
                found.push(Difference::new(Change::Mode, Some(one), Some(other)));
            }
        }
    }
    // Content that went away in one place and came up in another has moved; an empty file says nothing about that.
    let mut gone: BTreeMap<Sha256Digest, VecDeque<&ReleaseFile>> = BTreeMap::new();
    for (_, file) in old.iter().filter(|(path, _)| !new.contains_key(*path)) {
        gone.entry(file.sha256).or_default().push_back(file);
    }
    for (_, file) in new.iter().filter(|(path, _)| !old.contains_key(*path)) {
        let before = if file.size > 0 { gone.get_mut(&file.sha256).and_then(VecDeque::pop_front) } else { None };
        let change = if before.is_some() { Change::Renamed } else { Change::Added };
        found.push(Difference::new(change, before, Some(file)));
    }
    found.extend(gone.into_values().flatten().map(|file| Difference::new(Change::Removed, Some(file), None)));
    found.sort_by(|one, other| one.path.cmp(&other.path).then(one.change.cmp(&other.change)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str, mode: FileMode) -> ReleaseFile {
        let sha256 = Sha256Digest::of(content.as_bytes());
        ReleaseFile { path: path.parse().unwrap(), size: content.len() as u64, mode, sha256 }
    }

    #[test]
    fn each_kind_of_difference_is_told_apart() {
        let plain = |path, content| file(path, content, FileMode::Plain);
        let from =
            [plain("a", "1"), plain("b", "2"), plain("c", "3"), plain("d", "4"), plain("e", "5"), plain("f", "")];
        let to = [
            plain("a", "1"),
            plain("b", "changed"),
            file("c", "3", FileMode::Executable),
            plain("moved/d", "4"),
            plain("new", "6"),
            plain("g", ""),
        ];
        let found = differences(&from, &to);
        let shown: Vec<_> = found.iter().map(|found| (found.change.as_str(), found.path.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("changed", "b"),
                ("mode", "c"),
                ("removed", "e"),
                ("removed", "f"),
                ("added", "g"),
                ("renamed", "moved/d"),
                ("added", "new")
            ]
        );
        assert_eq!(found[5].old_path(), Some("d"));
        assert!(differences(&from, &from).is_empty());
    }

    #[test]
    fn one_of_two_equal_files_moves_once() {
        let from = [file("a", "x", FileMode::Plain), file("b", "x", FileMode::Plain)];
        let to = [file("c", "x", FileMode::Plain)];
        let shown: Vec<_> = differences(&from, &to).into_iter().map(|found| found.change).collect();
        assert_eq!(shown, [Change::Removed, Change::Renamed]);
    }
}
