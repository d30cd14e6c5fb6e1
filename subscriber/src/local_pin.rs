//! A release that somebody put into this cache by hand: it stays until the channel next moves.
//!
//! `<cache>.pin` stands beside the cache, like its lock, so that deleting the cache does not forget it. The command
//! line writes it, under the cache's lock and before it switches; the agent reads it with each look, and removes it when
//! it has ended. It never beats a withdrawal, and an agent whose own settings pin a tag does not heed it.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::daemon::crash_point::CrashPoint;
use shared::digest::Sha256Digest;
use shared::identifiers::{ActorName, BundleName, Incarnation, Tag};
use thiserror::Error;

use crate::cache::{Cache, CacheLock};
use crate::durable_file::{beside, remove_file_if_present, write_atomically};
use crate::node_state::ReleaseId;
use crate::plan::Withdrawn;

const FORMAT: u32 = 1;
/// Far above what a pin needs.
const MOST_BYTES: u64 = 16 * 1024;

/// A pin that cannot be read or written.
#[derive(Debug, Error)]
pub enum PinError {
    /// The file cannot be used.
    #[error("local pin `{}` cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds no pin of this version.
    #[error("local pin `{}` is not readable; delete it to follow the channel", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("local pin `{}` has format {actual}, this version reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        actual: u32,
    },
}

/// How far the log went when the pin was made. What comes later in the channel ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedAt {
    /// The log's epoch.
    pub epoch: Incarnation,
    /// The last event that whoever made the pin could know of.
    pub up_to_sequence: u64,
}

/// The pin of one cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPin {
    format: u32,
    /// The bundle.
    pub bundle: BundleName,
    /// The release.
    pub tag: Tag,
    /// Its identity.
    pub tree_digest: Sha256Digest,
    /// Its content digest: a withdrawal may name either.
    pub content_digest: Sha256Digest,
    /// Who made the pin, where known.
    pub actor: Option<ActorName>,
    /// When, by that machine's clock.
    pub time: DateTime<Utc>,
    /// Where the log stood; absent where the release did not come through the log, until the agent fills it in.
    pub log: Option<PinnedAt>,
}

/// Tells one pin file from the next without reading it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PinStamp(Option<(u64, i64, i64)>);

/// What becomes of a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PinVerdict {
    /// It says what to run.
    Holds,
    /// It does, and from here on the channel's moves count.
    Begins(PinnedAt),
    /// It is over.
    Ended(PinEnd),
}

/// Why a pin is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PinEnd {
    /// It is about another bundle than this agent's.
    OtherBundle,
    /// Its release was withdrawn.
    Withdrawn,
    /// The log was restored since.
    NewEpoch,
    /// The channel has moved.
    ChannelMoved,
    /// Its release is neither on disk nor announced.
    Gone,
    /// The channel points at its release: there is nothing to hold back.
    SameAsChannel,
}

impl PinEnd {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OtherBundle => "it is about another bundle",
            Self::Withdrawn => "its release is withdrawn",
            Self::NewEpoch => "the log was restored since",
            Self::ChannelMoved => "the channel has moved",
            Self::SameAsChannel => "the channel points at its release",
            Self::Gone => "its release is neither in the cache nor announced",
        }
    }
}

impl LocalPin {
    /// A pin to a release.
    pub fn new(
        bundle: BundleName,
        (tag, tree_digest, content_digest): (Tag, Sha256Digest, Sha256Digest),
        actor: Option<ActorName>,
        time: DateTime<Utc>,
        log: Option<PinnedAt>,
    ) -> Self {
        Self { format: FORMAT, bundle, tag, tree_digest, content_digest, actor, time, log }
    }

    /// The same pin, from here on measured against the log.
    pub(crate) fn beginning_at(self, at: PinnedAt) -> Self {
        Self { log: Some(at), ..self }
    }

    /// Where a cache's pin stands.
    pub fn path(cache: &Cache) -> PathBuf {
        beside(cache.root(), ".pin")
    }

    /// The pin of a cache, where it has one.
    pub fn load(cache: &Cache) -> Result<Option<Self>, PinError> {
        let path = Self::path(cache);
        let failed = |source| PinError::Io { path: path.clone(), source };
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        let pin: Self =
            serde_json::from_slice(&bytes).map_err(|source| PinError::Form { path: path.clone(), source })?;
        if pin.format == FORMAT { Ok(Some(pin)) } else { Err(PinError::Format { path, actual: pin.format }) }
    }

    /// Writes the pin, durably, in place of any other.
    pub(crate) fn save(&self, cache: &Cache, _lock: &CacheLock) -> Result<(), PinError> {
        let path = Self::path(cache);
        let written = serde_json::to_vec_pretty(self).map_err(io::Error::other);
        let written = written.and_then(|bytes| write_atomically(&path, &bytes, 0o644));
        written.map_err(|source| PinError::Io { path, source })?;
        CrashPoint::PinSaved.reach();
        Ok(())
    }

    /// Removes a cache's pin, whatever it says.
    pub(crate) fn remove(cache: &Cache, _lock: &CacheLock) -> Result<(), PinError> {
        let path = Self::path(cache);
        remove_file_if_present(&path).map_err(|source| PinError::Io { path, source })?;
        CrashPoint::PinRemoved.reach();
        Ok(())
    }

    /// What tells the present pin file from another.
    pub(crate) fn stamp(cache: &Cache) -> PinStamp {
        let metadata = fs::symlink_metadata(Self::path(cache));
        PinStamp(metadata.ok().map(|found| (found.ino(), found.mtime(), found.mtime_nsec())))
    }

    pub(crate) fn release(&self) -> ReleaseId {
        ReleaseId { tag: self.tag.clone(), tree_digest: self.tree_digest }
    }

    /// Judges the pin by what the log says: its epoch, how far it was read, and the sequence of the channel's head.
    pub(crate) fn judge(
        &self,
        bundle: &BundleName,
        now: PinnedAt,
        head_sequence: Option<u64>,
        withdrawn: &Withdrawn,
    ) -> PinVerdict {
        if &self.bundle != bundle {
            return PinVerdict::Ended(PinEnd::OtherBundle);
        }
        if withdrawn.holds(self.tree_digest, Some(self.content_digest)) {
            return PinVerdict::Ended(PinEnd::Withdrawn);
        }
        match self.log {
            None => PinVerdict::Begins(now),
            Some(at) if at.epoch != now.epoch => PinVerdict::Ended(PinEnd::NewEpoch),
            Some(at) if head_sequence.is_some_and(|head| head > at.up_to_sequence) => {
                PinVerdict::Ended(PinEnd::ChannelMoved)
            }
            Some(_) => PinVerdict::Holds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u128) -> Incarnation {
        Incarnation::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn pin(log: Option<PinnedAt>) -> LocalPin {
        let release = ("v1".parse().unwrap(), Sha256Digest::of(b"tree"), Sha256Digest::of(b"content"));
        LocalPin::new("contracts".parse().unwrap(), release, None, DateTime::UNIX_EPOCH, log)
    }

    #[test]
    fn a_pin_outlives_its_cache_and_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        let lock = cache.try_lock().unwrap().unwrap();
        assert_eq!(LocalPin::load(&cache).unwrap(), None);
        let before = LocalPin::stamp(&cache);
        pin(None).save(&cache, &lock).unwrap();
        fs::remove_dir_all(cache.root()).unwrap();
        assert_eq!(LocalPin::load(&cache).unwrap(), Some(pin(None)));
        assert_ne!(LocalPin::stamp(&cache), before);
        fs::write(LocalPin::path(&cache), "{").unwrap();
        assert!(matches!(LocalPin::load(&cache), Err(PinError::Form { .. })));
        LocalPin::remove(&cache, &lock).unwrap();
        LocalPin::remove(&cache, &lock).unwrap();
        assert_eq!(LocalPin::stamp(&cache), before);
    }

    #[test]
    fn a_pin_holds_until_the_channel_moves_the_log_is_another_or_the_release_is_withdrawn() {
        let bundle: BundleName = "contracts".parse().unwrap();
        let made = PinnedAt { epoch: epoch(1), up_to_sequence: 7 };
        let now = PinnedAt { epoch: epoch(1), up_to_sequence: 20 };
        let none = Withdrawn::default();
        let judge = |head, withdrawn: &Withdrawn| pin(Some(made)).judge(&bundle, now, head, withdrawn);
        assert_eq!(judge(None, &none), PinVerdict::Holds);
        assert_eq!(judge(Some(7), &none), PinVerdict::Holds);
        assert_eq!(judge(Some(8), &none), PinVerdict::Ended(PinEnd::ChannelMoved));
        for digest in ["tree", "content"] {
            let digest = Sha256Digest::of(digest.as_bytes());
            let withdrawn = Withdrawn { trees: [digest].into(), contents: [digest].into() };
            assert_eq!(judge(None, &withdrawn), PinVerdict::Ended(PinEnd::Withdrawn));
        }
        let restored = PinnedAt { epoch: epoch(2), up_to_sequence: 3 };
        assert_eq!(pin(Some(made)).judge(&bundle, restored, None, &none), PinVerdict::Ended(PinEnd::NewEpoch));
        assert_eq!(pin(None).judge(&bundle, now, Some(19), &none), PinVerdict::Begins(now));
        let other: BundleName = "policies".parse().unwrap();
        assert_eq!(pin(Some(made)).judge(&other, now, None, &none), PinVerdict::Ended(PinEnd::OtherBundle));
    }
}
