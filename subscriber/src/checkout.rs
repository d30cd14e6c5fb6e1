//! Fetching a release by hand, outside an agent's rounds: into a cache, or as plain files into a directory.
//!
//! The same download and the same verification as an agent's: nothing becomes visible that was not verified, and a
//! process that is killed leaves nothing visible behind.
//!
//! * [`into_cache`] lays a release out as an agent does and makes it current, under the cache's lock. An agent that
//!   lives on the cache notices within seconds, and keeps it for as long as its [`LocalPin`] holds.
//! * [`into_directory`] leaves nothing but the release's own files, byte for byte.

mod plain_destination;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use shared::archive::write_archive;
use shared::digest::Sha256Digest;
use shared::event::{FetchStrategy, Published};
use shared::identifiers::{BundleName, Tag};
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, Release, ReleaseFile};
use shared::verification::{VerificationFailure, VerifiedRelease};
use streams::release_store::{ReleaseStore, TransferProgress};
use thiserror::Error;
use tokio::task::spawn_blocking;

pub use self::plain_destination::{DirectoryTree, Foreign, into_directory, tree_of_directory};
use crate::activation::activate;
use crate::cache::{Cache, CacheLock, Current};
use crate::durable_file::beside;
use crate::fetch::{StageFailure, cheapest_way, description, fetch, id_of, reuse, unpack};
use crate::local_pin::LocalPin;
use crate::node_state::ReleaseId;
use crate::release_directory::is_contracts_bundle;
use crate::retention::{collect, stored_releases};

/// Releases that stay in a cache that no agent looks after, the current one not counted.
const KEPT_RELEASES: usize = 3;

/// A release that was not checked out. What stood at the destination before still stands there.
#[derive(Debug, Error)]
pub enum CheckoutError {
    /// The bytes are not what was announced.
    #[error("release `{tag}` is refused: {}; `{}` is left as it was", .failure, destination.display())]
    Refused {
        /// The release.
        tag: Tag,
        /// Where it should have gone.
        destination: PathBuf,
        /// What differed first.
        failure: Box<VerificationFailure>,
    },
    /// It could not be fetched, or not be put there.
    #[error("release `{tag}` cannot be put into `{}`, which is left as it was", destination.display())]
    Failed {
        /// The release.
        tag: Tag,
        /// Where it should have gone.
        destination: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Files make no release.
    #[error("what was downloaded as `{tag}` makes no release")]
    NoRelease {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The destination holds something else.
    #[error(
        "`{}` holds files that belong to no release of `{bundle}`, for example `{example}`: choose an empty or a new \
         directory, or let --force move it aside", destination.display()
    )]
    Foreign {
        /// The destination.
        destination: PathBuf,
        /// The bundle.
        bundle: BundleName,
        /// One of the files.
        example: String,
    },
}

/// Where a release comes from.
pub enum Origin<'a> {
    /// The release store, checked against its announcement.
    Store {
        /// The store.
        store: &'a ReleaseStore,
        /// The announcement.
        published: &'a Published,
        /// Hears of the archive's bytes as they come in.
        progress: &'a dyn TransferProgress,
    },
    /// Files that are here already.
    Local(&'a LocalRelease),
}

/// A release made of files in memory.
#[derive(Debug)]
pub struct LocalRelease {
    release: Release,
    archive: Bytes,
}

impl LocalRelease {
    /// Makes a release of these files; the content digest of a contracts release is that of its `bundle.json`.
    pub fn of_files(bundle: &BundleName, tag: &Tag, files: &[(&str, Bytes)]) -> Result<Self, CheckoutError> {
        let no_release = |source: Box<dyn Error + Send + Sync>| CheckoutError::NoRelease { tag: tag.clone(), source };
        let mut listed = Vec::new();
        for (path, content) in files {
            listed.push(ReleaseFile {
                path: path.parse().map_err(|error| no_release(Box::new(error)))?,
                size: content.len() as u64,
                mode: FileMode::Plain,
                sha256: Sha256Digest::of(content),
            });
        }
        let content = |name: &str| files.iter().find(|(path, _)| *path == name).map(|(_, content)| content);
        let content_digest = content("bundle.json").map(|content| Sha256Digest::of(content));
        let release = Release::new(bundle.clone(), tag.clone(), content_digest, listed, &ReleaseLimits::default())
            .map_err(|error| no_release(Box::new(error)))?;
        let open = |file: &ReleaseFile| content(file.path.as_str()).map(|bytes| &bytes[..]).ok_or_else(missing);
        let archive = write_archive(&release, open, Vec::new()).map_err(|error| no_release(Box::new(error)))?;
        Ok(Self { release, archive: archive.into() })
    }

    /// What it consists of.
    pub fn release(&self) -> &Release {
        &self.release
    }
}

fn missing() -> std::io::Error {
    std::io::ErrorKind::NotFound.into()
}

/// How a release got where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// It was there already, and every byte of it was read and found right.
    Found,
    /// It was fetched.
    Fetched {
        /// Bytes of every object read for it.
        wire_bytes: u64,
        /// Whether it was had by patches of a release in the cache.
        strategy: FetchStrategy,
    },
}

/// A release that is where it should be, verified.
#[derive(Debug, Clone)]
pub struct CheckedOut {
    /// The release.
    pub release: Release,
    /// How it got there.
    pub means: Means,
    /// Where the directory went that stood there before and held something else.
    pub moved_aside: Option<PathBuf>,
}

impl Origin<'_> {
    fn id(&self) -> ReleaseId {
        match self {
            Self::Store { published, .. } => {
                ReleaseId { tag: published.tag.clone(), tree_digest: published.tree_digest }
            }
            Self::Local(local) => id_of(&local.release),
        }
    }

    fn bundle(&self) -> &BundleName {
        match self {
            Self::Store { published, .. } => &published.bundle,
            Self::Local(local) => local.release.bundle(),
        }
    }

    /// Fetches it into `releases/` of a cache, whatever is there.
    async fn fetch_into(&self, cache: &Cache) -> Result<(VerifiedRelease, Means), StageFailure> {
        let limits = ReleaseLimits::default();
        match self {
            Self::Store { store, published, progress } => {
                let way = cheapest_way(store, cache, published).await;
                let staged = fetch(store, cache, published, &way, limits, *progress).await?;
                let (strategy, wire_bytes) = (staged.strategy, staged.wire_bytes);
                Ok((staged.verified, Means::Fetched { wire_bytes, strategy }))
            }
            Self::Local(local) => {
                let verified = unpack(cache, &local.release, local.archive.clone(), limits).await?;
                Ok((verified, Means::Fetched { wire_bytes: 0, strategy: FetchStrategy::Archive }))
            }
        }
    }

    fn failed(&self, destination: &Path) -> impl FnOnce(StageFailure) -> CheckoutError {
        let (tag, destination) = (self.id().tag, destination.to_owned());
        move |failure| {
            if let StageFailure::Refused(failure) = failure {
                CheckoutError::Refused { tag, destination, failure: Box::new(failure) }
            } else {
                CheckoutError::Failed { tag, destination, source: Box::new(failure) }
            }
        }
    }
}

/// Whether a directory is a cache, or was one until it was deleted: fetching into it keeps that form.
pub fn has_cache_layout(directory: &Path) -> bool {
    let cache = Cache::new(directory);
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    there(&cache.releases()) || there(&cache.lock_path()) || there(&beside(directory, ".pin"))
}

/// Fetches a release into a cache and makes it current, durably. What the cache holds already is not fetched again, but
/// read and verified. A pin is written before the switch, so that the agent never sees a switch that it should undo;
/// without one, any pin is removed.
///
/// `cache` must be absolute. The release before it stays in the cache.
pub async fn into_cache(
    origin: &Origin<'_>,
    cache: &Path,
    pin: Option<LocalPin>,
    agent_collects: bool,
) -> Result<CheckedOut, CheckoutError> {
    let place = Cache::new(cache);
    let failed = || origin.failed(cache);
    let is_new = fs::symlink_metadata(cache).is_err();
    place.ensure().map_err(|error| failed()(error.into()))?;
    let id = origin.id();
    let found = reuse(&place, &id, ReleaseLimits::default()).await;
    let (verified, means) = if let Ok(found) = found {
        (found.verified, Means::Found)
    } else {
        let fetched = origin.fetch_into(&place).await;
        if is_new && fetched.is_err() {
            remove_empty(&place);
        }
        fetched.map_err(failed())?
    };
    let release = verified.release().clone();
    let lock = place.lock().await.map_err(|error| failed()(error.into()))?;
    let switched = spawn_blocking(move || switch(&place, lock, &verified, pin.as_ref(), agent_collects));
    switched.await.map_err(StageFailure::from).flatten().map_err(failed())?;
    Ok(CheckedOut { release, means, moved_aside: None })
}

/// Takes away the directories of a cache that came to nothing. One that somebody else has begun to fill stays.
fn remove_empty(cache: &Cache) {
    for directory in [cache.staging(), cache.releases(), cache.root().to_owned()] {
        let _ = fs::remove_dir(directory);
    }
}

fn switch(
    cache: &Cache,
    lock: CacheLock,
    verified: &VerifiedRelease,
    pin: Option<&LocalPin>,
    agent_collects: bool,
) -> Result<(), StageFailure> {
    if let Some(pin) = pin {
        pin.save(cache, &lock)?;
    }
    let before = cache.current()?;
    activate(cache, &lock, verified)?;
    if pin.is_none() {
        LocalPin::remove(cache, &lock)?;
    }
    if !agent_collects {
        let before = match before {
            Current::Release(tag) => Some(tag),
            Current::Absent | Current::Foreign => None,
        };
        let kept: Vec<Tag> = before.into_iter().chain(newest_first(cache)?).collect();
        if let Err(error) = collect(cache, &lock, &kept, KEPT_RELEASES + 1, &[], SystemTime::now()) {
            tracing::warn!(error = %shared::daemon::ErrorChain(&error), "old releases cannot be removed");
        }
    }
    drop(lock);
    Ok(())
}

/// The releases in a cache by the time they were last in use or came in.
fn newest_first(cache: &Cache) -> Result<Vec<Tag>, StageFailure> {
    let mut releases: Vec<(SystemTime, Tag)> = stored_releases(cache)?
        .into_iter()
        .filter_map(|(tag, path)| Some((fs::metadata(path).ok()?.modified().ok()?, tag)))
        .collect();
    releases.sort();
    Ok(releases.into_iter().rev().map(|(_, tag)| tag).collect())
}

/// A release's description that could not be had.
#[derive(Debug, Error)]
pub enum DescriptionError {
    /// It is not what was announced.
    #[error("release `{tag}` is refused: {failure}")]
    Refused {
        /// The release.
        tag: Tag,
        /// What differed first.
        failure: Box<VerificationFailure>,
    },
    /// It could not be read.
    #[error("the description of release `{tag}` cannot be read")]
    Failed {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Reads which files an announced release consists of, verified against its announcement. Fetches no file.
pub async fn describe(store: &ReleaseStore, published: &Published) -> Result<Release, DescriptionError> {
    let described = description(store, published, ReleaseLimits::default()).await;
    let tag = || published.tag.clone();
    described.map_err(|failure| {
        if let StageFailure::Refused(failure) = failure {
            DescriptionError::Refused { tag: tag(), failure: Box::new(failure) }
        } else {
            DescriptionError::Failed { tag: tag(), source: Box::new(failure) }
        }
    })
}

/// Whether a release consists of exactly the three files of a contracts bundle.
pub fn holds_contracts(release: &Release) -> bool {
    is_contracts_bundle(release)
}

#[cfg(test)]
mod tests;
