//! Where a channel goes when its release is withdrawn: a plain function over what the log says.

use shared::event::{Hold, PromotionCause, Withdrawn};

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

/// Decides where a channel goes: to the newest release in its own history that may run.
pub(super) fn retreat<'a>(
    register: &'a ReleaseRegister,
    history: &'a ChannelHistory,
    withdrawn: &Withdrawn,
) -> Retreat<'a> {
    let Some(head) = history.head().filter(|head| is_concerned(register, head, withdrawn)) else {
        return Retreat::NotConcerned;
    };
    let hold = if head.promoted.hold == Hold::Frozen { Hold::Frozen } else { Hold::Held };
    let earlier = history.moves().iter().rev().find_map(|step| {
        let (release, _) = register.find(&step.promoted.tag)?;
        let may_run = release.tree_digest == step.promoted.tree_digest && register.withdrawal_of(release).is_none();
        may_run.then_some(release)
    });
    match earlier {
        Some(release) => Retreat::Move(head, DecidedMove::to_release(release, PromotionCause::Withdraw, hold)),
        None => Retreat::Nowhere(head),
    }
}

/// Whether a channel points at the withdrawn tree, or at its content under another tag.
fn is_concerned(register: &ReleaseRegister, head: &ChannelHead, withdrawn: &Withdrawn) -> bool {
    let content = register.find(&head.promoted.tag).map(|(release, _)| release.content_digest);
    head.promoted.tree_digest == withdrawn.tree_digest || content == Some(withdrawn.content_digest)
}

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;
    use shared::event::{ObjectReference, Promoted, Published, Trigger};

    use super::*;

    /// A release `tag=content`.
    fn release(text: &str) -> Published {
        let (tag, content) = text.split_once('=').unwrap();
        let object = ObjectReference { name: "x".to_owned(), size: 1, sha256: Sha256Digest::of(b"x") };
        Published {
            bundle: "contracts".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: Sha256Digest::of(text.as_bytes()),
            content_digest: Sha256Digest::of(content.as_bytes()),
            files: 1,
            total_bytes: 1,
            archive: object.clone(),
            release: object,
            git: None,
            trigger: Trigger::Local,
            actor: "main".parse().unwrap(),
        }
    }

    fn withdrawn(text: &str) -> Withdrawn {
        let Published { bundle, tag, tree_digest, content_digest, actor, .. } = release(text);
        Withdrawn { bundle, tag, tree_digest, content_digest, reason: "broken".to_owned(), actor }
    }

    fn history(moves: &[(&str, Hold)]) -> ChannelHistory {
        ChannelHistory::of(moves.iter().zip(1..).map(|((text, hold), stream_sequence)| ChannelHead {
            promoted: Promoted {
                bundle: "contracts".parse().unwrap(),
                channel: "latest".parse().unwrap(),
                tag: release(text).tag,
                tree_digest: release(text).tree_digest,
                previous_tag: None,
                cause: PromotionCause::Promote,
                hold: *hold,
                reason: None,
                actor: "ada".parse().unwrap(),
            },
            stream_sequence,
        }))
    }

    fn outcome(moves: &[(&str, Hold)], now: &str, earlier: &[&str]) -> String {
        let all = ["a=1", "b=2", "c=3", "d=3"].map(release);
        let register = ReleaseRegister::of(all, earlier.iter().chain([&now]).map(|text| withdrawn(text)));
        match retreat(&register, &history(moves), &withdrawn(now)) {
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
            assert_eq!(outcome(moves, now, earlier), expected, "{moves:?} without {now} and {earlier:?}");
        }
    }
}
