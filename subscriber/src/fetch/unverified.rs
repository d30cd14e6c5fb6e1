//! The emergency flag: a release whose digests do not match is let through, and everything else still counts.
//!
//! Its description must be that of the announced tree: otherwise nobody could say whether it is withdrawn.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use shared::daemon::crash_point::CrashPoint;
use shared::event::{FailedCheck, Published};
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use shared::release::Release;
use shared::verification::{EmergencyFlag, UnverifiedRelease, VerificationFailure, check_files_without_digests};
use streams::release_store::ReleaseStore;
use tokio::task::spawn_blocking;

use super::{ARCHIVE_OVERHEAD, StageFailure, check_room, check_size};
use crate::cache::Cache;
use crate::release_directory::{RELEASE_JSON, ReleaseDirectory};
use crate::staging::StagingDirectory;

/// Fetches an announced release and puts it into `releases/` without comparing digests. Returns it with the bytes read
/// for it. Whatever stood there is kept aside for its readers.
pub(crate) async fn fetch_without_digests(
    store: &ReleaseStore,
    cache: &Cache,
    announced: &Published,
    limits: ReleaseLimits,
    flag: EmergencyFlag,
) -> Result<(UnverifiedRelease, u64), StageFailure> {
    check_size(&announced.release, limits.release_json_bytes)?;
    check_size(&announced.archive, limits.total_bytes.saturating_add(ARCHIVE_OVERHEAD))?;
    let mut stream = store.open_without_digest(&announced.release, flag).await?;
    let mut description = Vec::new();
    while let Some(chunk) = stream.next_chunk().await? {
        description.extend_from_slice(&chunk);
    }
    let release = described(&description, announced, &limits)?;

    let (area, needed) = (cache.clone(), announced.archive.size.saturating_add(release.total_bytes()));
    let lock = cache.lock().await?;
    let (staging, mut file) = spawn_blocking(move || {
        area.ensure()?;
        check_room(area.root(), needed)?;
        let staging = StagingDirectory::create(&area, &lock)?;
        drop(lock);
        let file = staging.create_object()?;
        Ok::<_, StageFailure>((staging, file))
    })
    .await??;
    let mut stream = store.open_without_digest(&announced.archive, flag).await?;
    while let Some(chunk) = stream.next_chunk().await? {
        file = spawn_blocking(move || file.write_all(&chunk).map(|()| file)).await?.map_err(StageFailure::Archive)?;
        CrashPoint::ArchiveChunkWritten.reach();
    }
    CrashPoint::ArchiveWritten.reach();
    let lock = cache.lock().await?;
    let area = cache.clone();
    let release = spawn_blocking(move || {
        file.seek(SeekFrom::Start(0)).map_err(StageFailure::Archive)?;
        let home = area.release(release.tag());
        let unverified = staging.unpack_without_digests(file, &release, &home, flag)?;
        staging.install(&area, &lock, &unverified)?;
        Ok::<_, StageFailure>(unverified)
    })
    .await??;
    Ok((release, announced.release.size + announced.archive.size))
}

/// Reads a description whose own digest may be wrong; it must describe the announced tree.
fn described(bytes: &[u8], announced: &Published, limits: &ReleaseLimits) -> Result<Release, VerificationFailure> {
    let item = announced.release.name.as_str();
    let release = Release::parse(bytes, limits)
        .map_err(|error| VerificationFailure::rule(item, "a valid release.json", error.to_string()))?;
    let names = (release.bundle(), release.tag());
    if names != (&announced.bundle, &announced.tag) {
        let (expected, actual) =
            (format!("{} {}", announced.bundle, announced.tag), format!("{} {}", names.0, names.1));
        return Err(VerificationFailure::rule(item, expected, actual));
    }
    if release.tree_digest() != announced.tree_digest {
        return Err(VerificationFailure {
            check: FailedCheck::Tree,
            item: item.to_owned(),
            expected: announced.tree_digest.to_string(),
            actual: release.tree_digest().to_string(),
        });
    }
    Ok(release)
}

/// Checks the release that stands under a tag in the cache, but for the digests of its files.
pub(crate) fn check_stored_without_digests(
    home: &Path,
    tag: &Tag,
    limits: &ReleaseLimits,
    flag: EmergencyFlag,
) -> Result<UnverifiedRelease, StageFailure> {
    let directory = ReleaseDirectory::open(home, limits)?;
    let found = directory.release().tag();
    if found != tag {
        return Err(VerificationFailure::rule(RELEASE_JSON, tag.to_string(), found.to_string()).into());
    }
    Ok(check_files_without_digests(directory.release(), flag, |file| directory.open_file(&file.path))?)
}
