//! Which release is fetched before any channel that this node follows points at it: a pure choice from what was announced.
//!
//! At most one: the newest that was announced behind the head and may run. What failed, what the disk holds and when to
//! try again plays no part here.

use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::event::Published;
use shared::identifiers::Tag;

use super::Withdrawn;
use crate::node_state::ReleaseId;
use crate::trial::TrialBook;

/// Announcements that are kept in mind; the oldest give way.
const MOST_ANNOUNCED: usize = 16;

/// The release that a channel points at, and since when: moves to the same release, as a freeze is one, do not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointedAt {
    /// The release.
    pub release: ReleaseId,
    /// Stream sequence of the head that first named it.
    pub since: u64,
}

/// Announcements that were read from the log, by their place in it, each tag once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Announcements(Vec<(u64, Published)>);

impl Announcements {
    /// Takes one in. An older one of the same tag gives way, and of too many the oldest.
    pub(crate) fn take(&mut self, stream_sequence: u64, published: Published) {
        if self.0.iter().any(|(known, other)| other.tag == published.tag && *known >= stream_sequence) {
            return;
        }
        self.0.retain(|(_, other)| other.tag != published.tag);
        let place = self.0.partition_point(|(known, _)| *known < stream_sequence);
        self.0.insert(place, (stream_sequence, published));
        let surplus = self.0.len().saturating_sub(MOST_ANNOUNCED);
        self.0.drain(..surplus);
    }

    /// How a release was announced.
    pub(crate) fn find(&self, release: &ReleaseId) -> Option<&(u64, Published)> {
        let is_it =
            |published: &Published| published.tag == release.tag && published.tree_digest == release.tree_digest;
        self.0.iter().find(|(_, published)| is_it(published))
    }

    /// Forgets how a tag was announced: it may have been announced anew.
    pub(crate) fn forget(&mut self, tag: &Tag) {
        self.0.retain(|(_, published)| &published.tag != tag);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = &(u64, Published)> {
        self.0.iter()
    }
}

/// Everything the choice rests on.
#[derive(Debug, Clone)]
pub(crate) struct Outlook<'a> {
    /// What was announced, as far as it was heard of.
    pub announcements: &'a Announcements,
    /// Where the followed channel points; `None` before its first move.
    pub head: Option<&'a PointedAt>,
    /// What must never run.
    pub withdrawn: &'a Withdrawn,
    /// Releases that failed their health check here.
    pub trials: &'a TrialBook,
    /// Releases that run, ran, or are to run: their directories are not touched by another release of the same tag.
    pub in_use: &'a [ReleaseId],
}

/// The release to have in the cache before it is promoted; `None` where there is none.
pub(crate) fn release_ahead<'a>(outlook: &Outlook<'a>) -> Option<&'a (u64, Published)> {
    let since = outlook.head.map_or(0, |head| head.since);
    let newer = outlook.announcements.0.iter().rev().take_while(|(sequence, _)| *sequence > since);
    newer
        .map(|found| (found, id_of(&found.1)))
        .find(|(found, id)| outlook.may_be_had(&found.1, id))
        .map(|(found, _)| found)
}

impl Outlook<'_> {
    fn may_be_had(&self, published: &Published, id: &ReleaseId) -> bool {
        !self.withdrawn.holds(published.tree_digest, Some(published.content_digest))
            && self.trials.rejection(published.tree_digest).is_none()
            && self.head.is_none_or(|head| head.release != *id)
            && self.in_use.iter().all(|used| used.tag != id.tag)
    }
}

/// Name and identity of an announced release.
pub(crate) fn id_of(published: &Published) -> ReleaseId {
    ReleaseId { tag: published.tag.clone(), tree_digest: published.tree_digest }
}

/// Name, identity and content of a release that stands in the cache and was not switched to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedAhead {
    /// The release.
    pub id: ReleaseId,
    /// Its content digest.
    pub content_digest: Sha256Digest,
    /// Stream sequence of its announcement.
    pub announcement: u64,
}

/// What a node remembers over a restart of releases that it fetched ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AheadMemory {
    /// Where the followed channel points.
    #[serde(default)]
    pub head: Option<PointedAt>,
    /// What stands in the cache for when it is promoted: kept until the channel has passed it, or a newer one is there.
    #[serde(default)]
    pub staged: Option<StagedAhead>,
    /// The release of which an event has said that it cannot be had ahead: that is said once.
    #[serde(default)]
    pub told_failure: Option<ReleaseId>,
}

impl AheadMemory {
    /// The channel points here, its head says. What was announced before it began to is not awaited any more. Says
    /// whether that changed anything.
    pub(crate) fn point_at(&mut self, release: &ReleaseId, stream_sequence: u64) -> bool {
        if self.head.as_ref().is_some_and(|head| &head.release == release) {
            return false;
        }
        self.head = Some(PointedAt { release: release.clone(), since: stream_sequence });
        self.staged.take_if(|staged| staged.announcement < stream_sequence);
        true
    }

    /// The log was restored: places in it mean nothing any more. What is in the cache stays there.
    pub(crate) fn enter_epoch(&mut self) {
        self.head = None;
        self.staged = None;
    }

    /// Notes that a release could not be had. Says whether that is to be told.
    pub(crate) fn note_failure(&mut self, release: &ReleaseId) -> bool {
        let news = self.told_failure.as_ref() != Some(release);
        if news {
            self.told_failure = Some(release.clone());
        }
        news
    }
}

#[cfg(test)]
mod tests;
