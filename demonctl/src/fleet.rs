//! `demonctl fleet`: what runs where, and which node is not where it should be.

mod connections;
mod heads;
mod node_rows;
mod reading_plan;
mod selection;
mod status;
mod view;
mod wait;
mod watch;

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;
use shared::digest::Sha256Digest;
use shared::fleet_history::FleetHistory;
use shared::identifiers::{BundleName, NodeName, Tag};

use crate::output::{OutputFormat, print_rows};

#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// One row a node: what it runs, what it should run, and why the two differ.
    Status(status::StatusArguments),
    /// The same as it changes, until Ctrl-C.
    Watch(watch::WatchArguments),
    /// Wait until every live node of a channel has verified its release and switched to it.
    ///
    /// Exit code 0 once all have, 3 where some did not in time; those are named with the reason.
    Wait(wait::WaitForFleetArguments),
}

#[derive(Serialize)]
struct FoldedRow {
    node: NodeName,
    bundle: BundleName,
    tag: Option<Tag>,
    tree_digest: Option<Sha256Digest>,
    since: Option<DateTime<Utc>>,
    failure: Option<String>,
}

impl FleetCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::Status(arguments) => arguments.settings(),
            Self::Watch(arguments) => arguments.settings(),
            Self::Wait(arguments) => arguments.settings(),
        }
    }
}

/// Runs the subcommand.
pub(crate) async fn run(command: FleetCommand) -> anyhow::Result<ExitCode> {
    match command {
        FleetCommand::Status(arguments) => status::run(arguments).await,
        FleetCommand::Watch(arguments) => watch::run(arguments).await,
        FleetCommand::Wait(arguments) => wait::run(arguments).await,
    }
}

/// Prints what a fold of the log says that each node runs.
pub(crate) fn print_status(format: OutputFormat, history: &FleetHistory) -> anyhow::Result<()> {
    let rows: Vec<FoldedRow> = history
        .nodes
        .iter()
        .map(|((node, bundle), state)| FoldedRow {
            node: node.clone(),
            bundle: bundle.clone(),
            tag: state.active.as_ref().map(|(loaded, _)| loaded.tag.clone()),
            tree_digest: state.active.as_ref().map(|(loaded, _)| loaded.tree_digest),
            since: state.active.as_ref().map(|(_, since)| *since),
            failure: state.failure.as_ref().map(|(tag, event_type)| format!("{event_type} {tag}")),
        })
        .collect();
    print_rows(format, &["node", "bundle", "runs", "since", "last failure"], &rows, |row| {
        vec![
            row.node.to_string(),
            row.bundle.to_string(),
            row.tag.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string),
            row.since.map_or_else(|| "-".to_owned(), time_cell),
            row.failure.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    })
}

fn time_cell(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
