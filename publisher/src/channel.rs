//! Moving a channel: always forward by a new event, compared and set on the channel's own subject.
//!
//! Described in `docs/ARCHITECTURE.md`, "Events".
//!
//! Everything is read from the stream's leader first, decided by the plain functions of `decision`, and written under
//! the sequence that was read. So of two who move a channel at once exactly one wins, and the other learns who did.

mod decision;
mod order;

use shared::event::{BundleEvent, Hold, Promoted, PromotionCause, Published};
use shared::identifiers::{BundleName, ChannelName};
use shared::subjects::EventSubject;
use streams::event_log::{AppendError, EventLog, ReadError};
use streams::event_writer::WriteError;
use streams::stored_event::StoredEvent;

pub(crate) use self::decision::DecidedMove;
use self::decision::{Decision, points_at};
pub use self::order::{AutomaticPromotion, ChannelMove, Freeze, FrozenSince, MoveError, MovePlan, MoveRequest, Order};
use crate::announcement::AnnouncedRelease;
use crate::author::Author;
use crate::channel_history::{ChannelHead, ChannelHistory};
use crate::release_register::{ReleaseRegister, read_complete};
use crate::withdrawal::catch_up;

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
    let decided = match decision::ordered(&register, &history, request)? {
        Decision::Stay(head) => return Ok(ChannelMove::AlreadyThere(head.clone())),
        Decision::Move(decided) => decided,
    };
    let reason = request.reason.clone();
    match write(log, author, &request.bundle, &request.channel, &decided, reason, &history).await {
        // Whoever freezes or thaws a channel does not send anybody anywhere.
        Ok(head) if matches!(request.order, Order::Freeze | Order::Thaw) => Ok(ChannelMove::Moved(head)),
        Ok(head) => not_withdrawn_meanwhile(log, author, head).await.map(ChannelMove::Moved),
        Err(MoveError::LostRace { winner, .. }) if decided.is_done_by(&winner) => {
            Ok(ChannelMove::AlreadyThere(*winner))
        }
        Err(error) => Err(error),
    }
}

/// What [`move_channel`] would do now. Writes nothing, nor finds out about an event of an earlier run.
pub async fn preview_move(log: &EventLog, request: &MoveRequest) -> Result<MovePlan, MoveError> {
    let register = ReleaseRegister::read(log, &request.bundle).await.map_err(MoveError::Read)?;
    let history = read_history(log, &request.bundle, &request.channel).await.map_err(MoveError::Read)?;
    let decided = decision::ordered(&register, &history, request)?;
    Ok(decision::plan(&decided, &history))
}

/// What an automatic publish of a release would do to a channel with this history, without doing it; `None` where it
/// would move it.
pub fn would_be_left_alone(history: &ChannelHistory, release: &Published) -> Option<AutomaticPromotion> {
    decision::left_alone(history, release)
}

/// Moves a channel to a release that was just announced, or was announced and never promoted, unless somebody decided
/// otherwise since. Returns only after the server has confirmed the event. A tag is promoted so at most once.
pub async fn promote_published(
    log: &EventLog,
    author: &mut Author,
    announced: &AnnouncedRelease,
    channel: &ChannelName,
) -> Result<AutomaticPromotion, MoveError> {
    promote_published_because(log, author, announced, channel, None).await
}

/// The same with words for the log.
pub async fn promote_published_because(
    log: &EventLog,
    author: &mut Author,
    announced: &AnnouncedRelease,
    channel: &ChannelName,
    reason: Option<String>,
) -> Result<AutomaticPromotion, MoveError> {
    let release = &announced.published;
    settle(log, author, channel).await?;
    let history = read_history(log, &release.bundle, channel).await.map_err(MoveError::Read)?;
    if let Some(left_alone) = decision::left_alone(&history, release) {
        return Ok(left_alone);
    }
    let register = ReleaseRegister::read(log, &release.bundle).await.map_err(MoveError::Read)?;
    decision::refuse_withdrawn(&register, release)?;
    let decided = DecidedMove::to_release(release, PromotionCause::Publish, Hold::None);
    match write(log, author, &release.bundle, channel, &decided, reason, &history).await {
        Ok(head) => not_withdrawn_meanwhile(log, author, head).await.map(AutomaticPromotion::Promoted),
        Err(MoveError::LostRace { winner, .. }) if points_at(&winner, release) => {
            Ok(AutomaticPromotion::AlreadyActive(*winner))
        }
        Err(error) => Err(error),
    }
}

/// Withdrawals are written before their channels are looked at, and moves before withdrawals are looked at again: so
/// of a move and a withdrawal at the same moment at least one notices the other, and the channel does not stay.
async fn not_withdrawn_meanwhile(
    log: &EventLog,
    author: &mut Author,
    head: ChannelHead,
) -> Result<ChannelHead, MoveError> {
    match catch_up(log, author, &head.promoted).await? {
        None => Ok(head),
        Some(withdrawn) => Err(decision::refusal(&head.promoted.tag, &withdrawn)),
    }
}

async fn settle(log: &EventLog, author: &mut Author, channel: &ChannelName) -> Result<(), MoveError> {
    author.settle(log).await.map_err(|source| MoveError::Write { channel: channel.clone(), source })
}

/// Writes a move that must follow the history it was decided from.
pub(crate) async fn write(
    log: &EventLog,
    author: &mut Author,
    bundle: &BundleName,
    channel: &ChannelName,
    decided: &DecidedMove<'_>,
    reason: Option<String>,
    history: &ChannelHistory,
) -> Result<ChannelHead, MoveError> {
    let promoted = Promoted {
        bundle: bundle.clone(),
        channel: channel.clone(),
        tag: decided.tag.clone(),
        tree_digest: decided.tree_digest,
        previous_tag: history.head().map(|head| head.promoted.tag.clone()),
        cause: decided.cause,
        hold: decided.hold,
        reason,
        actor: author.name().clone(),
    };
    match author.write(log, promoted.clone(), history.last_sequence()).await {
        Ok(appended) => Ok(ChannelHead { promoted, stream_sequence: appended.stream_sequence }),
        Err(source) => Err(match winner(&source) {
            Some(winner) => MoveError::LostRace { channel: channel.clone(), winner: Box::new(winner) },
            None => MoveError::Write { channel: channel.clone(), source },
        }),
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
