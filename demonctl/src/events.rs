//! `demonctl events`: the log as the product. Reading, following, replaying, exporting and proving it.

mod event_rows;
mod export;
mod filter;
mod list;
mod replay;
mod replay_step;
mod show;
mod tail;
pub(crate) mod verify;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

pub(crate) use self::event_rows::print_events;

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List events, oldest first.
    List(list::ListArguments),
    /// Follow the log: print each event as it is stored, none missed and none twice, until Ctrl-C.
    Tail(tail::TailArguments),
    /// Show one event whole.
    Show(show::ShowArguments),
    /// Fold the log, or an export, and show the state it gives.
    Replay(replay::ReplayArguments),
    /// Write the log to one file that can be replayed and verified without a server.
    Export(export::ExportArguments),
    /// Check numbering and hash chain of every source. Exit code 0: clean; 1: not clean.
    Verify(verify::VerifyArguments),
}

impl EventsCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::List(arguments) => arguments.settings(),
            Self::Tail(arguments) => arguments.settings(),
            Self::Show(arguments) => arguments.settings(),
            Self::Replay(arguments) => arguments.settings(),
            Self::Export(arguments) => arguments.settings(),
            Self::Verify(arguments) => arguments.settings(),
        }
    }
}

/// Runs the command.
pub(crate) async fn run(command: EventsCommand) -> anyhow::Result<ExitCode> {
    match command {
        EventsCommand::List(arguments) => list::run(arguments).await,
        EventsCommand::Tail(arguments) => tail::run(arguments).await,
        EventsCommand::Show(arguments) => show::run(arguments).await,
        EventsCommand::Replay(arguments) => replay::run(arguments).await,
        EventsCommand::Export(arguments) => export::run(arguments).await,
        EventsCommand::Verify(arguments) => verify::run(arguments).await,
    }
}
