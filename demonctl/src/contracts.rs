//! `demonctl contracts`: the operators' playbook for the bundle `contracts`.

mod bundle;
mod fetch_bundle;
mod history;
mod list_releases;
mod publish;
mod source;
mod validate;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum ContractsCommand {
    /// Build the contracts bundle from a directory and print it.
    Bundle(bundle::BundleArguments),
    /// Publish the contracts as a release, where they changed.
    Publish(Box<publish::PublishArguments>),
    /// Fetch contract bundle from GitHub releases, or from NATS
    FetchBundle(Box<fetch_bundle::FetchBundleArguments>),
    /// List available contract bundle releases
    ListReleases(Box<list_releases::ListReleasesArguments>),
    /// Check a bundle file: structure, schemas, references.
    Validate(validate::ValidateArguments),
    /// List what was published, newest first.
    History(Box<history::HistoryArguments>),
}

impl ContractsCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::Bundle(arguments) => arguments.settings(),
            Self::Publish(arguments) => arguments.settings(),
            Self::FetchBundle(arguments) => arguments.settings(),
            Self::ListReleases(arguments) => arguments.settings(),
            Self::Validate(arguments) => arguments.settings(),
            Self::History(arguments) => arguments.settings(),
        }
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: ContractsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ContractsCommand::Bundle(arguments) => bundle::run(arguments).await,
        ContractsCommand::Publish(arguments) => publish::run(*arguments).await,
        ContractsCommand::FetchBundle(arguments) => fetch_bundle::run(*arguments).await,
        ContractsCommand::ListReleases(arguments) => list_releases::run(*arguments).await,
        ContractsCommand::Validate(arguments) => validate::run(arguments).await,
        ContractsCommand::History(arguments) => history::run(*arguments).await,
    }
}
