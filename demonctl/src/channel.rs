//! `demonctl channel`: which release each channel points at.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use shared::event::{Hold, PromotionCause};
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use streams::connection_arguments::ConnectionArguments;

use crate::history_follower::fold;
use crate::operator;
use crate::output::{OutputFormat, print_rows};

#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// List every channel with the release it points at.
    List(ListArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
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

impl ChannelCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let Self::List(arguments) = self;
        let connection = operator::connection_settings(&arguments.connection)?;
        Ok(json!({ "output": arguments.output, "connection": connection }))
    }
}

/// Shows the channels' heads.
pub(crate) async fn run(command: ChannelCommand) -> anyhow::Result<ExitCode> {
    let ChannelCommand::List(arguments) = command;
    let connection = operator::connect(&arguments.connection).await?;
    let history = fold(&connection).await?;
    let rows: Vec<Row> = history
        .channels
        .into_iter()
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
        let hold = match row.hold {
            Hold::None => "-",
            Hold::Held => "held",
            Hold::Frozen => "frozen",
        };
        vec![
            row.bundle.to_string(),
            row.channel.to_string(),
            row.tag.to_string(),
            row.since.to_rfc3339_opts(SecondsFormat::Secs, true),
            hold.to_owned(),
            row.actor.to_string(),
            row.moves.to_string(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}
