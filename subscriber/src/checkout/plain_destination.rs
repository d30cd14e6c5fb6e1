//! A release as plain files in a directory: byte for byte what was released, and nothing else of ours.
//!
//! It is fetched and verified in a directory of its own beside the destination, and then takes the destination's place
//! with one rename, or one exchange where something stands there. Only where the destination also holds files of others
//! (a contracts bundle among them is fine) or cannot be renamed are the files moved in one by one.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, open, renameat_with};
use rustix::io::Errno;
use shared::digest::{HashingWriter, Sha256Digest};
use shared::release::{FileMode, Release, ReleaseFile, digest_of_tree};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{CheckedOut, CheckoutError, Means, Origin};
use crate::cache::Cache;
use crate::durable_file::{parent_of, sync_directory};
use crate::fetch::StageFailure;
use crate::release_directory::{FILES, is_contracts_bundle};

/// Stands in the name of each staging area, before its id.
const STAGING_MARK: &str = ".fetch-";

/// What to do with a destination that holds files of no release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Leave it alone and fetch nothing.
    Refuse,
    /// Move it aside, whole; nothing is deleted.
    MoveAside,
}

/// What stands at the destination.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing, or an empty directory.
    Nothing,
    /// This very release.
    Same,
    /// Files that may be replaced whole: an earlier release, or just the names of this one.
    Replaceable,
    /// The three names of contracts among other files.
    Among,
    /// Something else; one of its files.
    Foreign(String),
}

/// Fetches a release into a directory, so that it holds the release's files as they were released, durably.
///
/// `destination` must be absolute. `known_trees` are the tree digests of the bundle's releases: a directory that holds
/// one of them may be replaced. An error leaves the destination as it was.
pub async fn into_directory(
    origin: &Origin<'_>,
    destination: &Path,
    known_trees: BTreeSet<Sha256Digest>,
    foreign: Foreign,
) -> Result<CheckedOut, CheckoutError> {
    let id = origin.id();
    // The directory behind a link is filled, and the link stays.
    let resolved = fs::canonicalize(destination).unwrap_or_else(|_| destination.to_owned());
    let destination = resolved.as_path();
    let failed = |error: io::Error| CheckoutError::Failed {
        tag: id.tag.clone(),
        destination: destination.to_owned(),
        source: Box::new(error),
    };
    let area = {
        let destination = destination.to_owned();
        spawn_blocking(move || StagingArea::create(&destination)).await.map_err(io::Error::other).flatten()
    };
    let area = area.map_err(&failed)?;
    let cache = Cache::new(area.path.join("cache"));
    let (verified, fetched) = origin.fetch_into(&cache).await.map_err(origin.failed(destination))?;
    let release = verified.release().clone();
    let work = {
        let (release, destination, files) =
            (release.clone(), destination.to_owned(), cache.release(&id.tag).join(FILES));
        move || {
            let standing = standing(&destination, &release, &known_trees)?;
            if standing == Standing::Same {
                return Ok(Ok((true, None)));
            }
            make_writable(&files, &release)?;
            let aside = match (&standing, foreign) {
                (Standing::Foreign(example), Foreign::Refuse) => return Ok(Err(example.clone())),
                (Standing::Foreign(_), Foreign::MoveAside) => Some(move_aside(&destination)?),
                _ => None,
            };
            place(&files, &destination, &release, standing == Standing::Among)?;
            drop(area);
            Ok::<_, io::Error>(Ok((false, aside)))
        }
    };
    match spawn_blocking(work).await.map_err(|error| origin.failed(destination)(StageFailure::from(error)))? {
        Ok(Ok((there_already, moved_aside))) => {
            let means = if there_already { Means::Found } else { fetched };
            Ok(CheckedOut { release, means, moved_aside })
        }
        Ok(Err(example)) => {
            let (destination, bundle) = (destination.to_owned(), origin.bundle().clone());
            Err(CheckoutError::Foreign { destination, bundle, example })
        }
        Err(error) => Err(failed(error)),
    }
}

/// A directory of our own beside the destination, or in it where its parent is not ours to write to. Locked for as long
/// as this process lives, so that a killed one's is told apart and removed by the next.
struct StagingArea {
    path: PathBuf,
    _owner: File,
}

impl StagingArea {
    fn create(destination: &Path) -> io::Result<Self> {
        let parent = parent_of(destination);
        fs::create_dir_all(parent)?;
        let name = destination.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let prefix = format!(".{name}{STAGING_MARK}");
        match Self::create_in(parent, &prefix) {
            Err(error)
                if destination.is_dir()
                    && matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                Self::create_in(destination, &prefix)
            }
            created => created,
        }
    }

    fn create_in(directory: &Path, prefix: &str) -> io::Result<Self> {
        remove_abandoned(directory, prefix);
        loop {
            let path = directory.join(format!("{prefix}{}", Uuid::now_v7().simple()));
            DirBuilder::new().mode(0o700).create(&path)?;
            let owner = File::open(&path)?;
            owner.lock()?;
            // Somebody may have taken it for abandoned before it was locked.
            if fs::metadata(&path).is_ok_and(|named| owner.metadata().is_ok_and(|held| held.ino() == named.ino())) {
                return Ok(Self { path, _owner: owner });
            }
        }
    }
}

impl Drop for StagingArea {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a staging directory could not be removed");
        }
    }
}

/// Removes what killed processes left behind for this destination. What cannot be removed stays for the next.
fn remove_abandoned(directory: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix)
            && is_staging_area(&name)
            && let Ok(owner) = open_directory(&entry.path())
            && owner.try_lock().is_ok()
        {
            let _ = remove_tree(&entry.path());
        }
    }
}

/// Opens a directory and nothing else: in a directory that everybody may write to, the name may belong to a link, or to
/// a pipe, which would be waited for.
fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?.into())
}

/// Whether a directory of this name is one of ours, for whatever destination.
fn is_staging_area(name: &str) -> bool {
    name.starts_with('.')
        && name.rsplit_once(STAGING_MARK).is_some_and(|(_, id)| id.len() == 32 && Uuid::try_parse(id).is_ok())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The files' usual modes: on a node nobody writes to a released file, but these are somebody's own.
fn make_writable(files: &Path, release: &Release) -> io::Result<()> {
    for file in release.files() {
        let mode = fs::Permissions::from_mode(file.mode.archive_bits());
        fs::set_permissions(files.join(file.path.as_str()), mode)?;
    }
    Ok(())
}

fn standing(destination: &Path, release: &Release, known: &BTreeSet<Sha256Digest>) -> io::Result<Standing> {
    let names: BTreeSet<&str> = release.files().iter().map(|file| file.path.as_str()).collect();
    let found = match tree_of_directory(destination) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Nothing),
        Err(error) => return Err(error),
    };
    let listed = match found {
        DirectoryTree::Files(listed) => listed,
        DirectoryTree::Special(path) => {
            let among = is_contracts_bundle(release) && !names.contains(path.as_str());
            return Ok(if among { Standing::Among } else { Standing::Foreign(path) });
        }
    };
    if listed.is_empty() {
        return Ok(Standing::Nothing);
    }
    let tree = digest_of_tree(&listed).map_err(io::Error::other)?;
    if tree == release.tree_digest() {
        return Ok(Standing::Same);
    }
    if known.contains(&tree)
        || (is_contracts_bundle(release) && listed.iter().all(|file| names.contains(file.path.as_str())))
    {
        return Ok(Standing::Replaceable);
    }
    let other = listed.iter().find(|file| !names.contains(file.path.as_str()));
    if is_contracts_bundle(release) && other.is_some() {
        return Ok(Standing::Among);
    }
    // The names of this release with other content were somebody's work, as far as can be known.
    let example = other.or(listed.first()).map(|file| file.path.to_string()).unwrap_or_default();
    Ok(Standing::Foreign(example))
}

/// What a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub enum DirectoryTree {
    /// Plain files only, sorted by path, as a release would list them.
    Files(Vec<ReleaseFile>),
    /// Something that no release can hold, for example a link: its path.
    Special(String),
}

/// Reads a directory as a release would list it. Our own staging directories are passed over.
pub fn tree_of_directory(root: &Path) -> io::Result<DirectoryTree> {
    let mut files = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if directory.is_empty() && is_staging_area(&name) {
                continue;
            }
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                directories.push(path);
                continue;
            }
            let Some(listed) = path.parse().ok().filter(|_| metadata.is_file()) else {
                return Ok(DirectoryTree::Special(path));
            };
            let mut hashing = HashingWriter::new(io::sink());
            io::copy(&mut File::open(entry.path())?, &mut hashing)?;
            let (_, sha256, size) = hashing.finish();
            let mode = FileMode::from_bits(metadata.permissions().mode());
            files.push(ReleaseFile { path: listed, size, mode, sha256 });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(DirectoryTree::Files(files))
}

/// Moves a directory out of the way, under a name that is free.
fn move_aside(destination: &Path) -> io::Result<PathBuf> {
    let name = destination.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let aside = destination.with_file_name(format!("{name}.before-{}", Uuid::now_v7().simple()));
    fs::rename(destination, &aside)?;
    Ok(aside)
}

/// Brings the files to their place.
fn place(files: &Path, destination: &Path, release: &Release, among_others: bool) -> io::Result<()> {
    if !among_others && !is_working_directory(destination) {
        let exchange = || renameat_with(CWD, files, CWD, destination, RenameFlags::EXCHANGE);
        let swapped = match exchange() {
            Ok(()) => true,
            // Nothing stands there, or did until somebody else was faster.
            Err(Errno::NOENT) => match fs::rename(files, destination) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    exchange()?;
                    true
                }
                renamed => renamed.map(|()| true)?,
            },
            // A mount point, or a file system without the exchange: file by file.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::BUSY | Errno::XDEV) => false,
            Err(error) => return Err(error.into()),
        };
        if swapped {
            return sync_directory(parent_of(destination));
        }
    }
    place_one_by_one(files, destination, release, among_others)
}

/// Moves file after file, each of them atomically, and removes what is left of an earlier release.
fn place_one_by_one(files: &Path, destination: &Path, release: &Release, among_others: bool) -> io::Result<()> {
    fs::create_dir_all(destination)?;
    let before = if among_others { None } else { Some(tree_of_directory(destination)?) };
    for file in release.files() {
        let target = destination.join(file.path.as_str());
        fs::create_dir_all(parent_of(&target))?;
        fs::rename(files.join(file.path.as_str()), &target)?;
        sync_directory(parent_of(&target))?;
    }
    if let Some(DirectoryTree::Files(before)) = before {
        let kept: BTreeSet<&str> = release.files().iter().map(|file| file.path.as_str()).collect();
        for file in before.iter().filter(|file| !kept.contains(file.path.as_str())) {
            fs::remove_file(destination.join(file.path.as_str()))?;
        }
    }
    sync_directory(destination)
}

/// Whether somebody stands in the directory: a shell there would find itself in one that is gone.
fn is_working_directory(destination: &Path) -> bool {
    let same = |one: &fs::Metadata, other: &fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    fs::metadata(".").is_ok_and(|here| fs::metadata(destination).is_ok_and(|there| same(&here, &there)))
}
