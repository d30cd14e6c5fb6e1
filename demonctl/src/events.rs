//! `demonctl events`: the log as a readable table or as JSON.

use std::process::ExitCode;

use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use shared::fleet_history;
use streams::connection_arguments::ConnectionArguments;
use streams::stored_event::StoredEvent;

use crate::event_text::describe;
use crate::history_follower::all_events;
use crate::operator;
use crate::output::{OutputFormat, print_rows};

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List the events of the log, oldest first.
    List(ListArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    /// First stream sequence to show, from 1.
    #[arg(long, env = "DEMON_FROM_SEQUENCE", default_value_t = 1, value_name = "SEQUENCE")]
    from: u64,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
}

impl EventsCommand {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let Self::List(arguments) = self;
        let connection = operator::connection_settings(&arguments.connection)?;
        Ok(json!({ "from": arguments.from, "output": arguments.output, "connection": connection }))
    }
}

/// Shows what the log holds.
pub(crate) async fn run(command: EventsCommand) -> anyhow::Result<ExitCode> {
    let EventsCommand::List(arguments) = command;
    let connection = operator::connect(&arguments.connection).await?;
    let events = all_events(&connection, arguments.from).await?;
    print_events(arguments.output, &events)?;
    Ok(ExitCode::SUCCESS)
}

/// One event as scripts read it: the stored envelope beside what the server knows of it.
#[derive(Serialize)]
struct Row {
    stream_sequence: u64,
    stored_at: String,
    subject: String,
    /// The stored payload, or null where it is no JSON.
    event: Value,
    /// Why it is no valid event of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip)]
    cells: Vec<String>,
}

/// Prints events in stream order.
pub(crate) fn print_events(format: OutputFormat, events: &[StoredEvent]) -> anyhow::Result<()> {
    let rows: Vec<Row> = events.iter().map(row).collect();
    print_rows(format, &["seq", "time", "event", "by", "tag", "what"], &rows, |row| row.cells.clone())
}

fn row(event: &StoredEvent) -> Row {
    let time = event.stored_at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let sequence = event.stream_sequence.to_string();
    let read = fleet_history::read(&event.subject, &event.payload);
    let (cells, problem) = match read {
        Ok(envelope) => {
            let tag = envelope.event.tag().map_or_else(|| "-".to_owned(), ToString::to_string);
            let event_type = envelope.event.event_type().to_string();
            (
                vec![sequence, time.clone(), event_type, envelope.source.to_string(), tag, describe(&envelope.event)],
                None,
            )
        }
        Err(problem) => {
            let cells =
                vec![sequence, time.clone(), event.subject.clone(), "?".to_owned(), "-".to_owned(), problem.clone()];
            (cells, Some(problem))
        }
    };
    Row {
        stream_sequence: event.stream_sequence,
        stored_at: time,
        subject: event.subject.clone(),
        event: serde_json::from_slice(&event.payload).unwrap_or_default(),
        problem,
        cells,
    }
}
