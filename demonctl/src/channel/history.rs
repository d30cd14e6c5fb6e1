//! `demonctl channel history`.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use publisher::channel::{MoveError, read_history};
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::event::{Hold, PromotionCause};
use shared::identifiers::{ActorName, ChannelName, Tag};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;

use super::{BundleArgument, hold_cell, time_cell};
use crate::operator;
use crate::output::{OutputFormat, print_rows, printable};

#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// The channel.
    channel: ChannelName,
    #[command(flatten)]
    bundle: BundleArgument,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Serialize)]
struct Row {
    sequence: u64,
    time: Option<DateTime<Utc>>,
    from: Option<Tag>,
    to: Tag,
    tree_digest: Sha256Digest,
    cause: PromotionCause,
    hold: Hold,
    /// Whether it was moved although it was frozen.
    #[serde(rename = "override")]
    overrode_freeze: bool,
    actor: ActorName,
    reason: Option<String>,
}

impl HistoryArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        let (bundle, channel) = (&self.bundle.bundle, &self.channel);
        Ok(json!({ "bundle": bundle, "channel": channel, "output": self.output, "connection": connection }))
    }
}

/// Shows the channel's moves, as the stream's leader has them.
pub(super) async fn run(arguments: HistoryArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let (bundle, channel) = (arguments.bundle.bundle, arguments.channel);
    let log = EventLog::new(connection);
    let history = read_history(&log, &bundle, &channel).await.context("the channel's history cannot be read")?;
    if history.last_sequence() == 0 {
        return Err(MoveError::NoSuchChannel { bundle, channel }.into());
    }
    let row = |head: &publisher::channel_history::ChannelHead| {
        let promoted = head.promoted.clone();
        Row {
            sequence: head.stream_sequence,
            time: history.stored_at(head),
            overrode_freeze: promoted.overrode_freeze(),
            from: promoted.previous_tag,
            to: promoted.tag,
            tree_digest: promoted.tree_digest,
            cause: promoted.cause,
            hold: promoted.hold,
            actor: promoted.actor,
            reason: promoted.reason,
        }
    };
    let rows: Vec<Row> = history.moves().iter().map(row).collect();
    let columns = ["sequence", "time", "cause", "from", "to", "hold", "by", "reason"];
    print_rows(arguments.output, &columns, &rows, |row| {
        let override_mark = if row.overrode_freeze { ", override" } else { "" };
        vec![
            row.sequence.to_string(),
            row.time.map_or_else(|| "-".to_owned(), time_cell),
            format!("{}{override_mark}", row.cause.as_str()),
            row.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            row.to.to_string(),
            hold_cell(row.hold).to_owned(),
            row.actor.to_string(),
            row.reason.as_deref().map_or_else(|| "-".to_owned(), printable),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}
