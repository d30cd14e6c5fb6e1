//! What can be asked of a channel, and what can become of it.

use chrono::{DateTime, SecondsFormat, Utc};
use shared::digest::Sha256Digest;
use shared::event::{Hold, PromotionCause};
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use streams::event_log::ReadError;
use streams::event_writer::WriteError;
use thiserror::Error;

use crate::channel_history::{ChannelHead, ChannelHistory};

/// What an operator wants of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Point at this release, and lift a hold, also where the channel points there already.
    Promote(Tag),
    /// Point at an earlier release (without a tag: one step back), and hold the channel there, so that the next
    /// automatic publish does not undo it.
    Rollback(Option<Tag>),
    /// Stay, and refuse every other move from now on.
    Freeze,
    /// Stay, and lift a hold or a freeze.
    Thaw,
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
    /// The channel stands as ordered now; the event is in the log.
    Moved(ChannelHead),
    /// It stood so already; there is no event.
    AlreadyThere(ChannelHead),
}

/// What an order would do, by the state of the log a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovePlan {
    /// Whether there would be an event.
    pub moves: bool,
    /// The release that the channel points at; `None` before its first move.
    pub from: Option<Tag>,
    /// The release it would point at.
    pub to: Tag,
    /// That release's tree digest.
    pub tree_digest: Sha256Digest,
    /// The cause that the event would name; where there would be none, that of the last move.
    pub cause: PromotionCause,
    /// What may move the channel now.
    pub hold_before: Hold,
    /// What might move it then.
    pub hold_after: Hold,
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

/// A frozen channel, and since when it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "channel `{channel}` is frozen by `{actor}` since {} at `{tag}`",
    .since.to_rfc3339_opts(SecondsFormat::Secs, true)
)]
pub struct FrozenSince {
    /// The channel.
    pub channel: ChannelName,
    /// Where it stands. It may have been moved there under an override, after it was frozen.
    pub tag: Tag,
    /// Who froze it.
    pub actor: ActorName,
    /// When the server stored that.
    pub since: DateTime<Utc>,
}

impl FrozenSince {
    /// The freeze of a channel with this history; `None` where it is not frozen.
    pub fn of(channel: &ChannelName, history: &ChannelHistory) -> Option<Self> {
        let (head, freeze) = (history.head()?, history.frozen_since()?);
        Some(Self {
            channel: channel.clone(),
            tag: head.promoted.tag.clone(),
            actor: freeze.promoted.actor.clone(),
            since: history.stored_at(freeze).unwrap_or_default(),
        })
    }
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
    /// Nothing was ever promoted to the channel.
    #[error("channel `{channel}` of bundle `{bundle}` points at no release yet")]
    NoSuchChannel {
        /// The bundle.
        bundle: BundleName,
        /// The channel.
        channel: ChannelName,
    },
    /// The channel is frozen.
    #[error(
        "channel `{}` is frozen at `{}` by `{}` since {}: thaw it, or move it all the same (--override)", .0.channel, .0.tag, .0.actor,
        .0.since.to_rfc3339_opts(SecondsFormat::Secs, true)
    )]
    Frozen(FrozenSince),
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
