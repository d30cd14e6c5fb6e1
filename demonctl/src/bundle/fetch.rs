//! `demonctl bundle fetch`: the files of a release of any bundle, verified, in a directory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::event::FetchStrategy;
use shared::identifiers::{BundleName, Tag};
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use subscriber::catalogue::{Catalogue, Wanted, resolve};
use subscriber::checkout::{Foreign, Means, Origin, into_cache, into_directory};

use crate::checkout::{AgentOnDestination, AgentSide, Destination, LogFacts, PinTarget, ReaderArguments};
use crate::event_text::bytes;
use crate::fetch_progress::FetchProgress;
use crate::operator::ActorArguments;
use crate::output::{OutputFormat, note, print_line};

/// Options of `bundle fetch`.
#[derive(Debug, Args)]
#[command(after_help = "\
The files appear with one rename, after every one of them was verified. A --dest that holds an\n\
earlier release of the bundle is replaced; one that holds anything else is refused. Into an agent's\n\
cache the release is laid out as the agent does, which keeps it until its channel next moves.")]
pub(crate) struct FetchArguments {
    /// The bundle
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    bundle: BundleName,
    /// Tag of the release; `latest` is what channel `latest` points at
    #[arg(long, env = "DEMON_FETCH_TAG", value_name = "TAG", default_value = "latest")]
    tag: String,
    /// Directory to put the files into
    #[arg(long, env = "DEMON_FETCH_DEST", value_name = "DIRECTORY")]
    dest: PathBuf,
    /// Move a --dest that holds anything else aside, to `<dest>.before-<id>`; nothing is deleted
    #[arg(long, env = "DEMON_FETCH_FORCE", value_parser = clap::builder::BoolishValueParser::new())]
    force: bool,
    /// Form of the output
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    agent: AgentOnDestination,
    #[command(flatten)]
    actor: ActorArguments,
    #[command(flatten)]
    reader: ReaderArguments,
}

impl FetchArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "bundle": self.bundle, "tag": self.tag, "dest": self.dest, "force": self.force, "output": self.output,
            "agent": self.agent.settings(), "connection": self.reader.settings()?,
        }))
    }
}

/// What was fetched, as scripts read it.
#[derive(Serialize)]
struct Fetched {
    bundle: BundleName,
    tag: Tag,
    tree_digest: Sha256Digest,
    content_digest: Sha256Digest,
    files: usize,
    total_bytes: u64,
    /// Where the files lie.
    path: PathBuf,
    /// Whether it was there already.
    found: bool,
    wire_bytes: u64,
    /// Null where it was there already.
    strategy: Option<FetchStrategy>,
    moved_aside: Option<PathBuf>,
}

/// Fetches, and says where the files are.
pub(super) async fn run(arguments: FetchArguments) -> anyhow::Result<ExitCode> {
    let destination = Destination::new(&arguments.dest, &arguments.agent)?;
    let wanted = Wanted::parse(&arguments.tag, &arguments.bundle)?;
    let connection = arguments.reader.connect().await?;
    let log = EventLog::new(connection.clone());
    let resolved = resolve(&log, &arguments.bundle, &wanted).await?;
    let published = &resolved.release.published;
    let store = ReleaseStore::new(connection.clone());
    let progress = FetchProgress::new(published.archive.size);
    let origin = Origin::Store { store: &store, published, progress: &progress };
    let checked_out = if destination.is_cache {
        let facts = LogFacts { log: resolved.log, heads: resolved.heads.clone() };
        let (target, actor) = (PinTarget::from(published), arguments.actor.name().ok());
        let side = AgentSide::of(&destination, &arguments.agent, &arguments.bundle, &target, &facts, actor)?;
        let checked_out = into_cache(&origin, &destination.absolute, side.pin(), side.has_agent()).await?;
        side.explain();
        checked_out
    } else {
        let releases = Catalogue::read(&log, &arguments.bundle).await?.releases;
        let known: BTreeSet<Sha256Digest> = releases.iter().map(|release| release.published.tree_digest).collect();
        let foreign = if arguments.force { Foreign::MoveAside } else { Foreign::Refuse };
        into_directory(&origin, &destination.absolute, known, foreign).await?
    };
    drop(progress);
    connection.drain().await;
    let release = checked_out.release;
    let (found, wire_bytes, strategy) = match checked_out.means {
        Means::Found => (true, 0, None),
        Means::Fetched { wire_bytes, strategy } => (false, wire_bytes, Some(strategy)),
    };
    let path = if destination.is_cache { arguments.dest.join("current/files") } else { arguments.dest };
    print(
        arguments.output,
        &Fetched {
            bundle: release.bundle().clone(),
            tag: release.tag().clone(),
            tree_digest: release.tree_digest(),
            content_digest: release.content_digest(),
            files: release.files().len(),
            total_bytes: release.total_bytes(),
            path,
            found,
            wire_bytes,
            strategy,
            moved_aside: checked_out.moved_aside,
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

fn print(output: OutputFormat, fetched: &Fetched) -> anyhow::Result<()> {
    match output {
        OutputFormat::Json => return print_line(&serde_json::to_string_pretty(fetched)?),
        OutputFormat::Jsonl => return print_line(&serde_json::to_string(fetched)?),
        OutputFormat::Table => {}
    }
    if let Some(aside) = &fetched.moved_aside {
        note(&format!("What was there before is now at {}", aside.display()));
    }
    let how = if fetched.found { "was there already and is intact" } else { "fetched and verified" };
    let (bundle, tag, tree) = (&fetched.bundle, &fetched.tag, fetched.tree_digest);
    print_line(&format!("Release {tag} of {bundle} {how}: {} files, {}", fetched.files, bytes(fetched.total_bytes)))?;
    print_line(&format!("Tree digest: {tree}"))?;
    print_line(&format!("Files are in: {}", fetched.path.display()))
}
