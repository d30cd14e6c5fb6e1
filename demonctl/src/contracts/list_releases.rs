//! `demonctl contracts list-releases`: what can be fetched, newest first.
//!
//! A source that cannot be reached is no failure: scripts that list on their way go on, with an empty list and the cause
//! on standard error.

use std::process::ExitCode;
use std::time::Duration;

use chrono::SecondsFormat;
use clap::{Args, ValueEnum};
use publisher::contracts_bundle::FORM_VERSION;
use publisher::github::{GitHubArguments, GitHubReleases, ReleaseSummary};
use serde::Serialize;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::identifiers::BundleName;
use streams::event_log::EventLog;
use subscriber::catalogue::{AnnouncedRelease, Catalogue};
use tokio::time::timeout;

use super::source::ContractsSource;
use crate::checkout::ReaderArguments;
use crate::output::{note, print_line};

/// A source that has not answered by then counts as one that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of `contracts list-releases`.
#[derive(Debug, Args)]
pub(crate) struct ListReleasesArguments {
    /// Most releases to list, from 1 to 1000
    #[arg(
        long,
        env = "DEMON_LIST_LIMIT",
        value_name = "NUMBER",
        default_value_t = 10,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    limit: u16,
    /// Form of the output
    #[arg(long, env = "DEMON_LIST_FORMAT", value_name = "FORMAT", default_value = "table", value_enum)]
    format: ListFormat,
    /// Where the releases are
    #[arg(long, env = "DEMON_CONTRACTS_SOURCE", value_name = "SOURCE", default_value = "nats", value_enum)]
    source: ContractsSource,
    /// Bundle with the form of contracts
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    bundle: BundleName,
    #[command(flatten)]
    reader: ReaderArguments,
    #[command(flatten)]
    github: GitHubArguments,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum ListFormat {
    /// For people
    Table,
    /// One JSON array on one line
    Json,
}

impl ListReleasesArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "limit": self.limit, "format": self.format, "source": self.source, "bundle": self.bundle,
            "connection": self.reader.settings()?, "github": self.github.settings()?,
        }))
    }
}

/// One release as scripts read it.
#[derive(Debug, Serialize)]
struct Row {
    tag_name: String,
    published_at: String,
    name: String,
}

/// Lists what can be fetched.
pub(super) async fn run(arguments: ListReleasesArguments) -> anyhow::Result<ExitCode> {
    let reading = timeout(PATIENCE, read(&arguments)).await;
    let rows = match reading.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()))) {
        Ok(rows) => rows,
        Err(error) => {
            note(&format!("Failed to fetch releases: {}", ErrorChain(error.as_ref())));
            if arguments.format == ListFormat::Json {
                print_line("[]")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    match arguments.format {
        ListFormat::Json => print_line(&serde_json::to_string(&rows)?)?,
        ListFormat::Table if rows.is_empty() => print_line("No contract releases found")?,
        ListFormat::Table => table(&rows)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(arguments: &ListReleasesArguments) -> anyhow::Result<Vec<Row>> {
    match arguments.source {
        ContractsSource::Nats => {
            let connection = arguments.reader.connect().await?;
            let catalogue = Catalogue::read(&EventLog::new(connection.clone()), &arguments.bundle).await?;
            connection.drain().await;
            // What was withdrawn cannot be fetched.
            let usable = catalogue.releases.iter().filter(|found| catalogue.withdrawal_of(&found.published).is_none());
            Ok(usable.take(arguments.limit.into()).map(row).collect())
        }
        ContractsSource::Github => {
            let releases = GitHubReleases::new(&arguments.github.settings()?)?;
            let found = releases.list(arguments.limit.into()).await?;
            Ok(found.into_iter().map(github_row).collect())
        }
    }
}

fn github_row(release: ReleaseSummary) -> Row {
    let ReleaseSummary { tag_name, published_at, name } = release;
    Row { published_at: published_at.unwrap_or_default(), name: name.unwrap_or_else(|| tag_name.clone()), tag_name }
}

fn row(release: &AnnouncedRelease) -> Row {
    let tag_name = release.published.tag.to_string();
    Row {
        name: format!("Contract Bundle {FORM_VERSION} ({tag_name})"),
        published_at: release.time.to_rfc3339_opts(SecondsFormat::Secs, true),
        tag_name,
    }
}

fn table(rows: &[Row]) -> anyhow::Result<()> {
    print_line("Available contract releases:")?;
    print_line(&format!("{:<30} {:<20} {}", "Tag", "Published", "Name"))?;
    print_line(&"-".repeat(70))?;
    for row in rows {
        let date: String = row.published_at.chars().take(10).collect();
        print_line(&format!("{:<30} {date:<20} {}", row.tag_name, row.name))?;
    }
    Ok(())
}
