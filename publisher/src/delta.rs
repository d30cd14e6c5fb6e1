//! Deltas of a release: for the releases that nodes have now, the way from there, stored before anybody hears of it.
//!
//! Nothing of a release depends on them. One that cannot be built, or is not worth having, is left out, and nodes fetch
//! the archive. Like everything that is announced, a delta is named only after it was read back from the server,
//! applied, and found to give the release.

mod base_release;
mod bases;
mod building;
mod checking;

use std::sync::Arc;

use shared::daemon::ErrorChain;
use shared::event::{DeltaReference, Published};
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use shared::subjects::delta_object;
use streams::event_log::EventLog;
use streams::release_store::{NewObject, PutError, ReleaseStore};
use thiserror::Error;

use self::base_release::BaseRelease;
pub use self::bases::MOST_DELTAS;
use self::bases::{bases, demand};
use self::building::{BuildDeltaError, build};
use self::checking::{CheckDeltaError, check};
use crate::progress::{Progress, Stage};
use crate::release_facts::ReleaseFacts;
use crate::release_register::ReleaseRegister;
use crate::source::SourceTree;
use crate::stored_release::AnnouncedFileError;

/// Deltas that a release gets unless told otherwise.
pub const DEFAULT_DELTAS: u32 = 3;

/// A delta that is left out.
#[derive(Debug, Error)]
enum DeltaError {
    /// The base does not come back from the bucket.
    #[error("release `{tag}` cannot be read")]
    Base {
        tag: Tag,
        #[source]
        source: AnnouncedFileError,
    },
    /// It could not be written.
    #[error("it cannot be built")]
    Build(#[source] BuildDeltaError),
    /// It was not stored.
    #[error("it is not stored")]
    Put(#[source] PutError),
    /// What the bucket gives does not make the release.
    #[error("object `{object}` failed its check")]
    Check {
        object: String,
        #[source]
        source: CheckDeltaError,
    },
    /// The bucket cannot be asked.
    #[error("the bucket cannot be read")]
    Store(#[source] streams::release_store::StoreReadError),
}

/// A release whose deltas are wanted: as it will be announced, with its content.
pub(crate) struct DeltaTarget {
    /// The announcement without deltas.
    pub(crate) announced: Published,
    /// What was decided about it.
    pub(crate) facts: ReleaseFacts,
    /// Its files. They are compared with the announcement again.
    pub(crate) tree: SourceTree,
    /// What it may hold.
    pub(crate) limits: ReleaseLimits,
}

/// What becomes of the deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// They are stored and read back.
    Store,
    /// They are built only to say how large they would be.
    Preview,
}

impl DeltaTarget {
    /// Size at which a delta is no longer worth having: half of what it replaces.
    fn at_most(&self) -> u64 {
        let replaced = self.announced.archive.size.saturating_add(self.announced.release.size);
        replaced.saturating_sub(1) / 2
    }
}

/// Makes deltas to a release from those that nodes have, at most `count`, and returns those that can be announced. What
/// goes wrong is logged: a release without deltas is a release. `kept` are deltas that an earlier announcement of the
/// release names; they stay.
pub(crate) async fn deltas(
    (log, bucket): (&EventLog, &ReleaseStore),
    register: &ReleaseRegister,
    target: DeltaTarget,
    kept: &[DeltaReference],
    count: u32,
    purpose: Purpose,
    progress: &Progress,
) -> Vec<DeltaReference> {
    let mut found = kept.to_vec();
    if count == 0 {
        return found;
    }
    let demand = demand(log, &target.announced.bundle).await;
    let wanted = bases(register, &target.announced.tag, &demand, count);
    let target = Arc::new(target);
    for base in wanted {
        if found.len() >= MOST_DELTAS as usize || found.iter().any(|delta| delta.base_tag == base.tag) {
            continue;
        }
        progress.begin(Stage::Patch, None);
        match delta(bucket, base, &target, purpose).await {
            Ok(Some(delta)) => found.push(delta),
            Ok(None) => {
                tracing::debug!(base.tag = %base.tag, "no delta: it would not be half as large as the archive");
            }
            Err(error) => {
                tracing::warn!(
                    bundle.tag = %target.announced.tag, base.tag = %base.tag, error = %ErrorChain(&error),
                    "no delta from this release; nodes that run it fetch the archive"
                );
            }
        }
    }
    found
}

async fn delta(
    bucket: &ReleaseStore,
    base: &Published,
    target: &Arc<DeltaTarget>,
    purpose: Purpose,
) -> Result<Option<DeltaReference>, DeltaError> {
    let announced = &target.announced;
    let name = delta_object(&announced.bundle, &announced.tag, &base.tag);
    let earlier = bucket.info(&name).await.map_err(DeltaError::Store)?.map(|stored| stored.reference());
    let base_release = BaseRelease::fetch(bucket, base, target.limits).await;
    let base_release = base_release.map_err(|source| DeltaError::Base { tag: base.tag.clone(), source })?;
    let named = |object| Ok(Some(DeltaReference { base_tag: base.tag.clone(), object }));
    let checked = |source| DeltaError::Check { object: name.clone(), source };
    // What an earlier run has stored is taken over like everything it has stored: if it proves itself.
    if let Some(object) = earlier {
        if object.size > target.at_most() {
            return Ok(None);
        }
        check(bucket, &object, &base_release, target).await.map_err(checked)?;
        return named(object);
    }
    let Some(built) = build(&base_release, target, name.clone()).await.map_err(DeltaError::Build)? else {
        return Ok(None);
    };
    let object = built.reference.clone();
    if purpose == Purpose::Preview {
        return named(object);
    }
    let new = NewObject {
        name: object.name.clone(),
        description: Some(format!("release {} of bundle {} from {}", announced.tag, announced.bundle, base.tag)),
        metadata: target.facts.to_metadata(announced.tree_digest, announced.content_digest),
    };
    let content = tokio::fs::File::from_std(built.content);
    let object = match bucket.put(new, content, &()).await {
        Ok(stored) => stored.reference(),
        // Somebody publishes the same at this moment.
        Err(PutError::NameTaken { existing }) => existing.reference(),
        Err(error) => return Err(DeltaError::Put(error)),
    };
    check(bucket, &object, &base_release, target).await.map_err(checked)?;
    named(object)
}
