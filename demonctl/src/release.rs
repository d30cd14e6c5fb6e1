//! `demonctl release`: what is decided about one release, whatever channels point at it.

mod withdraw;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    /// Never run a release again, anywhere; channels that point at it move back.
    Withdraw(withdraw::WithdrawArguments),
}

impl ReleaseCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::Withdraw(arguments) => arguments.settings(),
        }
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: ReleaseCommand) -> anyhow::Result<ExitCode> {
    match command {
        ReleaseCommand::Withdraw(arguments) => withdraw::run(arguments).await,
    }
}
