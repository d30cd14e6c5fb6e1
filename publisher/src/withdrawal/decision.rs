//! Where a channel goes when its release is withdrawn: a plain function over what the log says.

use shared::event::{Hold, PromotionCause, Published, Withdrawn};

use crate::channel::DecidedMove;
use crate::channel_history::{ChannelHead, ChannelHistory};
use crate::release_register::ReleaseRegister;

/// What a withdrawal means for one channel.
#[derive(Debug)]
pub(super) enum Retreat<'a> {
    /// It points elsewhere.
    NotConcerned,
    /// It never pointed at a release that may run.
    Nowhere(&'a ChannelHead),
    /// It leaves its head for this.
    Move(&'a ChannelHead, DecidedMove<'a>),
}

/// Decides where a channel goes: one step back on its rollback path, and only where nothing on that may run, to the
/// newest other release in its history. So it does not return to what somebody had rolled it back from.
pub(super) fn retreat<'a>(
    register: &'a ReleaseRegister,
    history: &'a ChannelHistory,
    withdrawn: &Withdrawn,
) -> Retreat<'a> {
    let Some(head) = history.head().filter(|head| is_concerned(register, head, withdrawn)) else {
        return Retreat::NotConcerned;
    };
    let hold = if head.promoted.hold == Hold::Frozen { Hold::Frozen } else { Hold::Held };
    match earlier(register, history) {
        Some(release) => Retreat::Move(head, DecidedMove::to_release(release, PromotionCause::Withdraw, hold)),
        None => Retreat::Nowhere(head),
    }
}

fn earlier<'a>(register: &'a ReleaseRegister, history: &ChannelHistory) -> Option<&'a Published> {
    let back = history.rollback_target(|step| register.usable(step).is_some());
    let back = back.and_then(|tag| register.find(tag)).map(|(release, _)| release);
    back.or_else(|| history.moves().iter().rev().find_map(|step| register.usable(&step.promoted)))
}

/// Whether a channel points at the withdrawn tree, or at its content under another tag.
fn is_concerned(register: &ReleaseRegister, head: &ChannelHead, withdrawn: &Withdrawn) -> bool {
    let content = register.find(&head.promoted.tag).map(|(release, _)| release.content_digest);
    head.promoted.tree_digest == withdrawn.tree_digest || content == Some(withdrawn.content_digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_releases;

    /// A release `tag=content`.
    fn release(text: &str) -> Published {
        let (tag, content) = text.split_once('=').unwrap();
        test_releases::published(tag, content)
    }

    fn withdrawn(text: &str) -> Withdrawn {
        test_releases::withdrawn(&release(text))
    }

    fn history<'a>(moves: impl IntoIterator<Item = (&'a str, PromotionCause, Hold)>) -> ChannelHistory {
        let numbered = moves.into_iter().zip(1..);
        let head = |((text, cause, hold), sequence)| test_releases::moved(&release(text), cause, hold, sequence);
        ChannelHistory::of(numbered.map(head))
    }

    fn outcome(history: &ChannelHistory, now: &str, earlier: &[&str]) -> String {
        let all = ["a=1", "b=2", "c=3", "d=3"].map(release);
        let register = ReleaseRegister::of(all, earlier.iter().chain([&now]).map(|text| withdrawn(text)));
        match retreat(&register, history, &withdrawn(now)) {
            Retreat::NotConcerned => "not concerned".to_owned(),
            Retreat::Nowhere(head) => format!("stays at {}", head.promoted.tag),
            Retreat::Move(head, decided) => {
                format!("{} to {} {:?} {:?}", head.promoted.tag, decided.tag, decided.cause, decided.hold)
            }
        }
    }

    #[test]
    fn a_channel_retreats_to_its_newest_release_that_may_run() {
        use Hold::{Frozen, Held, None as Free};
        for (moves, now, earlier, expected) in [
            (&[][..], "c=3", &[][..], "not concerned"),
            (&[("a=1", Free)], "c=3", &[], "not concerned"),
            (&[("c=3", Free)], "c=3", &[], "stays at c"),
            (&[("a=1", Free), ("b=2", Free), ("c=3", Free)], "c=3", &[], "c to b Withdraw Held"),
            (&[("a=1", Free), ("b=2", Free), ("c=3", Free)], "c=3", &["b=2"], "c to a Withdraw Held"),
            (&[("a=1", Free), ("b=2", Free), ("c=3", Free)], "c=3", &["b=2", "a=1"], "stays at c"),
            (&[("a=1", Free), ("b=2", Held)], "b=2", &[], "b to a Withdraw Held"),
            (&[("a=1", Free), ("b=2", Free), ("b=2", Frozen)], "b=2", &[], "b to a Withdraw Frozen"),
            // The same content under another tag falls with it, at the head and as a place to go.
            (&[("a=1", Free), ("c=3", Free), ("d=3", Free)], "c=3", &[], "d to a Withdraw Held"),
            // What the log has no announcement of is no place to go.
            (&[("a=1", Free), ("z=9", Free), ("c=3", Free)], "c=3", &[], "c to a Withdraw Held"),
        ] {
            let history = history(moves.iter().map(|(text, hold)| (*text, PromotionCause::Promote, *hold)));
            assert_eq!(outcome(&history, now, earlier), expected, "{moves:?} without {now} and {earlier:?}");
        }
    }

    #[test]
    fn a_channel_does_not_return_to_what_it_was_rolled_back_from_unless_nothing_else_is_left() {
        use PromotionCause::{Publish, Rollback, Withdraw};
        let forth_and_back = [("a=1", Publish), ("b=2", Publish), ("c=3", Publish), ("b=2", Rollback)];
        for (moves, now, earlier, expected) in [
            (&forth_and_back[..], "b=2", &[][..], "b to a Withdraw Held"),
            (&forth_and_back, "b=2", &["a=1"], "b to c Withdraw Held"),
            (&forth_and_back, "b=2", &["a=1", "c=3"], "stays at b"),
            (&[("b=2", Publish), ("c=3", Publish), ("b=2", Rollback)], "b=2", &[], "b to c Withdraw Held"),
            (&[("a=1", Publish), ("b=2", Publish), ("a=1", Withdraw)], "a=1", &["b=2"], "stays at a"),
        ] {
            let history = history(moves.iter().map(|(text, cause)| (*text, *cause, Hold::None)));
            assert_eq!(outcome(&history, now, earlier), expected, "{moves:?} without {now} and {earlier:?}");
        }
    }
}
