//! `demonctl contracts fetch-bundle`: the three files of a contracts release, verified, at a place on this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use publisher::github::{GitHubArguments, GitHubReleases, github_release_content};
use serde::Serialize;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::identifiers::{BundleName, Tag};
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use subscriber::catalogue::{Wanted, resolve};
use subscriber::checkout::{
    CheckedOut, Foreign, LocalRelease, Means, Origin, describe, holds_contracts, into_cache, into_directory,
};

use super::source::ContractsSource;
use crate::checkout::{
    AgentOnDestination, AgentSide, DEFAULT_CACHE, Destination, LogFacts, PinTarget, ReaderArguments,
};
use crate::event_text::bytes;
use crate::fetch_progress::FetchProgress;
use crate::operator::ActorArguments;
use crate::output::{note, print_line};

/// What channel `latest` points at, and on GitHub a release of this name.
const LATEST: &str = "contracts-latest";
/// Name of the file that commands are pointed at.
const BUNDLE_FILE: &str = "bundle.json";

/// Options of `contracts fetch-bundle`.
#[derive(Debug, Args)]
#[command(after_help = "\
Into `.demon/contracts` (or any directory that is an agent's cache) the release is laid out as an\n\
agent does and switched to atomically; an agent that serves it takes it over within seconds and\n\
keeps it until its channel next moves. Any other --dest gets the three files as they were released.\n\
Nothing becomes visible that was not verified; a release that was withdrawn is refused.")]
pub(crate) struct FetchBundleArguments {
    /// Tag of the release to fetch; `contracts-latest` is what channel `latest` points at
    #[arg(long, env = "DEMON_CONTRACTS_TAG", value_name = "TAG", default_value = LATEST)]
    tag: String,
    /// Directory to put it into
    #[arg(long, env = "DEMON_CONTRACTS_CACHE", value_name = "DIRECTORY", default_value = DEFAULT_CACHE)]
    dest: PathBuf,
    /// Look the release up and show what would be fetched; writes nothing
    #[arg(long, env = "DEMON_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// Form of the output
    #[arg(long, env = "DEMON_FETCH_FORMAT", value_name = "FORMAT", default_value = "text", value_enum)]
    format: FetchFormat,
    /// Where the release is fetched from
    #[arg(long, env = "DEMON_CONTRACTS_SOURCE", value_name = "SOURCE", default_value = "nats", value_enum)]
    source: ContractsSource,
    /// Bundle with the form of contracts
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    bundle: BundleName,
    #[command(flatten)]
    agent: AgentOnDestination,
    #[command(flatten)]
    actor: ActorArguments,
    #[command(flatten)]
    reader: ReaderArguments,
    #[command(flatten)]
    github: GitHubArguments,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum FetchFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl FetchBundleArguments {
    /// The tag asked for; a variable that is set but empty counts as unset.
    fn tag(&self) -> &str {
        if self.tag.is_empty() { LATEST } else { &self.tag }
    }

    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "tag": self.tag(), "dest": self.dest, "dry_run": self.dry_run, "format": self.format,
            "source": self.source, "bundle": self.bundle, "agent": self.agent.settings(),
            "connection": self.reader.settings()?, "github": self.github.settings()?,
        }))
    }
}

/// Fetches, and says where the bundle is.
pub(super) async fn run(arguments: FetchBundleArguments) -> anyhow::Result<ExitCode> {
    let format = arguments.format;
    match fetch(&arguments).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let text = ErrorChain(error.as_ref()).to_string();
            match format {
                FetchFormat::Json => print_line(&format!("{{\"phase\": \"fetch\", \"error\": {}}}", quoted(&text)?))?,
                FetchFormat::Text => note(&text),
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn fetch(arguments: &FetchBundleArguments) -> anyhow::Result<()> {
    announce(arguments)?;
    let destination = Destination::new(&arguments.dest, &arguments.agent)?;
    match arguments.source {
        ContractsSource::Nats => from_nats(arguments, &destination).await,
        ContractsSource::Github => from_github(arguments, &destination).await,
    }
}

/// What is about to happen.
fn announce(arguments: &FetchBundleArguments) -> anyhow::Result<()> {
    if arguments.format == FetchFormat::Json {
        return print_line(&format!("{{\"phase\": \"fetch\", \"dry_run\": {}}}", arguments.dry_run));
    }
    print_line("Fetching contract bundle")?;
    if arguments.dry_run {
        print_line("Dry run mode")?;
    }
    print_line(&format!("Destination: {}", arguments.dest.display()))?;
    if arguments.dry_run {
        print_line(&format!("Would fetch tag: {}", arguments.tag()))?;
    }
    Ok(())
}

async fn from_nats(arguments: &FetchBundleArguments, destination: &Destination) -> anyhow::Result<()> {
    let wanted = match arguments.tag() {
        LATEST => Wanted::HeadOf("latest".parse()?),
        tag => Wanted::parse(tag, &arguments.bundle)?,
    };
    let connection = arguments.reader.connect().await?;
    let resolved = resolve(&EventLog::new(connection.clone()), &arguments.bundle, &wanted).await?;
    let published = &resolved.release.published;
    found(
        arguments,
        &Found {
            tag: published.tag.to_string(),
            sha256: Some(published.content_digest.to_string()),
            tree_digest: Some(published.tree_digest.to_string()),
            files: published.files,
            bytes: published.total_bytes,
            download_bytes: published.archive.size + published.release.size,
        },
    )?;
    if arguments.dry_run {
        return Ok(());
    }
    let store = ReleaseStore::new(connection.clone());
    if !holds_contracts(&describe(&store, published).await?) {
        let (tag, bundle) = (&published.tag, &arguments.bundle);
        bail!("release `{tag}` holds no contracts: fetch it with `demonctl bundle fetch --bundle {bundle}`");
    }
    let progress = FetchProgress::new(published.archive.size);
    let origin = Origin::Store { store: &store, published, progress: &progress };
    let facts = LogFacts { log: resolved.log, heads: resolved.heads.clone() };
    let target = PinTarget::from(published);
    let checked_out = check_out(arguments, destination, &origin, &target, &facts).await?;
    drop(progress);
    connection.drain().await;
    complete(arguments, &checked_out)
}

async fn from_github(arguments: &FetchBundleArguments, destination: &Destination) -> anyhow::Result<()> {
    let releases = GitHubReleases::new(&arguments.github.settings()?)?;
    let asked: Tag = arguments.tag().parse()?;
    let release = releases.get(&asked).await?;
    let bytes: u64 = release.assets.iter().map(|asset| asset.size).fold(0, u64::saturating_add);
    let files = release.assets.len() as u64;
    let sha256 = release.asset(BUNDLE_FILE).and_then(|asset| asset.digest).map(|digest| digest.to_string());
    let tag = release.tag.to_string();
    found(arguments, &Found { tag, sha256, tree_digest: None, files, bytes, download_bytes: bytes })?;
    if arguments.dry_run {
        return Ok(());
    }
    let downloaded = releases.download(&release).await?;
    let (_, facts) = github_release_content(&downloaded)?;
    let files = [
        (BUNDLE_FILE, downloaded.bundle_json.clone()),
        ("manifest.json", downloaded.manifest_json.clone()),
        ("bundle.sha256", downloaded.bundle_sha256.clone()),
    ];
    // Under an alias the next release would take the place of this one.
    let tag = facts.tag.unwrap_or(asked);
    let local = LocalRelease::of_files(&arguments.bundle, &tag, &files)?;
    let target = PinTarget::from(local.release());
    let origin = Origin::Local(&local);
    let checked_out = check_out(arguments, destination, &origin, &target, &LogFacts::default()).await?;
    complete(arguments, &checked_out)
}

/// What was looked up.
struct Found {
    tag: String,
    sha256: Option<String>,
    tree_digest: Option<String>,
    files: u64,
    bytes: u64,
    download_bytes: u64,
}

fn found(arguments: &FetchBundleArguments, found: &Found) -> anyhow::Result<()> {
    let sha256 = found.sha256.as_deref();
    if arguments.format == FetchFormat::Json {
        return print_line(&serde_json::to_string(&json!({
            "phase": "resolved", "tag": found.tag, "bundle_sha256": sha256, "tree_digest": found.tree_digest,
            "files": found.files, "bytes": found.bytes, "download_bytes": found.download_bytes,
        }))?);
    }
    print_line(&format!("Release: {}", found.tag))?;
    if let Some(sha256) = sha256 {
        print_line(&format!("SHA-256: {sha256}"))?;
    }
    let (all, download) = (bytes(found.bytes), bytes(found.download_bytes));
    print_line(&format!("Size: {all} in {} files ({download} to download)", found.files))
}

async fn check_out(
    arguments: &FetchBundleArguments,
    destination: &Destination,
    origin: &Origin<'_>,
    target: &PinTarget,
    facts: &LogFacts,
) -> anyhow::Result<CheckedOut> {
    if !destination.is_cache {
        return Ok(into_directory(origin, &destination.absolute, BTreeSet::new(), Foreign::Refuse).await?);
    }
    // A pin without a name is better than no fetch.
    let actor = arguments.actor.name().ok();
    let side = AgentSide::of(destination, &arguments.agent, &arguments.bundle, target, facts, actor)?;
    let checked_out = into_cache(origin, &destination.absolute, side.pin(), side.has_agent()).await?;
    side.explain();
    Ok(checked_out)
}

fn complete(arguments: &FetchBundleArguments, checked_out: &CheckedOut) -> anyhow::Result<()> {
    let path = arguments.dest.join(BUNDLE_FILE);
    if arguments.format == FetchFormat::Json {
        let path = quoted(&path_text(&path))?;
        return print_line(&format!("{{\"phase\": \"complete\", \"bundle_path\": {path}}}"));
    }
    if checked_out.means == Means::Found {
        print_line("Already there and intact: nothing to download")?;
    }
    print_line(&format!("Bundle downloaded to: {}", path.display()))
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn quoted(text: &str) -> anyhow::Result<String> {
    Ok(serde_json::to_string(text)?)
}
