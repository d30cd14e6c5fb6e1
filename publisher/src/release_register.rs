//! What the log says about a bundle's releases: announced ones, in order, and withdrawn ones.
//!
//! Read complete as of the stream's leader, because publishing and moving a channel decide for people.

use shared::digest::Sha256Digest;
use shared::event::{BundleEvent, Promoted, Published, Withdrawn};
use shared::identifiers::{BundleName, Tag};
use shared::subjects::{announcements_filter, withdrawals_filter};
use streams::event_log::{EventLog, ReadError, Reader};
use streams::stored_event::StoredEvent;

/// The releases of one bundle.
#[derive(Debug, Clone, Default)]
pub struct ReleaseRegister {
    /// One entry a tag, by the tag's last announcement.
    releases: Vec<(Published, u64)>,
    withdrawn: Vec<Withdrawn>,
}

impl ReleaseRegister {
    /// Reads the register of a bundle. Needs operator rights.
    pub async fn read(log: &EventLog, bundle: &BundleName) -> Result<Self, ReadError> {
        let mut register = Self::default();
        for event in read_complete(log, &announcements_filter(bundle)).await? {
            register.apply(&event);
        }
        for event in read_complete(log, &withdrawals_filter(bundle)).await? {
            register.apply(&event);
        }
        Ok(register)
    }

    #[cfg(test)]
    pub(crate) fn of(
        releases: impl IntoIterator<Item = Published>,
        withdrawn: impl IntoIterator<Item = Withdrawn>,
    ) -> Self {
        let mut register = Self { withdrawn: withdrawn.into_iter().collect(), ..Self::default() };
        releases.into_iter().zip(1..).for_each(|(release, sequence)| register.add(release, sequence));
        register
    }

    /// The register as it would be with one more withdrawal.
    pub(crate) fn with(mut self, withdrawn: Withdrawn) -> Self {
        self.withdrawn.push(withdrawn);
        self
    }

    fn apply(&mut self, stored: &StoredEvent) {
        match stored.envelope().map(|(_, envelope)| envelope.event) {
            Ok(BundleEvent::Published(data)) => self.add(data, stored.stream_sequence),
            Ok(BundleEvent::Withdrawn(data)) => self.withdrawn.push(data),
            // Of other types, of a later version or no event at all: nothing that could be decided on.
            Ok(_) | Err(_) => {
                tracing::warn!(subject = %stored.subject, event.sequence = stored.stream_sequence, "event not understood");
            }
        }
    }

    fn add(&mut self, data: Published, stream_sequence: u64) {
        self.releases.retain(|(known, _)| known.tag != data.tag);
        self.releases.push((data, stream_sequence));
    }

    /// The announcement of a tag, with its stream sequence.
    pub fn find(&self, tag: &Tag) -> Option<(&Published, u64)> {
        self.releases.iter().find(|(data, _)| data.tag == *tag).map(|(data, sequence)| (data, *sequence))
    }

    /// The newest release that is not withdrawn.
    pub fn newest(&self) -> Option<(&Published, u64)> {
        let mut releases = self.releases.iter().rev();
        releases.find(|(data, _)| self.withdrawal_of(data).is_none()).map(|(data, sequence)| (data, *sequence))
    }

    /// The newest release that is not withdrawn and has another tag.
    pub(crate) fn newest_but(&self, tag: &Tag) -> Option<&Published> {
        let mut releases = self.releases.iter().rev().map(|(data, _)| data);
        releases.find(|data| &data.tag != tag && self.withdrawal_of(data).is_none())
    }

    /// The withdrawal that a release falls under: of its tree or of its content, whatever its tag.
    pub fn withdrawal_of(&self, release: &Published) -> Option<&Withdrawn> {
        self.withdrawn
            .iter()
            .find(|data| data.tree_digest == release.tree_digest || data.content_digest == release.content_digest)
    }

    /// The other tags that fall under a withdrawal: of the same tree or content. Newest last.
    pub(crate) fn fallen_with<'a>(&'a self, withdrawn: &'a Withdrawn) -> impl Iterator<Item = &'a Tag> {
        let concerned = |data: &Published| {
            data.tree_digest == withdrawn.tree_digest || data.content_digest == withdrawn.content_digest
        };
        let releases = self.releases.iter().map(|(data, _)| data);
        releases.filter(move |data| data.tag != withdrawn.tag && concerned(data)).map(|data| &data.tag)
    }

    /// The release that a channel's move named, if it may run: announced with the same tree, and not withdrawn.
    pub fn usable(&self, promoted: &Promoted) -> Option<&Published> {
        let (release, _) = self.find(&promoted.tag)?;
        let may_run = release.tree_digest == promoted.tree_digest && self.withdrawal_of(release).is_none();
        may_run.then_some(release)
    }

    /// The withdrawal of a content.
    pub fn withdrawal_of_content(&self, content_digest: Sha256Digest) -> Option<&Withdrawn> {
        self.withdrawn.iter().find(|data| data.content_digest == content_digest)
    }
}

/// All events that match a filter, in order, nothing missing that the leader has: the bulk from any replica in large
/// pages, what that replica may lack from the leader one by one.
pub(crate) async fn read_complete(log: &EventLog, filter: &str) -> Result<Vec<StoredEvent>, ReadError> {
    let mut events = log.by_subject(filter, 1).collect().await?;
    loop {
        let from = events.last().map_or(1, |event| event.stream_sequence + 1);
        match log.next_on(filter, from, Reader::Leader).await? {
            Some(event) => events.push(event),
            None => return Ok(events),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_releases::{published, withdrawn};

    #[test]
    fn the_newest_release_is_the_last_announced_that_is_not_withdrawn() {
        let mut register = ReleaseRegister::default();
        assert!(register.newest().is_none());
        for (sequence, (tag, content)) in [("v1", "a"), ("v2", "b"), ("v3", "b")].into_iter().enumerate() {
            register.add(published(tag, content), sequence as u64 + 1);
        }
        assert_eq!(register.newest().unwrap().0.tag.as_str(), "v3");
        // The same content under another tag falls with it.
        register.withdrawn.push(withdrawn(&published("v2", "b")));
        assert_eq!(register.newest().unwrap().0.tag.as_str(), "v1");
        let named = withdrawn(&published("v2", "b"));
        assert_eq!(register.fallen_with(&named).map(Tag::as_str).collect::<Vec<_>>(), ["v3"]);
        assert!(register.withdrawal_of_content(Sha256Digest::of(b"b")).is_some());
        assert!(register.withdrawal_of_content(Sha256Digest::of(b"a")).is_none());
    }

    #[test]
    fn a_tag_announced_again_counts_once_and_from_then() {
        let mut register = ReleaseRegister::default();
        register.add(published("v1", "a"), 1);
        register.add(published("v2", "b"), 2);
        register.add(published("v1", "a"), 3);
        assert_eq!(register.find(&"v1".parse().unwrap()).unwrap().1, 3);
        assert_eq!(register.newest().unwrap().0.tag.as_str(), "v1");
    }
}
