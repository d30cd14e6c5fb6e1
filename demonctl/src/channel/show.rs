//! `demonctl channel show`.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use publisher::channel::{MoveError, read_history};
use publisher::release_register::ReleaseRegister;
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::event::{GitFacts, Hold, PromotionCause};
use shared::identifiers::{ActorName, BundleName, ChannelName, NodeName, Tag};
use streams::event_log::EventLog;

use super::{ChannelQuery, time_cell};
use crate::event_text::bytes;
use crate::operator;
use crate::output::{print_document, printable, table};
use crate::rollout_wait::{Straggler, standing};

#[derive(Serialize)]
struct Shown {
    bundle: BundleName,
    channel: ChannelName,
    tag: Tag,
    tree_digest: Sha256Digest,
    sequence: u64,
    since: Option<DateTime<Utc>>,
    cause: PromotionCause,
    hold: Hold,
    actor: ActorName,
    reason: Option<String>,
    previous_tag: Option<Tag>,
    moves: usize,
    frozen_by: Option<ActorName>,
    frozen_since: Option<DateTime<Utc>>,
    /// What was announced of the release; absent where the log has no announcement.
    release: Option<ShownRelease>,
    /// Live nodes that follow the channel and run the release.
    followed: Vec<NodeName>,
    /// Those that do not, and why.
    stragglers: Vec<Straggler>,
}

#[derive(Serialize)]
struct ShownRelease {
    content_digest: Sha256Digest,
    files: u64,
    total_bytes: u64,
    archive_bytes: u64,
    git: Option<GitFacts>,
    /// Why it must not run any more, where it was withdrawn.
    withdrawn: Option<String>,
}

/// Shows the channel, as the stream's leader has it.
pub(super) async fn run(query: ChannelQuery) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&query.connection).await?;
    let (bundle, channel) = (query.bundle.bundle, query.channel);
    let log = EventLog::new(connection.clone());
    let history = read_history(&log, &bundle, &channel).await.context("the channel cannot be read")?;
    let register = ReleaseRegister::read(&log, &bundle).await.context("the bundle's releases cannot be read")?;
    let Some(head) = history.head() else {
        return Err(MoveError::NoSuchChannel { bundle, channel }.into());
    };
    let promoted = head.promoted.clone();
    let nodes = standing(&connection, &bundle, &channel, &promoted.tag, promoted.tree_digest).await?;
    let release = register.find(&promoted.tag).map(|(release, _)| ShownRelease {
        content_digest: release.content_digest,
        files: release.files,
        total_bytes: release.total_bytes,
        archive_bytes: release.archive.size,
        git: release.git.clone(),
        withdrawn: register.withdrawal_of(release).map(|withdrawn| withdrawn.reason.clone()),
    });
    let frozen = history.frozen_since();
    let shown = Shown {
        bundle,
        channel,
        tag: promoted.tag,
        tree_digest: promoted.tree_digest,
        sequence: head.stream_sequence,
        since: history.stored_at(head),
        cause: promoted.cause,
        hold: promoted.hold,
        actor: promoted.actor,
        reason: promoted.reason,
        previous_tag: promoted.previous_tag,
        moves: history.moves().len(),
        frozen_by: frozen.map(|head| head.promoted.actor.clone()),
        frozen_since: frozen.and_then(|head| history.stored_at(head)),
        release,
        followed: nodes.followed,
        stragglers: nodes.stragglers,
    };
    print_document(query.output, &shown, || for_people(&shown))?;
    Ok(ExitCode::SUCCESS)
}

fn for_people(shown: &Shown) -> String {
    let mut rows = vec![
        ("channel", shown.channel.to_string()),
        ("bundle", shown.bundle.to_string()),
        ("release", shown.tag.to_string()),
        ("tree digest", shown.tree_digest.to_string()),
        ("since", shown.since.map_or_else(|| "-".to_owned(), time_cell)),
        ("cause", shown.cause.as_str().to_owned()),
        ("moved by", shown.actor.to_string()),
        ("reason", shown.reason.as_deref().map_or_else(|| "-".to_owned(), printable)),
        ("before", shown.previous_tag.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
    ];
    let hold = match (shown.hold, &shown.frozen_by, shown.frozen_since) {
        (Hold::Frozen, Some(actor), Some(since)) => format!("frozen by {actor} since {}", time_cell(since)),
        (Hold::Frozen, ..) => "frozen".to_owned(),
        (Hold::Held, ..) => "held: a publish does not move it".to_owned(),
        (Hold::None, ..) => "-".to_owned(),
    };
    rows.push(("hold", hold));
    if let Some(release) = &shown.release {
        rows.push(("content", release.content_digest.to_string()));
        let (total, archive) = (bytes(release.total_bytes), bytes(release.archive_bytes));
        rows.push(("size", format!("{} files, {total}, {archive} to fetch", release.files)));
        rows.push(("commit", release.git.as_ref().map_or_else(|| "-".to_owned(), |git| printable(&git.sha))));
        if let Some(reason) = &release.withdrawn {
            rows.push(("withdrawn", printable(reason)));
        }
    }
    let (followed, late) = (shown.followed.len(), shown.stragglers.len());
    rows.push(("nodes", format!("{followed} of {} run it", followed + late)));
    rows.extend(shown.stragglers.iter().map(|straggler| ("", straggler.to_string())));
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    table(&["field", "value"], rows)
}
