//! `--dry-run`: what a publish would do, and to whom.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::Utc;
use publisher::build::SourceContent;
use publisher::progress::Progress;
use publisher::publish_cycle::PublishRequest;
use publisher::publish_preview::{PublishPreview, preview};
use shared::identifiers::{ActorName, BundleName, ChannelName, NodeName};
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutLimits, missing};
use streams::node_table::{NodeEntry, NodeTable};
use streams::release_store::ReleaseStore;
use subscriber::node_report::NodeReport;

use super::report::{self, PublishedRow};
use crate::history_follower::HistoryFollower;
use crate::output::{OutputFormat, note};
use crate::rollout_wait::live_followers;

/// Shows what a publish would do. Fails where the publish itself would be refused, after showing it.
pub(super) async fn run(
    connection: &Connection,
    actor: &ActorName,
    content: &SourceContent,
    request: &PublishRequest,
    progress: Progress,
    format: OutputFormat,
) -> anyhow::Result<ExitCode> {
    let missing = missing(connection, &Layout::declared(LayoutLimits::default())).await?;
    let (log, bucket) = (EventLog::new(connection.clone()), ReleaseStore::new(connection.clone()));
    let stores = missing.is_empty().then_some((&log, &bucket));
    let preview = preview(stores, actor, content, request, &progress).await?;
    drop(progress);
    let nodes = match (&request.channel, stores) {
        (Some(channel), Some(_)) => nodes(connection, &request.bundle, channel).await?,
        (None, _) | (_, None) => Vec::new(),
    };
    note("demonctl: dry run: nothing is written");
    if !missing.is_empty() {
        note(&format!("demonctl: would create: {}", missing.join(", ")));
    }
    report::print(format, &PublishedRow::previewed(&preview, request.channel.as_ref(), nodes))?;
    refused(&preview, request)?;
    Ok(ExitCode::SUCCESS)
}

/// What would keep the publish from happening.
fn refused(preview: &PublishPreview, request: &PublishRequest) -> anyhow::Result<()> {
    if let Some(frozen) = &preview.frozen {
        bail!("the publish would be refused: {frozen}");
    }
    let breaking = preview.compatibility.as_ref().map_or(0, |comparison| comparison.breaking.len());
    if request.require_compatible && breaking > 0 {
        bail!("the publish would be refused: {breaking} changes break who reads the release now");
    }
    Ok(())
}

/// The live nodes that follow a channel, by name: those that `--wait` would wait for, and those that wait for the
/// channel's first release.
async fn nodes(connection: &Connection, bundle: &BundleName, channel: &ChannelName) -> anyhow::Result<Vec<NodeName>> {
    let entries = NodeTable::new(connection.clone()).list().await.context("the nodes are not known")?;
    let mut log = HistoryFollower::start(connection).await?;
    log.read_on().await?;
    let mut nodes = live_followers(bundle, channel, &entries, log.history(), log.events(), Utc::now());
    nodes.extend(following(&entries, bundle, channel));
    Ok(nodes.into_iter().collect())
}

/// The nodes that say they follow a channel of a bundle.
fn following<'a>(
    entries: &'a [NodeEntry],
    bundle: &'a BundleName,
    channel: &'a ChannelName,
) -> impl Iterator<Item = NodeName> + use<'a> {
    let follows = move |entry: &&NodeEntry| {
        let report: Option<NodeReport> = serde_json::from_slice(&entry.value).ok();
        report.is_some_and(|report| report.bundle == *bundle && report.channel.as_ref() == Some(channel))
    };
    entries.iter().filter(follows).map(|entry| entry.node.clone())
}
