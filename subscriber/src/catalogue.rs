//! Which releases there are, for people and scripts: read with a node's rights, from any replica.
//!
//! Nothing is decided here for others (publishing and moving a channel read from the leader), so an answer that is a
//! moment old costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use shared::daemon::ErrorChain;
use shared::event::{BundleEvent, Promoted, Published, Withdrawn};
use shared::event_envelope::EventEnvelope;
use shared::identifiers::{BundleName, ChannelName, Incarnation, Tag};
use shared::subjects::{
    EVENT_STREAM, EventSubject, all_announcements_filter, announcements_filter, channel_heads_filter,
    withdrawals_filter,
};
use streams::event_log::{EventLog, ReadError, Reader};
use streams::stored_event::StoredEvent;
use thiserror::Error;

use crate::local_pin::PinnedAt;

/// A release as the log announces it.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnouncedRelease {
    /// What was announced.
    pub published: Published,
    /// When, by the publisher's clock.
    pub time: DateTime<Utc>,
    /// Its place in the log.
    pub stream_sequence: u64,
}

/// A withdrawal and when it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Withdrawal {
    /// What was withdrawn, by whom and why.
    pub withdrawn: Withdrawn,
    /// When, by the operator's clock.
    pub time: DateTime<Utc>,
}

/// Everything the log says about a bundle's releases.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    /// One entry a tag, by its last announcement; newest first.
    pub releases: Vec<AnnouncedRelease>,
    /// All withdrawals.
    pub withdrawals: Vec<Withdrawal>,
    /// Where each channel points, with the head's stream sequence.
    pub heads: BTreeMap<ChannelName, (u64, Promoted)>,
}

/// Which release is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The one with this tag.
    Tag(Tag),
    /// The one that this channel points at.
    HeadOf(ChannelName),
}

impl Wanted {
    /// What a tag on the command line means: `<bundle>-latest` and `latest` are the head of channel `latest`.
    pub fn parse(text: &str, bundle: &BundleName) -> Result<Self, shared::identifiers::IdentifierError> {
        if text == "latest" || text.strip_suffix("-latest") == Some(bundle.as_str()) {
            return Ok(Self::HeadOf("latest".parse()?));
        }
        Ok(Self::Tag(text.parse()?))
    }
}

/// A release that was looked up, and where the log stood.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The release.
    pub release: AnnouncedRelease,
    /// Where the log stood; absent in a log without an epoch.
    pub log: Option<PinnedAt>,
    /// Where each channel points.
    pub heads: BTreeMap<ChannelName, (u64, Promoted)>,
}

/// A release that cannot be had.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// No such release is announced.
    #[error("Release tag '{tag}' not found")]
    NotFound {
        /// The tag.
        tag: Tag,
    },
    /// The channel points nowhere.
    #[error("channel `{channel}` of bundle `{bundle}` points at no release yet: publish one, or name a tag")]
    NoHead {
        /// The bundle.
        bundle: BundleName,
        /// The channel.
        channel: ChannelName,
    },
    /// It was withdrawn.
    #[error(
        "release `{tag}` was withdrawn by {} on {}: {}; choose another one", withdrawal.withdrawn.actor,
        withdrawal.time.format("%Y-%m-%d"), withdrawal.withdrawn.reason
    )]
    Withdrawn {
        /// The tag.
        tag: Tag,
        /// Who withdrew it, and why.
        withdrawal: Box<Withdrawal>,
    },
    /// Channel and announcement name different trees under one tag.
    #[error("release `{tag}` contradicts its channel: the channel names tree {promoted}, the announcement {announced}")]
    Contradiction {
        /// The tag.
        tag: Tag,
        /// What the channel says.
        promoted: shared::digest::Sha256Digest,
        /// What the announcement says.
        announced: shared::digest::Sha256Digest,
    },
    /// The last word on the subject is no event that this version understands.
    #[error("what the log says last on `{subject}` cannot be understood: {reason}")]
    NotUnderstood {
        /// The subject.
        subject: String,
        /// Why.
        reason: String,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Catalogue {
    /// Reads everything about a bundle.
    pub async fn read(log: &EventLog, bundle: &BundleName) -> Result<Self, ReadError> {
        let mut catalogue = Self::default();
        for filter in [channel_heads_filter(bundle), announcements_filter(bundle)] {
            catalogue.take(log.by_subject(filter, 1).collect().await?);
        }
        // Last, so that no withdrawal is missing of a release that is listed.
        catalogue.take(log.by_subject(withdrawals_filter(bundle), 1).collect().await?);
        catalogue.releases.reverse();
        Ok(catalogue)
    }

    /// Reads the same about every bundle that has releases.
    pub async fn read_all(log: &EventLog) -> Result<BTreeMap<BundleName, Self>, ReadError> {
        let events = log.by_subject(all_announcements_filter(), 1).collect().await?;
        let bundle = |event: &StoredEvent| event.subject.parse::<EventSubject>().ok()?.bundle().cloned();
        let bundles: BTreeSet<BundleName> = events.iter().filter_map(bundle).collect();
        let mut catalogues = BTreeMap::new();
        for bundle in bundles {
            let catalogue = Self::read(log, &bundle).await?;
            catalogues.insert(bundle, catalogue);
        }
        Ok(catalogues)
    }

    fn take(&mut self, events: Vec<StoredEvent>) {
        for stored in events {
            match stored.envelope() {
                Ok((_, envelope)) => self.apply(stored.stream_sequence, envelope),
                Err(error) => tracing::warn!(error = %ErrorChain(&error), "an event is left out"),
            }
        }
    }

    fn apply(&mut self, stream_sequence: u64, EventEnvelope { event, time, .. }: EventEnvelope) {
        match event {
            BundleEvent::Published(published) => {
                self.releases.retain(|known| known.published.tag != published.tag);
                self.releases.push(AnnouncedRelease { published, time, stream_sequence });
            }
            BundleEvent::Withdrawn(withdrawn) => self.withdrawals.push(Withdrawal { withdrawn, time }),
            BundleEvent::Promoted(promoted) => {
                self.heads.insert(promoted.channel.clone(), (stream_sequence, promoted));
            }
            BundleEvent::RefreshAttempt(_)
            | BundleEvent::Staged(_)
            | BundleEvent::Loaded(_)
            | BundleEvent::VerificationFailed(_)
            | BundleEvent::DownloadFailed(_)
            | BundleEvent::FallbackActivated(_)
            | BundleEvent::StaleDetected(_)
            | BundleEvent::UpdateDetected(_)
            | BundleEvent::TamperDetected(_)
            | BundleEvent::Reverted(_)
            | BundleEvent::EpochStarted(_)
            | BundleEvent::Unknown(_) => {
                tracing::warn!(event.sequence = stream_sequence, "an event of a newer version is left out");
            }
        }
    }

    /// The withdrawal that a release falls under: of its tree or of its content, whatever its tag.
    pub fn withdrawal_of(&self, release: &Published) -> Option<&Withdrawal> {
        let mut all = self.withdrawals.iter();
        all.find(|found| {
            found.withdrawn.tree_digest == release.tree_digest
                || found.withdrawn.content_digest == release.content_digest
        })
    }

    /// The channels that point at a release.
    pub fn channels_at(&self, tag: &Tag) -> BTreeSet<ChannelName> {
        let heads = self.heads.iter().filter(|(_, (_, head))| &head.tag == tag);
        heads.map(|(channel, _)| channel.clone()).collect()
    }

    /// The release with this tag.
    pub fn find(&self, tag: &Tag) -> Option<&AnnouncedRelease> {
        self.releases.iter().find(|release| &release.published.tag == tag)
    }
}

/// Looks a release up, in two requests. One that was withdrawn is refused.
pub async fn resolve(log: &EventLog, bundle: &BundleName, wanted: &Wanted) -> Result<Resolved, ResolveError> {
    let epoch_subject = EventSubject::epoch_started(EVENT_STREAM).to_string();
    let few = [epoch_subject, channel_heads_filter(bundle)];
    let mut heads = Catalogue::default();
    let mut epoch: Option<Incarnation> = None;
    let snapshot = log.last_of(&few).await?;
    let head_subject = match wanted {
        Wanted::HeadOf(channel) => Some(EventSubject::channel_head(bundle, channel).to_string()),
        Wanted::Tag(_) => None,
    };
    for stored in snapshot.events {
        match stored.envelope().map(|(_, envelope)| envelope.event) {
            Ok(BundleEvent::EpochStarted(started)) => epoch = Some(started.epoch),
            Ok(BundleEvent::Unknown(_)) | Err(_) if head_subject.as_ref() == Some(&stored.subject) => {
                return Err(ResolveError::NotUnderstood {
                    subject: stored.subject,
                    reason: "it is no valid event, or of a newer version".to_owned(),
                });
            }
            Ok(_) | Err(_) => heads.take(vec![stored]),
        }
    }
    let (tag, promoted) = match wanted {
        Wanted::Tag(tag) => (tag.clone(), None),
        Wanted::HeadOf(channel) => match heads.heads.get(channel) {
            Some((_, head)) => (head.tag.clone(), Some(head.tree_digest)),
            None => return Err(ResolveError::NoHead { bundle: bundle.clone(), channel: channel.clone() }),
        },
    };
    let release = announcement(log, bundle, &tag).await?;
    let announced = release.published.tree_digest;
    if let Some(promoted) = promoted.filter(|promoted| *promoted != announced) {
        return Err(ResolveError::Contradiction { tag, promoted, announced });
    }
    // Read after the rest, so that a withdrawal made meanwhile counts.
    let mut withdrawals = Catalogue::default();
    withdrawals.take(log.by_subject(withdrawals_filter(bundle), 1).collect().await?);
    if let Some(withdrawal) = withdrawals.withdrawal_of(&release.published) {
        return Err(ResolveError::Withdrawn { tag, withdrawal: Box::new(withdrawal.clone()) });
    }
    let log = epoch.map(|epoch| PinnedAt { epoch, up_to_sequence: snapshot.up_to_sequence });
    Ok(Resolved { release, log, heads: heads.heads })
}

/// Where a channel points now.
pub async fn head(log: &EventLog, bundle: &BundleName, channel: &ChannelName) -> Result<Promoted, ResolveError> {
    let subject = EventSubject::channel_head(bundle, channel);
    let none = || ResolveError::NoHead { bundle: bundle.clone(), channel: channel.clone() };
    let stored = log.last(&subject, Reader::AnyReplica).await?.ok_or_else(none)?;
    let not_understood = |reason: String| ResolveError::NotUnderstood { subject: subject.to_string(), reason };
    match stored.envelope() {
        Ok((_, EventEnvelope { event: BundleEvent::Promoted(promoted), .. })) => Ok(promoted),
        Ok(_) => Err(not_understood("it is of a newer version".to_owned())),
        Err(error) => Err(not_understood(ErrorChain(&error).to_string())),
    }
}

/// How a release was announced.
pub async fn announcement(log: &EventLog, bundle: &BundleName, tag: &Tag) -> Result<AnnouncedRelease, ResolveError> {
    let subject = EventSubject::release_announcement(bundle, tag);
    let stored = log.last(&subject, Reader::AnyReplica).await?;
    let stored = stored.ok_or_else(|| ResolveError::NotFound { tag: tag.clone() })?;
    let not_understood = |reason: String| ResolveError::NotUnderstood { subject: subject.to_string(), reason };
    match stored.envelope() {
        Ok((_, EventEnvelope { event: BundleEvent::Published(published), time, .. })) => {
            Ok(AnnouncedRelease { published, time, stream_sequence: stored.stream_sequence })
        }
        Ok(_) => Err(not_understood("it is of a newer version".to_owned())),
        Err(error) => Err(not_understood(ErrorChain(&error).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alias_means_the_channel_and_everything_else_a_tag() {
        let bundle: BundleName = "contracts".parse().unwrap();
        let latest = Wanted::HeadOf("latest".parse().unwrap());
        assert_eq!(Wanted::parse("contracts-latest", &bundle).unwrap(), latest);
        assert_eq!(Wanted::parse("latest", &bundle).unwrap(), latest);
        assert_eq!(Wanted::parse("policies-latest", &bundle).unwrap(), Wanted::Tag("policies-latest".parse().unwrap()));
        assert!(Wanted::parse("../x", &bundle).is_err());
    }
}
