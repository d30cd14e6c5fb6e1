//! One whole publish: decide, build, store, read back, announce, promote.
//!
//! Whatever it is interrupted by, running it again finishes: what is stored is taken over, what is announced is not
//! announced twice, and a release that was announced but never promoted is promoted then.

use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;
use shared::event::{Published, Trigger, Withdrawn};
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use shared::limits::ReleaseLimits;
use streams::event_log::{EventLog, ReadError};
use streams::event_writer::WriteError;
use streams::release_store::{ReleaseStore, StoreReadError};
use thiserror::Error;

use crate::announcement::{AnnounceError, AnnouncedRelease, announce};
use crate::author::Author;
use crate::build::{BuildError, SourceContent, build};
use crate::channel::{AutomaticPromotion, MoveError, promote_published};
use crate::git_facts::Commit;
use crate::progress::{Progress, Stage};
use crate::release_facts::ReleaseFacts;
use crate::release_register::ReleaseRegister;
use crate::stored_release::{ReadBackError, StoreError, StoredRelease, earlier_storing, read_back, store};
use crate::tag::{TagError, derive_tag};

/// Times that a release is built anew because somebody else stores the same content at the same moment.
const ATTEMPTS: usize = 3;

/// What to publish, beside the content.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// The bundle.
    pub bundle: BundleName,
    /// The tag; derived from day and commit or content where absent.
    pub tag: Option<Tag>,
    /// When the release is made.
    pub timestamp: DateTime<Utc>,
    /// The commit of the source, where there is one.
    pub commit: Option<Commit>,
    /// What made us publish.
    pub trigger: Trigger,
    /// The channel to move; none with `--no-promote`.
    pub channel: Option<ChannelName>,
    /// What a release may hold.
    pub limits: ReleaseLimits,
}

/// What a publish did.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishReport {
    /// The release that has the content now.
    pub release: AnnouncedRelease,
    /// Whether it is a new one.
    pub novelty: Novelty,
    /// What happened to the channel; `None` where none was to be moved.
    pub promotion: Option<AutomaticPromotion>,
}

/// What a publish added to the log about the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// Nothing: the newest release has this content.
    Unchanged,
    /// Nothing: an earlier release with this tag has this content.
    AlreadyAnnounced,
    /// Its announcement.
    Announced,
}

/// A publish that did not finish. Running it again goes on from where it ended.
#[derive(Debug, Error)]
pub enum PublishError {
    /// An event of an earlier run is not settled.
    #[error("an event of an earlier run is still open")]
    Settle(#[source] WriteError),
    /// The log cannot be read.
    #[error("the bundle's releases cannot be read")]
    Read(#[source] ReadError),
    /// The bucket cannot be read.
    #[error("the bucket cannot be read")]
    ReadStore(#[source] StoreReadError),
    /// This content must never be published again.
    #[error("content {content_digest} was withdrawn with release `{tag}` by `{actor}`: {reason}")]
    Withdrawn {
        /// The content digest.
        content_digest: Sha256Digest,
        /// The withdrawn release.
        tag: Tag,
        /// Who withdrew it.
        actor: ActorName,
        /// Their words.
        reason: String,
    },
    /// The tag belongs to other content.
    #[error("tag `{tag}` is taken by content {other}, this is content {content_digest}: give another tag")]
    TagTaken {
        /// The tag.
        tag: Tag,
        /// What it holds.
        other: String,
        /// What was to be published.
        content_digest: Sha256Digest,
    },
    /// No tag can be derived.
    #[error("the release has no tag")]
    Tag(#[source] TagError),
    /// The release cannot be built.
    #[error("the release cannot be built")]
    Build(#[source] BuildError),
    /// The release cannot be stored.
    #[error("the release cannot be stored")]
    Store(#[source] StoreError),
    /// The stored release does not come back as it was put.
    #[error("the stored release failed its check and is not announced")]
    ReadBack(#[source] ReadBackError),
    /// The release cannot be announced.
    #[error("the release is stored but not announced")]
    Announce(#[source] AnnounceError),
    /// The channel cannot be moved.
    #[error("release `{tag}` is published but not promoted")]
    Promote {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: Box<MoveError>,
    },
}

/// Publishes content and returns only after everything it reports is confirmed by the server.
pub async fn publish(
    log: &EventLog,
    bucket: &ReleaseStore,
    author: &mut Author,
    content: &SourceContent,
    request: &PublishRequest,
    progress: &Progress,
) -> Result<PublishReport, PublishError> {
    author.settle(log).await.map_err(PublishError::Settle)?;
    let register = ReleaseRegister::read(log, &request.bundle).await.map_err(PublishError::Read)?;
    let (release, novelty) = match decide(&register, content.content_digest(), request)? {
        Decision::Unchanged(release) => (release, Novelty::Unchanged),
        Decision::AlreadyAnnounced(release) => (release, Novelty::AlreadyAnnounced),
        Decision::Release(tag) => {
            let stored = store_release(bucket, content, request, &tag, progress).await?;
            progress.begin(Stage::Announce, None);
            let release = announce(log, author, &stored).await.map_err(PublishError::Announce)?;
            let novelty = if release.already_announced { Novelty::AlreadyAnnounced } else { Novelty::Announced };
            (release, novelty)
        }
    };
    let promotion = match &request.channel {
        None => None,
        Some(channel) => Some(promote_published(log, author, &release, channel).await.map_err(|source| {
            PublishError::Promote { tag: release.published.tag.clone(), source: Box::new(source) }
        })?),
    };
    Ok(PublishReport { release, novelty, promotion })
}

/// Builds, stores and reads back, taking over what an earlier run with the same content has stored under the tag.
pub async fn store_release(
    bucket: &ReleaseStore,
    content: &SourceContent,
    request: &PublishRequest,
    tag: &Tag,
    progress: &Progress,
) -> Result<StoredRelease, PublishError> {
    let mut attempt = 1;
    loop {
        let facts = facts(bucket, content.content_digest(), request, tag).await?;
        let built = build(content.clone(), facts, request.limits, progress.clone()).await;
        match store(bucket, built.map_err(PublishError::Build)?, &**progress).await {
            Ok(put) => return read_back(bucket, put, &**progress).await.map_err(PublishError::ReadBack),
            Err(error) if attempt < ATTEMPTS && error.may_be_other_facts() => attempt += 1,
            Err(error) => return Err(PublishError::Store(error)),
        }
    }
}

/// The facts to build from: those of an earlier run that stored the same content under the tag, else the request's.
async fn facts(
    bucket: &ReleaseStore,
    content_digest: Sha256Digest,
    request: &PublishRequest,
    tag: &Tag,
) -> Result<ReleaseFacts, PublishError> {
    let earlier = earlier_storing(bucket, &request.bundle, tag).await.map_err(PublishError::ReadStore)?;
    match earlier {
        None => Ok(ReleaseFacts {
            bundle: request.bundle.clone(),
            tag: tag.clone(),
            timestamp: request.timestamp,
            git: request.commit.as_ref().map(|commit| commit.facts.clone()),
            trigger: request.trigger,
        }),
        Some(earlier) => match (earlier.facts, earlier.content_digest) {
            (Some(facts), Some(stored)) if stored == content_digest => Ok(facts),
            (_, stored) => Err(taken(tag, stored, content_digest)),
        },
    }
}

fn taken(tag: &Tag, other: Option<Sha256Digest>, content_digest: Sha256Digest) -> PublishError {
    let other = other.map_or_else(|| "of another origin".to_owned(), |digest| digest.to_string());
    PublishError::TagTaken { tag: tag.clone(), other, content_digest }
}

/// What a publish has to do, by what the log says.
#[derive(Debug, Clone, PartialEq)]
enum Decision {
    Unchanged(AnnouncedRelease),
    AlreadyAnnounced(AnnouncedRelease),
    Release(Tag),
}

fn decide(
    register: &ReleaseRegister,
    content_digest: Sha256Digest,
    request: &PublishRequest,
) -> Result<Decision, PublishError> {
    if let Some(Withdrawn { tag, actor, reason, .. }) = register.withdrawal_of_content(content_digest).cloned() {
        return Err(PublishError::Withdrawn { content_digest, tag, actor, reason });
    }
    let announced = |published: &Published, stream_sequence| AnnouncedRelease {
        published: published.clone(),
        stream_sequence,
        already_announced: true,
    };
    if let Some((newest, sequence)) = register.newest()
        && newest.content_digest == content_digest
    {
        return Ok(Decision::Unchanged(announced(newest, sequence)));
    }
    let tag = match &request.tag {
        Some(tag) => tag.clone(),
        None => derive_tag(&request.bundle, request.timestamp, request.commit.as_ref(), content_digest)
            .map_err(PublishError::Tag)?,
    };
    match register.find(&tag) {
        Some((earlier, sequence)) if earlier.content_digest == content_digest => {
            Ok(Decision::AlreadyAnnounced(announced(earlier, sequence)))
        }
        Some((earlier, _)) => Err(taken(&tag, Some(earlier.content_digest), content_digest)),
        None => Ok(Decision::Release(tag)),
    }
}

#[cfg(test)]
mod tests {
    use shared::event::{GitFacts, ObjectReference};

    use super::*;
    use crate::git_facts::TreeState;

    fn content(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    fn request(tag: Option<&str>) -> PublishRequest {
        let sha = "0658fb8b7c6a59483726150413f2e1d0c9b8a796".to_owned();
        PublishRequest {
            bundle: "contracts".parse().unwrap(),
            tag: tag.map(|tag| tag.parse().unwrap()),
            timestamp: DateTime::UNIX_EPOCH,
            commit: Some(Commit { facts: GitFacts { sha, repository: None, reference: None }, tree: TreeState::Clean }),
            trigger: Trigger::Local,
            channel: None,
            limits: ReleaseLimits::default(),
        }
    }

    fn published(tag: &str, text: &str) -> Published {
        let object = ObjectReference { name: "x".to_owned(), size: 1, sha256: content("x") };
        Published {
            bundle: "contracts".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: content(&format!("tree of {text}")),
            content_digest: content(text),
            files: 1,
            total_bytes: 1,
            archive: object.clone(),
            release: object,
            git: None,
            trigger: Trigger::Local,
            actor: "main".parse().unwrap(),
        }
    }

    fn withdrawn(release: &Published) -> Withdrawn {
        Withdrawn {
            bundle: release.bundle.clone(),
            tag: release.tag.clone(),
            tree_digest: release.tree_digest,
            content_digest: release.content_digest,
            reason: "broken".to_owned(),
            actor: "ada".parse().unwrap(),
        }
    }

    fn decided(releases: &[(&str, &str)], withdrawals: &[(&str, &str)], text: &str, tag: Option<&str>) -> String {
        let register = ReleaseRegister::of(
            releases.iter().map(|(tag, text)| published(tag, text)),
            withdrawals.iter().map(|(tag, text)| withdrawn(&published(tag, text))),
        );
        match decide(&register, content(text), &request(tag)) {
            Ok(Decision::Unchanged(release)) => format!("unchanged {}", release.published.tag),
            Ok(Decision::AlreadyAnnounced(release)) => format!("announced {}", release.published.tag),
            Ok(Decision::Release(tag)) => format!("release {tag}"),
            Err(PublishError::Withdrawn { tag, .. }) => format!("withdrawn {tag}"),
            Err(PublishError::TagTaken { tag, .. }) => format!("taken {tag}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn content_and_log_decide_what_a_publish_does() {
        let derived = "contracts-19700101-0658fb8b";
        for (releases, withdrawals, text, tag, expected) in [
            (&[][..], &[][..], "a", None, "release contracts-19700101-0658fb8b"),
            (&[("v1", "a")], &[], "a", None, "unchanged v1"),
            (&[("v1", "a")], &[], "b", None, "release contracts-19700101-0658fb8b"),
            (&[("v1", "a")], &[], "b", Some("v2"), "release v2"),
            // Compared with the newest, not with any: going back is a change.
            (&[("v1", "a"), ("v2", "b")], &[], "a", Some("v3"), "release v3"),
            (&[("v1", "a"), ("v2", "b")], &[], "a", Some("v1"), "announced v1"),
            // The newest that is not withdrawn.
            (&[("v1", "a"), ("v2", "b")], &[("v2", "b")], "a", None, "unchanged v1"),
            (&[("v1", "a"), ("v2", "b")], &[("v2", "b")], "b", None, "withdrawn v2"),
            (&[("v1", "a"), ("v2", "b")], &[("v1", "a")], "a", Some("v3"), "withdrawn v1"),
            // Same tag, other content.
            (&[("v1", "a")], &[], "b", Some("v1"), "taken v1"),
            (&[(derived, "a")], &[], "b", None, "taken contracts-19700101-0658fb8b"),
        ] {
            assert_eq!(
                decided(releases, withdrawals, text, tag),
                expected,
                "{releases:?} {withdrawals:?} {text} {tag:?}"
            );
        }
    }
}
