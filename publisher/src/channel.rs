//! Moving a channel: always forward by a new event, compared and set on the channel's own subject (DESIGN §5).
//!
//! Everything is read from the stream's leader first, decided by plain functions, and written under the sequence that
//! was read. So of two who move a channel at once exactly one wins, and the other learns who did.

use shared::event::{BundleEvent, Hold, Promoted, PromotionCause, Published};
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use shared::subjects::EventSubject;
use streams::event_log::{AppendError, EventLog, ReadError};
use streams::event_writer::WriteError;
use streams::stored_event::StoredEvent;
use thiserror::Error;

use crate::announcement::AnnouncedRelease;
use crate::author::Author;
use crate::channel_history::{ChannelHead, ChannelHistory};
use crate::release_register::{ReleaseRegister, read_complete};

/// What an operator wants of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Point at this release, and lift a hold.
    Promote(Tag),
    /// Point at an earlier release (without a tag: one step back), and hold the channel there, so that the next
    /// automatic publish does not undo it.
    Rollback(Option<Tag>),
}

/// What becomes of an order to a frozen channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// It is refused.
    Respect,
    /// It is carried out, and the channel stays frozen where it stands then.
    Override,
}

/// An operator's explicit move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRequest {
    /// The bundle.
    pub bundle: BundleName,
    /// The channel.
    pub channel: ChannelName,
    /// Where to.
    pub order: Order,
    /// The operator's words, for the log.
    pub reason: Option<String>,
    /// What to do with a frozen channel.
    pub freeze: Freeze,
}

/// What became of an explicit move.
#[derive(Debug, Clone, PartialEq)]
pub enum ChannelMove {
    /// The channel points there now; the event is in the log.
    Moved(ChannelHead),
    /// It pointed there already; there is no event, and a hold stays.
    AlreadyThere(ChannelHead),
}

/// What an automatic publish did to its channel.
#[derive(Debug, Clone, PartialEq)]
pub enum AutomaticPromotion {
    /// The channel points at the release now; the event is in the log.
    Promoted(ChannelHead),
    /// It pointed there already.
    AlreadyActive(ChannelHead),
    /// It pointed there once and was moved away since; only an explicit move brings it back.
    MovedAwaySince(ChannelHead),
    /// It was rolled back and is held; only an explicit move or a thaw frees it.
    Held(ChannelHead),
    /// It is frozen.
    Frozen(ChannelHead),
}

/// A channel that was not moved.
#[derive(Debug, Error)]
pub enum MoveError {
    /// The log cannot be read.
    #[error("the channel's state cannot be read")]
    Read(#[source] ReadError),
    /// No such release was announced.
    #[error("bundle `{bundle}` has no release `{tag}`")]
    UnknownRelease {
        /// The bundle.
        bundle: BundleName,
        /// The tag.
        tag: Tag,
    },
    /// The release must never run again.
    #[error("release `{tag}` was withdrawn by `{actor}`: {reason}")]
    Withdrawn {
        /// The release.
        tag: Tag,
        /// Who withdrew it.
        actor: ActorName,
        /// Their words.
        reason: String,
    },
    /// There is no earlier release that could run.
    #[error("channel `{channel}` has no earlier release to go back to")]
    NothingToRollBackTo {
        /// The channel.
        channel: ChannelName,
    },
    /// The channel is frozen.
    #[error("channel `{channel}` is frozen at `{tag}` by `{actor}`")]
    Frozen {
        /// The channel.
        channel: ChannelName,
        /// Where it stands.
        tag: Tag,
        /// Who froze it.
        actor: ActorName,
    },
    /// Somebody else moved the channel at the same moment. Nothing was written.
    #[error("channel `{channel}` was moved to `{}` by `{}` at the same moment", winner.promoted.tag, winner.promoted.actor)]
    LostRace {
        /// The channel.
        channel: ChannelName,
        /// Where it points now, and who said so.
        winner: Box<ChannelHead>,
    },
    /// The event was not stored, or its fate is unknown; running again finds out.
    #[error("the move of channel `{channel}` is not in the log")]
    Write {
        /// The channel.
        channel: ChannelName,
        /// Why.
        #[source]
        source: WriteError,
    },
}

/// Reads where a channel pointed and points, complete as of the stream's leader. Needs operator rights.
pub async fn read_history(
    log: &EventLog,
    bundle: &BundleName,
    channel: &ChannelName,
) -> Result<ChannelHistory, ReadError> {
    let events = read_complete(log, &EventSubject::channel_head(bundle, channel).to_string()).await?;
    let history = ChannelHistory::new(&events);
    if history.not_understood() > 0 {
        tracing::warn!(%bundle, %channel, events = history.not_understood(), "channel has moves that are no valid events");
    }
    Ok(history)
}

/// Moves a channel as an operator orders it. Returns only after the server has confirmed the event.
pub async fn move_channel(
    log: &EventLog,
    author: &mut Author,
    request: &MoveRequest,
) -> Result<ChannelMove, MoveError> {
    settle(log, author, &request.channel).await?;
    let register = ReleaseRegister::read(log, &request.bundle).await.map_err(MoveError::Read)?;
    let history = read_history(log, &request.bundle, &request.channel).await.map_err(MoveError::Read)?;
    let release = target(&register, &history, request)?;
    if let Some(head) = history.head().filter(|head| points_at(head, release)) {
        return Ok(ChannelMove::AlreadyThere(head.clone()));
    }
    let (cause, hold) = match request.order {
        Order::Promote(_) => (PromotionCause::Promote, Hold::None),
        Order::Rollback(_) => (PromotionCause::Rollback, Hold::Held),
    };
    let hold = match (history.head(), history.hold(), request.freeze) {
        (Some(head), Hold::Frozen, Freeze::Respect) => return Err(frozen(&request.channel, head)),
        (_, Hold::Frozen, Freeze::Override) => Hold::Frozen,
        (_, Hold::None | Hold::Held | Hold::Frozen, _) => hold,
    };
    let wanted = Move { channel: &request.channel, release, cause, hold, reason: request.reason.clone() };
    match wanted.write(log, author, &history).await {
        Ok(head) => Ok(ChannelMove::Moved(head)),
        Err(MoveError::LostRace { winner, .. }) if points_at(&winner, release) => {
            Ok(ChannelMove::AlreadyThere(*winner))
        }
        Err(error) => Err(error),
    }
}

/// Moves a channel to a release that was just announced, or was announced and never promoted, unless somebody decided
/// otherwise since. Returns only after the server has confirmed the event. A tag is promoted so at most once.
pub async fn promote_published(
    log: &EventLog,
    author: &mut Author,
    announced: &AnnouncedRelease,
    channel: &ChannelName,
) -> Result<AutomaticPromotion, MoveError> {
    let release = &announced.published;
    settle(log, author, channel).await?;
    let history = read_history(log, &release.bundle, channel).await.map_err(MoveError::Read)?;
    if let Some(head) = history.head() {
        let left_alone = if points_at(head, release) {
            Some(AutomaticPromotion::AlreadyActive(head.clone()))
        } else if history.ever_pointed_at(&release.tag) {
            Some(AutomaticPromotion::MovedAwaySince(head.clone()))
        } else {
            match head.promoted.hold {
                Hold::Frozen => Some(AutomaticPromotion::Frozen(head.clone())),
                Hold::Held => Some(AutomaticPromotion::Held(head.clone())),
                Hold::None => None,
            }
        };
        if let Some(left_alone) = left_alone {
            return Ok(left_alone);
        }
    }
    let register = ReleaseRegister::read(log, &release.bundle).await.map_err(MoveError::Read)?;
    refuse_withdrawn(&register, release)?;
    let wanted = Move { channel, release, cause: PromotionCause::Publish, hold: Hold::None, reason: None };
    match wanted.write(log, author, &history).await {
        Ok(head) => Ok(AutomaticPromotion::Promoted(head)),
        Err(MoveError::LostRace { winner, .. }) if points_at(&winner, release) => {
            Ok(AutomaticPromotion::AlreadyActive(*winner))
        }
        Err(error) => Err(error),
    }
}

async fn settle(log: &EventLog, author: &mut Author, channel: &ChannelName) -> Result<(), MoveError> {
    author.settle(log).await.map_err(|source| MoveError::Write { channel: channel.clone(), source })
}

/// The release that a request means, if it may run.
fn target<'a>(
    register: &'a ReleaseRegister,
    history: &ChannelHistory,
    request: &MoveRequest,
) -> Result<&'a Published, MoveError> {
    let tag = match &request.order {
        Order::Promote(tag) | Order::Rollback(Some(tag)) => tag,
        Order::Rollback(None) => {
            let may_run = |step: &Promoted| {
                register.find(&step.tag).is_some_and(|(release, _)| register.withdrawal_of(release).is_none())
            };
            let nothing = || MoveError::NothingToRollBackTo { channel: request.channel.clone() };
            history.rollback_target(may_run).ok_or_else(nothing)?
        }
    };
    let unknown = || MoveError::UnknownRelease { bundle: request.bundle.clone(), tag: tag.clone() };
    let (release, _) = register.find(tag).ok_or_else(unknown)?;
    refuse_withdrawn(register, release)?;
    Ok(release)
}

fn refuse_withdrawn(register: &ReleaseRegister, release: &Published) -> Result<(), MoveError> {
    match register.withdrawal_of(release) {
        None => Ok(()),
        Some(withdrawn) => Err(MoveError::Withdrawn {
            tag: release.tag.clone(),
            actor: withdrawn.actor.clone(),
            reason: withdrawn.reason.clone(),
        }),
    }
}

fn points_at(head: &ChannelHead, release: &Published) -> bool {
    (&head.promoted.tag, head.promoted.tree_digest) == (&release.tag, release.tree_digest)
}

fn frozen(channel: &ChannelName, head: &ChannelHead) -> MoveError {
    let (tag, actor) = (head.promoted.tag.clone(), head.promoted.actor.clone());
    MoveError::Frozen { channel: channel.clone(), tag, actor }
}

/// A decided move.
struct Move<'a> {
    channel: &'a ChannelName,
    release: &'a Published,
    cause: PromotionCause,
    hold: Hold,
    reason: Option<String>,
}

impl Move<'_> {
    async fn write(
        self,
        log: &EventLog,
        author: &mut Author,
        history: &ChannelHistory,
    ) -> Result<ChannelHead, MoveError> {
        let promoted = Promoted {
            bundle: self.release.bundle.clone(),
            channel: self.channel.clone(),
            tag: self.release.tag.clone(),
            tree_digest: self.release.tree_digest,
            previous_tag: history.head().map(|head| head.promoted.tag.clone()),
            cause: self.cause,
            hold: self.hold,
            reason: self.reason,
            actor: author.name().clone(),
        };
        match author.write(log, promoted.clone(), history.last_sequence()).await {
            Ok(appended) => Ok(ChannelHead { promoted, stream_sequence: appended.stream_sequence }),
            Err(source) => Err(match winner(&source) {
                Some(winner) => MoveError::LostRace { channel: self.channel.clone(), winner: Box::new(winner) },
                None => MoveError::Write { channel: self.channel.clone(), source },
            }),
        }
    }
}

/// The move that came first, where that is why ours was refused.
fn winner(error: &WriteError) -> Option<ChannelHead> {
    let WriteError::Append(AppendError::Conflict { last: Some(last), .. }) = error else { return None };
    as_head(last)
}

fn as_head(event: &StoredEvent) -> Option<ChannelHead> {
    let BundleEvent::Promoted(promoted) = event.envelope().ok()?.1.event else { return None };
    Some(ChannelHead { promoted, stream_sequence: event.stream_sequence })
}
