//! Are the files on disk still those of the release? Every byte is read and compared; nothing is changed here. Between two
//! such comparisons a shorter one reads only what the file system says was touched since.
//!
//! What is compared with is the remembered tree digest: `release.json` lies beside the files and can be edited like them.

mod restore;
mod stamps;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::io::Errno;
use shared::digest::HashingWriter;
use shared::event::{TamperDamage, TamperDetected, TamperedPath};
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, Release, ReleaseFile};

pub(crate) use self::restore::{Copying, put_back_missing, rebuild};
use self::stamps::StampEntry;
pub(crate) use self::stamps::Stamps;
use crate::node_state::ReleaseId;
use crate::release_directory::{CHECKSUM_FILE, FILES, RELEASE_JSON, ReleaseDirectory, checksum_line};

/// Entries that are looked at below a release at most, beyond its own: whoever fills the directory must not fill the
/// agent's memory.
const MOST_EXTRA: u64 = 100_000;

/// What is not as it should be, by path within the release directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Files whose content or mode is another.
    pub changed: u64,
    /// Files that are not there.
    pub missing: u64,
    /// Files that are no part of the release.
    pub extra: u64,
    /// The first of them.
    pub paths: Vec<TamperedPath>,
}

impl Damage {
    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        self.changed == 0 && self.missing == 0 && self.extra == 0
    }

    fn add(&mut self, path: impl Into<String>, damage: TamperDamage) {
        match damage {
            TamperDamage::Changed => self.changed += 1,
            TamperDamage::Missing => self.missing += 1,
            TamperDamage::Extra => self.extra += 1,
        }
        if self.paths.len() < TamperDetected::MOST_PATHS {
            let path: String = path.into();
            self.paths.push(TamperedPath { path: path.chars().take(512).collect(), damage });
        }
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} changed, {} missing, {} extra", self.changed, self.missing, self.extra)?;
        self.paths.first().map_or(Ok(()), |first| write!(formatter, " (first: `{}`)", first.path))
    }
}

/// Compares a release directory with the release that should stand there, by reading every file of it. An error says that
/// the disk could not be read, nothing about the release.
#[cfg(test)]
pub(crate) fn compare(home: &Path, id: &ReleaseId, limits: &ReleaseLimits) -> io::Result<Damage> {
    compare_since(home, id, limits, &mut Stamps::default())
}

/// Compares as [`compare`] does, but reads no file whose stamp is the one that was noted when it was last read and found
/// right. Notes the stamps of what it reads. With none noted it reads everything.
pub(crate) fn compare_since(
    home: &Path,
    id: &ReleaseId,
    limits: &ReleaseLimits,
    stamps: &mut Stamps,
) -> io::Result<Damage> {
    let mut damage = Damage::default();
    let Ok(directory) = ReleaseDirectory::open(home, limits) else {
        // Without a description nothing can be said of the rest.
        let there = fs::symlink_metadata(home.join(RELEASE_JSON)).is_ok();
        let path = if there { format!("{RELEASE_JSON} or {FILES}") } else { RELEASE_JSON.to_owned() };
        damage.add(path, if there { TamperDamage::Changed } else { TamperDamage::Missing });
        return Ok(damage);
    };
    let release = directory.release();
    if release.tag() != &id.tag || release.tree_digest() != id.tree_digest {
        damage.add(RELEASE_JSON, TamperDamage::Changed);
        return Ok(damage);
    }
    stamps.begin(id, release.files().len());
    for (index, file) in release.files().iter().enumerate() {
        if let Some(kind) = compare_file_since(&directory, file, |metadata| stamps.entry(index, metadata))? {
            damage.add(format!("{FILES}/{}", file.path), kind);
        }
    }
    list_extra(home, release, &mut damage)?;
    if let Some(line) = checksum_line(release, home) {
        match fs::read(home.join(CHECKSUM_FILE)) {
            Ok(found) if found == line => {}
            Ok(_) => damage.add(CHECKSUM_FILE, TamperDamage::Changed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                damage.add(CHECKSUM_FILE, TamperDamage::Missing);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(damage)
}

/// What is wrong with one file; `None` where nothing is.
fn compare_file(directory: &ReleaseDirectory, file: &ReleaseFile) -> io::Result<Option<TamperDamage>> {
    compare_file_since(directory, file, |_| None)
}

/// The same; where `known` has an entry for the opened file, what it says is believed, and what is read is noted in it.
fn compare_file_since<'s>(
    directory: &ReleaseDirectory,
    file: &ReleaseFile,
    known: impl FnOnce(&fs::Metadata) -> Option<StampEntry<'s>>,
) -> io::Result<Option<TamperDamage>> {
    let mut opened = match directory.open_file(&file.path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(TamperDamage::Missing)),
        // A link, a pipe, or a directory that became a file: not what was put there.
        Err(error) if is_other_kind(&error) => return Ok(Some(TamperDamage::Changed)),
        Err(error) => return Err(error),
    };
    let metadata = opened.metadata()?;
    let mode = FileMode::from_bits(metadata.permissions().mode());
    if !metadata.is_file() || metadata.len() != file.size || mode != file.mode {
        return Ok(Some(TamperDamage::Changed));
    }
    let entry = known(&metadata);
    if entry.as_ref().is_some_and(StampEntry::is_known) {
        return Ok(None);
    }
    let mut hashing = HashingWriter::new(io::sink());
    io::copy(&mut opened, &mut hashing)?;
    let (_, digest, _) = hashing.finish();
    if digest != file.sha256 {
        return Ok(Some(TamperDamage::Changed));
    }
    if let Some(entry) = entry {
        entry.note();
    }
    Ok(None)
}

fn is_other_kind(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotADirectory)
        || [Errno::NXIO, Errno::LOOP].iter().any(|kind| error.raw_os_error() == Some(kind.raw_os_error()))
}

/// Counts what stands below `files` and is no part of the release. Directories count by what they hold.
fn list_extra(home: &Path, release: &Release, damage: &mut Damage) -> io::Result<()> {
    let known: BTreeSet<&str> = release.files().iter().map(|file| file.path.as_str()).collect();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(home.join(FILES).join(&directory)) {
            Ok(entries) => entries,
            // It went away, or is a link now: its files were counted as missing or changed.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_other_kind(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if entry.file_type()?.is_dir() {
                directories.push(path);
            } else if !known.contains(path.as_str()) {
                damage.add(format!("{FILES}/{path}"), TamperDamage::Extra);
            }
            if damage.extra > MOST_EXTRA || directories.len() as u64 > MOST_EXTRA {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
