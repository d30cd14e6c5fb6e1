//! `demonctl store`: the bucket that holds the releases. What is in it, what is damaged, what is nobody's.

mod gc;
mod repair;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read every object of every release and compare it with what was announced.
    Verify(verify::VerifyArguments),
    /// Give the bucket back what it lost of a release, from a copy: a node's cache, a checkout, the source.
    Repair(repair::RepairArguments),
    /// Collect chunks that no object refers to: what a publish leaves that was killed half-way.
    Gc(gc::GcArguments),
}

impl StoreCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::Verify(arguments) => arguments.settings(),
            Self::Repair(arguments) => arguments.settings(),
            Self::Gc(arguments) => arguments.settings(),
        }
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: StoreCommand) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Verify(arguments) => verify::run(arguments).await,
        StoreCommand::Repair(arguments) => repair::run(arguments).await,
        StoreCommand::Gc(arguments) => gc::run(arguments).await,
    }
}
