//! Who may move a channel where: plain functions over what the log says.

use shared::digest::Sha256Digest;
use shared::event::{Hold, Promoted, PromotionCause, Published, Withdrawn};
use shared::identifiers::Tag;

use super::order::{AutomaticPromotion, Freeze, FrozenSince, MoveError, MovePlan, MoveRequest, Order};
use crate::channel_history::{ChannelHead, ChannelHistory};
use crate::release_register::ReleaseRegister;

/// What an order comes to.
#[derive(Debug)]
pub(super) enum Decision<'a> {
    /// The channel stands so already.
    Stay(&'a ChannelHead),
    /// The channel has to move.
    Move(DecidedMove<'a>),
}

/// A move that may be written.
#[derive(Debug)]
pub(crate) struct DecidedMove<'a> {
    pub(crate) tag: &'a Tag,
    pub(crate) tree_digest: Sha256Digest,
    pub(crate) cause: PromotionCause,
    pub(crate) hold: Hold,
}

impl<'a> DecidedMove<'a> {
    pub(crate) fn to_release(release: &'a Published, cause: PromotionCause, hold: Hold) -> Self {
        Self { tag: &release.tag, tree_digest: release.tree_digest, cause, hold }
    }

    /// A move to where the channel stands.
    fn in_place(head: &'a ChannelHead, cause: PromotionCause, hold: Hold) -> Self {
        Self { tag: &head.promoted.tag, tree_digest: head.promoted.tree_digest, cause, hold }
    }

    /// Whether a channel with this head stands as the move would leave it.
    pub(super) fn is_done_by(&self, head: &ChannelHead) -> bool {
        (&head.promoted.tag, head.promoted.tree_digest, head.promoted.hold) == (self.tag, self.tree_digest, self.hold)
    }
}

/// Decides an operator's order.
pub(super) fn ordered<'a>(
    register: &'a ReleaseRegister,
    history: &'a ChannelHistory,
    request: &MoveRequest,
) -> Result<Decision<'a>, MoveError> {
    match request.order {
        Order::Promote(_) | Order::Rollback(_) => moved(register, history, request),
        Order::Freeze => in_place(history, request, PromotionCause::Freeze, Hold::Frozen),
        Order::Thaw => in_place(history, request, PromotionCause::Thaw, Hold::None),
    }
}

/// What a decision says to somebody who only asks.
pub(super) fn plan(decision: &Decision<'_>, history: &ChannelHistory) -> MovePlan {
    let (moves, to, tree_digest, cause, hold_after) = match decision {
        Decision::Stay(ChannelHead { promoted, .. }) => {
            (false, &promoted.tag, promoted.tree_digest, promoted.cause, promoted.hold)
        }
        Decision::Move(decided) => (true, decided.tag, decided.tree_digest, decided.cause, decided.hold),
    };
    let from = history.head().map(|head| head.promoted.tag.clone());
    MovePlan { moves, from, to: to.clone(), tree_digest, cause, hold_before: history.hold(), hold_after }
}

fn moved<'a>(
    register: &'a ReleaseRegister,
    history: &'a ChannelHistory,
    request: &MoveRequest,
) -> Result<Decision<'a>, MoveError> {
    let release = target(register, history, request)?;
    let promotes = matches!(request.order, Order::Promote(_));
    let stays = |head: &&ChannelHead| {
        // Promoting a held channel lifts the hold, wherever it points.
        points_at(head, release) && !(promotes && head.promoted.hold == Hold::Held)
    };
    if let Some(head) = history.understood_head().filter(stays) {
        return Ok(Decision::Stay(head));
    }
    let hold = match (FrozenSince::of(&request.channel, history), request.freeze) {
        (Some(frozen), Freeze::Respect) => return Err(MoveError::Frozen(frozen)),
        (Some(_), Freeze::Override) => Hold::Frozen,
        (None, _) if promotes => Hold::None,
        (None, _) => Hold::Held,
    };
    let cause = if promotes { PromotionCause::Promote } else { PromotionCause::Rollback };
    Ok(Decision::Move(DecidedMove::to_release(release, cause, hold)))
}

fn in_place<'a>(
    history: &'a ChannelHistory,
    request: &MoveRequest,
    cause: PromotionCause,
    hold: Hold,
) -> Result<Decision<'a>, MoveError> {
    let nowhere = || MoveError::NoSuchChannel { bundle: request.bundle.clone(), channel: request.channel.clone() };
    let head = history.head().ok_or_else(nowhere)?;
    match history.understood_head() {
        Some(head) if head.promoted.hold == hold => Ok(Decision::Stay(head)),
        Some(_) | None => Ok(Decision::Move(DecidedMove::in_place(head, cause, hold))),
    }
}

/// Why an automatic publish leaves a channel alone; `None` where it moves it.
pub(super) fn left_alone(history: &ChannelHistory, release: &Published) -> Option<AutomaticPromotion> {
    let head = history.head()?;
    if points_at(head, release) {
        return Some(AutomaticPromotion::AlreadyActive(head.clone()));
    }
    if history.ever_pointed_at(&release.tag) {
        return Some(AutomaticPromotion::MovedAwaySince(head.clone()));
    }
    match head.promoted.hold {
        Hold::Frozen => Some(AutomaticPromotion::Frozen(head.clone())),
        Hold::Held => Some(AutomaticPromotion::Held(head.clone())),
        Hold::None => None,
    }
}

/// The release that an order to move means, if it may run.
fn target<'a>(
    register: &'a ReleaseRegister,
    history: &ChannelHistory,
    request: &MoveRequest,
) -> Result<&'a Published, MoveError> {
    let tag = match &request.order {
        Order::Promote(tag) | Order::Rollback(Some(tag)) => tag,
        Order::Rollback(None) | Order::Freeze | Order::Thaw => {
            let may_run = |step: &Promoted| register.usable(step).is_some();
            let nothing = || MoveError::NothingToRollBackTo { channel: request.channel.clone() };
            history.rollback_target(may_run).ok_or_else(nothing)?
        }
    };
    let unknown = || MoveError::UnknownRelease { bundle: request.bundle.clone(), tag: tag.clone() };
    let (release, _) = register.find(tag).ok_or_else(unknown)?;
    refuse_withdrawn(register, release)?;
    Ok(release)
}

pub(super) fn refuse_withdrawn(register: &ReleaseRegister, release: &Published) -> Result<(), MoveError> {
    register.withdrawal_of(release).map_or(Ok(()), |withdrawn| Err(refusal(&release.tag, withdrawn)))
}

pub(super) fn refusal(tag: &Tag, withdrawn: &Withdrawn) -> MoveError {
    MoveError::Withdrawn { tag: tag.clone(), actor: withdrawn.actor.clone(), reason: withdrawn.reason.clone() }
}

pub(super) fn points_at(head: &ChannelHead, release: &Published) -> bool {
    (&head.promoted.tag, head.promoted.tree_digest) == (&release.tag, release.tree_digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_releases::{moved as moved_to, published, withdrawn};

    fn release(tag: &str) -> Published {
        published(tag, tag)
    }

    fn register(withdrawal: Option<&str>) -> ReleaseRegister {
        ReleaseRegister::of(["a", "b", "c"].map(release), withdrawal.map(|tag| withdrawn(&release(tag))))
    }

    fn history(moves: &[(&str, Hold)]) -> ChannelHistory {
        let head = |((tag, hold), sequence): (&(&str, Hold), u64)| {
            moved_to(&release(tag), PromotionCause::Promote, *hold, sequence)
        };
        ChannelHistory::of(moves.iter().zip(1..).map(head))
    }

    fn decided(history: &ChannelHistory, withdrawn: Option<&str>, order: Order, freeze: Freeze) -> String {
        let request = MoveRequest {
            bundle: "contracts".parse().unwrap(),
            channel: "latest".parse().unwrap(),
            order,
            reason: None,
            freeze,
        };
        match ordered(&register(withdrawn), history, &request) {
            Ok(Decision::Stay(head)) => format!("stay at {}", head.promoted.tag),
            Ok(Decision::Move(decided)) => format!("{:?} {} {:?}", decided.cause, decided.tag, decided.hold),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_order_is_carried_out_or_refused_in_words() {
        let promote = |tag: &str| Order::Promote(tag.parse().unwrap());
        let back = |tag: &str| Order::Rollback(Some(tag.parse().unwrap()));
        let free = [("a", Hold::None), ("b", Hold::None)];
        let held = [("a", Hold::None), ("b", Hold::Held)];
        let frozen = [("a", Hold::None), ("b", Hold::Frozen)];
        let frozen_words = "channel `latest` is frozen at `b` by `ada` since 1970-01-01T00:00:00Z: thaw it, \
                            or move it all the same (--override)";
        for (moves, withdrawn, order, freeze, expected) in [
            (&[][..], None, promote("a"), Freeze::Respect, "Promote a None"),
            (&free, None, promote("c"), Freeze::Respect, "Promote c None"),
            (&free, None, promote("b"), Freeze::Respect, "stay at b"),
            (&free, None, back("b"), Freeze::Respect, "stay at b"),
            (&free, None, back("a"), Freeze::Respect, "Rollback a Held"),
            (&free, None, Order::Rollback(None), Freeze::Respect, "Rollback a Held"),
            (&held, None, promote("c"), Freeze::Respect, "Promote c None"),
            (&held, None, promote("b"), Freeze::Respect, "Promote b None"),
            (&held, None, back("b"), Freeze::Respect, "stay at b"),
            (&held, None, Order::Freeze, Freeze::Respect, "Freeze b Frozen"),
            (&held, None, Order::Thaw, Freeze::Respect, "Thaw b None"),
            (&free, None, Order::Freeze, Freeze::Respect, "Freeze b Frozen"),
            (&free, None, Order::Thaw, Freeze::Respect, "stay at b"),
            (&free, Some("b"), Order::Freeze, Freeze::Respect, "Freeze b Frozen"),
            (&frozen, None, Order::Freeze, Freeze::Respect, "stay at b"),
            (&frozen, None, Order::Thaw, Freeze::Respect, "Thaw b None"),
            (&frozen, None, promote("b"), Freeze::Respect, "stay at b"),
            (&frozen, None, promote("b"), Freeze::Override, "stay at b"),
            (
                &[],
                None,
                Order::Freeze,
                Freeze::Respect,
                "channel `latest` of bundle `contracts` points at no release yet",
            ),
            (&frozen, None, promote("c"), Freeze::Respect, frozen_words),
            (&frozen, None, Order::Rollback(None), Freeze::Respect, frozen_words),
            (&frozen, None, promote("c"), Freeze::Override, "Promote c Frozen"),
            (&frozen, None, back("a"), Freeze::Override, "Rollback a Frozen"),
            (&free, None, promote("z"), Freeze::Respect, "bundle `contracts` has no release `z`"),
            (&free, Some("a"), back("a"), Freeze::Respect, "release `a` was withdrawn by `eve`: broken"),
            (
                &free,
                Some("a"),
                Order::Rollback(None),
                Freeze::Respect,
                "channel `latest` has no earlier release to go back to",
            ),
        ] {
            assert_eq!(decided(&history(moves), withdrawn, order.clone(), freeze), expected, "{order:?} {freeze:?}");
        }
    }

    #[test]
    fn an_automatic_publish_respects_what_people_decided() {
        let outcome = |moves: &[(&str, Hold)], tag: &str| match left_alone(&history(moves), &release(tag)) {
            None => "moves",
            Some(AutomaticPromotion::AlreadyActive(_)) => "active",
            Some(AutomaticPromotion::MovedAwaySince(_)) => "moved away",
            Some(AutomaticPromotion::Held(_)) => "held",
            Some(AutomaticPromotion::Frozen(_)) => "frozen",
            Some(AutomaticPromotion::Promoted(_)) => "promoted",
        };
        assert_eq!(outcome(&[], "a"), "moves");
        assert_eq!(outcome(&[("a", Hold::None)], "b"), "moves");
        assert_eq!(outcome(&[("a", Hold::None)], "a"), "active");
        assert_eq!(outcome(&[("a", Hold::None), ("b", Hold::None), ("a", Hold::None)], "b"), "moved away");
        assert_eq!(outcome(&[("b", Hold::None), ("a", Hold::Held)], "c"), "held");
        assert_eq!(outcome(&[("a", Hold::Frozen)], "c"), "frozen");
        assert_eq!(outcome(&[("a", Hold::Held), ("a", Hold::None)], "c"), "moves", "thawed");
    }
}
