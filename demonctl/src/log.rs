//! `demonctl log`: signed statements of what the log holds, and proofs that need no log.

mod checkpoint;
mod checkpoint_survey;
mod keygen;
mod prove;
mod show;
mod verify_proof;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Make a key that signs checkpoints, and print the key that verifies them.
    Keygen(keygen::KeygenArguments),
    /// Sign what the log holds now, and store that in the log. A log that contradicts its last checkpoint is refused.
    Checkpoint(checkpoint::CheckpointArguments),
    /// Print the newest checkpoint, or another one: to be kept elsewhere, for `demonctl events verify --checkpoint`.
    Show(show::ShowArguments),
    /// Prove that an event is in the log, or that one state of it is the beginning of a later one.
    #[command(subcommand)]
    Prove(prove::ProveCommand),
    /// Verify a proof. Needs no server. Exit code 0: it holds; 1: it does not.
    VerifyProof(verify_proof::VerifyProofArguments),
}

impl LogCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::Keygen(arguments) => Ok(arguments.settings()),
            Self::Checkpoint(arguments) => arguments.settings(),
            Self::Show(arguments) => arguments.settings(),
            Self::Prove(command) => command.settings(),
            Self::VerifyProof(arguments) => Ok(arguments.settings()),
        }
    }
}

/// Runs the command.
pub(crate) async fn run(command: LogCommand) -> anyhow::Result<ExitCode> {
    match command {
        LogCommand::Keygen(arguments) => keygen::run(&arguments),
        LogCommand::Checkpoint(arguments) => checkpoint::run(arguments).await,
        LogCommand::Show(arguments) => show::run(arguments).await,
        LogCommand::Prove(command) => prove::run(command).await,
        LogCommand::VerifyProof(arguments) => verify_proof::run(&arguments),
    }
}
