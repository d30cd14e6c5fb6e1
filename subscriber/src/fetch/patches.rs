//! Getting a release by patches of one that is here.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use shared::event::{FetchStrategy, Published};
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use streams::release_store::{ReleaseStore, TransferProgress};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::way::PatchStep;
use super::{ARCHIVE_OVERHEAD, StageFailure, StagedRelease, check_room, check_size, download, install};
use crate::cache::Cache;
use crate::release_directory::ReleaseDirectory;
use crate::staging::{PatchPlace, StagingDirectory};

/// Counts what is received, beside telling somebody of it.
pub(super) struct Counted<'a> {
    pub(super) bytes: AtomicU64,
    pub(super) progress: &'a dyn TransferProgress,
}

impl Counted<'_> {
    pub(super) fn total(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl TransferProgress for Counted<'_> {
    fn advanced(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.advanced(bytes);
    }
}

/// Fetches the patches of a release, applies them one after the other, and puts what comes out into `releases/`,
/// verified and durable. Everything that the base holds is compared with what it should be before it is used.
pub(super) async fn fetch_patches(
    store: &ReleaseStore,
    cache: &Cache,
    base: &Tag,
    steps: &[PatchStep],
    limits: ReleaseLimits,
    received: &Counted<'_>,
) -> Result<StagedRelease, StageFailure> {
    for step in steps {
        check_size(&step.delta, limits.total_bytes.saturating_add(ARCHIVE_OVERHEAD))?;
    }
    let mut staging = begin(cache, steps).await?;
    // Ends the blocking work early when this future is dropped.
    let stop = CancellationToken::new();
    let _stop_when_dropped = stop.clone().drop_guard();
    let mut verified = None;
    for (number, step) in steps.iter().enumerate() {
        let delta;
        (staging, delta) = download(store, &step.delta, staging, received).await?;
        let place = if number + 1 == steps.len() { PatchPlace::Last } else { PatchPlace::Step(number) };
        let (cache, base, gives, stop) = (cache.clone(), base.clone(), step.gives.clone(), stop.clone());
        let applied = spawn_blocking(move || {
            let base = match number.checked_sub(1) {
                None => open_base(&cache.release(&base), &limits)?,
                Some(before) => staging.open_step(before, &limits)?,
            };
            let verified = patch(&staging, delta, &base, &gives, place, (&cache, &limits), &stop)?;
            drop(base);
            if let Some(before) = number.checked_sub(1) {
                staging.remove_step(before);
            }
            Ok::<_, StageFailure>((staging, verified))
        });
        let applied = applied.await??;
        staging = applied.0;
        verified = Some(applied.1);
    }
    let Some(verified) = verified else {
        return Err(StageFailure::Archive(io::ErrorKind::InvalidInput.into()));
    };
    install(cache, staging, &verified, limits).await?;
    Ok(StagedRelease { verified, strategy: FetchStrategy::Delta, wire_bytes: received.total() })
}

/// A staging directory with room for every tree on the way.
async fn begin(cache: &Cache, steps: &[PatchStep]) -> Result<StagingDirectory, StageFailure> {
    // At most two trees stand there at a time, whatever the chain.
    let largest = steps.iter().map(|step| step.gives.total_bytes).max().unwrap_or_default();
    let deltas = steps.iter().map(|step| step.delta.size).fold(0, u64::saturating_add);
    let trees = if steps.len() > 1 { largest.saturating_mul(2) } else { largest };
    let lock = cache.lock().await?;
    let area = cache.clone();
    spawn_blocking(move || {
        area.ensure()?;
        check_room(area.root(), deltas.saturating_add(trees))?;
        StagingDirectory::create(&area, &lock).map_err(StageFailure::from)
    })
    .await?
}

/// Opens a release in the cache as a reader, so that it is not removed meanwhile.
fn open_base(home: &Path, limits: &ReleaseLimits) -> Result<ReleaseDirectory, StageFailure> {
    let open = |source| crate::release_directory::ReleaseDirectoryError::Open { path: home.to_owned(), source };
    let handle = File::open(home).map_err(open)?;
    // Without the lock it may go away, which is noticed.
    let _ = handle.try_lock_shared();
    Ok(ReleaseDirectory::of_handle(handle, home, limits)?)
}

fn patch(
    staging: &StagingDirectory,
    delta: File,
    base: &ReleaseDirectory,
    gives: &Published,
    place: PatchPlace,
    at: (&Cache, &ReleaseLimits),
    stop: &CancellationToken,
) -> Result<shared::verification::VerifiedRelease, StageFailure> {
    Ok(staging.patch(delta, base, gives, place, at, stop)?)
}
