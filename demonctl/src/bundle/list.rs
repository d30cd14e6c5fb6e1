//! `demonctl bundle list`: releases, newest first, with the channels that point at them.

use std::collections::BTreeMap;
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use streams::event_log::EventLog;
use subscriber::catalogue::{Catalogue, Withdrawal};

use crate::checkout::ReaderArguments;
use crate::event_text::bytes;
use crate::output::{OutputFormat, print_rows};

/// Options of `bundle list`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// List this bundle only [default: every bundle]
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    bundle: Option<BundleName>,
    /// Form of the output
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    reader: ReaderArguments,
}

impl ListArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({ "bundle": self.bundle, "output": self.output, "connection": self.reader.settings()? }))
    }
}

/// Who withdrew a release, when and why.
#[derive(Debug, Serialize)]
pub(super) struct WithdrawalRow {
    pub(super) actor: ActorName,
    pub(super) reason: String,
    pub(super) withdrawn_at: DateTime<Utc>,
}

impl From<&Withdrawal> for WithdrawalRow {
    fn from(found: &Withdrawal) -> Self {
        let (actor, reason) = (found.withdrawn.actor.clone(), found.withdrawn.reason.clone());
        Self { actor, reason, withdrawn_at: found.time }
    }
}

/// One release as scripts read it.
#[derive(Serialize)]
struct Row {
    bundle: BundleName,
    tag: Tag,
    published_at: DateTime<Utc>,
    actor: ActorName,
    tree_digest: Sha256Digest,
    content_digest: Sha256Digest,
    files: u64,
    total_bytes: u64,
    archive_bytes: u64,
    channels: Vec<ChannelName>,
    withdrawn: Option<WithdrawalRow>,
}

/// Lists the releases.
pub(super) async fn run(arguments: ListArguments) -> anyhow::Result<ExitCode> {
    let connection = arguments.reader.connect().await?;
    let log = EventLog::new(connection.clone());
    let catalogues = match &arguments.bundle {
        Some(bundle) => BTreeMap::from([(bundle.clone(), Catalogue::read(&log, bundle).await?)]),
        None => Catalogue::read_all(&log).await?,
    };
    connection.drain().await;
    let rows: Vec<Row> = catalogues.values().flat_map(rows_of).collect();
    let columns = ["bundle", "tag", "published", "by", "tree", "files", "size", "channels", "withdrawn"];
    print_rows(arguments.output, &columns, &rows, cells)?;
    Ok(ExitCode::SUCCESS)
}

fn rows_of(catalogue: &Catalogue) -> impl Iterator<Item = Row> {
    catalogue.releases.iter().map(|release| {
        let published = &release.published;
        Row {
            bundle: published.bundle.clone(),
            tag: published.tag.clone(),
            published_at: release.time,
            actor: published.actor.clone(),
            tree_digest: published.tree_digest,
            content_digest: published.content_digest,
            files: published.files,
            total_bytes: published.total_bytes,
            archive_bytes: published.archive.size,
            channels: catalogue.channels_at(&published.tag).into_iter().collect(),
            withdrawn: catalogue.withdrawal_of(published).map(WithdrawalRow::from),
        }
    })
}

fn cells(row: &Row) -> Vec<String> {
    let channels: Vec<String> = row.channels.iter().map(ToString::to_string).collect();
    let withdrawn = row.withdrawn.as_ref().map(|found| format!("by {}: {}", found.actor, found.reason));
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        row.bundle.to_string(),
        row.tag.to_string(),
        row.published_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        row.actor.to_string(),
        row.tree_digest.short(),
        row.files.to_string(),
        bytes(row.total_bytes),
        or_dash(channels.join(", ")),
        or_dash(withdrawn.unwrap_or_default()),
    ]
}
