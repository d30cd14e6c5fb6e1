//! `demonctl contracts publish`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use shared::identifiers::BundleName;

use crate::publishing::{self, Publication, PublishingArguments};

#[derive(Debug, Args)]
#[command(
    after_help = "Unchanged contracts are no failure: exit 0, and it says so. Refused, with exit 1 and nothing\n\
                        stored: a frozen channel, withdrawn content, a tag that holds other content, and with\n\
                        --require-compatible what breaks readers."
)]
pub(crate) struct PublishArguments {
    /// Directory of the contracts: `schemas/`, `envelopes/`, `api-contracts/`, `wit/`.
    #[arg(env = "DEMON_PUBLISHER_SOURCE", value_name = "DIRECTORY", default_value = "contracts")]
    directory: PathBuf,
    #[command(flatten)]
    publishing: PublishingArguments,
}

impl PublishArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let mut settings = self.publishing.settings()?;
        settings["directory"] = json!(self.directory);
        settings["bundle"] = json!(contracts()?);
        Ok(settings)
    }
}

fn contracts() -> anyhow::Result<BundleName> {
    Ok(publisher::contracts_bundle::CONTRACTS_BUNDLE.parse()?)
}

/// Publishes the contracts. Their manifest names a commit, so they need one.
pub(super) async fn run(arguments: PublishArguments) -> anyhow::Result<ExitCode> {
    let publication = Publication { bundle: contracts()?, directory: arguments.directory, needs_commit: true };
    publishing::run(publication, arguments.publishing).await
}
