//! `demonctl channel list`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::event::{Hold, PromotionCause};
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use streams::connection_arguments::ConnectionArguments;

use super::{hold_cell, time_cell};
use crate::history_follower::fold;
use crate::operator;
use crate::output::{OutputFormat, print_rows};

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only channels of this bundle. Default: of every bundle.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    bundle: Option<BundleName>,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Serialize)]
struct Row {
    bundle: BundleName,
    channel: ChannelName,
    tag: Tag,
    since: DateTime<Utc>,
    cause: PromotionCause,
    hold: Hold,
    actor: ActorName,
    moves: u64,
}

impl ListArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({ "bundle": self.bundle, "output": self.output, "connection": connection }))
    }
}

/// Shows the channels' heads.
pub(super) async fn run(arguments: ListArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let history = fold(&connection).await?;
    let wanted = |bundle: &BundleName| arguments.bundle.as_ref().is_none_or(|wanted| wanted == bundle);
    let rows: Vec<Row> = history
        .channels
        .into_iter()
        .filter(|((bundle, _), _)| wanted(bundle))
        .map(|((bundle, channel), state)| Row {
            bundle,
            channel,
            tag: state.head.tag,
            since: state.since,
            cause: state.head.cause,
            hold: state.head.hold,
            actor: state.head.actor,
            moves: state.moves,
        })
        .collect();
    print_rows(arguments.output, &["bundle", "channel", "tag", "since", "hold", "moved by", "moves"], &rows, |row| {
        vec![
            row.bundle.to_string(),
            row.channel.to_string(),
            row.tag.to_string(),
            time_cell(row.since),
            hold_cell(row.hold).to_owned(),
            row.actor.to_string(),
            row.moves.to_string(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}
