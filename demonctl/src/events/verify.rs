//! `demonctl events verify`: is the log what its writers wrote?

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::checkpoint::SignedCheckpoint;
use shared::identifiers::Incarnation;
use shared::log_verification::{Finding, LogVerifier, VerificationReport};
use shared::signed_note::MAX_NOTE_BYTES;
use streams::connection_arguments::ConnectionArguments;
use streams::log_keys::LogKeyArguments;

use crate::log_input::{ExportFileArguments, ReadingProgress};
use crate::operator;
use crate::output::{OutputFormat, print_line, table};
use crate::timeline_reader::message;

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// A checkpoint that was kept elsewhere (see `demonctl log show`): a log that is shorter, or another one, is not
    /// clean. May be given several times.
    #[arg(long, env = "DEMON_CHECKPOINT_FILE", value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Form of the output. `jsonl` prints one finding a line and nothing else.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    file: ExportFileArguments,
    #[command(flatten)]
    key: LogKeyArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl VerifyArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "from": self.file.from,
            "log_key": self.key.log_key,
            "checkpoint": self.checkpoint,
            "output": self.output,
            "connection": connection,
        }))
    }
}

/// The report with the log it is about.
#[derive(Debug, Serialize)]
struct Report {
    stream: String,
    epoch: Option<Incarnation>,
    #[serde(flatten)]
    findings: VerificationReport,
}

/// Ends with exit code 1 where anything was found.
pub(super) async fn run(arguments: VerifyArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments.key.keys().context("--log-key (DEMON_LOG_KEY) cannot be used")?;
    let outside = arguments.checkpoint.iter().map(|path| read_checkpoint(path)).collect::<anyhow::Result<_>>()?;
    let mut input = arguments.file.open(&arguments.connection).await?;
    let mut verifier = LogVerifier::new(keys, outside);
    let progress = ReadingProgress::start("verifying", input.last_sequence);
    while let Some(page) = input.next_page_with_ids().await? {
        for with_id in &page {
            verifier.check(message(&with_id.event), with_id.message_id.as_deref());
        }
        progress.at(page.last().map_or(0, |last| last.event.stream_sequence));
    }
    drop(progress);
    let report = verifier.finish(Some(input.last_sequence));
    let clean = report.clean;
    let report = Report { stream: input.stream, epoch: input.epoch, findings: report };
    print(arguments.output, &report, arguments.key.log_key.is_some())?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn read_checkpoint(path: &Path) -> anyhow::Result<SignedCheckpoint> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(2 * MAX_NOTE_BYTES as u64).read_to_string(&mut text));
    read.with_context(|| format!("checkpoint `{}` cannot be read", path.display()))?;
    text.parse().with_context(|| format!("`{}` is refused", path.display()))
}

fn print(format: OutputFormat, whole: &Report, with_key: bool) -> anyhow::Result<()> {
    match format {
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(whole)?),
        OutputFormat::Jsonl => {
            whole.findings.findings.iter().try_for_each(|finding| print_line(&serde_json::to_string(finding)?))
        }
        OutputFormat::Table => print_text(whole, with_key),
    }
}

fn print_text(whole: &Report, with_key: bool) -> anyhow::Result<()> {
    let report = &whole.findings;
    if !report.findings.is_empty() {
        let rows = report.findings.iter().map(cells);
        print_line(&table(&["seq", "problem", "source", "incarnation", "number", "what"], rows))?;
        print_line("")?;
    }
    let more = report.findings_total - report.findings.len() as u64;
    if more > 0 {
        print_line(&format!("and {more} more findings"))?;
    }
    let unknown: u64 = report.unknown.values().sum();
    if unknown > 0 {
        print_line(&format!("{unknown} events are of types this version does not know; their chains were checked"))?;
    }
    if report.checkpoints > 0 {
        let signatures = if report.signatures_verified { "signatures verified" } else { "signatures not verified" };
        print_line(&format!(
            "{} checkpoints, the last one of events 1 to {}: {signatures}",
            report.checkpoints, report.checkpointed_up_to
        ))?;
    }
    if report.checkpoints == 0 && with_key {
        print_line("no checkpoint in it: the key had nothing to verify")?;
    }
    for restore in &report.restores {
        print_line(&format!(
            "restored with event {}, kept up to event {}: {} events are known to be lost by that",
            restore.stream_sequence, restore.continues.stream_sequence, restore.events_lost
        ))?;
    }
    let epoch = whole.epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
    let verdict =
        if report.clean { "clean".to_owned() } else { format!("NOT CLEAN, {} findings", report.findings_total) };
    print_line(&format!(
        "{} ({epoch}): {} events, {} sources, {} incarnations, sequences {} to {}: {verdict}",
        whole.stream, report.events, report.sources, report.incarnations, report.first_sequence, report.last_sequence
    ))
}

fn cells(finding: &Finding) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        finding.stream_sequence.to_string(),
        finding.problem.name().to_owned(),
        or_dash(finding.source.as_ref().map(ToString::to_string)),
        or_dash(finding.incarnation.map(|incarnation| incarnation.to_string())),
        or_dash(finding.sequence.map(|sequence| sequence.to_string())),
        finding.problem.to_string(),
    ]
}
