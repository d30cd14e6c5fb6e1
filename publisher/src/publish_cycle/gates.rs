//! What may keep a publish from happening, looked at before anything is stored.

use shared::event::Hold;
use shared::subjects::EventSubject;
use streams::event_log::{EventLog, Reader};

use super::{FrozenChannel, PublishError, PublishRequest};
use crate::channel::read_history;
use crate::channel_history::ChannelHead;

/// Refuses a publish to a frozen channel, where the request wants that.
pub(super) async fn refuse_frozen(log: &EventLog, request: &PublishRequest) -> Result<(), PublishError> {
    let (Some(channel), FrozenChannel::Refuse) = (&request.channel, request.frozen_channel) else { return Ok(()) };
    let history = read_history(log, &request.bundle, channel).await.map_err(PublishError::Read)?;
    let Some(ChannelHead { promoted, stream_sequence }) = frozen_since(history.moves()) else { return Ok(()) };
    let subject = EventSubject::channel_head(&request.bundle, channel).to_string();
    let event = log.next_on(&subject, *stream_sequence, Reader::Leader).await.map_err(PublishError::Read)?;
    Err(PublishError::Frozen {
        channel: channel.clone(),
        tag: history.head().map_or_else(|| promoted.tag.clone(), |head| head.promoted.tag.clone()),
        actor: promoted.actor.clone(),
        since: event.map_or(request.timestamp, |event| event.stored_at),
    })
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
        use Hold::{Frozen, Held, None as Free};
        assert_eq!(since(&[]), None);
        assert_eq!(since(&[Free, Frozen, Free]), None);
        assert_eq!(since(&[Frozen, Held]), None);
        assert_eq!(since(&[Frozen, Free, Frozen, Frozen]), Some(3));
    }
}
