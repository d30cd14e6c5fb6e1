//! Where each file of a release comes from, by the two file lists. Pure; writer and reader derive the same plan.

use std::collections::BTreeMap;

use crate::digest::Sha256Digest;
use crate::release::{Release, ReleaseFile};

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// The base has it in this file, perhaps under another path.
    InBase(&'a ReleaseFile),
    /// An earlier file of the release has it.
    InRelease(&'a ReleaseFile),
    /// Only the delta has it.
    New,
}

/// The files of a release in order, each with the place of its content. Of several files of the base with the same
/// content the one with the same path serves, else the first.
pub(super) fn plan<'a>(base: &'a Release, release: &'a Release) -> Vec<(&'a ReleaseFile, Content<'a>)> {
    let mut known: BTreeMap<(Sha256Digest, u64), &ReleaseFile> = BTreeMap::new();
    for file in base.files().iter().rev() {
        known.insert((file.sha256, file.size), file);
    }
    let by_path: BTreeMap<&str, &ReleaseFile> = base.files().iter().map(|file| (file.path.as_str(), file)).collect();
    let mut earlier: BTreeMap<(Sha256Digest, u64), &ReleaseFile> = BTreeMap::new();
    let mut content = |file: &'a ReleaseFile| {
        let key = (file.sha256, file.size);
        let same_path = by_path.get(file.path.as_str()).filter(|found| (found.sha256, found.size) == key);
        if let Some(found) = same_path.or_else(|| known.get(&key)) {
            return Content::InBase(found);
        }
        if let Some(found) = earlier.get(&key) {
            return Content::InRelease(found);
        }
        earlier.insert(key, file);
        Content::New
    };
    release.files().iter().map(|file| (file, content(file))).collect()
}

/// The base's file that new content most likely resembles, by its position: the one of the same path, else one of the
/// same name that is gone from its place. The delta names it, so a better guess needs no new form.
pub(super) fn likely_prefix(base: &Release, release: &Release, file: &ReleaseFile) -> Option<usize> {
    let files = base.files();
    let at = |path: &str| files.binary_search_by(|found| found.path.as_str().cmp(path)).ok();
    if let Some(same) = at(file.path.as_str()) {
        return Some(same);
    }
    let name = name_of(file);
    let stays = |found: &ReleaseFile| release.files().binary_search_by(|new| new.path.cmp(&found.path)).is_ok();
    files.iter().position(|found| name_of(found) == name && !stays(found))
}

fn name_of(file: &ReleaseFile) -> &str {
    file.path.as_str().rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ReleaseLimits;
    use crate::release::FileMode;

    fn release(files: &[(&str, &str)]) -> Release {
        let files = files.iter().map(|(path, content)| ReleaseFile {
            path: path.parse().unwrap(),
            size: content.len() as u64,
            mode: FileMode::Plain,
            sha256: Sha256Digest::of(content.as_bytes()),
        });
        let (bundle, tag) = ("policies".parse().unwrap(), "v1".parse().unwrap());
        Release::new(bundle, tag, None, files.collect(), &ReleaseLimits::default()).unwrap()
    }

    #[test]
    fn only_content_that_nobody_has_is_new() {
        let base = release(&[("a", "same"), ("b", "old"), ("c", "moved"), ("d", "gone"), ("e", "same")]);
        let next = release(&[("a", "same"), ("b", "new"), ("e", "same"), ("x/c", "moved"), ("y", "new"), ("z", "old")]);
        let found: Vec<String> = plan(&base, &next)
            .into_iter()
            .map(|(file, content)| match content {
                Content::InBase(from) => format!("{} from base {}", file.path, from.path),
                Content::InRelease(from) => format!("{} from {}", file.path, from.path),
                Content::New => format!("{} new", file.path),
            })
            .collect();
        let expected = ["a from base a", "b new", "e from base e", "x/c from base c", "y from b", "z from base b"];
        assert_eq!(found, expected);
    }

    #[test]
    fn new_content_resembles_what_stood_there_or_was_moved_there() {
        let base = release(&[("a", "1"), ("lib/x.js", "2"), ("y.js", "3")]);
        let next = release(&[("a", "2!"), ("new", "4"), ("src/x.js", "5"), ("src/y.js", "6"), ("y.js", "3")]);
        let guess = |path: &str| {
            let file = next.files().iter().find(|file| file.path.as_str() == path).unwrap();
            likely_prefix(&base, &next, file)
        };
        assert_eq!([guess("a"), guess("src/x.js"), guess("src/y.js"), guess("new")], [Some(0), Some(1), None, None]);
    }
}
