//! What a withdrawal did, or would do: lines for people, one stable document for scripts.

use publisher::withdrawal::{ChannelOutcome, WithdrawalPlan, WithdrawalReport, WithdrawalRequest, WithdrawnChannel};
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::event::Hold;
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};

use crate::rollout_wait::WaitOutcome;

/// A withdrawal.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WithdrawalDocument {
    bundle: BundleName,
    tag: Tag,
    /// Absent in a dry run, as are the content digest and the sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    tree_digest: Option<Sha256Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_digest: Option<Sha256Digest>,
    /// Place of the withdrawal in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    actor: ActorName,
    reason: String,
    /// Whether it was withdrawn before.
    already_withdrawn: bool,
    /// Other tags that fall with it, because they have the same tree or content.
    also_withdrawn: Vec<Tag>,
    dry_run: bool,
    /// The channels that pointed at it.
    channels: Vec<ChannelStep>,
}

/// What became of one channel, or would.
#[derive(Debug, Clone, Serialize)]
struct ChannelStep {
    channel: ChannelName,
    from: Tag,
    /// Where it points now; absent where it stays at the withdrawn release.
    to: Option<Tag>,
    outcome: StepOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<Hold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<WaitOutcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum StepOutcome {
    Moved,
    MovedByOthers,
    NothingToMoveTo,
}

impl WithdrawalDocument {
    pub(super) fn done(report: &WithdrawalReport) -> Self {
        let withdrawn = report.withdrawn.clone();
        Self {
            bundle: withdrawn.bundle,
            tag: withdrawn.tag,
            tree_digest: Some(withdrawn.tree_digest),
            content_digest: Some(withdrawn.content_digest),
            sequence: Some(report.stream_sequence),
            actor: withdrawn.actor,
            reason: withdrawn.reason,
            already_withdrawn: report.already_withdrawn,
            also_withdrawn: report.also_withdrawn.clone(),
            dry_run: false,
            channels: report.channels.iter().map(ChannelStep::done).collect(),
        }
    }

    pub(super) fn planned(request: &WithdrawalRequest, actor: ActorName, plan: WithdrawalPlan) -> Self {
        let step = |(channel, from, to): (ChannelName, Tag, Option<Tag>)| ChannelStep {
            channel,
            from,
            outcome: if to.is_some() { StepOutcome::Moved } else { StepOutcome::NothingToMoveTo },
            to,
            hold: None,
            sequence: None,
            wait: None,
        };
        Self {
            bundle: request.bundle.clone(),
            tag: request.tag.clone(),
            tree_digest: None,
            content_digest: None,
            sequence: None,
            actor,
            reason: request.reason.clone(),
            already_withdrawn: plan.already_withdrawn,
            also_withdrawn: plan.also_withdrawn,
            dry_run: true,
            channels: plan.channels.into_iter().map(step).collect(),
        }
    }

    /// Adds how the nodes of a channel followed.
    pub(super) fn waited(&mut self, channel: &ChannelName, outcome: WaitOutcome) {
        if let Some(step) = self.channels.iter_mut().find(|step| step.channel == *channel) {
            step.wait = Some(outcome);
        }
    }

    /// For people: the release, then a line for each channel.
    pub(super) fn lines(&self) -> String {
        let Self { bundle, tag, .. } = self;
        let mut lines = vec![match (self.dry_run, self.already_withdrawn) {
            (false, false) => format!("release {tag} of {bundle} is withdrawn"),
            (false, true) => format!("release {tag} of {bundle} was withdrawn before by {}", self.actor),
            (true, false) => format!("dry run: release {tag} of {bundle} would be withdrawn"),
            (true, true) => format!("dry run: release {tag} of {bundle} is withdrawn already"),
        }];
        lines.extend(fallen(&self.also_withdrawn));
        if self.channels.is_empty() {
            lines.push("no channel points at it".to_owned());
        }
        lines.extend(self.channels.iter().map(|step| self.line(step)));
        lines.join("\n")
    }

    fn line(&self, step: &ChannelStep) -> String {
        let line = self::step(&step.channel, &step.from, step.to.as_ref());
        let hold = step
            .hold
            .filter(|hold| *hold != Hold::None)
            .map_or_else(String::new, |hold| format!(", {}", hold.as_str()));
        match step.outcome {
            StepOutcome::NothingToMoveTo => line,
            StepOutcome::Moved if self.dry_run => line,
            StepOutcome::Moved => format!("{line} (withdraw{hold})"),
            StepOutcome::MovedByOthers => format!("{line} (moved by others at the same moment{hold})"),
        }
    }
}

impl ChannelStep {
    fn done(moved: &WithdrawnChannel) -> Self {
        let (outcome, head) = match &moved.outcome {
            ChannelOutcome::Moved(head) => (StepOutcome::Moved, Some(head)),
            ChannelOutcome::MovedByOthers(head) => (StepOutcome::MovedByOthers, Some(head)),
            ChannelOutcome::NothingToMoveTo => (StepOutcome::NothingToMoveTo, None),
        };
        Self {
            channel: moved.channel.clone(),
            from: moved.from.clone(),
            to: head.map(|head| head.promoted.tag.clone()),
            outcome,
            hold: head.map(|head| head.promoted.hold),
            sequence: head.map(|head| head.stream_sequence),
            wait: None,
        }
    }
}

/// What else falls, in one line; none where nothing does.
pub(super) fn fallen(tags: &[Tag]) -> Option<String> {
    let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    (!tags.is_empty()).then(|| format!("with it, for the same content: {}", tags.join(", ")))
}

/// Where a channel goes, in one line.
pub(super) fn step(channel: &ChannelName, from: &Tag, to: Option<&Tag>) -> String {
    match to {
        Some(to) => format!("{channel}: {from} → {to}"),
        None => format!(
            "{channel}: stays at {from}: it never pointed at a release that may run; its nodes keep their last good one, \
             or run on where they have none"
        ),
    }
}
