//! `demonctl bundle show`: one release, with everything the log and the store say about it.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::event::{DeltaReference, GitFacts, ObjectReference, Published};
use shared::identifiers::{BundleName, ChannelName};
use shared::release::ReleaseFile;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use subscriber::catalogue::{AnnouncedRelease, Catalogue, ResolveError, Wanted};
use subscriber::checkout::describe;

use super::list::WithdrawalRow;
use crate::checkout::ReaderArguments;
use crate::event_text::bytes;
use crate::output::{OutputFormat, print_line, table};

/// Options of `bundle show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Tag of the release; `latest` is what channel `latest` points at
    #[arg(value_name = "TAG")]
    tag: String,
    /// The bundle
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    bundle: BundleName,
    /// List its files too
    #[arg(long, env = "DEMON_SHOW_FILES", value_parser = clap::builder::BoolishValueParser::new())]
    files: bool,
    /// Form of the output
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    reader: ReaderArguments,
}

impl ShowArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "tag": self.tag, "bundle": self.bundle, "files": self.files, "output": self.output,
            "connection": self.reader.settings()?,
        }))
    }
}

/// A release as scripts read it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    published: Announced<'a>,
    published_at: DateTime<Utc>,
    stream_sequence: u64,
    channels: Vec<ChannelName>,
    withdrawn: Option<WithdrawalRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_list: Option<Vec<ReleaseFile>>,
}

#[derive(Serialize)]
struct Announced<'a> {
    bundle: &'a BundleName,
    tag: String,
    tree_digest: String,
    content_digest: String,
    files: u64,
    total_bytes: u64,
    archive: &'a ObjectReference,
    release: &'a ObjectReference,
    deltas: &'a [DeltaReference],
    git: Option<&'a GitFacts>,
    trigger: &'static str,
    actor: String,
}

impl<'a> From<&'a Published> for Announced<'a> {
    fn from(published: &'a Published) -> Self {
        Self {
            bundle: &published.bundle,
            tag: published.tag.to_string(),
            tree_digest: published.tree_digest.to_string(),
            content_digest: published.content_digest.to_string(),
            files: published.files,
            total_bytes: published.total_bytes,
            archive: &published.archive,
            release: &published.release,
            deltas: &published.deltas,
            git: published.git.as_ref(),
            trigger: published.trigger.as_str(),
            actor: published.actor.to_string(),
        }
    }
}

/// Shows the release.
pub(super) async fn run(arguments: ShowArguments) -> anyhow::Result<ExitCode> {
    let connection = arguments.reader.connect().await?;
    let catalogue = Catalogue::read(&EventLog::new(connection.clone()), &arguments.bundle).await?;
    let release = find(&catalogue, &arguments)?;
    let file_list = if arguments.files {
        let store = ReleaseStore::new(connection.clone());
        Some(describe(&store, &release.published).await?.files().to_vec())
    } else {
        None
    };
    connection.drain().await;
    let shown = Shown {
        published: Announced::from(&release.published),
        published_at: release.time,
        stream_sequence: release.stream_sequence,
        channels: catalogue.channels_at(&release.published.tag).into_iter().collect(),
        withdrawn: catalogue.withdrawal_of(&release.published).map(WithdrawalRow::from),
        file_list,
    };
    match arguments.output {
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(&shown)?)?,
        OutputFormat::Jsonl => print_line(&serde_json::to_string(&shown)?)?,
        OutputFormat::Table => print_table(&shown)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(catalogue: &'a Catalogue, arguments: &ShowArguments) -> anyhow::Result<&'a AnnouncedRelease> {
    let tag = match Wanted::parse(&arguments.tag, &arguments.bundle)? {
        Wanted::Tag(tag) => tag,
        Wanted::HeadOf(channel) => match catalogue.heads.get(&channel) {
            Some((_, head)) => head.tag.clone(),
            None => return Err(ResolveError::NoHead { bundle: arguments.bundle.clone(), channel }.into()),
        },
    };
    Ok(catalogue.find(&tag).ok_or(ResolveError::NotFound { tag })?)
}

fn print_table(shown: &Shown<'_>) -> anyhow::Result<()> {
    let published = &shown.published;
    let object =
        |object: &ObjectReference| format!("{} ({}, sha256 {})", object.name, bytes(object.size), object.sha256);
    let git = published.git.map_or_else(
        || "-".to_owned(),
        |git| {
            let more = [&git.repository, &git.reference].into_iter().flatten();
            [git.sha.clone()].into_iter().chain(more.cloned()).collect::<Vec<_>>().join(" ")
        },
    );
    let withdrawn = shown.withdrawn.as_ref().map_or_else(
        || "no".to_owned(),
        |found| format!("by {} at {}: {}", found.actor, seconds(found.withdrawn_at), found.reason),
    );
    let channels: Vec<String> = shown.channels.iter().map(ToString::to_string).collect();
    let lines = [
        ("Bundle", published.bundle.to_string()),
        ("Tag", published.tag.clone()),
        ("Published", format!("{} by {} ({})", seconds(shown.published_at), published.actor, published.trigger)),
        ("Event", shown.stream_sequence.to_string()),
        ("Tree digest", published.tree_digest.clone()),
        ("Content digest", published.content_digest.clone()),
        ("Files", format!("{}, {}", published.files, bytes(published.total_bytes))),
        ("Archive", object(published.archive)),
        ("Description", object(published.release)),
        ("Git", git),
        ("Channels", if channels.is_empty() { "-".to_owned() } else { channels.join(", ") }),
        ("Withdrawn", withdrawn),
    ];
    let deltas =
        published.deltas.iter().map(|delta| ("Delta", format!("from {}: {}", delta.base_tag, object(&delta.object))));
    for (name, value) in lines.into_iter().chain(deltas) {
        print_line(&format!("{name:<16}{value}"))?;
    }
    if let Some(files) = &shown.file_list {
        print_line("")?;
        let rows = files
            .iter()
            .map(|file| vec![file.mode.to_string(), bytes(file.size), file.sha256.to_string(), file.path.to_string()]);
        print_line(&table(&["mode", "size", "sha256", "path"], rows))?;
    }
    Ok(())
}

fn seconds(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
