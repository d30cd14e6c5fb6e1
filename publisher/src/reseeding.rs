//! Giving the bucket back what it lost: a release's objects, made again from a copy that somebody still has.
//!
//! A node's cache, a checkout or the source itself: whatever the copy, it must have the announced tree digest, and what is
//! packed from it must be the announced bytes. Names are written once, so nothing else may stand under them; a repair
//! changes no event.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use shared::digest::Sha256Digest;
use shared::event::{ObjectReference, Published};
use shared::limits::ReleaseLimits;
use shared::release::{Release, ReleaseError, ReleaseFile};
use streams::release_store::{FetchError, PutError, ReleaseStore, StoreReadError, StoredObject};
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use crate::build::{BuildError, pack_archive};
use crate::progress::{Progress, ProgressReporter, Silent, Stage, Transfer};
use crate::source::SourceError;
use crate::source::directory::read_directory;

/// Objects that could not be restored. What was restored before it stays.
#[derive(Debug, Error)]
pub enum ReseedError {
    /// The copy cannot be read, or breaks the rules of a release.
    #[error("the copy cannot be read")]
    Copy(#[source] SourceError),
    /// Its files make no release.
    #[error("the files of `{}` make no release", directory.display())]
    Release {
        /// The copy.
        directory: PathBuf,
        /// Why.
        #[source]
        source: ReleaseError,
    },
    /// It is another release, or was altered.
    #[error("`{}` is not the announced release: expected tree digest {expected}, actual {actual}", directory.display())]
    OtherTree {
        /// The copy.
        directory: PathBuf,
        /// The announced tree digest.
        expected: Sha256Digest,
        /// That of the copy.
        actual: Sha256Digest,
    },
    /// The same files, but this version writes them as other bytes.
    #[error(
        "object `{}` cannot be made again: this version writes the same files as {actual}; publish them under another tag", .object.name
    )]
    OtherBytes {
        /// The object, as announced.
        object: ObjectReference,
        /// The digest of what this version writes.
        actual: Sha256Digest,
    },
    /// The temporary file cannot be used.
    #[error("the archive's temporary file cannot be used")]
    Spool(#[source] io::Error),
    /// The archive could not be written.
    #[error(transparent)]
    Pack(BuildError),
    /// The bucket cannot be read.
    #[error("the release bucket cannot be read")]
    Read(#[source] FetchError),
    /// The bucket's description of an object cannot be read.
    #[error("the release bucket cannot be read")]
    LookUp(#[source] StoreReadError),
    /// An object was not restored.
    #[error("object `{object}` was not restored")]
    Put {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: PutError,
    },
    /// The work was given up in the middle.
    #[error("packing was interrupted")]
    Interrupted(#[source] JoinError),
}

/// What a repair found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reseeding {
    /// Objects that were whole already.
    pub intact: Vec<ObjectReference>,
    /// Objects that were damaged or gone, and are whole again; in a rehearsal, those that would be.
    pub restored: Vec<ObjectReference>,
}

/// Where a release's files lie in a copy: below a node's cache, in one of its release directories, or directly in it.
pub fn files_in_copy(copy: &Path, announced: &Published) -> PathBuf {
    let in_cache = copy.join("releases").join(announced.tag.as_str()).join("files");
    let in_release = copy.join("files");
    if in_cache.is_dir() {
        in_cache
    } else if in_release.is_dir() && copy.join("release.json").is_file() {
        in_release
    } else {
        copy.to_owned()
    }
}

/// Restores archive and `release.json` of an announced release from a copy of its files, where they are damaged or gone.
/// With `rehearse` everything is checked and nothing is written. Returns only after the server has confirmed what was
/// restored. Needs operator rights.
pub async fn reseed(
    store: &ReleaseStore,
    announced: &Published,
    copy: &Path,
    limits: ReleaseLimits,
    rehearse: bool,
    progress: Progress,
) -> Result<Reseeding, ReseedError> {
    let (directory, release) = (files_in_copy(copy, announced), announced.clone());
    let (packer, reporter) = (progress.clone(), &*progress);
    let packing = spawn_blocking(move || pack(&directory, &release, &limits, &*packer));
    let Packed { release_json, archive } = packing.await.map_err(ReseedError::Interrupted)??;

    let mut reseeding = Reseeding::default();
    for object in [&announced.archive, &announced.release] {
        reporter.begin(Stage::ReadBack, Some(object.size));
        if is_intact(store, object, reporter).await? {
            reseeding.intact.push(object.clone());
            continue;
        }
        reseeding.restored.push(object.clone());
        if rehearse {
            continue;
        }
        reporter.begin(Stage::Store, Some(object.size));
        let expected = description(store, announced, object).await?;
        let restored = if object == &announced.archive {
            let archive = tokio::fs::File::from_std(archive.try_clone().map_err(ReseedError::Spool)?);
            store.repair(&expected, archive, &Transfer(reporter)).await
        } else {
            store.repair(&expected, release_json.as_slice(), &Transfer(&Silent)).await
        };
        restored.map_err(|source| ReseedError::Put { object: object.name.clone(), source })?;
    }
    Ok(reseeding)
}

async fn is_intact(
    store: &ReleaseStore,
    object: &ObjectReference,
    progress: &dyn ProgressReporter,
) -> Result<bool, ReseedError> {
    match store.check(object, &Transfer(progress)).await {
        Ok(()) => Ok(true),
        Err(FetchError::NotFound { .. } | FetchError::SizeMismatch { .. } | FetchError::DigestMismatch { .. }) => {
            Ok(false)
        }
        // Its meta message may be the very thing that is damaged.
        Err(FetchError::LookUp { source: StoreReadError::Meta { .. }, .. }) => Ok(false),
        Err(error @ (FetchError::LookUp { .. } | FetchError::Read { .. } | FetchError::Hashing { .. })) => {
            Err(ReseedError::Read(error))
        }
    }
}

/// How the object is described again: as it is now where that can be read, else by what the log says of it.
async fn description(
    store: &ReleaseStore,
    announced: &Published,
    object: &ObjectReference,
) -> Result<StoredObject, ReseedError> {
    let existing = match store.info(&object.name).await {
        Ok(existing) => existing,
        Err(StoreReadError::Meta { .. }) => None,
        Err(error @ StoreReadError::Read(_)) => return Err(ReseedError::LookUp(error)),
    };
    let (description, metadata) = existing.map_or_else(
        || {
            let text = format!("release {} of bundle {}", announced.tag, announced.bundle);
            let facts = BTreeMap::from([
                ("bundle".to_owned(), announced.bundle.to_string()),
                ("tag".to_owned(), announced.tag.to_string()),
                ("tree_digest".to_owned(), announced.tree_digest.to_string()),
                ("content_digest".to_owned(), announced.content_digest.to_string()),
            ]);
            (Some(text), facts)
        },
        |existing| (existing.description, existing.metadata),
    );
    let ObjectReference { name, size, sha256 } = object.clone();
    Ok(StoredObject { name, nuid: String::new(), size, chunks: 0, sha256, description, metadata })
}

struct Packed {
    release_json: Vec<u8>,
    /// At its beginning.
    archive: File,
}

/// Packs the copy and compares every digest that was announced.
fn pack(
    directory: &Path,
    announced: &Published,
    limits: &ReleaseLimits,
    progress: &dyn ProgressReporter,
) -> Result<Packed, ReseedError> {
    let tree = read_directory(directory, limits, progress).map_err(ReseedError::Copy)?;
    let files: Vec<ReleaseFile> = tree.files().cloned().collect();
    let no_release = |source| ReseedError::Release { directory: directory.to_owned(), source };
    let (bundle, tag) = (announced.bundle.clone(), announced.tag.clone());
    let release = Release::new(bundle, tag, Some(announced.content_digest), files, limits).map_err(no_release)?;
    if release.tree_digest() != announced.tree_digest {
        let (expected, actual) = (announced.tree_digest, release.tree_digest());
        return Err(ReseedError::OtherTree { directory: directory.to_owned(), expected, actual });
    }
    let release_json = release.to_json().map_err(no_release)?;
    same_bytes(&announced.release, Sha256Digest::of(&release_json))?;

    let packed = pack_archive(&release, &tree, &std::env::temp_dir(), progress).map_err(ReseedError::Pack)?;
    same_bytes(&announced.archive, packed.sha256)?;
    let mut archive = packed.file;
    archive.seek(SeekFrom::Start(0)).map_err(ReseedError::Spool)?;
    Ok(Packed { release_json, archive })
}

fn same_bytes(object: &ObjectReference, actual: Sha256Digest) -> Result<(), ReseedError> {
    if actual == object.sha256 { Ok(()) } else { Err(ReseedError::OtherBytes { object: object.clone(), actual }) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::test_releases::published;

    #[test]
    fn a_copy_is_a_cache_a_release_directory_or_the_files_themselves() {
        let directory = tempfile::tempdir().unwrap();
        let (copy, announced) = (directory.path(), published("v1", "content"));
        assert_eq!(files_in_copy(copy, &announced), copy);
        // A bundle may hold a directory of that name itself.
        fs::create_dir(copy.join("files")).unwrap();
        assert_eq!(files_in_copy(copy, &announced), copy);
        fs::write(copy.join("release.json"), "{}").unwrap();
        assert_eq!(files_in_copy(copy, &announced), copy.join("files"));
        let released = copy.join("releases/v1/files");
        fs::create_dir_all(&released).unwrap();
        assert_eq!(files_in_copy(copy, &announced), released);
    }

    #[test]
    fn another_tree_is_refused_before_anything_is_packed() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "altered").unwrap();
        let refused = pack(directory.path(), &published("v1", "content"), &ReleaseLimits::default(), &Silent);
        assert!(matches!(refused, Err(ReseedError::OtherTree { .. })));
    }
}
