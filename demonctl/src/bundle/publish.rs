//! `demonctl bundle publish`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use shared::identifiers::BundleName;

use crate::publishing::{self, Publication, PublishingArguments};

#[derive(Debug, Args)]
#[command(
    after_help = "An unchanged directory is no failure: exit 0, and it says so. Refused, with exit 1 and nothing\n\
                        stored: a frozen channel, withdrawn content, and a tag that holds other content."
)]
pub(crate) struct PublishArguments {
    /// Directory to publish; everything below it but `.git`.
    #[arg(env = "DEMON_PUBLISHER_SOURCE", value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Bundle that it is a release of; `contracts` becomes `bundle.json`, `manifest.json` and `bundle.sha256`, others
    /// travel as they are.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    bundle: BundleName,
    #[command(flatten)]
    publishing: PublishingArguments,
}

impl PublishArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let mut settings = self.publishing.settings()?;
        settings["directory"] = json!(self.directory);
        settings["bundle"] = json!(self.bundle);
        Ok(settings)
    }
}

/// Publishes the directory, with its commit where it has one.
pub(super) async fn run(arguments: PublishArguments) -> anyhow::Result<ExitCode> {
    let publication = Publication { bundle: arguments.bundle, directory: arguments.directory, needs_commit: false };
    publishing::run(publication, arguments.publishing).await
}
