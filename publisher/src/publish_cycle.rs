//! One whole publish: decide, build, store, read back, announce, promote.
//!
//! Whatever it is interrupted by, running it again finishes: what is stored is taken over, what is announced is not
//! announced twice, and a release that was announced but never promoted is promoted then.

mod decision;
mod error;
pub(crate) mod gates;

use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;
use shared::event::Trigger;
use shared::identifiers::{BundleName, ChannelName, Tag};
use shared::limits::ReleaseLimits;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;

use self::decision::taken;
pub(crate) use self::decision::{Decision, decide};
pub use self::error::PublishError;
pub use self::gates::{BaseError, Comparison};
use crate::announcement::{AnnouncedRelease, announce, announce_again, announcement_of};
use crate::author::Author;
use crate::build::{SourceContent, build};
use crate::channel::{AutomaticPromotion, promote_published_because};
use crate::delta::{DEFAULT_DELTAS, DeltaTarget, Purpose, deltas};
use crate::git_facts::Commit;
use crate::progress::{Progress, Stage};
use crate::release_facts::ReleaseFacts;
use crate::release_register::ReleaseRegister;
use crate::stored_release::{StoredRelease, earlier_storing, read_back, store};

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
    /// When there is a release although the content did not change.
    pub policy: ReleasePolicy,
    /// Whether contracts that break their readers are refused. For the bundle `contracts` only.
    pub require_compatible: bool,
    /// The release that compatibility is judged by; without it the channel's, or the newest.
    pub base: Option<Tag>,
    /// What becomes of a publish to a frozen channel.
    pub frozen_channel: FrozenChannel,
    /// Words for the log about the channel's move.
    pub reason: Option<String>,
    /// Most deltas that the release gets, each from a release that nodes have.
    pub deltas: u32,
}

impl PublishRequest {
    /// A publish of what changed, by hand, that moves no channel.
    pub fn new(bundle: BundleName, timestamp: DateTime<Utc>) -> Self {
        Self {
            bundle,
            tag: None,
            timestamp,
            commit: None,
            trigger: Trigger::Local,
            channel: None,
            limits: ReleaseLimits::default(),
            policy: ReleasePolicy::OnChange,
            require_compatible: false,
            base: None,
            frozen_channel: FrozenChannel::Leave,
            reason: None,
            deltas: DEFAULT_DELTAS,
        }
    }
}

/// When there is a release although the content did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReleasePolicy {
    /// Never.
    #[default]
    OnChange,
    /// Once a day: where the newest release is not the day's own.
    Daily,
    /// Always: where the tag exists with this content, it is announced again.
    Force,
}

/// What becomes of a publish to a frozen channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FrozenChannel {
    /// The release is published and the channel left where it is: what a publisher does by itself.
    #[default]
    Leave,
    /// Nothing is published: a person is told before anything happens.
    Refuse,
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
    /// How the contracts compare with what their readers have; `None` where that was not asked.
    pub compatibility: Option<Comparison>,
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
    /// One more announcement of a release that had one: it was forced.
    AnnouncedAgain,
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
    let decision = decide(&register, content.content_digest(), request)?;
    let history = gates::needed_history(log, request).await?;
    gates::refuse_frozen(request, history.as_ref())?;
    gates::check_content(content, &decision).await?;
    let compatibility = gates::refuse_incompatible(bucket, &register, history.as_ref(), content, request).await?;
    let (release, novelty) = match decision {
        Decision::Unchanged(release) => (release, Novelty::Unchanged),
        Decision::AlreadyAnnounced(release) => (release, Novelty::AlreadyAnnounced),
        Decision::AnnounceAgain(tag) => {
            // Nobody hears again of what the bucket no longer gives. What is there says from what it was built.
            let stored = earlier_storing(bucket, &request.bundle, &tag).await.map_err(PublishError::ReadStore)?;
            if stored.is_none() {
                return Err(PublishError::ObjectsGone { tag });
            }
            let stored = store_release(bucket, content, request, &tag, progress).await?;
            let stored = with_deltas((log, bucket), author, &register, content, request, stored, progress).await?;
            progress.begin(Stage::Announce, None);
            let release = announce_again(log, author, &stored, request.trigger).await;
            (release.map_err(PublishError::Announce)?, Novelty::AnnouncedAgain)
        }
        Decision::Release(tag) => {
            let stored = store_release(bucket, content, request, &tag, progress).await?;
            let stored = with_deltas((log, bucket), author, &register, content, request, stored, progress).await?;
            progress.begin(Stage::Announce, None);
            let release = announce(log, author, &stored).await.map_err(PublishError::Announce)?;
            let novelty = if release.already_announced { Novelty::AlreadyAnnounced } else { Novelty::Announced };
            (release, novelty)
        }
    };
    let promotion = match &request.channel {
        None => None,
        Some(channel) => {
            let promoted = promote_published_because(log, author, &release, channel, request.reason.clone()).await;
            let tag = release.published.tag.clone();
            Some(promoted.map_err(|source| PublishError::Promote { tag, source: Box::new(source) })?)
        }
    };
    Ok(PublishReport { release, novelty, promotion, compatibility })
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

/// Adds the deltas that lead to a stored release: those that an earlier announcement of it names, and those from the
/// releases that nodes have now.
async fn with_deltas(
    (log, bucket): (&EventLog, &ReleaseStore),
    author: &Author,
    register: &ReleaseRegister,
    content: &SourceContent,
    request: &PublishRequest,
    stored: StoredRelease,
    progress: &Progress,
) -> Result<StoredRelease, PublishError> {
    let announced =
        announcement_of(stored.release(), stored.facts(), [stored.archive(), stored.release_json()], author.name());
    let kept = register.find(&announced.tag).map(|(earlier, _)| earlier.deltas.as_slice()).unwrap_or_default();
    let tree = content.tree(stored.facts()).map_err(PublishError::Build)?;
    let target = DeltaTarget { announced, facts: stored.facts().clone(), tree, limits: request.limits };
    let deltas = deltas((log, bucket), register, target, kept, request.deltas, Purpose::Store, progress).await;
    Ok(stored.with_deltas(deltas))
}

/// The facts to build from: those of an earlier run that stored the same content under the tag, else the request's.
pub(crate) async fn facts(
    bucket: &ReleaseStore,
    content_digest: Sha256Digest,
    request: &PublishRequest,
    tag: &Tag,
) -> Result<ReleaseFacts, PublishError> {
    let earlier = earlier_storing(bucket, &request.bundle, tag).await.map_err(PublishError::ReadStore)?;
    match earlier {
        None => Ok(new_facts(request, tag)),
        Some(earlier) => match (earlier.facts, earlier.content_digest) {
            (Some(facts), Some(stored)) if stored == content_digest => Ok(facts),
            (_, stored) => Err(taken(tag, stored, content_digest)),
        },
    }
}

/// The facts of a release that nobody has begun.
pub(crate) fn new_facts(request: &PublishRequest, tag: &Tag) -> ReleaseFacts {
    ReleaseFacts {
        bundle: request.bundle.clone(),
        tag: tag.clone(),
        timestamp: request.timestamp,
        git: request.commit.as_ref().map(|commit| commit.facts.clone()),
        trigger: request.trigger,
    }
}
