//! `demonctl fleet status`.

use std::mem::ManuallyDrop;
use std::process::ExitCode;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde_json::{Value, json};
use streams::connection_arguments::ConnectionArguments;

use super::connections::FleetConnections;
use super::heads::read_heads;
use super::node_rows::{COLUMNS, NodeRow, cells, rows};
use super::selection::Selection;
use super::view::{FleetView, read_whole_log};
use crate::operator;
use crate::output::{OutputFormat, note, print_rows};

/// Contradictions named one by one.
const NAMED_CONTRADICTIONS: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    selection: Selection,
    /// Fold the whole log instead of asking for its heads: slower, the same answer.
    #[arg(long, env = "DEMON_FULL", value_parser = BoolishValueParser::new())]
    full: bool,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl StatusArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({ "selection": self.selection, "full": self.full, "output": self.output, "connection": connection }))
    }
}

/// Shows the nodes.
pub(super) async fn run(arguments: StatusArguments) -> anyhow::Result<ExitCode> {
    let selection = &arguments.selection;
    let view = if arguments.full {
        read_whole_log(&operator::connect(&arguments.connection).await?, selection).await?
    } else {
        read_heads(&FleetConnections::open(&arguments.connection).await?, selection).await?
    };
    // The command ends with its answer: its memory is given back as a whole, not piece by piece.
    let view = ManuallyDrop::new(view);
    tracing::debug!(events_read = view.events_read, entries = view.entries.len(), "the fleet was read");
    let rows = ManuallyDrop::new(rows(&view, selection));
    print_rows(arguments.output, &COLUMNS, &rows, cells)?;
    note_contradictions(&view, &rows);
    Ok(ExitCode::SUCCESS)
}

/// Says where the table was not believed, or is not there.
fn note_contradictions(view: &FleetView, rows: &[NodeRow]) {
    if view.table_missing {
        note(
            "demonctl: the node table is missing: the server was restarted and keeps it in memory; what is shown is from \
             the log, and who lives is not known. A running `demon-publisher serve` creates it again; agents fill it with \
             their next heartbeat",
        );
    }
    let contradictions: Vec<(&NodeRow, &String)> =
        rows.iter().filter_map(|row| row.contradiction.as_ref().map(|words| (row, words))).collect();
    for (row, words) in contradictions.iter().take(NAMED_CONTRADICTIONS) {
        note(&format!("demonctl: node `{}`: {words}", row.node));
    }
    if let Some(more @ 1..) = contradictions.len().checked_sub(NAMED_CONTRADICTIONS) {
        note(&format!("demonctl: the table contradicts the log at {more} more nodes; --output json names all"));
    }
    if view.not_understood > 0 {
        note(&format!("demonctl: {} entries of the node table are no agent's", view.not_understood));
    }
}
