//! Putting a release's own files back, from copies that are in the cache already. Every byte is compared on the way.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use shared::daemon::crash_point::CrashPoint;
use shared::digest::HashingWriter;
use shared::event::TamperDamage;
use shared::limits::ReleaseLimits;
use shared::release::{Release, ReleaseFile};
use shared::verification::VerifyError;

use super::compare_file;
use crate::cache::{Cache, CacheLock};
use crate::durable_file::{remove_file_if_present, sync_directory};
use crate::fetch::StageFailure;
use crate::node_state::ReleaseId;
use crate::release_directory::{FILES, ReleaseDirectory};
use crate::staging::StagingDirectory;

/// Every release of the cache that can be read: where copies are looked for.
struct Copies(Vec<ReleaseDirectory>);

impl Copies {
    fn of(cache: &Cache, limits: &ReleaseLimits) -> Self {
        let Ok(entries) = fs::read_dir(cache.releases()) else { return Self(Vec::new()) };
        let directories = entries.flatten().filter_map(|entry| ReleaseDirectory::open(&entry.path(), limits).ok());
        Self(directories.collect())
    }

    /// An intact copy of a file, whatever release it belongs to and whatever it is called there.
    fn find(&self, wanted: &ReleaseFile) -> Option<File> {
        let same =
            |file: &&ReleaseFile| (file.sha256, file.size, file.mode) == (wanted.sha256, wanted.size, wanted.mode);
        self.0.iter().find_map(|directory| {
            let mut copies = directory.release().files().iter().filter(same);
            let intact = copies.find(|copy| matches!(compare_file(directory, copy), Ok(None)))?;
            directory.open_file(&intact.path).ok()
        })
    }
}

/// Puts back what is missing below `files`, file by file; what was changed or added stays. Says whether every missing file
/// could be put back.
pub(crate) fn put_back_missing(
    cache: &Cache,
    lock: &CacheLock,
    id: &ReleaseId,
    limits: &ReleaseLimits,
) -> Result<bool, StageFailure> {
    let directory = ReleaseDirectory::open(&cache.release(&id.tag), limits)?;
    let release = directory.release();
    if release.tree_digest() != id.tree_digest {
        return Ok(false);
    }
    let copies = Copies::of(cache, limits);
    let staging = StagingDirectory::create(cache, lock)?;
    let mut complete = true;
    for file in release.files() {
        if !matches!(compare_file(&directory, file), Ok(Some(TamperDamage::Missing))) {
            continue;
        }
        let Some(copy) = copies.find(file) else {
            complete = false;
            continue;
        };
        let path = cache.release(&id.tag).join(FILES).join(file.path.as_str());
        let placed = place(copy, file, &staging.file("restored"), &path);
        complete &= placed.map_err(|source| VerifyError::Write { item: file.path.to_string(), source })?;
    }
    Ok(complete)
}

/// Writes one file aside, compares it, and moves it to its place durably. `false` where the copy changed meanwhile.
fn place(mut copy: File, file: &ReleaseFile, aside: &Path, path: &Path) -> io::Result<bool> {
    remove_file_if_present(aside)?;
    let written = File::options().write(true).create_new(true).mode(0o600).open(aside)?;
    let mut hashing = HashingWriter::new(written);
    io::copy(&mut (&mut copy).take(file.size.saturating_add(1)), &mut hashing)?;
    let (written, digest, size) = hashing.finish();
    if digest != file.sha256 || size != file.size {
        return Ok(false);
    }
    written.set_permissions(fs::Permissions::from_mode(file.mode.node_bits()))?;
    written.sync_all()?;
    CrashPoint::RestoredFileWritten.reach();
    let parent: PathBuf = path.parent().map(Path::to_owned).unwrap_or_default();
    fs::create_dir_all(&parent)?;
    fs::rename(aside, path)?;
    CrashPoint::RestoredFilePlaced.reach();
    sync_directory(&parent)?;
    Ok(true)
}

/// Builds the whole release anew from what is intact of it and from other copies in the cache, and puts it in the place of
/// the damaged one, which is kept aside for its readers for a while. `false` where the cache does not hold all of it.
pub(crate) fn rebuild(
    cache: &Cache,
    lock: &CacheLock,
    id: &ReleaseId,
    limits: &ReleaseLimits,
) -> Result<bool, StageFailure> {
    let home = cache.release(&id.tag);
    // A description that cannot be believed describes nothing.
    let Ok(directory) = ReleaseDirectory::open(&home, limits) else { return Ok(false) };
    if directory.release().tag() != &id.tag || directory.release().tree_digest() != id.tree_digest {
        return Ok(false);
    }
    let release: Release = directory.release().clone();
    let copies = Copies::of(cache, limits);
    let staging = StagingDirectory::create(cache, lock)?;
    let assembled = staging.assemble(&release, &home, |file| {
        let own = matches!(compare_file(&directory, file), Ok(None)).then(|| directory.open_file(&file.path).ok());
        own.flatten().or_else(|| copies.find(file)).ok_or_else(|| io::ErrorKind::NotFound.into())
    });
    match assembled {
        Ok(verified) => staging.install(cache, lock, &verified)?,
        // A copy that is nowhere, or changed while it was read.
        Err(VerifyError::Refused(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// A reader that writes what it reads to a second place.
pub(crate) struct Copying<R, W> {
    from: R,
    to: W,
}

impl<R, W> Copying<R, W> {
    pub(crate) fn new(from: R, to: W) -> Self {
        Self { from, to }
    }
}

impl<R: Read, W: Write> Read for Copying<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}
