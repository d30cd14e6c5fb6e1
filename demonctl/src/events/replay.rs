//! `demonctl events replay`: the fold of a prefix of the log, or of an export, at its end or step by step.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use shared::fleet_history::timeline::FleetTimeline;
use streams::connection_arguments::ConnectionArguments;
use streams::stored_event::StoredEvent;

use super::event_rows::RowPrinter;
use super::filter::UntilFilter;
use super::replay_step::{COLUMNS, ReplayStep};
use crate::log_input::{ExportFileArguments, ReadingProgress};
use crate::operator;
use crate::output::OutputFormat;
use crate::state_report::print_state;
use crate::timeline_reader::message;

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// Print what each event changed, one line an event, instead of the state at the end.
    #[arg(long, env = "DEMON_REPLAY_STEPS", value_parser = clap::builder::BoolishValueParser::new())]
    steps: bool,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    file: ExportFileArguments,
    #[command(flatten)]
    until: UntilFilter,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl ReplayArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "from": self.file.from,
            "end": self.until,
            "steps": self.steps,
            "output": self.output,
            "connection": connection,
        }))
    }
}

pub(super) async fn run(arguments: ReplayArguments) -> anyhow::Result<ExitCode> {
    let mut input = arguments.file.open(&arguments.connection).await?;
    let mut timeline = FleetTimeline::default();
    let mut steps = arguments.steps.then(|| RowPrinter::new(arguments.output, &COLUMNS));
    let progress = (!arguments.steps).then(|| ReadingProgress::start("replaying", input.last_sequence));
    while let Some(page) = input.next_page().await? {
        let end = page.iter().position(|event| arguments.until.is_past(event));
        let wanted = &page[..end.unwrap_or(page.len())];
        let read_on = apply(&mut timeline, wanted, steps.as_mut())?;
        if let (Some(progress), Some(last)) = (&progress, wanted.last()) {
            progress.at(last.stream_sequence);
        }
        if end.is_some() || !read_on {
            break;
        }
    }
    drop(progress);
    match steps {
        Some(printer) => printer.finish()?,
        None => print_state(arguments.output, &timeline, None)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Applies events; false once nobody reads the steps any more.
fn apply(
    timeline: &mut FleetTimeline,
    events: &[StoredEvent],
    printer: Option<&mut RowPrinter>,
) -> anyhow::Result<bool> {
    let Some(printer) = printer else {
        for event in events {
            timeline.apply(message(event));
        }
        return Ok(true);
    };
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        rows.push(ReplayStep::of(timeline, event));
        timeline.apply(message(event));
    }
    printer.rows(&rows, ReplayStep::cells)
}
