//! `demonctl fleet wait`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use publisher::channel::{MoveError, read_history};
use publisher::release_register::ReleaseRegister;
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::identifiers::{BundleName, ChannelName, Tag};
use streams::connection_arguments::{ConnectionArguments, parse_duration};
use streams::event_log::EventLog;

use crate::operator;
use crate::output::{OutputFormat, note, print_document};
use crate::rollout_wait::{WaitOutcome, wait_for_at_least};

#[derive(Debug, Args)]
pub(crate) struct WaitForFleetArguments {
    /// The channel whose nodes to wait for.
    #[arg(long, value_name = "CHANNEL")]
    channel: ChannelName,
    /// The bundle.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    bundle: BundleName,
    /// The release they should run [default: what the channel points at now].
    #[arg(long, value_name = "TAG")]
    release: Option<Tag>,
    /// How long to wait: a number with `ms`, `s` or `m`.
    #[arg(long, env = "DEMON_WAIT_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    /// Fewer nodes than this running the release is not enough.
    #[arg(long, env = "DEMON_MIN_NODES", value_name = "N", default_value_t = 1)]
    min_nodes: usize,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Serialize)]
struct Waited<'a> {
    bundle: &'a BundleName,
    channel: &'a ChannelName,
    tag: &'a Tag,
    tree_digest: Sha256Digest,
    min_nodes: usize,
    /// Whether every live node runs the release, and enough do.
    complete: bool,
    #[serde(flatten)]
    outcome: &'a WaitOutcome,
}

impl WaitForFleetArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "channel": self.channel,
            "bundle": self.bundle,
            "release": self.release,
            "timeout": format!("{}ms", self.timeout.as_millis()),
            "min_nodes": self.min_nodes,
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }
}

/// Waits.
pub(super) async fn run(arguments: WaitForFleetArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let log = EventLog::new(connection.clone());
    let WaitForFleetArguments { channel, bundle, min_nodes, .. } = &arguments;
    let (tag, tree_digest) = if let Some(tag) = &arguments.release {
        let register = ReleaseRegister::read(&log, bundle).await.context("the bundle's releases cannot be read")?;
        let Some((release, _)) = register.find(tag) else {
            bail!("no release `{tag}` of bundle `{bundle}` was announced");
        };
        (tag.clone(), release.tree_digest)
    } else {
        let history = read_history(&log, bundle, channel).await.context("the channel cannot be read")?;
        let Some(head) = history.head() else {
            return Err(MoveError::NoSuchChannel { bundle: bundle.clone(), channel: channel.clone() }.into());
        };
        (head.promoted.tag.clone(), head.promoted.tree_digest)
    };
    let outcome =
        wait_for_at_least(*min_nodes, &connection, bundle, channel, &tag, tree_digest, arguments.timeout).await?;
    let enough = outcome.followed.len() >= *min_nodes;
    let complete = enough && outcome.stragglers.is_empty();
    let waited = Waited { bundle, channel, tag: &tag, tree_digest, min_nodes: *min_nodes, complete, outcome: &outcome };
    print_document(arguments.output, &waited, || outcome.summary(&tag))?;
    outcome.note_stragglers();
    if !enough {
        let found = outcome.followed.len();
        note(&format!("demonctl: {found} live nodes run {tag}, at least {min_nodes} must (--min-nodes)"));
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
