//! Events as a readable table or as JSON, printed as they come.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::event_envelope::EventEnvelope;
use shared::event_type::EventType;
use shared::fleet_history;
use streams::stored_event::StoredEvent;

use crate::event_text::describe;
use crate::output::{OutputFormat, print_line_to_reader, print_rows, printable};
use crate::point_in_time::to_the_millisecond;

const COLUMNS: [&str; 6] = ["seq", "time", "event", "by", "tag", "what"];

/// One event as scripts read it: the stored envelope beside what the server knows of it.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) stream_sequence: u64,
    pub(super) stored_at: DateTime<Utc>,
    pub(super) subject: String,
    /// The stored payload, or null where it is no JSON.
    pub(super) event: Value,
    /// Why it is no valid event of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    #[serde(skip)]
    cells: Vec<String>,
    #[serde(skip)]
    pub(super) envelope: Option<EventEnvelope>,
}

impl Row {
    pub(super) fn new(event: &StoredEvent) -> Self {
        let time = to_the_millisecond(event.stored_at);
        let sequence = event.stream_sequence.to_string();
        let (cells, problem, envelope) = match fleet_history::read(&event.subject, &event.payload) {
            Ok(envelope) => {
                let tag = envelope.event.tag().map_or_else(|| "-".to_owned(), ToString::to_string);
                let event_type = envelope.event.event_type().to_string();
                let what = describe(&envelope.event);
                (vec![sequence, time, event_type, envelope.source.to_string(), tag, what], None, Some(envelope))
            }
            Err(problem) => {
                let (subject, unknown) = (event.subject.clone(), "?".to_owned());
                (vec![sequence, time, subject, unknown, "-".to_owned(), problem.clone()], Some(problem), None)
            }
        };
        Self {
            stream_sequence: event.stream_sequence,
            stored_at: event.stored_at,
            subject: event.subject.clone(),
            event: serde_json::from_slice(&event.payload).unwrap_or_default(),
            problem,
            cells,
            envelope,
        }
    }
}

/// Prints events in stream order, all at once.
pub(crate) fn print_events(format: OutputFormat, events: &[StoredEvent]) -> anyhow::Result<()> {
    let rows: Vec<Row> = events.iter().map(Row::new).collect();
    print_rows(format, &COLUMNS, &rows, |row| row.cells.clone())
}

/// Prints rows as they come, without keeping them. A column is as wide as what it has held so far.
pub(super) struct RowPrinter {
    format: OutputFormat,
    columns: Vec<&'static str>,
    widths: Vec<usize>,
    printed: u64,
}

impl RowPrinter {
    /// For events.
    pub(super) fn of_events(format: OutputFormat) -> Self {
        Self::new(format, &COLUMNS)
    }

    /// For events that come one by one: wide enough from the start for what usually comes.
    pub(super) fn of_live_events(format: OutputFormat) -> Self {
        let longest = EventType::KNOWN.iter().map(|event_type| event_type.to_string().len()).max();
        Self { widths: vec![5, 24, longest.unwrap_or(0), 16, 27, 0], ..Self::of_events(format) }
    }

    /// For rows with these columns.
    pub(super) fn new(format: OutputFormat, columns: &[&'static str]) -> Self {
        Self { format, columns: columns.to_vec(), widths: vec![0; columns.len()], printed: 0 }
    }

    /// How many rows were printed.
    pub(super) fn printed(&self) -> u64 {
        self.printed
    }

    /// Prints events; false once nobody reads any more.
    pub(super) fn events(&mut self, rows: &[Row]) -> anyhow::Result<bool> {
        self.rows(rows, |row| row.cells.clone())
    }

    /// Prints rows; false once nobody reads any more.
    pub(super) fn rows<R: Serialize>(&mut self, rows: &[R], cells: impl Fn(&R) -> Vec<String>) -> anyhow::Result<bool> {
        let table: Vec<Vec<String>> = match self.format {
            OutputFormat::Table => {
                rows.iter().map(|row| cells(row).iter().map(|cell| printable(cell)).collect()).collect()
            }
            OutputFormat::Json | OutputFormat::Jsonl => Vec::new(),
        };
        let heading = (self.printed == 0 && !table.is_empty()).then(|| self.heading());
        for cells in heading.iter().chain(&table) {
            self.widen(cells);
        }
        let mut lines: Vec<String> = heading.iter().map(|heading| self.padded(heading)).collect();
        for (number, row) in rows.iter().enumerate() {
            lines.push(match self.format {
                OutputFormat::Table => self.padded(&table[number]),
                OutputFormat::Jsonl => serde_json::to_string(row)?,
                OutputFormat::Json => {
                    let before = if self.printed == 0 { "[\n" } else { ",\n" };
                    format!("{before}{}", serde_json::to_string_pretty(row)?)
                }
            });
            self.printed += 1;
        }
        if lines.is_empty() { Ok(true) } else { print_line_to_reader(&lines.join("\n")) }
    }

    /// Ends the output.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match (self.format, self.printed) {
            (OutputFormat::Json, 0) => print_line_to_reader("[]")?,
            (OutputFormat::Json, _) => print_line_to_reader("]")?,
            // A table without rows still has its heading.
            (OutputFormat::Table, 0) => print_line_to_reader(&self.heading().join("  "))?,
            (OutputFormat::Table | OutputFormat::Jsonl, _) => true,
        };
        Ok(())
    }

    fn heading(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.to_uppercase()).collect()
    }

    fn widen(&mut self, cells: &[String]) {
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }

    fn padded(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(cell);
            let missing = width.saturating_sub(cell.chars().count());
            line.extend(std::iter::repeat_n(' ', missing + 2));
        }
        line.trim_end().to_owned()
    }
}
