//! Where a channel pointed, move by move: the fold over its head's subject. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use shared::event::{BundleEvent, Hold, Promoted, PromotionCause};
use shared::identifiers::Tag;
use streams::stored_event::StoredEvent;

/// One move of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelHead {
    /// What the log says.
    pub promoted: Promoted,
    /// Where it says so.
    pub stream_sequence: u64,
}

/// All moves of one channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChannelHistory {
    moves: Vec<ChannelHead>,
    /// When the server stored each move, by its stream sequence.
    stored_at: BTreeMap<u64, DateTime<Utc>>,
    last_sequence: u64,
    not_understood: u64,
}

impl ChannelHistory {
    /// Folds the events of a channel's head subject, in order. What is no valid move counts as none, so the channel
    /// points where it pointed before.
    pub fn new<'a>(events: impl IntoIterator<Item = &'a StoredEvent>) -> Self {
        let mut history = Self::default();
        for event in events {
            history.last_sequence = event.stream_sequence;
            if let Ok((_, envelope)) = event.envelope()
                && let BundleEvent::Promoted(promoted) = envelope.event
            {
                history.stored_at.insert(event.stream_sequence, event.stored_at);
                history.moves.push(ChannelHead { promoted, stream_sequence: event.stream_sequence });
            } else {
                history.not_understood += 1;
            }
        }
        history
    }

    #[cfg(test)]
    pub(crate) fn of(moves: impl IntoIterator<Item = ChannelHead>) -> Self {
        let moves: Vec<ChannelHead> = moves.into_iter().collect();
        let last_sequence = moves.last().map_or(0, |head| head.stream_sequence);
        let stored_at = moves.iter().map(|head| (head.stream_sequence, DateTime::UNIX_EPOCH)).collect();
        Self { moves, stored_at, last_sequence, not_understood: 0 }
    }

    /// Where the channel points now; `None` where it never pointed anywhere.
    pub fn head(&self) -> Option<&ChannelHead> {
        self.moves.last()
    }

    /// The same, unless the subject's last event is no valid move: then the channel has to be moved again, also to
    /// where it points, before nodes understand it.
    pub fn understood_head(&self) -> Option<&ChannelHead> {
        self.head().filter(|head| head.stream_sequence == self.last_sequence)
    }

    /// When the server stored a move of this history.
    pub fn stored_at(&self, head: &ChannelHead) -> Option<DateTime<Utc>> {
        self.stored_at.get(&head.stream_sequence).copied()
    }

    /// The move that froze a channel which is frozen now; moves under an override come later.
    pub fn frozen_since(&self) -> Option<&ChannelHead> {
        self.moves.iter().rev().take_while(|head| head.promoted.hold == Hold::Frozen).last()
    }

    /// All valid moves, oldest first.
    pub fn moves(&self) -> &[ChannelHead] {
        &self.moves
    }

    /// Stream sequence of the last event on the subject, understood or not: what the next move must follow.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Events on the subject that are no valid moves. More than none is worth an alarm.
    pub fn not_understood(&self) -> u64 {
        self.not_understood
    }

    /// What may move the channel next.
    pub fn hold(&self) -> Hold {
        self.head().map_or(Hold::None, |head| head.promoted.hold)
    }

    /// Whether the channel ever pointed at a tag.
    pub fn ever_pointed_at(&self, tag: &Tag) -> bool {
        self.moves.iter().any(|head| head.promoted.tag == *tag)
    }

    /// Where one step back leads, among what is usable: to what the channel pointed at before it was moved forward to
    /// where it stands. Rolling back twice goes back two steps and does not return.
    pub fn rollback_target(&self, usable: impl Fn(&Promoted) -> bool) -> Option<&Tag> {
        let mut path: Vec<&Promoted> = Vec::new();
        for head in &self.moves {
            let promoted = &head.promoted;
            let earlier = path.iter().position(|step| step.tag == promoted.tag);
            match (promoted.cause, earlier) {
                (PromotionCause::Rollback | PromotionCause::Withdraw, Some(position)) => path.truncate(position + 1),
                // Moved to where it stood: frozen, thawed.
                (_, Some(position)) if position + 1 == path.len() => {}
                (_, _) => path.push(promoted),
            }
        }
        let now = path.pop()?;
        path.iter().rev().find(|step| step.tag != now.tag && usable(step)).map(|step| &step.tag)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use shared::digest::Sha256Digest;
    use shared::event_chain::{EventChain, EventDraft};
    use shared::identifiers::{EventId, Incarnation};
    use uuid::Uuid;

    use super::*;

    fn event(number: u64, tag: &str, cause: PromotionCause, hold: Hold) -> StoredEvent {
        let promoted = Promoted {
            bundle: "contracts".parse().unwrap(),
            channel: "latest".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: Sha256Digest::of(tag.as_bytes()),
            previous_tag: None,
            cause,
            hold,
            reason: None,
            actor: "ada".parse().unwrap(),
        };
        let id = EventId::from_uuid(Uuid::from_u128(number.into()));
        let draft = EventDraft { id, time: DateTime::UNIX_EPOCH, event: promoted.into() };
        let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(1)), None);
        let sealed = chain.seal(&"/operators/ada".parse().unwrap(), &draft).unwrap();
        StoredEvent {
            stream_sequence: number,
            stored_at: DateTime::UNIX_EPOCH,
            subject: sealed.subject.to_string(),
            payload: sealed.bytes.into(),
        }
    }

    fn history(moves: &[(&str, PromotionCause)]) -> ChannelHistory {
        let numbered = moves.iter().enumerate();
        let events: Vec<StoredEvent> =
            numbered.map(|(index, (tag, cause))| event(index as u64 + 1, tag, *cause, Hold::None)).collect();
        ChannelHistory::new(&events)
    }

    fn target(moves: &[(&str, PromotionCause)]) -> Option<String> {
        history(moves).rollback_target(|_| true).map(ToString::to_string)
    }

    use PromotionCause::{Freeze, Promote, Publish, Rollback, Thaw, Withdraw};

    #[test]
    fn rolling_back_goes_back_step_by_step() {
        assert_eq!(target(&[]), None);
        assert_eq!(target(&[("a", Publish)]), None);
        assert_eq!(target(&[("a", Publish), ("b", Publish), ("c", Publish)]).as_deref(), Some("b"));
        let once = [("a", Publish), ("b", Publish), ("c", Publish), ("b", Rollback)];
        assert_eq!(target(&once).as_deref(), Some("a"), "and not to `c` again");
        let further = [&once[..], &[("d", Publish)]].concat();
        assert_eq!(target(&further).as_deref(), Some("b"));
        assert_eq!(target(&[("a", Publish), ("b", Publish), ("b", Freeze), ("b", Thaw)]).as_deref(), Some("a"));
        assert_eq!(target(&[("a", Publish), ("b", Publish), ("a", Promote)]).as_deref(), Some("b"));
        assert_eq!(target(&[("a", Publish), ("b", Publish), ("a", Withdraw)]), None);
    }

    #[test]
    fn rolling_back_passes_over_what_is_not_usable() {
        let history = history(&[("a", Publish), ("b", Publish), ("c", Publish)]);
        let target = history.rollback_target(|step| step.tag.as_str() != "b");
        assert_eq!(target.map(Tag::as_str), Some("a"));
    }

    #[test]
    fn an_unreadable_head_is_no_move_but_must_be_followed() {
        let mut broken = event(8, "b", Publish, Hold::None);
        broken.payload = "{}".into();
        let history = ChannelHistory::new(&[event(3, "a", Publish, Hold::Held), broken]);
        assert_eq!(history.head().unwrap().promoted.tag.as_str(), "a");
        assert_eq!((history.hold(), history.last_sequence(), history.not_understood()), (Hold::Held, 8, 1));
        assert!(!history.ever_pointed_at(&"b".parse().unwrap()));
    }
}
