//! The state of the fleet as of a point in time, as tables or as JSON.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use shared::event::{Hold, PromotionCause};
use shared::fleet_history::Oddity;
use shared::fleet_history::timeline::{
    Activation, Adoption, Announcement, ChannelMove, FleetTimeline, Moment, NodeFailure, NodeTimeline, StagedRelease,
    Withdrawal,
};
use shared::identifiers::{BundleName, ChannelName, Incarnation, NodeName};

use crate::output::{OutputFormat, print_line, table};
use crate::point_in_time::to_the_second;

/// How far a state reaches.
#[derive(Debug, Serialize)]
pub(crate) struct AsOf {
    epoch: Option<Incarnation>,
    /// The last event that was read.
    stream_sequence: u64,
    /// When the server stored it.
    stored_at: Option<DateTime<Utc>>,
    /// By the sources' clocks nothing later is in the state; absent where that was not asked for.
    happened_at: Option<DateTime<Utc>>,
    /// Events that were read and left out, because they happened later.
    left_out: u64,
}

impl AsOf {
    pub(crate) fn new(timeline: &FleetTimeline, happened_at: Option<DateTime<Utc>>) -> Self {
        Self {
            epoch: timeline.state.epoch,
            stream_sequence: timeline.state.last_sequence,
            stored_at: timeline.last_stored_at,
            happened_at,
            left_out: timeline.left_out,
        }
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let stored = self.stored_at.map(|time| format!(", stored {}", to_the_second(time))).unwrap_or_default();
        let happened = self.happened_at.map(|time| {
            format!("; as it had happened by {} ({} later events left out)", to_the_second(time), self.left_out)
        });
        format!("as of event {}{stored}{}", self.stream_sequence, happened.unwrap_or_default())
    }
}

#[derive(Debug, Serialize)]
struct ChannelRow<'a> {
    bundle: &'a BundleName,
    channel: &'a ChannelName,
    head: &'a ChannelMove,
    /// Every move, oldest first; the head is the last.
    moves: &'a [ChannelMove],
}

#[derive(Debug, Serialize)]
struct ReleaseRow<'a> {
    #[serde(flatten)]
    announcement: &'a Announcement,
    /// Why it must not run any more.
    withdrawn: Option<&'a Withdrawal>,
    /// Which nodes ran it, from when to when.
    adoption: Vec<Adoption>,
}

#[derive(Debug, Serialize)]
struct NodeRow<'a> {
    node: &'a NodeName,
    bundle: &'a BundleName,
    active: Option<&'a Activation>,
    staged: Option<&'a StagedRelease>,
    failing: Option<&'a NodeFailure>,
    last_failure: Option<&'a NodeFailure>,
    last_word: Moment,
    /// Every switch, oldest first; the active one is the last.
    activations: &'a [Activation],
}

#[derive(Debug, Serialize)]
struct State<'a> {
    as_of: AsOf,
    channels: Vec<ChannelRow<'a>>,
    releases: Vec<ReleaseRow<'a>>,
    withdrawals: &'a [Withdrawal],
    nodes: Vec<NodeRow<'a>>,
    /// Events of unknown type, by type.
    unknown: &'a BTreeMap<String, u64>,
    /// Messages that are no events.
    not_applied: &'a [Oddity],
}

fn state(timeline: &FleetTimeline, happened_at: Option<DateTime<Utc>>) -> State<'_> {
    let channels = timeline
        .moves
        .iter()
        .filter_map(|((bundle, channel), moves)| Some(ChannelRow { bundle, channel, head: moves.last()?, moves }));
    let mut adoptions = timeline.adoptions();
    let mut releases: Vec<_> = timeline
        .announcements
        .iter()
        .map(|(release, announcement)| ReleaseRow {
            announcement,
            withdrawn: timeline.withdrawal_of(announcement.published.tree_digest),
            adoption: adoptions.remove(release).unwrap_or_default(),
        })
        .collect();
    releases.sort_by_key(|release| release.announcement.moment.stream_sequence);
    State {
        as_of: AsOf::new(timeline, happened_at),
        channels: channels.collect(),
        releases,
        withdrawals: &timeline.withdrawals,
        nodes: timeline.nodes.iter().map(|((node, bundle), way)| node_row(node, bundle, way)).collect(),
        unknown: &timeline.state.unknown,
        not_applied: &timeline.state.oddities,
    }
}

fn node_row<'a>(node: &'a NodeName, bundle: &'a BundleName, way: &'a NodeTimeline) -> NodeRow<'a> {
    NodeRow {
        node,
        bundle,
        active: way.active(),
        staged: way.staged.as_ref(),
        failing: way.failing(),
        last_failure: way.last_failure.as_ref(),
        last_word: way.last_word,
        activations: &way.activations,
    }
}

/// Prints a state. `happened_at` is the sources' time it was asked for, if any.
pub(crate) fn print_state(
    format: OutputFormat,
    timeline: &FleetTimeline,
    happened_at: Option<DateTime<Utc>>,
) -> anyhow::Result<()> {
    let state = state(timeline, happened_at);
    match format {
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(&state)?),
        OutputFormat::Jsonl => print_documents(&state),
        OutputFormat::Table => print_tables(&state),
    }
}

/// One document for each thing, which says what it is about.
fn print_documents(state: &State<'_>) -> anyhow::Result<()> {
    print_line(&json!({ "kind": "as_of", "as_of": state.as_of }).to_string())?;
    for channel in &state.channels {
        print_line(&json!({ "kind": "channel", "channel": channel }).to_string())?;
    }
    for release in &state.releases {
        print_line(&json!({ "kind": "release", "release": release }).to_string())?;
    }
    for withdrawal in state.withdrawals {
        print_line(&json!({ "kind": "withdrawal", "withdrawal": withdrawal }).to_string())?;
    }
    for node in &state.nodes {
        print_line(&json!({ "kind": "node", "node": node }).to_string())?;
    }
    Ok(())
}

fn print_tables(state: &State<'_>) -> anyhow::Result<()> {
    print_line(&state.as_of.describe())?;
    print_line("")?;
    let channels = state.channels.iter().map(|row| {
        let head = &row.head.promoted;
        vec![
            row.bundle.to_string(),
            row.channel.to_string(),
            head.tag.to_string(),
            to_the_second(row.head.moment.stored_at),
            cause(head.cause).to_owned(),
            hold(head.hold).to_owned(),
            head.actor.to_string(),
            row.moves.len().to_string(),
        ]
    });
    print_line(&table(&["bundle", "channel", "tag", "last move", "cause", "hold", "by", "moves"], channels))?;
    print_line("")?;
    let releases = state.releases.iter().map(|row| {
        let published = &row.announcement.published;
        let running = row.adoption.iter().filter(|adoption| adoption.until.is_none()).count();
        vec![
            published.bundle.to_string(),
            published.tag.to_string(),
            to_the_second(row.announcement.moment.stored_at),
            published.tree_digest.short(),
            running.to_string(),
            row.withdrawn.map_or_else(|| "-".to_owned(), |by| by.withdrawn.reason.clone()),
        ]
    });
    print_line(&table(&["bundle", "release", "published", "tree", "nodes", "withdrawn"], releases))?;
    print_line("")?;
    let nodes = state.nodes.iter().map(|row| {
        vec![
            row.node.to_string(),
            row.bundle.to_string(),
            row.active.map_or_else(|| "nothing".to_owned(), |active| active.loaded.tag.to_string()),
            row.active.map_or_else(|| "-".to_owned(), |active| to_the_second(active.moment.happened_at)),
            row.staged.map_or_else(|| "-".to_owned(), |staged| staged.tag.to_string()),
            row.failing.map_or_else(|| "-".to_owned(), |failing| format!("{} {}", failing.event_type, failing.tag)),
            to_the_second(row.last_word.stored_at),
        ]
    });
    print_line(&table(&["node", "bundle", "runs", "since", "staged", "failing", "last word"], nodes))?;
    let unknown: u64 = state.unknown.values().sum();
    if unknown > 0 || !state.not_applied.is_empty() {
        print_line("")?;
        print_line(&format!(
            "{unknown} events are of unknown types, {} messages are no events of ours",
            state.not_applied.len()
        ))?;
    }
    Ok(())
}

/// A cause as tables show it.
pub(crate) fn cause(cause: PromotionCause) -> &'static str {
    match cause {
        PromotionCause::Publish => "publish",
        PromotionCause::Promote => "promote",
        PromotionCause::Rollback => "rollback",
        PromotionCause::Withdraw => "withdraw",
        PromotionCause::Freeze => "freeze",
        PromotionCause::Thaw => "thaw",
        PromotionCause::Rollout => "rollout",
    }
}

/// A hold as tables show it.
pub(crate) fn hold(hold: Hold) -> &'static str {
    match hold {
        Hold::None => "-",
        Hold::Held => "held",
        Hold::Frozen => "frozen",
    }
}
