//! What should this node run? Read from the log in one request, and judged before anything is done with it.
//!
//! Any replica may answer, so an answer may be older than what was seen before: within one epoch of the log nothing
//! older than what was acted on is believed. What a message says plays no part here.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use shared::daemon::ErrorChain;
use shared::event::{BundleEvent, Promoted, Published};
use shared::identifiers::{BundleName, ChannelName, Incarnation, NodeName, Tag};
use shared::subjects::{EVENT_STREAM, EventSubject, Scope, node_filter, withdrawals_filter};
use streams::event_log::{EventLog, ReadError, Reader, Snapshot};
use streams::stored_event::StoredEvent;

use crate::checkpoint_watch::ShownCheckpoint;
use crate::config::Follow;
use crate::node_state::LogPosition;
use crate::plan::Withdrawn;

/// Whose desired state is read.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) bundle: BundleName,
    pub(crate) follow: Follow,
    pub(crate) node: NodeName,
    /// The channel whose head is looked at beside a pinned tag.
    pub(crate) channel: ChannelName,
    /// The writer of this node's own events.
    pub(crate) incarnation: Incarnation,
}

/// How much is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that concerns this node.
    Whole,
    /// Only what may have moved it, because something is said to have been stored a moment ago; and how this release was
    /// announced, so that a guess which is right saves a request.
    Move(Option<Tag>),
}

/// What the log says, as of one instant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub(crate) epoch: Incarnation,
    /// The log was complete up to here.
    pub(crate) up_to_sequence: u64,
    pub(crate) head: Head,
    /// Where the channel stands that a pinned node does not follow.
    pub(crate) beside: Option<Promoted>,
    pub(crate) withdrawn: Withdrawn,
    /// How the release was announced that was asked for beside, where it was.
    pub(crate) announced: Option<(u64, Published)>,
    /// Whether the rest was asked for.
    pub(crate) is_whole: bool,
    /// Sequence of this node's last event; 0 before the first.
    pub(crate) own_last_sequence: u64,
    /// Sequence of this node's last event about this bundle, whoever wrote it; 0 before the first.
    pub(crate) bundle_last_sequence: u64,
    /// Another writer has written under this node's name after us: its last event.
    pub(crate) rival: Option<(u64, Incarnation)>,
    /// The log's newest checkpoint.
    pub(crate) checkpoint: Option<ShownCheckpoint>,
    /// What could not be understood: alarms.
    pub(crate) oddities: Vec<String>,
}

/// Where the followed channel, or the pinned tag, stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Head {
    /// Nowhere yet.
    Missing,
    /// On something that cannot be used (named among the oddities) or is older than what was applied: no change.
    Unchanged,
    /// A channel points at a release.
    Channel(u64, Promoted),
    /// The pinned tag is announced.
    Pinned(u64, Published),
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// A state of the log that can be acted on.
    Current(Box<Reading>),
    /// From a replica that lags, or from a log that was restored without starting an epoch.
    Outdated {
        /// Up to where the answer goes.
        up_to_sequence: u64,
    },
    /// The log has no usable beginning yet.
    NotReady(String),
}

impl Question {
    /// Asks the log, in one request as long as the withdrawals fit into it.
    pub(crate) async fn ask(
        &self,
        log: &EventLog,
        position: &LogPosition,
        extent: &Extent,
    ) -> Result<Answer, ReadError> {
        let mut answer = self.judge(&self.read(log, extent).await?, position);
        if let Answer::Current(reading) = &mut answer {
            reading.is_whole = extent == &Extent::Whole;
        }
        Ok(answer)
    }

    async fn read(&self, log: &EventLog, extent: &Extent) -> Result<Snapshot, ReadError> {
        let mut few = vec![self.head().to_string(), epoch_subject()];
        match extent {
            Extent::Whole => {
                few.extend([checkpoint_subject(), node_filter(&self.node)]);
                if let Follow::Tag(_) = self.follow {
                    few.push(EventSubject::channel_head(&self.bundle, &self.channel).to_string());
                }
            }
            Extent::Move(Some(guess)) if self.follow.tag().is_none() => {
                few.push(EventSubject::release_announcement(&self.bundle, guess).to_string());
            }
            Extent::Move(_) => {}
        }
        let mut all = few.clone();
        all.push(withdrawals_filter(&self.bundle));
        match log.last_of(&all).await {
            Err(ReadError::TooManySubjects) => {
                let mut snapshot = log.last_of(&few).await?;
                // Read after the rest, so that no withdrawal is missing that the rest already knows of.
                let mut pages = log.by_subject(withdrawals_filter(&self.bundle), 1);
                while let Some(page) = pages.next_page().await? {
                    snapshot.events.extend(page);
                }
                Ok(snapshot)
            }
            answer => answer,
        }
    }

    /// The subject whose last event says what to run.
    fn head(&self) -> EventSubject {
        match &self.follow {
            Follow::Channel(channel) => EventSubject::channel_head(&self.bundle, channel),
            Follow::Tag(tag) => EventSubject::release_announcement(&self.bundle, tag),
        }
    }

    fn judge(&self, snapshot: &Snapshot, position: &LogPosition) -> Answer {
        let mut oddities = Vec::new();
        let mut reading = Gathered::default();
        let (epoch_subject, head_subject) = (epoch_subject(), self.head().to_string());
        for stored in &snapshot.events {
            match stored.envelope() {
                Ok((subject, envelope)) => {
                    // As the fold counts them: an event of a newer version says nothing about a node.
                    let of_node = matches!(subject.scope(), Scope::Node(_));
                    if of_node
                        && subject.bundle() == Some(&self.bundle)
                        && !matches!(envelope.event, BundleEvent::Unknown(_))
                    {
                        reading.of_bundle = reading.of_bundle.max(stored.stream_sequence);
                    }
                    reading.take(self, stored, &head_subject, envelope.incarnation, envelope.event);
                }
                Err(error) if stored.subject == epoch_subject => {
                    return Answer::NotReady(ErrorChain(&error).to_string());
                }
                Err(error) => {
                    if stored.subject == head_subject {
                        reading.head = Head::Unchanged;
                    }
                    oddities.push(ErrorChain(&error).to_string());
                }
            }
        }
        let Some(epoch) = reading.epoch else {
            return Answer::NotReady(format!("the log has no event on `{epoch_subject}` yet"));
        };
        let up_to_sequence = snapshot.up_to_sequence;
        let same_epoch = position.epoch == Some(epoch);
        if position.left_behind.contains(&epoch) || (same_epoch && up_to_sequence < position.read_up_to) {
            return Answer::Outdated { up_to_sequence };
        }
        if let (Head::Channel(sequence, head), true) = (&reading.head, same_epoch)
            && position.applied.get(&head.channel).is_some_and(|applied| sequence < applied)
        {
            reading.head = Head::Unchanged;
        }
        let rival = reading.rival();
        Answer::Current(Box::new(Reading {
            epoch,
            up_to_sequence,
            head: reading.head,
            beside: reading.beside,
            withdrawn: reading.withdrawn,
            announced: reading.announced,
            is_whole: true,
            own_last_sequence: reading.own_last.max(reading.other_last.map_or(0, |(sequence, _)| sequence)),
            bundle_last_sequence: reading.of_bundle,
            rival,
            checkpoint: reading.checkpoint,
            oddities,
        }))
    }
}

/// What a snapshot's events say, taken together.
struct Gathered {
    epoch: Option<Incarnation>,
    head: Head,
    beside: Option<Promoted>,
    withdrawn: Withdrawn,
    /// The last event under this node's name by us.
    own_last: u64,
    /// The last one by anybody else: a second agent, or ourselves before this node lost its state.
    other_last: Option<(u64, Incarnation)>,
    /// The last event under this node's name about this bundle.
    of_bundle: u64,
    checkpoint: Option<ShownCheckpoint>,
    announced: Option<(u64, Published)>,
}

impl Default for Gathered {
    fn default() -> Self {
        let withdrawn = Withdrawn { trees: BTreeSet::new(), contents: BTreeSet::new() };
        Self {
            epoch: None,
            head: Head::Missing,
            beside: None,
            withdrawn,
            own_last: 0,
            other_last: None,
            of_bundle: 0,
            checkpoint: None,
            announced: None,
        }
    }
}

impl Gathered {
    fn take(
        &mut self,
        question: &Question,
        stored: &StoredEvent,
        head_subject: &str,
        writer: Incarnation,
        event: BundleEvent,
    ) {
        let sequence = stored.stream_sequence;
        match event {
            BundleEvent::EpochStarted(epoch) => self.epoch = Some(epoch.epoch),
            BundleEvent::Checkpointed(data) => {
                self.checkpoint = Some(ShownCheckpoint { stream_sequence: sequence, data });
            }
            BundleEvent::Promoted(head) if stored.subject != head_subject => self.beside = Some(head),
            BundleEvent::Promoted(head) => self.head = Head::Channel(sequence, head),
            BundleEvent::Published(published) if stored.subject != head_subject => {
                self.announced = Some((sequence, published));
            }
            BundleEvent::Published(published) => self.head = Head::Pinned(sequence, published),
            BundleEvent::Withdrawn(withdrawn) => {
                self.withdrawn.trees.insert(withdrawn.tree_digest);
                self.withdrawn.contents.insert(withdrawn.content_digest);
            }
            // Of a newer version: known to be an event, but not what it says.
            BundleEvent::Unknown(_) if stored.subject == head_subject => self.head = Head::Unchanged,
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
            | BundleEvent::Unknown(_) => {
                if writer == question.incarnation {
                    self.own_last = self.own_last.max(sequence);
                } else if self.other_last.is_none_or(|(last, _)| last < sequence) {
                    self.other_last = Some((sequence, writer));
                }
            }
        }
    }

    fn rival(&self) -> Option<(u64, Incarnation)> {
        self.other_last.filter(|(last, _)| self.own_last > 0 && *last > self.own_last)
    }
}

/// Looks up how a release was announced; `None` where it was not, or not by a valid event (which is logged).
pub(crate) async fn announcement(
    log: &EventLog,
    bundle: &BundleName,
    tag: &Tag,
) -> Result<Option<(u64, Published)>, ReadError> {
    let subject = EventSubject::release_announcement(bundle, tag);
    let Some(stored) = log.last(&subject, Reader::AnyReplica).await? else { return Ok(None) };
    match stored.envelope().map(|(_, envelope)| envelope.event) {
        Ok(BundleEvent::Published(published)) => Ok(Some((stored.stream_sequence, published))),
        Ok(_) => {
            tracing::warn!(%subject, event.sequence = stored.stream_sequence, "the announcement is of a newer version");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%subject, error = %ErrorChain(&error), "the announcement is no valid event");
            Ok(None)
        }
    }
}

fn checkpoint_subject() -> String {
    EventSubject::checkpointed(EVENT_STREAM).to_string()
}

/// Looks up when a release was announced, and its place in the log; `None` where that cannot be told.
pub(crate) async fn announced_at(
    log: &EventLog,
    bundle: &BundleName,
    tag: &Tag,
) -> Result<Option<(u64, DateTime<Utc>)>, ReadError> {
    let subject = EventSubject::release_announcement(bundle, tag);
    let stored = log.last(&subject, Reader::AnyReplica).await?;
    Ok(stored.and_then(|stored| Some((stored.stream_sequence, stored.envelope().ok()?.1.time))))
}

fn epoch_subject() -> String {
    EventSubject::epoch_started(EVENT_STREAM).to_string()
}

#[cfg(test)]
mod tests;
