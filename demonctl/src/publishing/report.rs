//! What a publish did, or would do: one JSON document for scripts, some lines for people.

use publisher::channel::AutomaticPromotion;
use publisher::compatibility::BreakingChange;
use publisher::publish_cycle::{Comparison, Novelty, PublishReport};
use publisher::publish_preview::{PreviewedMove, PublishPreview};
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::event::{DeltaReference, GitFacts, Hold, ObjectReference, Published, Trigger};
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};

use crate::output::{OutputFormat, print_line};
use crate::rollout_wait::WaitOutcome;

/// What became of the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum NoveltyText {
    Announced,
    AnnouncedAgain,
    AlreadyAnnounced,
    Unchanged,
}

impl From<Novelty> for NoveltyText {
    fn from(novelty: Novelty) -> Self {
        match novelty {
            Novelty::Announced => Self::Announced,
            Novelty::AnnouncedAgain => Self::AnnouncedAgain,
            Novelty::AlreadyAnnounced => Self::AlreadyAnnounced,
            Novelty::Unchanged => Self::Unchanged,
        }
    }
}

/// What became of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Effect {
    /// It points at the release now.
    Moved,
    /// It pointed there already.
    AlreadyThere,
    /// It pointed there once and was moved away since.
    MovedAwaySince,
    /// It is held elsewhere.
    Held,
    /// It is frozen elsewhere.
    Frozen,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ChannelRow {
    name: ChannelName,
    effect: Effect,
    from: Option<Tag>,
    to: Option<Tag>,
    hold: Hold,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ArchiveRow {
    name: String,
    size: u64,
    sha256: Sha256Digest,
}

/// A cheaper way to the release, for who has its base.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct DeltaRow {
    base_tag: Tag,
    name: String,
    size: u64,
    sha256: Sha256Digest,
}

impl From<&DeltaReference> for DeltaRow {
    fn from(delta: &DeltaReference) -> Self {
        let ObjectReference { name, size, sha256 } = delta.object.clone();
        Self { base_tag: delta.base_tag.clone(), name, size, sha256 }
    }
}

/// One change that breaks who reads the release before.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct BreakingRow {
    #[serde(flatten)]
    change: BreakingChange,
    /// The same for people.
    text: String,
}

/// A publish as scripts read it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct PublishedRow {
    bundle: BundleName,
    tag: Tag,
    /// Whether this says what would happen.
    dry_run: bool,
    novelty: NoveltyText,
    tree_digest: Sha256Digest,
    content_digest: Sha256Digest,
    files: u64,
    total_bytes: u64,
    archive: ArchiveRow,
    deltas: Vec<DeltaRow>,
    /// Stream sequence of the release's announcement; null where it has none.
    sequence: Option<u64>,
    trigger: Trigger,
    git: Option<GitFacts>,
    /// Null with `--no-promote`.
    channel: Option<ChannelRow>,
    /// The release that contracts were compared with; null where they were not.
    base: Option<Tag>,
    /// Whether they were compared.
    compared: bool,
    breaking: Vec<BreakingRow>,
    /// Nodes that follow the channel, as far as they are alive; only of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Vec<NodeName>>,
    /// Only with `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<WaitOutcome>,
}

impl PublishedRow {
    /// Of a publish that happened.
    pub(super) fn of(report: &PublishReport) -> Self {
        let release = &report.release;
        Self {
            sequence: Some(release.stream_sequence),
            channel: report.promotion.as_ref().map(|promotion| channel_row(promotion, &release.published)),
            ..Self::about(&release.published, report.novelty, report.compatibility.as_ref())
        }
    }

    /// Adds how far the nodes came.
    pub(super) fn add_wait(&mut self, outcome: WaitOutcome) {
        self.wait = Some(outcome);
    }

    /// Of one that would.
    pub(super) fn previewed(preview: &PublishPreview, channel: Option<&ChannelName>, nodes: Vec<NodeName>) -> Self {
        let release = &preview.release;
        let row = |effect: &PreviewedMove| match effect {
            PreviewedMove::Stay(promotion) => Some(channel_row(promotion, release)),
            PreviewedMove::Move { from } => Some(ChannelRow {
                name: channel?.clone(),
                effect: Effect::Moved,
                from: from.clone(),
                to: Some(release.tag.clone()),
                hold: Hold::None,
            }),
        };
        Self {
            dry_run: true,
            sequence: preview.stream_sequence,
            channel: preview.channel.as_ref().and_then(row),
            nodes: Some(nodes),
            ..Self::about(release, preview.novelty, preview.compatibility.as_ref())
        }
    }

    fn about(release: &Published, novelty: Novelty, comparison: Option<&Comparison>) -> Self {
        let ObjectReference { name, size, sha256 } = release.archive.clone();
        Self {
            bundle: release.bundle.clone(),
            tag: release.tag.clone(),
            dry_run: false,
            novelty: novelty.into(),
            tree_digest: release.tree_digest,
            content_digest: release.content_digest,
            files: release.files,
            total_bytes: release.total_bytes,
            archive: ArchiveRow { name, size, sha256 },
            deltas: release.deltas.iter().map(DeltaRow::from).collect(),
            sequence: None,
            trigger: release.trigger,
            git: release.git.clone(),
            channel: None,
            base: comparison.and_then(|comparison| comparison.base.clone()),
            compared: comparison.is_some(),
            breaking: comparison
                .map(|comparison| comparison.breaking.iter().map(BreakingRow::of).collect())
                .unwrap_or_default(),
            nodes: None,
            wait: None,
        }
    }

    fn lines(&self) -> Vec<String> {
        let facts = format!(
            "bundle {}, {} files, {} bytes, archive {} bytes, content {}",
            self.bundle,
            self.files,
            self.total_bytes,
            self.archive.size,
            self.content_digest.short()
        );
        let tag = &self.tag;
        let mut lines = vec![match (self.novelty, self.dry_run) {
            (NoveltyText::Announced, false) => format!("published: {tag} ({facts})"),
            (NoveltyText::Announced, true) => format!("would publish: {tag} ({facts})"),
            (NoveltyText::AnnouncedAgain, false) => format!("announced again: {tag} ({facts})"),
            (NoveltyText::AnnouncedAgain, true) => format!("would announce again: {tag} ({facts})"),
            (NoveltyText::AlreadyAnnounced, _) => format!("published before: {tag} ({facts})"),
            (NoveltyText::Unchanged, _) => format!("unchanged: {tag} has this content ({facts})"),
        }];
        if !self.deltas.is_empty() {
            let deltas = self.deltas.iter().map(|delta| format!("from {} {} bytes", delta.base_tag, delta.size));
            lines.push(format!("deltas: {}", deltas.collect::<Vec<_>>().join(", ")));
        }
        lines.extend(self.channel.as_ref().map(|channel| channel.line(self.dry_run)));
        if self.compared {
            lines.push(match (&self.base, self.breaking.as_slice()) {
                (None, _) => "compatible: there is no release to compare with".to_owned(),
                (Some(base), []) => format!("compatible with {base}"),
                (Some(base), breaking) => format!("breaks readers of {base}: {}", in_words(breaking)),
            });
        }
        if let Some(nodes) = &self.nodes {
            let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            lines.push(match names.as_slice() {
                [] => "nodes: none follows the channel".to_owned(),
                names => format!("nodes: {} ({})", names.len(), names.join(", ")),
            });
        }
        lines
    }
}

/// Changes in one line.
fn in_words(breaking: &[BreakingRow]) -> String {
    breaking.iter().map(|row| row.text.as_str()).collect::<Vec<_>>().join("; ")
}

impl BreakingRow {
    fn of(change: &BreakingChange) -> Self {
        Self { change: change.clone(), text: change.to_string() }
    }
}

impl ChannelRow {
    fn line(&self, dry_run: bool) -> String {
        let name = &self.name;
        let tag = |tag: &Option<Tag>| tag.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let (from, to) = (tag(&self.from), tag(&self.to));
        match self.effect {
            Effect::Moved if dry_run => format!("channel {name}: would move from {from} to {to}"),
            Effect::Moved => format!("channel {name}: moved from {from} to {to}"),
            Effect::AlreadyThere => format!("channel {name}: points at it"),
            Effect::MovedAwaySince => format!("channel {name}: was moved away from it since, stays at {to}"),
            Effect::Held => format!("channel {name}: held, stays at {to} until it is promoted or thawed"),
            Effect::Frozen => format!("channel {name}: frozen, stays at {to}"),
        }
    }
}

fn channel_row(promotion: &AutomaticPromotion, release: &Published) -> ChannelRow {
    let (effect, head) = match promotion {
        AutomaticPromotion::Promoted(head) => (Effect::Moved, head),
        AutomaticPromotion::AlreadyActive(head) => (Effect::AlreadyThere, head),
        AutomaticPromotion::MovedAwaySince(head) => (Effect::MovedAwaySince, head),
        AutomaticPromotion::Held(head) => (Effect::Held, head),
        AutomaticPromotion::Frozen(head) => (Effect::Frozen, head),
    };
    let head = &head.promoted;
    let (from, to) = match effect {
        Effect::Moved => (head.previous_tag.clone(), release.tag.clone()),
        Effect::AlreadyThere | Effect::MovedAwaySince | Effect::Held | Effect::Frozen => {
            (Some(head.tag.clone()), head.tag.clone())
        }
    };
    ChannelRow { name: head.channel.clone(), effect, from, to: Some(to), hold: head.hold }
}

/// Prints it in the form asked for.
pub(super) fn print(format: OutputFormat, row: &PublishedRow) -> anyhow::Result<()> {
    match format {
        OutputFormat::Table => row.lines().iter().try_for_each(|line| print_line(line)),
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(row)?),
        OutputFormat::Jsonl => print_line(&serde_json::to_string(row)?),
    }
}

#[cfg(test)]
mod tests;
