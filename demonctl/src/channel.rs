//! `demonctl channel`: which release each channel points at, and moving it.

mod history;
mod list;
mod moves;
mod show;

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shared::event::Hold;
use shared::identifiers::{BundleName, ChannelName};
use streams::connection_arguments::ConnectionArguments;

use crate::operator;
use crate::output::OutputFormat;

#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// List every channel with the release it points at.
    List(list::ListArguments),
    /// Show one channel: where it points, since when and why, and who follows it.
    Show(ChannelQuery),
    /// Point a channel at a release, and lift a hold.
    ///
    /// Where it points there already and is not held, nothing is written. `<bundle>-latest` is no release and is
    /// refused.
    Promote(moves::PromoteArguments),
    /// Point a channel at an earlier release, and hold it there: no publish moves it until a thaw or a promotion.
    Rollback(moves::RollbackArguments),
    /// Refuse every move of a channel until it is thawed.
    Freeze(moves::StayArguments),
    /// Lift a hold or a freeze: publishes and people move the channel again.
    Thaw(moves::StayArguments),
    /// List the moves of a channel, oldest first.
    History(ChannelQuery),
}

/// The option that every command about a channel has.
#[derive(Debug, Clone, Args)]
pub(crate) struct BundleArgument {
    /// The bundle whose channel is meant.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    pub(crate) bundle: BundleName,
}

/// What is asked about one channel.
#[derive(Debug, Args)]
pub(crate) struct ChannelQuery {
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

impl ChannelQuery {
    /// The effective settings, secrets masked.
    fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        let (bundle, channel) = (&self.bundle.bundle, &self.channel);
        Ok(json!({ "bundle": bundle, "channel": channel, "output": self.output, "connection": connection }))
    }
}

impl ChannelCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::List(arguments) => arguments.settings(),
            Self::Promote(arguments) => arguments.settings(),
            Self::Rollback(arguments) => arguments.settings(),
            Self::Freeze(arguments) | Self::Thaw(arguments) => arguments.settings(),
            Self::Show(query) | Self::History(query) => query.settings(),
        }
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: ChannelCommand) -> anyhow::Result<ExitCode> {
    match command {
        ChannelCommand::List(arguments) => list::run(arguments).await,
        ChannelCommand::Show(query) => show::run(query).await,
        ChannelCommand::Promote(arguments) => moves::promote(arguments).await,
        ChannelCommand::Rollback(arguments) => moves::rollback(arguments).await,
        ChannelCommand::Freeze(arguments) => moves::freeze(arguments).await,
        ChannelCommand::Thaw(arguments) => moves::thaw(arguments).await,
        ChannelCommand::History(query) => history::run(query).await,
    }
}

/// A hold in a column of its own.
fn hold_cell(hold: Hold) -> &'static str {
    if hold == Hold::None { "-" } else { hold.as_str() }
}

fn time_cell(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
