//! `demonctl channel history`.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use publisher::channel::{MoveError, read_history};
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::event::{Hold, PromotionCause};
use shared::identifiers::{ActorName, Tag};
use streams::event_log::EventLog;

use super::{ChannelQuery, hold_cell, time_cell};
use crate::operator;
use crate::output::{print_rows, printable};

#[derive(Serialize)]
struct Row {
    sequence: u64,
    time: Option<DateTime<Utc>>,
    from: Option<Tag>,
    to: Tag,
    tree_digest: Sha256Digest,
    cause: PromotionCause,
    hold: Hold,
    /// Whether it was moved although it was frozen.
    #[serde(rename = "override")]
    overrode_freeze: bool,
    actor: ActorName,
    reason: Option<String>,
}

/// Shows the channel's moves, as the stream's leader has them.
pub(super) async fn run(query: ChannelQuery) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&query.connection).await?;
    let (bundle, channel) = (query.bundle.bundle, query.channel);
    let log = EventLog::new(connection);
    let history = read_history(&log, &bundle, &channel).await.context("the channel's history cannot be read")?;
    if history.last_sequence() == 0 {
        return Err(MoveError::NoSuchChannel { bundle, channel }.into());
    }
    let row = |head: &publisher::channel_history::ChannelHead| {
        let promoted = head.promoted.clone();
        Row {
            sequence: head.stream_sequence,
            time: history.stored_at(head),
            overrode_freeze: promoted.overrode_freeze(),
            from: promoted.previous_tag,
            to: promoted.tag,
            tree_digest: promoted.tree_digest,
            cause: promoted.cause,
            hold: promoted.hold,
            actor: promoted.actor,
            reason: promoted.reason,
        }
    };
    let rows: Vec<Row> = history.moves().iter().map(row).collect();
    let columns = ["sequence", "time", "cause", "from", "to", "hold", "by", "reason"];
    print_rows(query.output, &columns, &rows, |row| {
        let override_mark = if row.overrode_freeze { ", override" } else { "" };
        vec![
            row.sequence.to_string(),
            row.time.map_or_else(|| "-".to_owned(), time_cell),
            format!("{}{override_mark}", row.cause.as_str()),
            row.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            row.to.to_string(),
            hold_cell(row.hold).to_owned(),
            row.actor.to_string(),
            row.reason.as_deref().map_or_else(|| "-".to_owned(), printable),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}
