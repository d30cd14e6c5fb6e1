//! `demonctl events list`: the events of the log, page by page, without keeping them.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;

use super::event_rows::{Row, RowPrinter};
use super::filter::{EventFilter, UntilFilter};
use crate::operator;
use crate::output::OutputFormat;

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// First stream sequence to show, from 1.
    #[arg(long, env = "DEMON_FROM_SEQUENCE", default_value_t = 1, value_name = "SEQUENCE")]
    from: u64,
    /// Show at most so many events, the oldest ones.
    #[arg(long, env = "DEMON_LIMIT", value_name = "N")]
    limit: Option<u64>,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    filter: EventFilter,
    #[command(flatten)]
    until: UntilFilter,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl ListArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "from": self.from,
            "limit": self.limit,
            "filter": self.filter,
            "end": self.until,
            "output": self.output,
            "connection": connection,
        }))
    }
}

pub(super) async fn run(arguments: ListArguments) -> anyhow::Result<ExitCode> {
    let log = EventLog::new(operator::connect(&arguments.connection).await?);
    let mut pages = arguments.filter.pages(&log, arguments.from);
    let mut printer = RowPrinter::of_events(arguments.output);
    let limit = arguments.limit.unwrap_or(u64::MAX);
    'pages: while printer.printed() < limit
        && let Some(page) = pages.next_page().await.context("cannot read the event log")?
    {
        let mut rows = Vec::new();
        let mut ended = false;
        for event in &page {
            if arguments.until.is_past(event) {
                ended = true;
                break;
            }
            if event.stream_sequence >= arguments.from && arguments.filter.accepts(event) {
                rows.push(Row::new(event));
            }
        }
        rows.truncate(usize::try_from(limit - printer.printed()).unwrap_or(usize::MAX));
        if !printer.events(&rows)? || ended {
            break 'pages;
        }
    }
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}
