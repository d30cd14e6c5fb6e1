//! `demonctl release`: what is decided about one release, whatever channels point at it.

mod withdraw;

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use serde_json::Value;
use shared::identifiers::{BundleName, Tag};

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

/// Refuses the name that stands for a channel wherever a release is read: `<bundle>-latest` means whatever channel
/// `latest` points at, and that is no release to decide on.
pub(crate) fn refuse_alias(bundle: &BundleName, tag: &Tag) -> anyhow::Result<()> {
    let channel = tag.as_str().strip_prefix(bundle.as_str()).and_then(|rest| rest.strip_prefix('-'));
    if channel == Some("latest") {
        bail!("`{tag}` stands for channel `latest` and is no release: name one, as `demonctl channel list` shows it");
    }
    Ok(())
}
