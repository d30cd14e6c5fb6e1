//! `demonctl contracts bundle`: the bundle that a directory makes, looked at or written as a release has it.

mod release_files;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use publisher::config::{TriggerArgument, parse_time};
use publisher::contracts_bundle::{ContractsBundle, ContractsError};
use publisher::contracts_document::{ContractsDocument, check};
use publisher::git_facts::{is_commit_sum, read_commit};
use publisher::progress::Silent;
use publisher::source::directory::read_directory;
use publisher::source::{SourceError, SourceTree};
use serde::Serialize;
use serde_json::{Value, json};
use shared::event::{GitFacts, Trigger};
use shared::limits::ReleaseLimits;

use crate::output::{note, print_line};
use crate::stack::find_contracts;

#[derive(Debug, Args)]
#[command(
    after_help = "Released bundles have their WIT definitions: `--format json --include-wit` prints the very bytes\n\
                  of a release's bundle.json. --output-dir writes bundle.json, manifest.json and bundle.sha256 as a\n\
                  release has them; the same contracts, commit, time and trigger give the same bytes anywhere."
)]
pub(crate) struct BundleArguments {
    /// Directory of the contracts: `schemas/`, `envelopes/`, `api-contracts/`, `wit/`. Default: `contracts`, here or in
    /// a directory above.
    #[arg(env = "DEMON_PUBLISHER_SOURCE", value_name = "DIRECTORY")]
    directory: Option<PathBuf>,

    /// What to print: a summary, or the bundle itself.
    #[arg(long, env = "DEMON_BUNDLE_FORMAT", value_name = "FORMAT", default_value = "summary", value_enum)]
    format: BundleFormat,

    /// Print the bundle with its WIT definitions, as it is released; without it, `wit` is empty.
    #[arg(long, env = "DEMON_INCLUDE_WIT", value_parser = clap::builder::BoolishValueParser::new())]
    include_wit: bool,

    /// Also write `bundle.json`, `manifest.json` and `bundle.sha256` into this directory, which is made where it is
    /// missing.
    #[arg(long, env = "DEMON_OUTPUT_DIR", value_name = "DIRECTORY")]
    output_dir: Option<PathBuf>,

    /// Commit for the manifest, 40 lowercase hex digits. Without it git is asked; without git it is forty zeros.
    #[arg(long, env = "DEMON_GIT_SHA", value_name = "SHA")]
    git_sha: Option<String>,

    /// Full reference of the commit for the manifest, for example `refs/heads/main`. Without it and `--git-sha`, git is
    /// asked.
    #[arg(long, env = "DEMON_GIT_REF", value_name = "REF")]
    git_ref: Option<String>,

    /// Repository of the commit for the manifest, `owner/name`. Without it and `--git-sha`, git is asked for `origin`.
    #[arg(long, env = "DEMON_REPOSITORY", value_name = "OWNER/NAME")]
    repository: Option<String>,

    /// Time for the manifest: RFC 3339, or seconds since 1970. Without it: now.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "TIME")]
    timestamp: Option<String>,

    /// What makes us build, for the manifest.
    #[arg(long, env = "DEMON_TRIGGER", value_name = "TRIGGER", default_value = "local", value_enum)]
    trigger: TriggerArgument,
}

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum BundleFormat {
    /// The bundle.
    Json,
    /// Names and sizes.
    Summary,
}

impl BundleArguments {
    /// The effective settings.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let timestamp = self.timestamp()?;
        let trigger: Trigger = self.trigger.into();
        Ok(json!({
            "directory": self.directory.clone().or_else(|| find_contracts().ok()),
            "format": self.format,
            "include_wit": self.include_wit,
            "output_dir": self.output_dir,
            "git_sha": self.git_sha()?,
            "git_ref": given(self.git_ref.as_ref()),
            "repository": given(self.repository.as_ref()),
            "timestamp": timestamp,
            "trigger": trigger,
        }))
    }

    fn timestamp(&self) -> anyhow::Result<Option<DateTime<Utc>>> {
        let timestamp = given(self.timestamp.as_ref()).map(|text| parse_time(text)).transpose();
        timestamp.map_err(|error| anyhow::anyhow!("--timestamp (SOURCE_DATE_EPOCH): {error}"))
    }

    fn git_sha(&self) -> anyhow::Result<Option<&String>> {
        let sha = given(self.git_sha.as_ref());
        if let Some(sha) = sha.filter(|sha| !is_commit_sum(sha)) {
            bail!("--git-sha (DEMON_GIT_SHA): `{}` is not 40 lowercase hex digits", sha.escape_debug());
        }
        Ok(sha)
    }

    /// What the manifest says of the commit: as given, so that it is the same everywhere, else as git knows it.
    fn git_facts(&self, directory: &std::path::Path) -> anyhow::Result<Option<GitFacts>> {
        let known = match self.git_sha()? {
            Some(sha) => Some(GitFacts { sha: sha.clone(), repository: None, reference: None }),
            None => read_commit(directory).map(|commit| commit.facts),
        };
        Ok(known.map(|known| GitFacts {
            repository: given(self.repository.as_ref()).cloned().or(known.repository),
            reference: given(self.git_ref.as_ref()).cloned().or(known.reference),
            sha: known.sha,
        }))
    }
}

/// A variable that is set to nothing counts as not set.
fn given(value: Option<&String>) -> Option<&String> {
    value.filter(|text| !text.is_empty())
}

/// Builds the bundle, prints it, and writes it where that is asked for.
pub(super) async fn run(arguments: BundleArguments) -> anyhow::Result<ExitCode> {
    tokio::task::spawn_blocking(move || build(&arguments)).await.context("the build was interrupted")?
}

fn build(arguments: &BundleArguments) -> anyhow::Result<ExitCode> {
    // Wrong options are told before anything is read.
    let timestamp = arguments.timestamp()?.unwrap_or_else(Utc::now);
    arguments.git_sha()?;
    let Some((directory, source, bundle)) = read(arguments)? else {
        print_whole(&summary::of_nothing())?;
        return Ok(ExitCode::SUCCESS);
    };
    let document = ContractsDocument::parse(bundle.bundle_json())?;
    if let Err(defects) = check(bundle.bundle_json()) {
        for defect in &defects {
            note(&defect.to_string());
        }
        let count = defects.len();
        let directory = directory.display();
        if arguments.output_dir.is_some() {
            bail!("the contracts in `{directory}` are not valid, so nothing was written: see the {count} lines above");
        }
        note(&format!("warning: the contracts in `{directory}` are not valid and cannot be published"));
    }
    if let Some(output) = &arguments.output_dir {
        let git = arguments.git_facts(&directory)?;
        if git.is_none() {
            note("warning: neither --git-sha nor git says the commit, so the manifest has forty zeros");
        }
        release_files::write(output, &bundle, timestamp, git, arguments.trigger.into())?;
        note(&format!(
            "wrote bundle.json, manifest.json and bundle.sha256 to `{}`, digest {}",
            output.display(),
            bundle.digest()
        ));
    }
    match arguments.format {
        BundleFormat::Summary => print_whole(&summary::of(&document))?,
        BundleFormat::Json if arguments.include_wit => print_whole(std::str::from_utf8(bundle.bundle_json())?)?,
        BundleFormat::Json => {
            let bundle = ContractsBundle::from_source_without_wit(&source)?;
            print_whole(std::str::from_utf8(bundle.bundle_json())?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the contracts. Nothing to read is an empty summary, as it always was; it is an error for every other use.
fn read(arguments: &BundleArguments) -> anyhow::Result<Option<(PathBuf, SourceTree, ContractsBundle)>> {
    let may_be_empty = arguments.format == BundleFormat::Summary && arguments.output_dir.is_none();
    let nothing = |reason: String| {
        if !may_be_empty {
            bail!(reason);
        }
        note(&format!("warning: {reason}"));
        Ok(None)
    };
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => match find_contracts() {
            Ok(directory) => directory,
            Err(_) => {
                return nothing("there is no directory `contracts` with `schemas` in it here or above".to_owned());
            }
        },
    };
    let source = match read_directory(&directory, &ReleaseLimits::default(), &Silent) {
        Err(error @ SourceError::Empty { .. }) => return nothing(error.to_string()),
        source => source?,
    };
    match ContractsBundle::from_source(&source) {
        Err(error @ ContractsError::Nothing) => nothing(error.to_string()),
        bundle => Ok(Some((directory, source, bundle?))),
    }
}

/// Prints a text that ends with its own newline.
fn print_whole(text: &str) -> anyhow::Result<()> {
    print_line(text.strip_suffix('\n').unwrap_or(text))
}
