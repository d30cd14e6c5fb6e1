//! Putting a built release into the bucket, and reading it back before anybody may hear of it.
//!
//! Names are written once. A name that is taken by the same release is an earlier run of ours that was cut off, and is
//! taken over; one that is taken by anything else is refused. Either way it is the server's copy that is read back,
//! decoded and compared, so a [`StoredRelease`] says what the bucket really gave.

mod announced_file;
mod reading_back;

use std::io;

use shared::digest::Sha256Digest;
use shared::event::{DeltaReference, ObjectReference};
use shared::identifiers::{BundleName, Tag};
use shared::release::Release;
use shared::subjects::{archive_object, release_object};
use shared::verification::VerifiedRelease;
use streams::release_store::{NewObject, PutError, ReleaseStore, StoreReadError, StoredObject};
use thiserror::Error;
use tokio::io::AsyncRead;

pub use self::announced_file::AnnouncedFileError;
pub(crate) use self::announced_file::{fetch_announced, read_announced_file};
pub(crate) use self::reading_back::fetch;
pub use self::reading_back::{ReadBackError, read_back};
use crate::build::BuiltRelease;
use crate::progress::{ProgressReporter, Silent, Stage, Transfer};
use crate::release_facts::{ReleaseFacts, claimed_content, claimed_tree};

/// A release that was not stored whole. Running the same publish again goes on from where it ended.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The name of one of its objects belongs to another release.
    #[error("tag `{tag}` is taken: object `{object}` holds {}, this release has content {content_digest}", other_content(*.other))]
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
    /// An object claims this content but has other bytes: built from other facts, or altered since.
    #[error("object `{object}` of tag `{tag}` claims the same content but has other bytes: give another tag")]
    OtherBytes {
        /// The tag.
        tag: Tag,
        /// The object.
        object: String,
    },
    /// An object was not put.
    #[error("the release is not stored")]
    Put(#[source] PutError),
}

fn other_content(other: Option<Sha256Digest>) -> String {
    other.map_or_else(|| "something else".to_owned(), |digest| format!("content {digest}"))
}

impl StoreError {
    /// Whether looking up the facts that the tag's objects were built from, and building again, may help.
    pub(crate) fn may_be_other_facts(&self) -> bool {
        match self {
            Self::OtherBytes { .. } => true,
            Self::TagTaken { .. } | Self::Put(_) => false,
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
    deltas: Vec<DeltaReference>,
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

    /// The deltas that lead to it, as they were read back.
    pub fn deltas(&self) -> &[DeltaReference] {
        &self.deltas
    }

    /// The release with deltas that were read back too.
    pub(crate) fn with_deltas(self, deltas: Vec<DeltaReference>) -> Self {
        Self { deltas, ..self }
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
    let archive = || built.archive().map(tokio::fs::File::from_std);
    let (archive, first) = put(store, &built, built.archive_reference(), archive, progress).await?;
    let release_json = || Ok(built.release_json());
    let (_, second) = put(store, &built, built.release_reference(), release_json, &Silent).await?;
    let storing = if (first, second) == (Storing::New, Storing::New) { Storing::New } else { Storing::Resumed };
    Ok(PutRelease { built, archive, storing })
}

async fn put<C: AsyncRead + Unpin + Send>(
    store: &ReleaseStore,
    built: &BuiltRelease,
    wanted: &ObjectReference,
    content: impl FnMut() -> io::Result<C>,
    progress: &dyn ProgressReporter,
) -> Result<(ObjectReference, Storing), StoreError> {
    let release = built.release();
    let object = NewObject {
        name: wanted.name.clone(),
        description: Some(format!("release {} of bundle {}", release.tag(), release.bundle())),
        metadata: built.facts().to_metadata(release.tree_digest(), release.content_digest()),
    };
    match store.put_through_elections(&object, content, &Transfer(progress)).await {
        Ok(stored) => Ok((stored.reference(), Storing::New)),
        Err(PutError::NameTaken { existing }) if is_ours(&existing, wanted, release) => {
            Ok((existing.reference(), Storing::Resumed))
        }
        Err(PutError::NameTaken { existing }) => {
            let (tag, object, content_digest) = (release.tag().clone(), existing.name, release.content_digest());
            match claimed_content(&existing.metadata) {
                Some(other) if other == content_digest => Err(StoreError::OtherBytes { tag, object }),
                other => Err(StoreError::TagTaken { tag, object, other, content_digest }),
            }
        }
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
