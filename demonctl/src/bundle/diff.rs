//! `demonctl bundle diff`: which files differ between two releases, or between a release and a directory.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use shared::identifiers::{BundleName, Tag};
use shared::release::ReleaseFile;
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use subscriber::catalogue::{Wanted, announcement, head};
use subscriber::checkout::{DirectoryTree, describe, tree_of_directory};
use tokio::task::spawn_blocking;

use super::release_difference::{Difference, differences};
use crate::checkout::ReaderArguments;
use crate::event_text::bytes;
use crate::output::{OutputFormat, print_line, print_rows};

/// Options of `bundle diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// Tag to compare from; `latest` is what channel `latest` points at
    #[arg(value_name = "FROM")]
    from: String,
    /// Tag to compare with, or a directory, which is told by a `/` in it (`./contracts`)
    #[arg(value_name = "TO")]
    to: String,
    /// The bundle
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    bundle: BundleName,
    /// Exit with 1 where anything differs
    #[arg(long, env = "DEMON_DIFF_EXIT_CODE", value_parser = clap::builder::BoolishValueParser::new())]
    exit_code: bool,
    /// Form of the output
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    reader: ReaderArguments,
}

impl DiffArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "from": self.from, "to": self.to, "bundle": self.bundle, "exit_code": self.exit_code,
            "output": self.output, "connection": self.reader.settings()?,
        }))
    }
}

/// Compares. Reads descriptions only, no file of a release.
pub(super) async fn run(arguments: DiffArguments) -> anyhow::Result<ExitCode> {
    let connection = arguments.reader.connect().await?;
    let from = files_of_release(&connection, &arguments.bundle, &arguments.from).await?;
    let to = match directory(&arguments.to) {
        Some(path) => files_of_directory(path).await?,
        None => files_of_release(&connection, &arguments.bundle, &arguments.to).await?,
    };
    connection.drain().await;
    let found = differences(&from, &to);
    if found.is_empty() && arguments.output == OutputFormat::Table {
        print_line("no differences")?;
    } else {
        let columns = ["change", "path", "from", "to"];
        print_rows(arguments.output, &columns, &found, cells)?;
    }
    Ok(if arguments.exit_code && !found.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn cells(row: &Difference) -> Vec<String> {
    let size = |side: &Option<_>| side.as_ref().map_or_else(|| "-".to_owned(), size_of);
    let path = row.old_path().map_or_else(|| row.path.clone(), |old| format!("{old} => {}", row.path));
    vec![row.change.as_str().to_owned(), path, size(&row.from), size(&row.to)]
}

fn size_of(side: &super::release_difference::Side) -> String {
    bytes(side.size)
}

fn directory(text: &str) -> Option<PathBuf> {
    // No tag has a `/` in it, or is one of these two.
    (text.contains('/') || text == "." || text == "..").then(|| PathBuf::from(text))
}

async fn files_of_release(
    connection: &Connection,
    bundle: &BundleName,
    text: &str,
) -> anyhow::Result<Vec<ReleaseFile>> {
    let log = EventLog::new(connection.clone());
    let tag: Tag = match Wanted::parse(text, bundle)? {
        Wanted::Tag(tag) => tag,
        Wanted::HeadOf(channel) => head(&log, bundle, &channel).await?.tag,
    };
    // Withdrawn releases too: what was wrong with them is a question to be asked.
    let release = announcement(&log, bundle, &tag).await?;
    let described = describe(&ReleaseStore::new(connection.clone()), &release.published).await?;
    Ok(described.files().to_vec())
}

async fn files_of_directory(path: PathBuf) -> anyhow::Result<Vec<ReleaseFile>> {
    let shown = path.display().to_string();
    let read = |path: &Path| tree_of_directory(path);
    match spawn_blocking(move || read(&path)).await?.with_context(|| format!("directory `{shown}` cannot be read"))? {
        DirectoryTree::Files(files) => Ok(files),
        DirectoryTree::Special(item) => {
            bail!("`{item}` in `{shown}` is no plain file with a name that a release can hold: nothing to compare")
        }
    }
}
