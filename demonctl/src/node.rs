//! `demonctl node`: one node's way through the releases.

mod show;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// What a node ran, since when, who promoted it and why, and what it failed at; now or at any instant.
    Show(show::ShowArguments),
}

impl NodeCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let Self::Show(arguments) = self;
        arguments.settings()
    }
}

/// Runs the command.
pub(crate) async fn run(command: NodeCommand) -> anyhow::Result<ExitCode> {
    let NodeCommand::Show(arguments) = command;
    show::run(arguments).await
}
