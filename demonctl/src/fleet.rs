//! `demonctl fleet`: what runs where.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::fleet_history::FleetHistory;
use shared::identifiers::{BundleName, NodeName, Tag};
use streams::connection_arguments::ConnectionArguments;

use crate::history_follower::fold;
use crate::operator;
use crate::output::{OutputFormat, print_rows};

#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// One row a node: the release it runs, since when, and its last failure. Folded from the log.
    Status(StatusArguments),
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Serialize)]
struct Row {
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
        let Self::Status(arguments) = self;
        let connection = operator::connection_settings(&arguments.connection)?;
        Ok(json!({ "output": arguments.output, "connection": connection }))
    }
}

/// Shows the nodes.
pub(crate) async fn run(command: FleetCommand) -> anyhow::Result<ExitCode> {
    let FleetCommand::Status(arguments) = command;
    let connection = operator::connect(&arguments.connection).await?;
    print_status(arguments.output, &fold(&connection).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints one row a node.
pub(crate) fn print_status(format: OutputFormat, history: &FleetHistory) -> anyhow::Result<()> {
    let rows: Vec<Row> = history
        .nodes
        .iter()
        .map(|((node, bundle), state)| Row {
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
            row.since.map_or_else(|| "-".to_owned(), |since| since.to_rfc3339_opts(SecondsFormat::Secs, true)),
            row.failure.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    })
}
