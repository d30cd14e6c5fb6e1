//! `demonctl node show`: what one node ran at an instant, and how it came to that.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::event::FallbackSource;
use shared::fleet_history::timeline::{
    Activation, Announcement, ChannelMove, FleetTimeline, Moment, NodeFailure, NodeTimeline, StagedRelease, Withdrawal,
};
use shared::identifiers::{BundleName, NodeName};
use streams::connection_arguments::ConnectionArguments;

use crate::log_input::ExportFileArguments;
use crate::operator;
use crate::output::{OutputFormat, print_line, printable, table};
use crate::point_in_time::to_the_second;
use crate::state_report::{AsOf, cause, hold};
use crate::timeline_reader::{PastArguments, timeline};

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// The node.
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// This bundle only. Default: every bundle the node has reported about.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    bundle: Option<BundleName>,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    file: ExportFileArguments,
    #[command(flatten)]
    past: PastArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl ShowArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "node": self.node,
            "bundle": self.bundle,
            "from": self.file.from, "past": self.past,
            "output": self.output,
            "connection": connection,
        }))
    }
}

/// One node and bundle.
#[derive(Debug, Serialize)]
struct Report<'a> {
    node: &'a NodeName,
    bundle: &'a BundleName,
    as_of: &'a AsOf,
    /// What it ran, and since when by both clocks.
    active: Option<&'a Activation>,
    /// The move of the channel that made it; absent for a pinned node.
    promotion: Option<&'a ChannelMove>,
    /// How the release was announced.
    announcement: Option<&'a Announcement>,
    /// Where the release must not run any more.
    withdrawal: Option<&'a Withdrawal>,
    staged: Option<&'a StagedRelease>,
    /// A failure that has not been followed by a switch.
    failing: Option<&'a NodeFailure>,
    last_failure: Option<&'a NodeFailure>,
    /// What runs instead of what is desired.
    fallback: Option<FallbackSource>,
    /// Whether its files are not those of the release it runs.
    tampered: bool,
    last_word: Moment,
    /// Every switch, oldest first; the active one is the last.
    activations: &'a [Activation],
}

/// Fails where the node had not said anything by then.
pub(super) async fn run(arguments: ShowArguments) -> anyhow::Result<ExitCode> {
    let input = arguments.file.open(&arguments.connection).await?;
    let timeline = timeline(input, &arguments.past).await?;
    let as_of = AsOf::new(&timeline, arguments.past.happened_at);
    let reports: Vec<Report<'_>> = timeline
        .nodes
        .iter()
        .filter(|((node, _), _)| *node == arguments.node)
        .filter(|((_, bundle), _)| arguments.bundle.as_ref().is_none_or(|wanted| wanted == bundle))
        .map(|((node, bundle), way)| report(&timeline, &as_of, (node, bundle), way))
        .collect();
    if reports.is_empty() {
        let about = arguments.bundle.map(|bundle| format!(" about bundle `{bundle}`")).unwrap_or_default();
        bail!("node `{}` has reported nothing{about}, {}", arguments.node, as_of.describe());
    }
    match arguments.output {
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(&reports)?)?,
        OutputFormat::Jsonl => {
            for report in &reports {
                print_line(&serde_json::to_string(report)?)?;
            }
        }
        OutputFormat::Table => {
            print_line(&as_of.describe())?;
            reports.iter().try_for_each(print_text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report<'a>(
    timeline: &'a FleetTimeline,
    as_of: &'a AsOf,
    (node, bundle): (&'a NodeName, &'a BundleName),
    way: &'a NodeTimeline,
) -> Report<'a> {
    let active = way.active();
    Report {
        node,
        bundle,
        as_of,
        active,
        promotion: active.and_then(|active| timeline.promotion_behind(active)),
        announcement: active
            .and_then(|active| timeline.announcements.get(&(bundle.clone(), active.loaded.tag.clone()))),
        withdrawal: active.and_then(|active| timeline.withdrawal_of(active.loaded.tree_digest)),
        staged: way.staged.as_ref(),
        failing: way.failing(),
        last_failure: way.last_failure.as_ref(),
        fallback: way.fallback,
        tampered: way.tampered,
        last_word: way.last_word,
        activations: &way.activations,
    }
}

fn print_text(report: &Report<'_>) -> anyhow::Result<()> {
    let line = |name: &str, value: &str| print_line(&format!("{name:<12} {}", printable(value)));
    print_line("")?;
    line("node", report.node.as_str())?;
    line("bundle", report.bundle.as_str())?;
    match report.active {
        None => line("runs", "nothing")?,
        Some(active) => {
            let verified = if active.loaded.verified { "" } else { " (NOT VERIFIED)" };
            line("runs", &format!("{}{verified}", active.loaded.tag))?;
            line("since", &both_clocks(&active.moment))?;
            line("tree digest", &active.loaded.tree_digest.to_string())?;
            line("activation", &format!("number {} of this node", active.loaded.activation_epoch))?;
        }
    }
    if let Some(source) = report.fallback {
        line("fallback", source.as_str())?;
    }
    if report.tampered {
        line("files", "NOT those of the release (tampered with)")?;
    }
    if let Some(git) = report.announcement.and_then(|announcement| announcement.published.git.as_ref()) {
        line("commit", &git.sha)?;
    }
    if let Some(announcement) = report.announcement {
        let published = &announcement.published;
        line("published", &format!("by {}, {}", published.actor, to_the_second(announcement.moment.stored_at)))?;
    }
    match (report.promotion, report.active) {
        (Some(promotion), _) => line("promoted", &describe_move(promotion))?,
        (None, Some(active)) if active.is_retreat => line("promoted", "not: the node fell back to it")?,
        (None, Some(active)) if active.loaded.channel.is_none() => line("promoted", "not: the node was pinned to it")?,
        (None, Some(_)) => line("promoted", "by a move that is not in this state")?,
        (None, None) => {}
    }
    if let Some(withdrawal) = report.withdrawal {
        let Withdrawal { moment, withdrawn, .. } = withdrawal;
        line(
            "withdrawn",
            &format!("by {}, {}: {}", withdrawn.actor, to_the_second(moment.stored_at), withdrawn.reason),
        )?;
    }
    if let Some(staged) = report.staged {
        line("staged", &format!("{}, {}", staged.tag, both_clocks(&staged.moment)))?;
    }
    match (report.failing, report.last_failure) {
        (Some(failing), _) => {
            line("failing", &describe_failure(failing))?;
            line("to do", &failing.remediation)?;
        }
        (None, Some(failure)) => line("failing", &format!("no; last: {}", describe_failure(failure)))?,
        (None, None) => line("failing", "no")?,
    }
    line("last word", &both_clocks(&report.last_word))?;
    if report.activations.len() > 1 {
        print_line("")?;
        let rows = report.activations.iter().rev().map(|activation| {
            let Activation { moment, loaded, is_retreat: _ } = activation;
            vec![
                loaded.activation_epoch.to_string(),
                loaded.tag.to_string(),
                to_the_second(moment.happened_at),
                to_the_second(moment.stored_at),
                moment.stream_sequence.to_string(),
            ]
        });
        print_line(&table(&["no", "release", "happened", "stored", "seq"], rows))?;
    }
    Ok(())
}

/// A moment by both clocks, the server's only where they differ.
fn both_clocks(moment: &Moment) -> String {
    let (happened, stored) = (to_the_second(moment.happened_at), to_the_second(moment.stored_at));
    if happened == stored {
        format!("{happened} (event {})", moment.stream_sequence)
    } else {
        format!("{happened}, reported {stored} (event {})", moment.stream_sequence)
    }
}

fn describe_move(step: &ChannelMove) -> String {
    let promoted = &step.promoted;
    let reason = promoted.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let held = if hold(promoted.hold) == "-" { String::new() } else { format!(", {}", hold(promoted.hold)) };
    format!(
        "on {} by {}, {} ({}{held}), event {}{reason}",
        promoted.channel,
        promoted.actor,
        to_the_second(step.moment.stored_at),
        cause(promoted.cause),
        step.moment.stream_sequence
    )
}

fn describe_failure(failure: &NodeFailure) -> String {
    let repeats = if failure.repeats > 0 { format!(" ({} more times)", failure.repeats) } else { String::new() };
    format!("{} {}, {}: {}{repeats}", failure.event_type, failure.tag, both_clocks(&failure.moment), failure.what)
}
