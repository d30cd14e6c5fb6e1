//! `demonctl blame`: which release, commit, promotion and actor put a file's content on a node.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::digest::Sha256Digest;
use shared::fleet_history::timeline::{Activation, Announcement, ChannelMove, FleetTimeline};
use shared::identifiers::{BundleName, NodeName};
use shared::limits::ReleaseLimits;
use shared::release::Release;
use shared::release_path::ReleasePath;
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;

use crate::log_input::LogInput;
use crate::operator;
use crate::output::{OutputFormat, print_line, printable};
use crate::point_in_time::to_the_second;
use crate::state_report::cause;
use crate::timeline_reader::{PastArguments, timeline};

#[derive(Debug, Args)]
pub(crate) struct BlameArguments {
    /// The node.
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// The file, as its path in the release.
    #[arg(value_name = "PATH")]
    path: ReleasePath,
    /// The bundle. Default: the only one the node has reported about.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    bundle: Option<BundleName>,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    past: PastArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl BlameArguments {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "node": self.node,
            "path": self.path,
            "bundle": self.bundle,
            "past": self.past,
            "output": self.output,
            "connection": connection,
        }))
    }
}

/// Who put the content there.
#[derive(Debug, Serialize)]
struct Blame<'a> {
    node: &'a NodeName,
    bundle: &'a BundleName,
    path: &'a ReleasePath,
    /// SHA-256 of the file's content.
    sha256: Sha256Digest,
    /// The switch that brought this content.
    since: &'a Activation,
    /// The switch to the release that runs; the content has been the same since the one above.
    active: &'a Activation,
    /// How the release that brought it was announced: commit, publisher.
    announcement: Option<&'a Announcement>,
    /// The move of the channel that made the node switch; absent for a pinned node.
    promotion: Option<&'a ChannelMove>,
    /// Where the walk back ended before it found other content: why an earlier release could not be looked into.
    not_known_before: Option<String>,
}

/// Fails where the node runs nothing, or a release without such a file.
pub(crate) async fn run(arguments: BlameArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let input = LogInput::server(&EventLog::new(connection.clone())).await?;
    let timeline = timeline(input, &arguments.past).await?;
    let bundle = bundle(&timeline, &arguments)?;
    let way = timeline.nodes.get(&(arguments.node.clone(), bundle.clone()));
    let activations = way.map(|way| way.activations.as_slice()).unwrap_or_default();
    let Some(active) = activations.last() else {
        bail!("node `{}` has not run any release of bundle `{bundle}`", arguments.node);
    };
    let mut releases = Releases { store: ReleaseStore::new(connection), timeline: &timeline, read: BTreeMap::new() };
    let tag = &active.loaded.tag;
    let running = releases.of(active).await.with_context(|| format!("cannot look into release `{tag}`"))?;
    let Some(sha256) = digest_of(running, &arguments.path) else {
        let names: Vec<_> = running.files().iter().take(5).map(|file| file.path.as_str()).collect();
        let more = if running.files().len() > 5 { ", …" } else { "" };
        bail!("release `{tag}` has no file `{}`; it has {}{more}", arguments.path, names.join(", "));
    };
    let mut since = active;
    let mut not_known_before = None;
    for earlier in activations.iter().rev().skip(1) {
        match releases.of(earlier).await {
            Ok(release) if digest_of(release, &arguments.path) == Some(sha256) => since = earlier,
            Ok(_) => break,
            Err(error) => {
                not_known_before = Some(format!("release `{}`: {}", earlier.loaded.tag, ErrorChain(error.as_ref())));
                break;
            }
        }
    }
    let blame = Blame {
        node: &arguments.node,
        bundle: &bundle,
        path: &arguments.path,
        sha256,
        since,
        active,
        announcement: timeline.announcements.get(&(bundle.clone(), since.loaded.tag.clone())),
        promotion: timeline.promotion_behind(since),
        not_known_before,
    };
    match arguments.output {
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(&blame)?)?,
        OutputFormat::Jsonl => print_line(&serde_json::to_string(&blame)?)?,
        OutputFormat::Table => print_text(&blame)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn bundle(timeline: &FleetTimeline, arguments: &BlameArguments) -> anyhow::Result<BundleName> {
    if let Some(bundle) = &arguments.bundle {
        return Ok(bundle.clone());
    }
    let of_node = timeline.nodes.keys().filter(|(node, _)| *node == arguments.node).map(|(_, bundle)| bundle);
    match of_node.collect::<Vec<_>>().as_slice() {
        [] => bail!("node `{}` has reported nothing", arguments.node),
        [one] => Ok((*one).clone()),
        several => {
            let names: Vec<_> = several.iter().map(|bundle| bundle.as_str()).collect();
            bail!("node `{}` runs {}: say which with --bundle", arguments.node, names.join(" and "))
        }
    }
}

fn digest_of(release: &Release, path: &ReleasePath) -> Option<Sha256Digest> {
    release.files().iter().find(|file| file.path == *path).map(|file| file.sha256)
}

/// What releases hold, by their `release.json` in the bucket; each is read once.
struct Releases<'a> {
    store: ReleaseStore,
    timeline: &'a FleetTimeline,
    read: BTreeMap<Sha256Digest, Release>,
}

impl Releases<'_> {
    async fn of(&mut self, activation: &Activation) -> anyhow::Result<&Release> {
        let loaded = &activation.loaded;
        if !self.read.contains_key(&loaded.tree_digest) {
            let release = self.fetch(activation).await?;
            self.read.insert(loaded.tree_digest, release);
        }
        self.read.get(&loaded.tree_digest).context("a release that was just read is gone")
    }

    async fn fetch(&self, activation: &Activation) -> anyhow::Result<Release> {
        let loaded = &activation.loaded;
        let announced = self.timeline.announcements.get(&(loaded.bundle.clone(), loaded.tag.clone()));
        let published = &announced.context("its announcement is not in the log")?.published;
        let limits = ReleaseLimits::default();
        if published.release.size > limits.release_json_bytes {
            bail!("its release.json of {} bytes is too large", published.release.size);
        }
        let bytes = self.store.read(&published.release).await.context("its release.json cannot be read")?;
        let release = Release::parse(&bytes, &limits).context("its release.json is not valid")?;
        if release.tree_digest() != loaded.tree_digest {
            bail!("the node ran tree {}, announced was {}", loaded.tree_digest, release.tree_digest());
        }
        Ok(release)
    }
}

fn print_text(blame: &Blame<'_>) -> anyhow::Result<()> {
    let line = |name: &str, value: &str| print_line(&format!("{name:<12} {}", printable(value)));
    let (since, active) = (blame.since, blame.active);
    line("file", blame.path.as_str())?;
    line("sha256", &blame.sha256.to_string())?;
    line("on node", &format!("{}, which runs {}", blame.node, active.loaded.tag))?;
    line("came with", since.loaded.tag.as_str())?;
    line("on", &format!("{} (event {})", to_the_second(since.moment.happened_at), since.moment.stream_sequence))?;
    if let Some(Announcement { published, moment, .. }) = blame.announcement {
        if let Some(git) = &published.git {
            let repository = git.repository.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
            line("commit", &format!("{}{repository}", git.sha))?;
        }
        line("published", &format!("by {}, {}", published.actor, to_the_second(moment.stored_at)))?;
    }
    match blame.promotion {
        Some(ChannelMove { promoted, moment, .. }) => {
            let reason = promoted.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let when = to_the_second(moment.stored_at);
            let how = cause(promoted.cause);
            line("promoted", &format!("on {} by {}, {when} ({how}){reason}", promoted.channel, promoted.actor))?;
        }
        None => line("promoted", "not: the node was pinned to it")?,
    }
    if let Some(reason) = &blame.not_known_before {
        line("before", &format!("not known: {reason}"))?;
    }
    Ok(())
}
