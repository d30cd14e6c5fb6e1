//! What a publish did, in words for logs and people.

use crate::channel::AutomaticPromotion;
use crate::publish_cycle::{Novelty, PublishReport};

/// Logs what a publish did, with its facts as fields.
pub fn log_report(report: &PublishReport) {
    let release = &report.release;
    tracing::info!(
        bundle.name = %release.published.bundle,
        bundle.tag = %release.published.tag,
        bundle.digest = %release.published.tree_digest,
        event.sequence = release.stream_sequence,
        size_bytes = release.published.total_bytes,
        "{}",
        describe(report)
    );
}

/// What a publish did, in one sentence.
pub fn describe(report: &PublishReport) -> String {
    let tag = &report.release.published.tag;
    let release = match report.novelty {
        Novelty::Announced => format!("release `{tag}` is published"),
        Novelty::AnnouncedAgain => format!("release `{tag}` is announced again"),
        Novelty::AlreadyAnnounced => format!("release `{tag}` was published before"),
        Novelty::Unchanged => format!("unchanged: release `{tag}` has this content"),
    };
    let channel = match &report.promotion {
        None => return release,
        Some(AutomaticPromotion::Promoted(head)) => format!("channel `{}` points at it now", head.promoted.channel),
        Some(AutomaticPromotion::AlreadyActive(head)) => format!("channel `{}` points at it", head.promoted.channel),
        Some(AutomaticPromotion::MovedAwaySince(head)) => format!(
            "channel `{}` was moved from it to `{}` by `{}` and stays there",
            head.promoted.channel, head.promoted.tag, head.promoted.actor
        ),
        Some(AutomaticPromotion::Held(head)) => format!(
            "channel `{}` is held at `{}` by `{}` and stays there",
            head.promoted.channel, head.promoted.tag, head.promoted.actor
        ),
        Some(AutomaticPromotion::Frozen(head)) => format!(
            "channel `{}` is frozen at `{}` by `{}` and stays there",
            head.promoted.channel, head.promoted.tag, head.promoted.actor
        ),
    };
    format!("{release}; {channel}")
}
