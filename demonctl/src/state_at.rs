//! `demonctl state`: channels, releases and nodes, now or at any instant of the past.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use streams::connection_arguments::ConnectionArguments;

use crate::log_input::ExportFileArguments;
use crate::operator;
use crate::output::OutputFormat;
use crate::state_report::print_state;
use crate::timeline_reader::{PastArguments, timeline};

#[derive(Debug, Args)]
#[command(
    after_help = "The two clocks may be given together: `--at 2025-09-24 --happened-at 2025-09-23T14:03` is what\n\
                        was known on Wednesday about Tuesday 14:03."
)]
pub(crate) struct StateArguments {
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

impl StateArguments {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({ "from": self.file.from, "past": self.past, "output": self.output, "connection": connection }))
    }
}

/// Shows the state.
pub(crate) async fn run(arguments: StateArguments) -> anyhow::Result<ExitCode> {
    let input = arguments.file.open(&arguments.connection).await?;
    let timeline = timeline(input, &arguments.past).await?;
    print_state(arguments.output, &timeline, arguments.past.happened_at)?;
    Ok(ExitCode::SUCCESS)
}
