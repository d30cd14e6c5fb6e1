//! Withdrawing a release: it must never run again, under no tag, and no channel may point at it.
//!
//! The event comes first: from then on nodes refuse the release, whatever channels say. Then each channel that points
//! at it is moved by compare-and-set. Whatever that is interrupted by, withdrawing again finishes, and writes the
//! event once.

mod decision;

use std::collections::BTreeMap;

use shared::event::{BundleEvent, Promoted, Published, Withdrawn};
use shared::event_type::EventType;
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use shared::subjects::{EventSubject, Scope, channel_heads_filter};
use streams::event_log::{AppendError, EventLog, ReadError, Reader};
use streams::event_writer::WriteError;
use streams::stored_event::StoredEvent;
use thiserror::Error;

use self::decision::{Retreat, retreat};
use crate::author::Author;
use crate::channel::{MoveError, read_history, write};
use crate::channel_history::{ChannelHead, ChannelHistory};
use crate::release_register::{ReleaseRegister, read_complete};

/// Attempts before a withdrawal gives up against others on the same subject.
const ATTEMPTS: usize = 3;

/// What to withdraw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithdrawalRequest {
    /// The bundle.
    pub bundle: BundleName,
    /// The release.
    pub tag: Tag,
    /// The operator's words, for the log and for everybody who is refused the release later.
    pub reason: String,
}

/// What a withdrawal did.
#[derive(Debug, Clone, PartialEq)]
pub struct WithdrawalReport {
    /// What the log says about the release.
    pub withdrawn: Withdrawn,
    /// Where the log says so.
    pub stream_sequence: u64,
    /// Whether an earlier run had said so.
    pub already_withdrawn: bool,
    /// Other tags that fall with it, because they have the same tree or content.
    pub also_withdrawn: Vec<Tag>,
    /// The channels that pointed at it, by name.
    pub channels: Vec<WithdrawnChannel>,
}

/// What became of one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct WithdrawnChannel {
    /// The channel.
    pub channel: ChannelName,
    /// The release it pointed at.
    pub from: Tag,
    /// What became of it.
    pub outcome: ChannelOutcome,
}

/// What became of a channel that pointed at a withdrawn release.
#[derive(Debug, Clone, PartialEq)]
pub enum ChannelOutcome {
    /// It points at another release now; the event is in the log.
    Moved(ChannelHead),
    /// It never pointed at a release that may run, and stays. Its nodes keep their last good release.
    NothingToMoveTo,
    /// Somebody else moved it at the same moment, to a release that may run.
    MovedByOthers(ChannelHead),
}

/// What a withdrawal would do, by the state of the log a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithdrawalPlan {
    /// Whether the release is withdrawn already.
    pub already_withdrawn: bool,
    /// Other tags that fall with it, because they have the same tree or content.
    pub also_withdrawn: Vec<Tag>,
    /// The channels that point at it, by name, each with its release and the one it would move to.
    pub channels: Vec<(ChannelName, Tag, Option<Tag>)>,
}

/// A withdrawal that did not finish. Running it again goes on from where it ended.
#[derive(Debug, Error)]
pub enum WithdrawalError {
    /// The log cannot be read.
    #[error("the bundle's releases and channels cannot be read")]
    Read(#[source] ReadError),
    /// No such release was announced.
    #[error("bundle `{bundle}` has no release `{tag}`")]
    UnknownRelease {
        /// The bundle.
        bundle: BundleName,
        /// The tag.
        tag: Tag,
    },
    /// The event was not stored, or its fate is unknown; running again finds out.
    #[error("the withdrawal is not in the log")]
    Write(#[source] WriteError),
    /// The release is withdrawn, but a channel still points at it.
    #[error("release `{tag}` is withdrawn, but channel `{channel}` still points at it: withdraw it again")]
    Channel {
        /// The release.
        tag: Tag,
        /// The channel.
        channel: ChannelName,
        /// Why.
        #[source]
        source: Box<MoveError>,
    },
}

/// Withdraws a release and moves every channel that points at its tree or content to the newest release that the
/// channel pointed at before and that may run; it is held there, or stays frozen. Returns only after the server has
/// confirmed every event. Needs operator rights.
pub async fn withdraw(
    log: &EventLog,
    author: &mut Author,
    request: &WithdrawalRequest,
) -> Result<WithdrawalReport, WithdrawalError> {
    author.settle(log).await.map_err(WithdrawalError::Write)?;
    let (withdrawn, stream_sequence, already_withdrawn) = announce(log, author, request).await?;
    // Read after the event: what was withdrawn by then is no place to go.
    let mut register = ReleaseRegister::read(log, &request.bundle).await.map_err(WithdrawalError::Read)?;
    let mut channels = Vec::new();
    for (channel, history) in histories(log, &request.bundle).await.map_err(WithdrawalError::Read)? {
        let left = leave_for_good(log, author, &withdrawn, &request.reason, &mut register, &channel, history).await;
        let failed = |source| {
            let (tag, channel) = (request.tag.clone(), channel.clone());
            WithdrawalError::Channel { tag, channel, source: Box::new(source) }
        };
        channels.extend(left.map_err(failed)?);
    }
    let also_withdrawn = register.fallen_with(&withdrawn).cloned().collect();
    Ok(WithdrawalReport { withdrawn, stream_sequence, already_withdrawn, also_withdrawn, channels })
}

/// What [`withdraw`] would do now. Writes nothing.
pub async fn preview_withdrawal(
    log: &EventLog,
    request: &WithdrawalRequest,
) -> Result<WithdrawalPlan, WithdrawalError> {
    let register = ReleaseRegister::read(log, &request.bundle).await.map_err(WithdrawalError::Read)?;
    let last = log.last(&subject(request), Reader::Leader).await.map_err(WithdrawalError::Read)?;
    let earlier = last.as_ref().and_then(as_withdrawn);
    let already_withdrawn = earlier.is_some();
    let withdrawn = if let Some(earlier) = earlier {
        earlier
    } else {
        let (release, _) = register.find(&request.tag).ok_or_else(|| unknown(request))?;
        // By whom plays no part here.
        withdrawal_of(release, request, &release.actor)
    };
    let register = register.with(withdrawn.clone());
    let mut channels = Vec::new();
    for (channel, history) in histories(log, &request.bundle).await.map_err(WithdrawalError::Read)? {
        match retreat(&register, &history, &withdrawn) {
            Retreat::NotConcerned => {}
            Retreat::Nowhere(head) => channels.push((channel, head.promoted.tag.clone(), None)),
            Retreat::Move(head, decided) => {
                channels.push((channel, head.promoted.tag.clone(), Some(decided.tag.clone())));
            }
        }
    }
    let also_withdrawn = register.fallen_with(&withdrawn).cloned().collect();
    Ok(WithdrawalPlan { already_withdrawn, also_withdrawn, channels })
}

/// Has the withdrawal in the log: an earlier one of the same release, else its own.
async fn announce(
    log: &EventLog,
    author: &mut Author,
    request: &WithdrawalRequest,
) -> Result<(Withdrawn, u64, bool), WithdrawalError> {
    let mut attempt = 1;
    loop {
        let last = log.last(&subject(request), Reader::Leader).await.map_err(WithdrawalError::Read)?;
        let after = last.as_ref().map_or(0, |last| last.stream_sequence);
        if let Some(earlier) = last.as_ref().and_then(as_withdrawn) {
            return Ok((earlier, after, true));
        }
        let register = ReleaseRegister::read(log, &request.bundle).await.map_err(WithdrawalError::Read)?;
        let (release, _) = register.find(&request.tag).ok_or_else(|| unknown(request))?;
        let withdrawn = withdrawal_of(release, request, author.name());
        match author.write(log, withdrawn.clone(), after).await {
            Ok(appended) => return Ok((withdrawn, appended.stream_sequence, false)),
            // Somebody withdraws the same release at this moment: once is enough.
            Err(WriteError::Append(AppendError::Conflict { .. })) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(WithdrawalError::Write(error)),
        }
    }
}

/// For whoever has just moved a channel: a withdrawal at the same moment looked at the channels before the move, so it
/// is carried out for this one here. Returns the withdrawal where there is one.
pub(crate) async fn catch_up(
    log: &EventLog,
    author: &mut Author,
    moved: &Promoted,
) -> Result<Option<Withdrawn>, MoveError> {
    let mut register = ReleaseRegister::read(log, &moved.bundle).await.map_err(MoveError::Read)?;
    let Some(withdrawn) = withdrawal_of_target(&register, moved).cloned() else { return Ok(None) };
    let history = read_history(log, &moved.bundle, &moved.channel).await.map_err(MoveError::Read)?;
    leave_for_good(log, author, &withdrawn, &withdrawn.reason, &mut register, &moved.channel, history).await?;
    Ok(Some(withdrawn))
}

/// The withdrawal that the release falls under which a move named.
fn withdrawal_of_target<'a>(register: &'a ReleaseRegister, moved: &Promoted) -> Option<&'a Withdrawn> {
    register.find(&moved.tag).and_then(|(release, _)| register.withdrawal_of(release))
}

/// Moves one channel away from the release, and on where what it went to was withdrawn at the same moment: whoever did
/// that looked at the channel before it came there. Leaves the register as it was last read.
async fn leave_for_good(
    log: &EventLog,
    author: &mut Author,
    withdrawn: &Withdrawn,
    reason: &str,
    register: &mut ReleaseRegister,
    channel: &ChannelName,
    history: ChannelHistory,
) -> Result<Option<WithdrawnChannel>, MoveError> {
    let mut left = leave(log, author, withdrawn, reason, register, channel, history).await?;
    // Each round goes to another release of the channel, so this ends.
    while let Some(WithdrawnChannel { outcome: ChannelOutcome::Moved(head), .. }) = &left {
        *register = ReleaseRegister::read(log, &withdrawn.bundle).await.map_err(MoveError::Read)?;
        let Some(also) = withdrawal_of_target(register, &head.promoted) else { break };
        let history = read_history(log, &withdrawn.bundle, channel).await.map_err(MoveError::Read)?;
        let Some(next) = leave(log, author, also, &also.reason, register, channel, history).await? else { break };
        left = left.map(|left| WithdrawnChannel { outcome: next.outcome, ..left });
    }
    Ok(left)
}

/// Moves one channel away from the release, where it points at it.
async fn leave(
    log: &EventLog,
    author: &mut Author,
    withdrawn: &Withdrawn,
    reason: &str,
    register: &ReleaseRegister,
    channel: &ChannelName,
    mut history: ChannelHistory,
) -> Result<Option<WithdrawnChannel>, MoveError> {
    let left = |from: Tag, outcome| Ok(Some(WithdrawnChannel { channel: channel.clone(), from, outcome }));
    let mut from = None;
    let mut attempt = 1;
    loop {
        let (head, decided) = match retreat(register, &history, withdrawn) {
            Retreat::Move(head, decided) => (head, decided),
            Retreat::Nowhere(head) => return left(head.promoted.tag.clone(), ChannelOutcome::NothingToMoveTo),
            Retreat::NotConcerned => {
                return match (from, history.head()) {
                    (Some(from), Some(head)) => left(from, ChannelOutcome::MovedByOthers(head.clone())),
                    (None, _) | (_, None) => Ok(None),
                };
            }
        };
        let pointed_at = head.promoted.tag.clone();
        match write(log, author, &withdrawn.bundle, channel, &decided, Some(reason.to_owned()), &history).await {
            Ok(moved) => return left(pointed_at, ChannelOutcome::Moved(moved)),
            Err(MoveError::LostRace { .. }) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
        from = Some(pointed_at);
        history = read_history(log, &withdrawn.bundle, channel).await.map_err(MoveError::Read)?;
    }
}

/// All channels of a bundle with their moves.
async fn histories(log: &EventLog, bundle: &BundleName) -> Result<Vec<(ChannelName, ChannelHistory)>, ReadError> {
    let mut by_channel: BTreeMap<ChannelName, Vec<StoredEvent>> = BTreeMap::new();
    for event in read_complete(log, &channel_heads_filter(bundle)).await? {
        if let Ok(Scope::Channel(channel)) = event.subject.parse::<EventSubject>().as_ref().map(EventSubject::scope) {
            by_channel.entry(channel.clone()).or_default().push(event);
        } else {
            tracing::warn!(subject = %event.subject, "the subject names no channel");
        }
    }
    Ok(by_channel.into_iter().map(|(channel, events)| (channel, ChannelHistory::new(&events))).collect())
}

fn withdrawal_of(release: &Published, request: &WithdrawalRequest, actor: &ActorName) -> Withdrawn {
    Withdrawn {
        bundle: release.bundle.clone(),
        tag: release.tag.clone(),
        tree_digest: release.tree_digest,
        content_digest: release.content_digest,
        reason: request.reason.clone(),
        actor: actor.clone(),
    }
}

fn subject(request: &WithdrawalRequest) -> EventSubject {
    EventSubject::new(EventType::Withdrawn, request.bundle.clone(), Scope::Release(request.tag.clone()))
}

/// The withdrawal that a stored event is, if it is one. An unreadable one is written over: it withdraws nothing.
fn as_withdrawn(event: &StoredEvent) -> Option<Withdrawn> {
    let BundleEvent::Withdrawn(data) = event.envelope().ok()?.1.event else { return None };
    Some(data)
}

fn unknown(request: &WithdrawalRequest) -> WithdrawalError {
    WithdrawalError::UnknownRelease { bundle: request.bundle.clone(), tag: request.tag.clone() }
}
