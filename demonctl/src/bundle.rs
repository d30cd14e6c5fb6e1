//! `demonctl bundle`: releases of any bundle.

mod diff;
mod fetch;
mod list;
mod publish;
mod release_difference;
mod show;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Publish a directory as a release of a bundle, where it changed.
    Publish(Box<publish::PublishArguments>),
    /// Fetch a release, verify it and put its files into a directory.
    Fetch(Box<fetch::FetchArguments>),
    /// List a bundle's releases, newest first.
    List(list::ListArguments),
    /// Show one release: digests, objects, files, where it comes from.
    Show(show::ShowArguments),
    /// Compare two releases, or a release with a directory, file by file.
    Diff(diff::DiffArguments),
}

impl BundleCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::Publish(arguments) => arguments.settings(),
            Self::Fetch(arguments) => arguments.settings(),
            Self::List(arguments) => arguments.settings(),
            Self::Show(arguments) => arguments.settings(),
            Self::Diff(arguments) => arguments.settings(),
        }
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: BundleCommand) -> anyhow::Result<ExitCode> {
    match command {
        BundleCommand::Publish(arguments) => publish::run(*arguments).await,
        BundleCommand::Fetch(arguments) => fetch::run(*arguments).await,
        BundleCommand::List(arguments) => list::run(arguments).await,
        BundleCommand::Show(arguments) => show::run(arguments).await,
        BundleCommand::Diff(arguments) => diff::run(arguments).await,
    }
}
