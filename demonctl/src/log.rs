//! `demonctl log`: signed statements of what the log holds, and proofs that need no log.

mod begin_epoch;
mod checkpoint;
mod checkpoint_survey;
mod keygen;
mod prove;
mod restored_log;
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
    /// Say that the log was restored from a backup: begins a new epoch that continues the kept part of the old one.
    ///
    /// Agents hold a log that ends before what they have seen for one that lags, and wait. With the new epoch they read it
    /// anew and go on. Refuses where nothing shows that the log was restored. Changes no release and no channel.
    BeginEpoch(begin_epoch::BeginEpochArguments),
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
            Self::BeginEpoch(arguments) => arguments.settings(),
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
        LogCommand::BeginEpoch(arguments) => begin_epoch::run(arguments).await,
        LogCommand::Checkpoint(arguments) => checkpoint::run(arguments).await,
        LogCommand::Show(arguments) => show::run(arguments).await,
        LogCommand::Prove(command) => prove::run(command).await,
        LogCommand::VerifyProof(arguments) => verify_proof::run(&arguments),
    }
}
