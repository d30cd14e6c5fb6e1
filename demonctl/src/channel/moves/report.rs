//! What a move did, or would do: one line for people, one stable document for scripts.

use anyhow::Context as _;
use publisher::channel::{Freeze, MovePlan, MoveRequest};
use publisher::channel_history::ChannelHead;
use publisher::compatibility::BreakingChange;
use publisher::release_comparison::compare_releases;
use publisher::release_register::ReleaseRegister;
use serde::Serialize;
use shared::daemon::ErrorChain;
use shared::digest::Sha256Digest;
use shared::event::{Hold, PromotionCause};
use shared::identifiers::{ActorName, BundleName, ChannelName, NodeName, Tag};
use shared::limits::ReleaseLimits;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;

use crate::event_text::bytes;
use crate::rollout_wait::WaitOutcome;

/// Nodes that the line for people names; the document names all.
const NAMED_NODES: usize = 10;

/// A move of a channel.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MoveReport {
    bundle: BundleName,
    channel: ChannelName,
    /// Where it pointed before; absent on its first move.
    from: Option<Tag>,
    /// Where it points.
    pub(super) to: Tag,
    pub(super) tree_digest: Sha256Digest,
    /// Why it moved; where it did not, why it moved the last time.
    cause: PromotionCause,
    hold: Hold,
    /// Whether it was moved although it was frozen.
    #[serde(rename = "override")]
    overrode_freeze: bool,
    actor: ActorName,
    reason: Option<String>,
    /// Place of its head in the log; absent in a dry run.
    sequence: Option<u64>,
    /// Whether there is a new event; in a dry run, whether there would be one.
    moved: bool,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<Preview>,
    /// How the nodes followed, where that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wait: Option<WaitOutcome>,
}

/// What a dry run says beside the move itself.
#[derive(Debug, Clone, Serialize)]
struct Preview {
    hold_before: Hold,
    files: Option<u64>,
    total_bytes: Option<u64>,
    /// What a node without a copy fetches.
    archive_bytes: Option<u64>,
    /// What breaks for who reads the channel's release now; absent where that is not known of such content.
    breaking: Option<Vec<BreakingChange>>,
    /// Why the releases were not compared, where they should have been.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_compared: Option<String>,
    /// Live nodes that follow the channel and would switch.
    nodes: Vec<NodeName>,
    /// Live nodes that follow the channel and run the release already.
    nodes_there: Vec<NodeName>,
}

impl MoveReport {
    /// The report of an order that was carried out.
    pub(super) fn done(head: ChannelHead, moved: bool) -> Self {
        let ChannelHead { promoted, stream_sequence } = head;
        Self {
            overrode_freeze: moved && promoted.overrode_freeze(),
            from: if moved { promoted.previous_tag } else { Some(promoted.tag.clone()) },
            bundle: promoted.bundle,
            channel: promoted.channel,
            to: promoted.tag,
            tree_digest: promoted.tree_digest,
            cause: promoted.cause,
            hold: promoted.hold,
            actor: promoted.actor,
            reason: promoted.reason,
            sequence: Some(stream_sequence),
            moved,
            dry_run: false,
            preview: None,
            wait: None,
        }
    }

    /// The report of an order that was only thought through. Reads the release's sizes.
    pub(super) async fn planned(
        request: &MoveRequest,
        actor: ActorName,
        plan: MovePlan,
        nodes: WaitOutcome,
        log: &EventLog,
    ) -> anyhow::Result<Self> {
        let register = ReleaseRegister::read(log, &request.bundle).await.context("the releases cannot be read")?;
        let release = register.find(&plan.to).map(|(release, _)| release);
        let base = plan.from.as_ref().and_then(|from| register.find(from)).map(|(base, _)| base);
        let bucket = ReleaseStore::new(log.connection().clone());
        let compared = match (base, release) {
            (Some(base), Some(release)) => compare_releases(&bucket, base, release, ReleaseLimits::default()).await,
            (None, _) | (_, None) => Ok(None),
        };
        // A release that cannot be read any more may still be left.
        let (breaking, not_compared) = match compared {
            Ok(breaking) => (breaking, None),
            Err(error) => (None, Some(ErrorChain(&error).to_string())),
        };
        let preview = Preview {
            breaking,
            not_compared,
            hold_before: plan.hold_before,
            files: release.map(|release| release.files),
            total_bytes: release.map(|release| release.total_bytes),
            archive_bytes: release.map(|release| release.archive.size),
            nodes: nodes.stragglers.into_iter().map(|straggler| straggler.node).collect(),
            nodes_there: nodes.followed,
        };
        Ok(Self {
            bundle: request.bundle.clone(),
            channel: request.channel.clone(),
            from: plan.from,
            to: plan.to,
            tree_digest: plan.tree_digest,
            cause: plan.cause,
            overrode_freeze: plan.moves && request.freeze == Freeze::Override && plan.hold_before == Hold::Frozen,
            hold: plan.hold_after,
            actor,
            reason: request.reason.clone(),
            sequence: None,
            moved: plan.moves,
            dry_run: true,
            preview: Some(preview),
            wait: None,
        })
    }

    /// For people: one line, and in a dry run one more for each change that breaks somebody.
    pub(super) fn line(&self) -> String {
        let hold = match self.hold {
            Hold::None => String::new(),
            Hold::Held | Hold::Frozen => format!(", {}", self.hold.as_str()),
        };
        let mark = if self.overrode_freeze { ", override" } else { "" };
        let line = match (&self.from, self.moved) {
            (_, false) => format!("{}: stays at {}, nothing to do{hold}", self.channel, self.to),
            (Some(from), true) if *from == self.to => {
                format!("{}: {} ({}{hold}{mark})", self.channel, self.to, self.cause.as_str())
            }
            (from, true) => {
                let from = from.as_ref().map_or("nothing", Tag::as_str);
                format!("{}: {from} → {} ({}{hold}{mark})", self.channel, self.to, self.cause.as_str())
            }
        };
        match &self.preview {
            None => line,
            Some(preview) => {
                let breaking = preview.breaking.iter().flatten().map(|change| format!("\nbreaks {change}"));
                format!("dry run: {line}; {}{}", preview.words(self.tree_digest), breaking.collect::<String>())
            }
        }
    }
}

impl Preview {
    fn words(&self, tree_digest: Sha256Digest) -> String {
        let size = match (self.files, self.total_bytes, self.archive_bytes) {
            (Some(files), Some(total), Some(archive)) => {
                format!(", {files} files, {}, {} to fetch", bytes(total), bytes(archive))
            }
            _ => String::new(),
        };
        let compatibility = match (&self.breaking, &self.not_compared) {
            (Some(breaking), _) if breaking.is_empty() => ", compatible".to_owned(),
            (Some(breaking), _) if breaking.len() == 1 => ", 1 breaking change".to_owned(),
            (Some(breaking), _) => format!(", {} breaking changes", breaking.len()),
            (None, Some(why)) => format!(", not compared ({why})"),
            (None, None) => String::new(),
        };
        let nodes = match self.nodes.len() {
            0 => "no live node would switch".to_owned(),
            count => {
                let named: Vec<&str> = self.nodes.iter().take(NAMED_NODES).map(NodeName::as_str).collect();
                let more = if count > NAMED_NODES { ", …" } else { "" };
                format!("{count} nodes would switch: {}{more}", named.join(", "))
            }
        };
        format!("tree {}{size}{compatibility}; {nodes}", tree_digest.short())
    }
}

#[cfg(test)]
mod tests {
    use shared::event::Promoted;

    use super::*;

    fn line(from: Option<&str>, cause: PromotionCause, hold: Hold, moved: bool) -> String {
        let promoted = Promoted {
            bundle: "contracts".parse().unwrap(),
            channel: "latest".parse().unwrap(),
            tag: "b".parse().unwrap(),
            tree_digest: Sha256Digest::of(b"b"),
            previous_tag: from.map(|tag| tag.parse().unwrap()),
            cause,
            hold,
            reason: None,
            actor: "ada".parse().unwrap(),
        };
        MoveReport::done(ChannelHead { promoted, stream_sequence: 7 }, moved).line()
    }

    #[test]
    fn a_move_is_one_line() {
        for (from, cause, hold, moved, expected) in [
            (None, PromotionCause::Promote, Hold::None, true, "latest: nothing → b (promote)"),
            (Some("a"), PromotionCause::Rollback, Hold::Held, true, "latest: a → b (rollback, held)"),
            (Some("a"), PromotionCause::Promote, Hold::Frozen, true, "latest: a → b (promote, frozen, override)"),
            (Some("b"), PromotionCause::Freeze, Hold::Frozen, true, "latest: b (freeze, frozen)"),
            (Some("b"), PromotionCause::Thaw, Hold::None, true, "latest: b (thaw)"),
            (Some("a"), PromotionCause::Promote, Hold::None, false, "latest: stays at b, nothing to do"),
            (Some("a"), PromotionCause::Rollback, Hold::Held, false, "latest: stays at b, nothing to do, held"),
        ] {
            assert_eq!(line(from, cause, hold, moved), expected);
        }
    }
}
