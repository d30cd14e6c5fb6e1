//! What the log says about releases and channels, made up for the unit tests of this crate.

use shared::digest::Sha256Digest;
use shared::event::{Hold, ObjectReference, Promoted, PromotionCause, Published, Trigger, Withdrawn};

use crate::channel_history::ChannelHead;

/// The announcement of a tag with this content. Each tag has a tree of its own.
pub(crate) fn published(tag: &str, content: &str) -> Published {
    let object = ObjectReference { name: "x".to_owned(), size: 1, sha256: Sha256Digest::of(b"x") };
    Published {
        bundle: "contracts".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(format!("{tag} {content}").as_bytes()),
        content_digest: Sha256Digest::of(content.as_bytes()),
        files: 1,
        total_bytes: 1,
        archive: object.clone(),
        release: object,
        deltas: Vec::new(),
        git: None,
        trigger: Trigger::Local,
        actor: "main".parse().unwrap(),
    }
}

/// Its withdrawal.
pub(crate) fn withdrawn(release: &Published) -> Withdrawn {
    Withdrawn {
        bundle: release.bundle.clone(),
        tag: release.tag.clone(),
        tree_digest: release.tree_digest,
        content_digest: release.content_digest,
        reason: "broken".to_owned(),
        actor: "eve".parse().unwrap(),
    }
}

/// A move of channel `latest` to it.
pub(crate) fn moved(release: &Published, cause: PromotionCause, hold: Hold, stream_sequence: u64) -> ChannelHead {
    let promoted = Promoted {
        bundle: release.bundle.clone(),
        channel: "latest".parse().unwrap(),
        tag: release.tag.clone(),
        tree_digest: release.tree_digest,
        previous_tag: None,
        cause,
        hold,
        reason: None,
        actor: "ada".parse().unwrap(),
    };
    ChannelHead { promoted, stream_sequence }
}
