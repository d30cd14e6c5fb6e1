//! Putting a built release into the bucket, and reading it back before anybody may hear of it.
//!
//! Names are written once. A name that is taken by the same release is an earlier run of ours that was cut off, and is
//! taken over; one that is taken by anything else is refused. Either way it is the server's copy that is read back,
//! decoded and compared, so a [`StoredRelease`] says what the bucket really gave.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use shared::archive::read_archive;
use shared::digest::Sha256Digest;
use shared::event::ObjectReference;
use shared::identifiers::{BundleName, Tag};
use shared::release::Release;
use shared::subjects::{archive_object, release_object};
use shared::verification::{VerifiedRelease, VerifyError};
use streams::release_store::{FetchError, NewObject, PutError, ReleaseStore, StoreReadError, StoredObject};
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::task::{JoinError, spawn_blocking};

use crate::build::BuiltRelease;
use crate::progress::{ProgressReporter, Stage, Transfer};
use crate::release_facts::{ReleaseFacts, claimed_content, claimed_tree};

/// Reads of one object before a replica that does not have it yet counts as an error.
const READ_ATTEMPTS: u32 = 10;
const READ_PAUSE: Duration = Duration::from_millis(200);

/// A release that was not stored whole. Running the same publish again goes on from where it ended.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The name of one of its objects belongs to another release.
    #[error(
        "tag `{tag}` is taken: object `{object}` holds {}, this release has content {content_digest}",
        other_content(*.other)
    )]
    TagTaken {
        /// The tag.
        tag: Tag,
        /// The object.
        object: String,
        /// Content digest of what stands there, where it says.
        other: Option<Sha256Digest>,
        /// Content digest of this release.
        content_digest: Sha256Digest,
    },
    /// The archive's temporary file cannot be read.
    #[error("the archive's temporary file cannot be read")]
    Spool(#[source] io::Error),
    /// An object was not put.
    #[error("the release is not stored")]
    Put(#[source] PutError),
}

fn other_content(other: Option<Sha256Digest>) -> String {
    other.map_or_else(|| "something else".to_owned(), |digest| format!("content {digest}"))
}

impl StoreError {
    /// Whether the tag holds the same content, built from other facts: looking the facts up and building again helps.
    pub(crate) fn is_same_content(&self) -> bool {
        match self {
            Self::TagTaken { other, content_digest, .. } => *other == Some(*content_digest),
            Self::Spool(_) | Self::Put(_) => false,
        }
    }
}

/// How the objects came into the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storing {
    /// This run has put both.
    New,
    /// An earlier run had put at least one of them.
    Resumed,
}

/// A release whose objects are in the bucket, not yet read back. Only [`read_back`] takes it.
#[derive(Debug)]
pub struct PutRelease {
    built: BuiltRelease,
    archive: ObjectReference,
    storing: Storing,
}

/// A release that was stored, fetched back from the server and verified. Only [`read_back`] makes one, and
/// [`crate::announcement::announce`] takes nothing else.
#[derive(Debug, Clone)]
pub struct StoredRelease {
    facts: ReleaseFacts,
    verified: VerifiedRelease,
    archive: ObjectReference,
    release_json: ObjectReference,
    storing: Storing,
}

impl StoredRelease {
    /// What was decided about it.
    pub fn facts(&self) -> &ReleaseFacts {
        &self.facts
    }

    /// What it consists of.
    pub fn release(&self) -> &Release {
        self.verified.release()
    }

    /// The archive object, as it was read back.
    pub fn archive(&self) -> &ObjectReference {
        &self.archive
    }

    /// The `release.json` object, as it was read back.
    pub fn release_json(&self) -> &ObjectReference {
        &self.release_json
    }

    /// How the objects came into the bucket.
    pub fn storing(&self) -> Storing {
        self.storing
    }
}

/// Puts archive and `release.json`. Returns only after the server has confirmed both; on an error nothing is
/// announced, and what was put stays for the next run.
pub async fn store(
    store: &ReleaseStore,
    built: BuiltRelease,
    progress: &dyn ProgressReporter,
) -> Result<PutRelease, StoreError> {
    progress.begin(Stage::Store, Some(built.archive_reference().size));
    let archive = tokio::fs::File::from_std(built.archive().map_err(StoreError::Spool)?);
    let (archive, first) = put(store, &built, built.archive_reference(), archive, progress).await?;
    let (_, second) =
        put(store, &built, built.release_reference(), built.release_json(), &crate::progress::Silent).await?;
    let storing = if (first, second) == (Storing::New, Storing::New) { Storing::New } else { Storing::Resumed };
    Ok(PutRelease { built, archive, storing })
}

async fn put(
    store: &ReleaseStore,
    built: &BuiltRelease,
    wanted: &ObjectReference,
    content: impl AsyncRead + Unpin + Send,
    progress: &dyn ProgressReporter,
) -> Result<(ObjectReference, Storing), StoreError> {
    let release = built.release();
    let object = NewObject {
        name: wanted.name.clone(),
        description: Some(format!("release {} of bundle {}", release.tag(), release.bundle())),
        metadata: built.facts().to_metadata(release.tree_digest(), release.content_digest()),
    };
    match store.put(object, content, &Transfer(progress)).await {
        Ok(stored) => Ok((stored.reference(), Storing::New)),
        Err(PutError::NameTaken { existing }) if is_ours(&existing, wanted, release) => {
            Ok((existing.reference(), Storing::Resumed))
        }
        Err(PutError::NameTaken { existing }) => Err(StoreError::TagTaken {
            tag: release.tag().clone(),
            object: existing.name.clone(),
            other: claimed_content(&existing.metadata),
            content_digest: release.content_digest(),
        }),
        Err(error) => Err(StoreError::Put(error)),
    }
}

/// Whether an object is worth reading back as ours. Its word is not taken for anything else.
fn is_ours(existing: &StoredObject, wanted: &ObjectReference, release: &Release) -> bool {
    // Another version of zstd packs the same tree into other bytes. Of `release.json` there is one form only.
    let packed_otherwise = existing.name == archive_object(release.bundle(), release.tag())
        && claimed_tree(&existing.metadata) == Some(release.tree_digest());
    existing.reference() == *wanted || packed_otherwise
}

/// A stored release that did not come back as it was put. It must not be announced.
#[derive(Debug, Error)]
pub enum ReadBackError {
    /// An object does not come back, or with other bytes.
    #[error("the stored release cannot be read back")]
    Fetch(#[source] FetchError),
    /// The `release.json` that came back is another.
    #[error("object `{object}` came back with another release")]
    OtherRelease {
        /// The object.
        object: String,
    },
    /// The archive does not hold the release's files.
    #[error("object `{object}` came back but does not hold the release")]
    Refused {
        /// The object.
        object: String,
        /// What differs.
        #[source]
        source: VerifyError,
    },
    /// The temporary file cannot be used.
    #[error("a temporary file for reading back cannot be used")]
    Spool(#[source] io::Error),
    /// The work was given up in the middle.
    #[error("reading back was interrupted")]
    Interrupted(#[source] JoinError),
}

/// Fetches both objects from the server, compares their digests, decodes the archive and verifies every file.
pub async fn read_back(
    store: &ReleaseStore,
    put: PutRelease,
    progress: &dyn ProgressReporter,
) -> Result<StoredRelease, ReadBackError> {
    let PutRelease { built, archive, storing } = put;
    let release_json = built.release_reference().clone();
    let came_back = fetch(store, &release_json, &crate::progress::Silent).await?;
    let came_back = spawn_blocking(move || whole(came_back)).await.map_err(ReadBackError::Interrupted)?;
    if came_back.map_err(ReadBackError::Spool)? != built.release_json() {
        return Err(ReadBackError::OtherRelease { object: release_json.name });
    }

    progress.begin(Stage::ReadBack, Some(archive.size));
    let packed = fetch(store, &archive, progress).await?;
    let release = built.release().clone();
    let verified = spawn_blocking(move || read_archive(packed, &release, |_| Ok(io::sink())))
        .await
        .map_err(ReadBackError::Interrupted)?
        .map_err(|source| ReadBackError::Refused { object: archive.name.clone(), source })?;
    Ok(StoredRelease { facts: built.facts().clone(), verified, archive, release_json, storing })
}

fn whole(mut file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    io::Read::read_to_end(&mut file, &mut content)?;
    Ok(content)
}

/// Fetches an object into a temporary file, rewound. A replica may lag behind what the leader has just confirmed, so
/// what is missing is asked for again; wrong bytes are not.
async fn fetch(
    store: &ReleaseStore,
    expected: &ObjectReference,
    progress: &dyn ProgressReporter,
) -> Result<File, ReadBackError> {
    let mut attempt = 1;
    loop {
        match fetch_once(store, expected, progress).await {
            Err(ReadBackError::Fetch(error)) if attempt < READ_ATTEMPTS && may_come(&error) => {
                attempt += 1;
                tokio::time::sleep(READ_PAUSE).await;
            }
            fetched => return fetched,
        }
    }
}

fn may_come(error: &FetchError) -> bool {
    match error {
        FetchError::NotFound { .. } | FetchError::Read { .. } => true,
        FetchError::SizeMismatch { expected, actual, .. } => actual < expected,
        FetchError::LookUp { .. } | FetchError::DigestMismatch { .. } | FetchError::Hashing { .. } => false,
    }
}

async fn fetch_once(
    store: &ReleaseStore,
    expected: &ObjectReference,
    progress: &dyn ProgressReporter,
) -> Result<File, ReadBackError> {
    let mut stream = store.open(expected).await.map_err(ReadBackError::Fetch)?;
    let mut file =
        spawn_blocking(tempfile::tempfile).await.map_err(ReadBackError::Interrupted)?.map_err(ReadBackError::Spool)?;
    while let Some(chunk) = stream.next_chunk().await.map_err(ReadBackError::Fetch)? {
        progress.advance(chunk.len() as u64);
        let written = spawn_blocking(move || file.write_all(&chunk).map(|()| file)).await;
        file = written.map_err(ReadBackError::Interrupted)?.map_err(ReadBackError::Spool)?;
    }
    file.seek(SeekFrom::Start(0)).map_err(ReadBackError::Spool)?;
    Ok(file)
}

/// What an earlier run has stored under a tag and perhaps never announced.
#[derive(Debug, Clone)]
pub struct EarlierStoring {
    /// The facts it was built from, where the objects say.
    pub facts: Option<ReleaseFacts>,
    /// The content digest it claims.
    pub content_digest: Option<Sha256Digest>,
    /// One of its objects.
    pub object: String,
}

/// Looks for objects under a tag.
pub async fn earlier_storing(
    store: &ReleaseStore,
    bundle: &BundleName,
    tag: &Tag,
) -> Result<Option<EarlierStoring>, StoreReadError> {
    for name in [archive_object(bundle, tag), release_object(bundle, tag)] {
        if let Some(found) = store.info(&name).await? {
            return Ok(Some(EarlierStoring {
                facts: ReleaseFacts::from_metadata(bundle, tag, &found.metadata),
                content_digest: claimed_content(&found.metadata),
                object: found.name,
            }));
        }
    }
    Ok(None)
}
