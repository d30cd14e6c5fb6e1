//! `demonctl events export`: the log as one file. It appears whole or not at all.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::Utc;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::daemon::stop_signal;
use shared::digest::Sha256Digest;
use shared::event_export::{EXPORT_FORMAT, EXPORT_VERSION, ExportHeader, ExportWriter, ExportedEvent};
use shared::identifiers::Incarnation;
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::{EventLog, EventWithId};
use tempfile::{NamedTempFile, TempPath};

use super::filter::UntilFilter;
use crate::log_input::{LogInput, ReadingProgress};
use crate::operator;
use crate::output::{OutputFormat, print_rows};

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// File to write, by custom `NAME.jsonl.zst`. It must not exist yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace a file that exists.
    #[arg(long, env = "DEMON_EXPORT_FORCE", value_parser = clap::builder::BoolishValueParser::new())]
    force: bool,
    /// Form of what is printed about the export.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    until: UntilFilter,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl ExportArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "file": self.file,
            "force": self.force,
            "end": self.until,
            "output": self.output,
            "connection": connection,
        }))
    }
}

/// What was exported.
#[derive(Debug, Serialize)]
struct Exported {
    file: PathBuf,
    stream: String,
    epoch: Option<Incarnation>,
    events: u64,
    last_sequence: u64,
    /// Of the file's lines before its footer, as the footer says.
    sha256: Sha256Digest,
    /// Size of the file.
    bytes: u64,
}

pub(super) async fn run(arguments: ExportArguments) -> anyhow::Result<ExitCode> {
    if !arguments.force && arguments.file.exists() {
        bail!("`{}` exists already: name another file, or replace it with --force", arguments.file.display());
    }
    let stop = stop_signal().context("cannot listen for signals")?;
    let exported = tokio::select! {
        exported = export(&arguments) => exported?,
        // The temporary file is gone with the future.
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    print_rows(arguments.output, &["file", "events", "last", "bytes", "sha256"], &[exported], |row| {
        vec![
            row.file.display().to_string(),
            row.events.to_string(),
            row.last_sequence.to_string(),
            row.bytes.to_string(),
            row.sha256.to_string(),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn export(arguments: &ExportArguments) -> anyhow::Result<Exported> {
    let log = EventLog::new(operator::connect(&arguments.connection).await?);
    let last_sequence = end(&log, &arguments.until).await?;
    let mut input = LogInput::server(&log).await?.up_to(&log, last_sequence);
    let header = ExportHeader {
        format: EXPORT_FORMAT.to_owned(),
        version: EXPORT_VERSION,
        stream: input.stream.clone(),
        epoch: input.epoch,
        last_sequence,
        exported_at: Utc::now(),
    };
    let shown = arguments.file.display();
    let (file, temporary) = temporary_beside(&arguments.file)?.into_parts();
    let mut writer = ExportWriter::begin(BufWriter::new(file), &header)?;
    let progress = ReadingProgress::start("exporting", last_sequence);
    while let Some(page) = input.next_page_with_ids().await? {
        let last = page.last().map_or(0, |last| last.event.stream_sequence);
        tokio::task::block_in_place(|| page.into_iter().try_for_each(|event| writer.write(exported(event))))
            .with_context(|| format!("export `{shown}` cannot be written"))?;
        progress.at(last);
    }
    drop(progress);
    let (output, footer) = writer.finish()?;
    let finish = || finish(output, temporary, &arguments.file, arguments.force);
    let bytes = tokio::task::block_in_place(finish).with_context(|| format!("export `{shown}` cannot be written"))?;
    Ok(Exported {
        file: arguments.file.clone(),
        stream: header.stream,
        epoch: header.epoch,
        events: footer.events,
        last_sequence,
        sha256: footer.sha256,
        bytes,
    })
}

/// The stream sequence up to which to export: the end of the log as it is now, or what was asked for.
async fn end(log: &EventLog, until: &UntilFilter) -> anyhow::Result<u64> {
    let state = log.state().await.context("cannot ask for the end of the event log")?;
    let mut last = until.to.unwrap_or(u64::MAX).min(state.last_sequence);
    if let Some(time) = until.until {
        // The first event behind the time.
        let mut later = log.stored_since(shared::subjects::EVENT_SUBJECTS, time);
        'pages: while let Some(page) = later.next_page().await.context("cannot read the event log")? {
            for event in page {
                if event.stored_at > time {
                    last = last.min(event.stream_sequence - 1);
                    break 'pages;
                }
            }
        }
    }
    Ok(last)
}

fn exported(with_id: EventWithId) -> ExportedEvent {
    let EventWithId { event, message_id } = with_id;
    ExportedEvent {
        stream_sequence: event.stream_sequence,
        stored_at: event.stored_at,
        subject: event.subject,
        message_id,
        payload: event.payload.into(),
    }
}

/// A file in the same directory, so that it can be renamed; readable as any other file the user makes.
fn temporary_beside(file: &Path) -> anyhow::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".demon-export-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory_of(file))
        .with_context(|| format!("no file can be made in `{}`", directory_of(file).display()))
}

fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the file durable under its name, and returns its size.
fn finish(output: BufWriter<File>, temporary: TempPath, file: &Path, force: bool) -> anyhow::Result<u64> {
    let mut output = output;
    output.flush()?;
    let written = output.get_ref();
    written.sync_all()?;
    let bytes = written.metadata()?.len();
    if force {
        temporary.persist(file)?;
    } else {
        temporary.persist_noclobber(file)?;
    }
    File::open(directory_of(file))?.sync_all()?;
    Ok(bytes)
}
