//! The only place that prints: data on standard output, everything else on standard error.
//!
//! A closed pipe (`demonctl … | head`) is a success, as for every other filter.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Form of a command's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a row.
    Jsonl,
}

/// Prints rows in the format asked for. `columns` and `cells` serve the table, the rows themselves the rest.
pub(crate) fn print_rows<R: Serialize>(
    format: OutputFormat,
    columns: &[&str],
    rows: &[R],
    cells: impl Fn(&R) -> Vec<String>,
) -> anyhow::Result<()> {
    match format {
        OutputFormat::Table => print_line(&table(columns, rows.iter().map(cells))),
        OutputFormat::Json => print_in_pieces(|output| {
            serde_json::to_writer_pretty(&mut *output, rows)?;
            output.write_all(b"\n")
        }),
        OutputFormat::Jsonl => print_in_pieces(|output| {
            rows.iter().try_for_each(|row| {
                serde_json::to_writer(&mut *output, row)?;
                output.write_all(b"\n")
            })
        }),
    }
}

/// Bytes of a large output that are handed over at once.
const PIECE: usize = 64 * 1024;

/// Data on standard output as it is made: whoever reads it works on the beginning meanwhile.
fn print_in_pieces(write: impl FnOnce(&mut io::BufWriter<io::StdoutLock<'_>>) -> io::Result<()>) -> anyhow::Result<()> {
    let mut output = io::BufWriter::with_capacity(PIECE, io::stdout().lock());
    match write(&mut output).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A table without frames, as wide as its content. Control characters in cells are written out.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// One line of data on standard output.
pub(crate) fn print_line(line: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The same for output without end: false once nobody reads it any more.
pub(crate) fn print_line_to_reader(line: &str) -> anyhow::Result<bool> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output cannot be written"),
    }
}

/// One line for the person at the terminal, on standard error. Nobody there is no failure.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether standard error is a terminal that progress may be drawn on.
pub(crate) fn may_draw() -> bool {
    io::stderr().is_terminal() && io::stdout().is_terminal()
}

/// Prints one document in the format asked for; `for_people` serves the table.
pub(crate) fn print_document<D: Serialize>(
    format: OutputFormat,
    document: &D,
    for_people: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match format {
        OutputFormat::Table => print_line(&for_people()),
        OutputFormat::Json => {
            print_line(&serde_json::to_string_pretty(document).context("the result cannot be written as JSON")?)
        }
        OutputFormat::Jsonl => {
            print_line(&serde_json::to_string(document).context("the result cannot be written as JSON")?)
        }
    }
}

/// Words that somebody else chose, so that they do nothing to a terminal: control characters written out.
pub(crate) fn printable(text: &str) -> String {
    let written_out = |c: char| -> String { if c.is_control() { c.escape_default().collect() } else { c.into() } };
    text.chars().map(written_out).collect()
}
