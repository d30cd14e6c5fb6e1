//! `demonctl diff`: what changed in the fleet between two instants.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::fleet_history::difference::{ChannelChange, FleetDifference, NodeChange};
use shared::fleet_history::timeline::{ChannelMove, FleetTimeline, NodeFailure};
use shared::identifiers::Tag;
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;

use crate::log_input::LogInput;
use crate::operator;
use crate::output::{OutputFormat, print_line, table};
use crate::point_in_time::PointInLog;
use crate::state_report::{AsOf, cause, hold};
use crate::timeline_reader::LogFolder;

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// The earlier point, by the server's clock: a time (RFC 3339, `2025-09-21T14:03`, `2h` ago) or a stream sequence.
    #[arg(long, env = "DEMON_DIFF_FROM", value_name = "TIME|SEQUENCE")]
    from: PointInLog,
    /// The later point. Default: now.
    #[arg(long, env = "DEMON_DIFF_TO", value_name = "TIME|SEQUENCE")]
    to: Option<PointInLog>,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl DiffArguments {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({ "from": self.from, "to": self.to, "output": self.output, "connection": connection }))
    }
}

#[derive(Debug, Serialize)]
struct Report {
    from: AsOf,
    to: AsOf,
    #[serde(flatten)]
    difference: FleetDifference,
}

/// Reads the log once.
pub(crate) async fn run(arguments: DiffArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let mut log = LogFolder::start(LogInput::server(&EventLog::new(connection)).await?);
    let mut timeline = FleetTimeline::default();
    log.apply_up_to(&mut timeline, Some(arguments.from)).await?;
    let before = timeline.clone();
    log.apply_up_to(&mut timeline, arguments.to).await?;
    if !in_order(arguments.from, arguments.to, &before) {
        bail!("--from lies behind --to: exchange the two");
    }
    drop(log);
    let report = Report {
        from: AsOf::new(&before, None),
        to: AsOf::new(&timeline, None),
        difference: FleetDifference::between(&before, &timeline),
    };
    match arguments.output {
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(&report)?)?,
        OutputFormat::Jsonl => print_documents(&report.difference)?,
        OutputFormat::Table => print_text(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether everything before the first point lies before the second as well.
fn in_order(from: PointInLog, to: Option<PointInLog>, before: &FleetTimeline) -> bool {
    match (from, to) {
        (PointInLog::Time(from), Some(PointInLog::Time(to))) => from <= to,
        (PointInLog::Sequence(from), Some(PointInLog::Sequence(to))) => from <= to,
        (_, Some(to)) => {
            before.last_stored_at.is_none_or(|stored_at| to.includes(before.state.last_sequence, stored_at))
        }
        (_, None) => true,
    }
}

fn print_documents(difference: &FleetDifference) -> anyhow::Result<()> {
    for change in &difference.channels {
        print_line(&json!({ "kind": "channel", "channel": change }).to_string())?;
    }
    for published in &difference.published {
        print_line(&json!({ "kind": "published", "published": published }).to_string())?;
    }
    for withdrawn in &difference.withdrawn {
        print_line(&json!({ "kind": "withdrawn", "withdrawn": withdrawn }).to_string())?;
    }
    for change in &difference.nodes {
        print_line(&json!({ "kind": "node", "node": change }).to_string())?;
    }
    Ok(())
}

fn print_text(report: &Report) -> anyhow::Result<()> {
    print_line(&format!("from: {}", report.from.describe()))?;
    print_line(&format!("to:   {}", report.to.describe()))?;
    print_line("")?;
    let difference = &report.difference;
    if difference.is_empty() {
        return print_line("nothing changed");
    }
    let channels = difference.channels.iter().map(channel_row);
    let published = difference.published.iter().map(|announcement| {
        let published = &announcement.published;
        let what = format!("published by {}", published.actor);
        vec![
            "release".to_owned(),
            named(&published.bundle, &published.tag),
            "-".to_owned(),
            "published".to_owned(),
            what,
        ]
    });
    let withdrawn = difference.withdrawn.iter().map(|withdrawal| {
        let data = &withdrawal.withdrawn;
        let what = format!("by {}: {}", data.actor, data.reason);
        vec!["release".to_owned(), named(&data.bundle, &data.tag), "-".to_owned(), "withdrawn".to_owned(), what]
    });
    let nodes = difference.nodes.iter().map(node_row);
    let rows = channels.chain(published).chain(withdrawn).chain(nodes);
    print_line(&table(&["what", "name", "before", "after", "how"], rows))
}

fn channel_row(change: &ChannelChange) -> Vec<String> {
    let tag = |head: &Option<ChannelMove>| {
        head.as_ref().map_or_else(
            || "-".to_owned(),
            |head| match hold(head.promoted.hold) {
                "-" => head.promoted.tag.to_string(),
                hold => format!("{} ({hold})", head.promoted.tag),
            },
        )
    };
    let how = change.after.as_ref().map_or_else(String::new, |head| {
        let promoted = &head.promoted;
        let moves = if change.moves == 1 { "1 move".to_owned() } else { format!("{} moves", change.moves) };
        let reason = promoted.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{moves}, last {} by {}{reason}", cause(promoted.cause), promoted.actor)
    });
    vec!["channel".to_owned(), named(&change.bundle, &change.channel), tag(&change.before), tag(&change.after), how]
}

fn node_row(change: &NodeChange) -> Vec<String> {
    let tag = |tag: Option<&Tag>| tag.map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let failing = |failure: &Option<NodeFailure>| failure.as_ref().map(|failure| failure.tag.clone());
    let how = match (failing(&change.failing_before), failing(&change.failing_after)) {
        (_, Some(now)) => format!("fails at {now}"),
        (Some(before), None) => format!("does not fail at {before} any more"),
        (None, None) => String::new(),
    };
    vec!["node".to_owned(), named(&change.bundle, &change.node), tag(change.tag_before()), tag(change.tag_after()), how]
}

fn named(bundle: &impl std::fmt::Display, name: &impl std::fmt::Display) -> String {
    format!("{bundle}/{name}")
}
