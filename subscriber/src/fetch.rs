//! Getting a release into the cache: from the cache itself, or from the release store.
//!
//! Every byte is compared with what was announced before anything is decoded: `release.json` whole, the archive as it
//! streams to disk. Only then is it unpacked, on a blocking thread, and verified file by file.

mod failure;
mod patches;
mod placed_file;
mod together;
mod unverified;
mod way;

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use shared::daemon::ErrorChain;
use shared::daemon::crash_point::CrashPoint;
use shared::event::{FetchStrategy, LoadSource, ObjectReference, Published};
use shared::limits::ReleaseLimits;
use shared::release::Release;
use shared::verification::{VerificationFailure, VerifiedRelease, verify_release_json};
use streams::release_store::{ReleaseStore, TransferProgress};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub(crate) use self::failure::StageFailure;
use self::patches::{Counted, fetch_patches};
use self::together::download_together;
pub(crate) use self::unverified::{check_stored_without_digests, fetch_without_digests};
pub(crate) use self::way::{Way, cheapest_way};
use crate::cache::Cache;
use crate::node_state::ReleaseId;
use crate::release_directory::ReleaseDirectory;
use crate::staging::StagingDirectory;

/// Chunks on their way to the disk.
const WRITE_QUEUE: usize = 16;
/// What an archive may be larger than its files: headers, and content that cannot be compressed.
const ARCHIVE_OVERHEAD: u64 = 64 << 20;
/// Room left on the disk for everybody else.
const ROOM_LEFT: u64 = 16 << 20;

/// A release in its place in `releases/`, verified and durable.
#[derive(Debug)]
pub(crate) struct StagedRelease {
    pub(crate) verified: VerifiedRelease,
    /// How it was had in the end.
    pub(crate) strategy: FetchStrategy,
    /// Bytes of every object read for it.
    pub(crate) wire_bytes: u64,
}

impl StagedRelease {
    /// Where its bytes came from, as events name it, for one that was fetched.
    pub(crate) fn source(&self) -> LoadSource {
        match self.strategy {
            FetchStrategy::Archive => LoadSource::Download,
            FetchStrategy::Delta => LoadSource::Delta,
        }
    }
}

/// Verifies the release that stands in the cache by reading every file of it.
pub(crate) async fn reuse(cache: &Cache, id: &ReleaseId, limits: ReleaseLimits) -> Result<StagedRelease, StageFailure> {
    let (home, id) = (cache.release(&id.tag), id.clone());
    let verified = spawn_blocking(move || verify_stored(&home, &id, &limits)).await??;
    Ok(StagedRelease { verified, strategy: FetchStrategy::Archive, wire_bytes: 0 })
}

/// Verifies a release directory that should hold this release.
pub(crate) fn verify_stored(
    home: &Path,
    id: &ReleaseId,
    limits: &ReleaseLimits,
) -> Result<VerifiedRelease, StageFailure> {
    let directory = ReleaseDirectory::open(home, limits)?;
    let found = directory.release();
    if found.tag() != &id.tag || found.tree_digest() != id.tree_digest {
        let expected = format!("{} with tree {}", id.tag, id.tree_digest);
        let actual = format!("{} with tree {}", found.tag(), found.tree_digest());
        return Err(VerificationFailure::rule(home.display().to_string(), expected, actual).into());
    }
    Ok(directory.verify()?)
}

/// Reads the description of an announced release, and nothing else of it.
pub(crate) async fn description(
    store: &ReleaseStore,
    announced: &Published,
    limits: ReleaseLimits,
) -> Result<Release, StageFailure> {
    check_size(&announced.release, limits.release_json_bytes)?;
    let json = store.read(&announced.release).await?;
    Ok(verify_release_json(&json, announced, &limits)?)
}

/// Fetches an announced release in the way that was chosen, verifies it and puts it into `releases/`, durably. Where
/// patches do not give it, for whatever reason, its archive is fetched. Dropped at any point, it leaves nothing behind
/// but what the next start removes.
pub(crate) async fn fetch(
    store: &ReleaseStore,
    cache: &Cache,
    announced: &Published,
    way: &Way,
    limits: ReleaseLimits,
    progress: &dyn TransferProgress,
) -> Result<StagedRelease, StageFailure> {
    let received = Counted { bytes: AtomicU64::new(0), progress };
    if let Way::Patches { base, steps } = way {
        match fetch_patches(store, cache, base, steps, limits, &received).await {
            Ok(staged) => return Ok(staged),
            // The archive needs more of what is missing.
            Err(failure @ (StageFailure::NoRoom { .. } | StageFailure::Interrupted(_))) => return Err(failure),
            Err(failure) => tracing::warn!(
                tag = %announced.tag, base.tag = %base, patches = steps.len(), wire_bytes = received.total(),
                error = %ErrorChain(&failure), "patches do not give the release; its archive is fetched"
            ),
        }
    }
    fetch_archive(store, cache, announced, limits, &received).await
}

async fn fetch_archive(
    store: &ReleaseStore,
    cache: &Cache,
    announced: &Published,
    limits: ReleaseLimits,
    received: &Counted<'_>,
) -> Result<StagedRelease, StageFailure> {
    check_size(&announced.archive, limits.total_bytes.saturating_add(ARCHIVE_OVERHEAD))?;
    let release = description(store, announced, limits).await?;

    let area = cache.clone();
    let staging = {
        let lock = cache.lock().await?;
        let needed = announced.archive.size.saturating_add(release.total_bytes());
        spawn_blocking(move || {
            area.ensure()?;
            check_room(area.root(), needed)?;
            StagingDirectory::create(&area, &lock).map_err(StageFailure::from)
        })
        .await??
    };
    let (staging, archive) = download_together(store, &announced.archive, staging, received).await?;

    // Ends the blocking work early when this future is dropped.
    let stop = CancellationToken::new();
    let _stop_when_dropped = stop.clone().drop_guard();
    let home = cache.release(release.tag());
    let (staging, verified) = spawn_blocking(move || {
        let verified = staging.unpack(archive, &release, &home, &stop)?;
        Ok::<_, StageFailure>((staging, verified))
    })
    .await??;
    install(cache, staging, &verified, limits).await?;
    let wire_bytes = announced.release.size.saturating_add(received.total());
    Ok(StagedRelease { verified, strategy: FetchStrategy::Archive, wire_bytes })
}

/// Unpacks an archive that is in memory already, verifies it and puts it into `releases/`, durably. It did not come
/// through the release store, so there is no announcement to compare it with: the caller made the release of files that
/// it trusts.
pub(crate) async fn unpack(
    cache: &Cache,
    release: &Release,
    archive: Bytes,
    limits: ReleaseLimits,
) -> Result<VerifiedRelease, StageFailure> {
    let (area, release) = (cache.clone(), release.clone());
    let lock = cache.lock().await?;
    let (staging, verified) = spawn_blocking(move || {
        area.ensure()?;
        check_room(area.root(), release.total_bytes())?;
        let staging = StagingDirectory::create(&area, &lock)?;
        drop(lock);
        let home = area.release(release.tag());
        let verified = staging.unpack(&archive[..], &release, &home, &CancellationToken::new())?;
        Ok::<_, StageFailure>((staging, verified))
    })
    .await??;
    install(cache, staging, &verified, limits).await?;
    Ok(verified)
}

/// Streams an object into the staging directory. Returns once all of it was received with the announced size and digest.
async fn download(
    store: &ReleaseStore,
    object: &ObjectReference,
    staging: StagingDirectory,
    progress: &dyn TransferProgress,
) -> Result<(StagingDirectory, std::fs::File), StageFailure> {
    let mut stream = store.open(object).await?;
    let (chunks, mut queue) = mpsc::channel::<Bytes>(WRITE_QUEUE);
    let writing = spawn_blocking(move || {
        let mut file = staging.create_object()?;
        while let Some(chunk) = queue.blocking_recv() {
            file.write_all(&chunk).map_err(StageFailure::Archive)?;
            CrashPoint::ArchiveChunkWritten.reach();
        }
        CrashPoint::ArchiveWritten.reach();
        file.seek(SeekFrom::Start(0)).map_err(StageFailure::Archive)?;
        Ok::<_, StageFailure>((staging, file))
    });
    let mut received = Ok(());
    loop {
        match stream.next_chunk().await {
            // A writer that ended early says why below.
            Ok(Some(chunk)) => {
                progress.advanced(chunk.len() as u64);
                if chunks.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                received = Err(error);
                break;
            }
        }
    }
    drop(chunks);
    let written = writing.await??;
    received?;
    Ok(written)
}

/// Puts a verified release into its place, unless another agent on the same cache did so in the meantime.
async fn install(
    cache: &Cache,
    staging: StagingDirectory,
    verified: &VerifiedRelease,
    limits: ReleaseLimits,
) -> Result<(), StageFailure> {
    let lock = cache.lock().await?;
    let (cache, verified) = (cache.clone(), verified.clone());
    spawn_blocking(move || {
        let id = id_of(verified.release());
        let home = cache.release(&id.tag);
        if home.exists() && verify_stored(&home, &id, &limits).is_ok() {
            return Ok(());
        }
        staging.install(&cache, &lock, &verified).map_err(StageFailure::from)
    })
    .await?
}

/// Name and identity of a release.
pub(crate) fn id_of(release: &Release) -> ReleaseId {
    ReleaseId { tag: release.tag().clone(), tree_digest: release.tree_digest() }
}

fn check_size(object: &ObjectReference, limit: u64) -> Result<(), VerificationFailure> {
    if object.size <= limit {
        return Ok(());
    }
    let (expected, actual) = (format!("at most {limit} bytes"), format!("{} bytes announced", object.size));
    Err(VerificationFailure::rule(object.name.clone(), expected, actual))
}

/// Compares the room on the disk with what will be written. An estimate: the disk may still run full, which is then an
/// error like any other.
fn check_room(root: &Path, needed: u64) -> Result<(), StageFailure> {
    // A file system that cannot say how full it is says so when it is.
    let Ok(state) = rustix::fs::statvfs(root) else { return Ok(()) };
    let available = state.f_bavail.saturating_mul(state.f_frsize);
    let needed = needed.saturating_add(ROOM_LEFT);
    if available < needed { Err(StageFailure::NoRoom { needed, available }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_releases::store_release;

    #[tokio::test]
    async fn a_stored_release_is_reused_only_if_it_is_the_one() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        let home = cache.release(&"v1".parse().unwrap());
        std::fs::create_dir(&home).unwrap();
        let release = store_release(&home, &[("a", "1")], "v1");
        let limits = ReleaseLimits::default();

        let id = id_of(&release);
        assert_eq!(reuse(&cache, &id, limits).await.unwrap().verified.release(), &release);
        let other = ReleaseId { tree_digest: shared::digest::Sha256Digest::of(b"x"), ..id.clone() };
        assert!(matches!(reuse(&cache, &other, limits).await, Err(StageFailure::Refused(_))));
        let gone = ReleaseId { tag: "v2".parse().unwrap(), ..id };
        assert!(matches!(reuse(&cache, &gone, limits).await, Err(StageFailure::Stored(_))));
    }

    #[test]
    fn a_full_disk_is_noticed_before_anything_is_fetched() {
        let root = tempfile::tempdir().unwrap();
        assert!(check_room(root.path(), 0).is_ok());
        assert!(matches!(check_room(root.path(), u64::MAX), Err(StageFailure::NoRoom { .. })));
    }

    #[test]
    fn an_object_beyond_the_limits_is_not_even_asked_for() {
        let object = ObjectReference { name: "o".into(), size: 11, sha256: shared::digest::Sha256Digest::of(b"") };
        assert!(check_size(&object, 11).is_ok());
        assert_eq!(check_size(&object, 10).unwrap_err().actual, "11 bytes announced");
    }
}
