//! `demonctl store gc`.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use streams::connection_arguments::{ConnectionArguments, parse_duration};
use streams::release_store::{OrphanedWrite, ReleaseStore};

use crate::operator;
use crate::output::{OutputFormat, note, print_rows};

#[derive(Debug, Args)]
pub(crate) struct GcArguments {
    /// Only list what would be collected; the default.
    #[arg(long, env = "DEMON_DRY_RUN", conflicts_with = "apply", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// Collect it.
    #[arg(long, env = "DEMON_APPLY", value_parser = clap::builder::BoolishValueParser::new())]
    apply: bool,
    /// Leave alone what was written to within this time, by the server's clock: a publish may still be at it. A whole
    /// number with `ms`, `s`, `m` or `h`.
    #[arg(long, env = "DEMON_GC_OLDER_THAN", value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    older_than: Duration,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl GcArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "apply": self.apply,
            "older_than_ms": u64::try_from(self.older_than.as_millis()).unwrap_or(u64::MAX),
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }
}

/// What becomes of the chunks of one unfinished put.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Too young: it may still go on.
    Kept,
    /// Would be collected.
    Collectable,
    /// Gone.
    Collected,
}

#[derive(Debug, Serialize)]
struct Row {
    write: String,
    chunks: u64,
    last_chunk_at: DateTime<Utc>,
    outcome: Outcome,
}

/// Lists unfinished puts, and collects them where that is asked for.
pub(super) async fn run(arguments: GcArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let store = ReleaseStore::new(connection.clone());
    let orphans = store.orphaned_writes().await?;
    let mut rows = Vec::new();
    for write in orphans.writes {
        let old = write.is_older_than(arguments.older_than, orphans.server_time);
        let outcome = match (old, arguments.apply) {
            (false, _) => Outcome::Kept,
            (true, false) => Outcome::Collectable,
            (true, true) => {
                store.collect(&write).await?;
                Outcome::Collected
            }
        };
        let OrphanedWrite { nuid, chunks, last_chunk_at } = write;
        rows.push(Row { write: nuid, chunks, last_chunk_at, outcome });
    }
    connection.drain().await;
    print_rows(arguments.output, &["write", "chunks", "last chunk", "outcome"], &rows, cells)?;
    note(&summary(&rows));
    Ok(ExitCode::SUCCESS)
}

fn cells(row: &Row) -> Vec<String> {
    let outcome = match row.outcome {
        Outcome::Kept => "kept: written to lately",
        Outcome::Collectable => "would be collected",
        Outcome::Collected => "collected",
    };
    let last = row.last_chunk_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    vec![row.write.clone(), row.chunks.to_string(), last, outcome.to_owned()]
}

fn summary(rows: &[Row]) -> String {
    let chunks = |wanted: fn(Outcome) -> bool| -> u64 {
        rows.iter().filter(|row| wanted(row.outcome)).map(|row| row.chunks).sum()
    };
    let collected = chunks(|outcome| matches!(outcome, Outcome::Collected));
    let collectable = chunks(|outcome| matches!(outcome, Outcome::Collectable));
    if collectable > 0 {
        format!("{collectable} chunks belong to no object: collect them with --apply")
    } else if collected > 0 {
        format!("{collected} chunks collected")
    } else {
        "nothing to collect".to_owned()
    }
}
