//! `--dry-run`: what a publish would do, and to whom.

use std::process::ExitCode;

use anyhow::bail;
use publisher::build::SourceContent;
use publisher::progress::Progress;
use publisher::publish_cycle::PublishRequest;
use publisher::publish_preview::{PublishPreview, preview};
use shared::event::Published;
use shared::identifiers::{ActorName, ChannelName, NodeName};
use shared::subjects::EVENT_STREAM;
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutLimits, missing, release_stream};
use streams::release_store::ReleaseStore;

use super::report::{self, PublishedRow};
use crate::output::{OutputFormat, note};
use crate::rollout_wait::standing;

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
    let absent = |wanted: &str| missing.iter().any(|stream| stream == wanted);
    let stores = (!absent(EVENT_STREAM) && !absent(&release_stream())).then_some((&log, &bucket));
    let preview = preview(stores, actor, content, request, &progress).await?;
    drop(progress);
    let nodes = match (&request.channel, stores) {
        (Some(channel), Some(_)) => nodes(connection, &preview.release, channel).await?,
        (None | Some(_), _) => Vec::new(),
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
        let changes = if breaking == 1 { "1 change breaks" } else { &format!("{breaking} changes break") };
        bail!("the publish would be refused: {changes} who reads the release now");
    }
    Ok(())
}

/// The live nodes that follow a channel, by name: those that `--wait` would wait for.
async fn nodes(connection: &Connection, release: &Published, channel: &ChannelName) -> anyhow::Result<Vec<NodeName>> {
    let standing = standing(connection, &release.bundle, channel, &release.tag, release.tree_digest).await?;
    let late = standing.stragglers.into_iter().map(|straggler| straggler.node);
    let mut nodes: Vec<NodeName> = standing.followed.into_iter().chain(late).collect();
    nodes.sort();
    Ok(nodes)
}
