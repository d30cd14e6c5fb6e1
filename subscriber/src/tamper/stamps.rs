//! What the file system said about files when they were read and found right.
//!
//! A file with the same place, size, mode and times has the same content, unless somebody who may set the clock or write to
//! the disk itself says otherwise: so stamps save reading between two comparisons of every byte, and replace none. They
//! live in memory only: a process believes nothing before it has read everything once.

use std::fs::Metadata;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use crate::node_state::ReleaseId;

/// A file that changed more recently may change again within the same tick of the file system's clock.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The stamps of one release's files. Eight bytes a file.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    release: Option<ReleaseId>,
    files: Vec<Option<NonZeroU64>>,
    /// Keys of its own, so that nobody can make another file's stamp look the same.
    hasher: RandomState,
}

/// The place of one file's stamp, and the stamp it has now.
pub(super) struct StampEntry<'a> {
    place: &'a mut Option<NonZeroU64>,
    now: Option<NonZeroU64>,
    settled: bool,
}

impl Stamps {
    /// Whether nothing is noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.iter().all(Option::is_none)
    }

    /// Forgets what belongs to another release.
    pub(super) fn begin(&mut self, release: &ReleaseId, files: usize) {
        if self.release.as_ref() != Some(release) || self.files.len() != files {
            self.files = vec![None; files];
            self.release = Some(release.clone());
        }
    }

    /// The entry of a file by its place in the release's list.
    pub(super) fn entry(&mut self, index: usize, metadata: &Metadata) -> Option<StampEntry<'_>> {
        let parts = (
            (metadata.dev(), metadata.ino(), metadata.size(), metadata.mode()),
            (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()),
        );
        let now = NonZeroU64::new(self.hasher.hash_one(parts));
        let changed =
            u64::try_from(metadata.ctime()).ok().map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
        let settled = age.is_some_and(|age| age > SETTLED_AFTER + Duration::from_secs(1));
        self.files.get_mut(index).map(|place| StampEntry { place, now, settled })
    }
}

impl StampEntry<'_> {
    /// Whether the file is the one that was read.
    pub(super) fn is_known(&self) -> bool {
        self.now.is_some() && *self.place == self.now
    }

    /// The file was read since its stamp was taken, and is right.
    pub(super) fn note(self) {
        *self.place = self.now.filter(|_| self.settled);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes};

    use shared::digest::Sha256Digest;

    use super::*;

    fn id(tag: &str) -> ReleaseId {
        ReleaseId { tag: tag.parse().unwrap(), tree_digest: Sha256Digest::of(tag.as_bytes()) }
    }

    #[test]
    fn a_stamp_is_known_until_anything_of_the_file_changes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        fs::write(&path, "content").unwrap();
        let metadata = |path| fs::metadata(path).unwrap();
        let mut stamps = Stamps::default();
        stamps.begin(&id("v1"), 1);
        let mut entry = stamps.entry(0, &metadata(&path)).unwrap();
        assert!(!entry.is_known() && !entry.settled, "it was written just now");
        entry.settled = true;
        entry.note();
        assert!(stamps.entry(0, &metadata(&path)).unwrap().is_known() && !stamps.is_empty());

        // The same size, and the time of modification set back as it was.
        let before = metadata(&path).modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, "CONTENT").unwrap();
        File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(before)).unwrap();
        assert!(!stamps.entry(0, &metadata(&path)).unwrap().is_known());
        stamps.begin(&id("v2"), 1);
        assert!(stamps.is_empty() && stamps.entry(1, &metadata(&path)).is_none());
    }
}
