//! `demonctl fleet watch`: the fleet as it changes.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::Utc;
use clap::Args;
use futures_util::FutureExt as _;
use serde::Serialize;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::subjects::{EVENT_SUBJECTS, LIVE_PREFIX};
use streams::connection::Connection;
use streams::connection_arguments::ConnectionArguments;
use streams::live_feed::LiveFeed;
use tokio::time::{sleep, timeout};

use super::connections::FleetConnections;
use super::heads::read_heads;
use super::node_rows::{COLUMNS, NodeRow, cells, rows};
use super::selection::Selection;
use super::time_cell;
use super::view::NodeKey;
use crate::operator;
use crate::output::{OutputFormat, note, print_line_to_reader, table};

/// Between two looks where nothing is heard: a node that falls silent says nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks at most: a fleet that switches reports thousands of events.
const PAUSE: Duration = Duration::from_millis(250);
const STOPPED_BY_CTRL_C: u8 = 130;
/// To the upper left corner, and clears what is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    #[command(flatten)]
    selection: Selection,
    /// Form of the output: a table that is redrawn on a terminal, else one line for each change; `json` is the same as
    /// `jsonl`, because the output has no end.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// A node's row after a change.
#[derive(Serialize)]
struct Change<'a> {
    seen_at: chrono::DateTime<Utc>,
    /// Absent where the node was not known before.
    before: Option<&'a NodeRow>,
    after: &'a NodeRow,
}

impl WatchArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({ "selection": self.selection, "output": self.output, "connection": connection }))
    }
}

/// Ends with Ctrl-C or with the reader of the output.
pub(super) async fn run(arguments: WatchArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    tokio::select! {
        ended = follow(&connection, &arguments) => ended.map(|()| ExitCode::SUCCESS),
        signal = tokio::signal::ctrl_c() => {
            signal.context("cannot listen for Ctrl-C")?;
            Ok(ExitCode::from(STOPPED_BY_CTRL_C))
        }
    }
}

async fn follow(connection: &Connection, arguments: &WatchArguments) -> anyhow::Result<()> {
    // Before the first look, so that nothing stored in between waits for the next one.
    let subjects = [format!("{LIVE_PREFIX}{EVENT_SUBJECTS}")];
    let mut feed = LiveFeed::subscribe(connection, &subjects).await.context("cannot listen to live events")?;
    let redraws = arguments.output == OutputFormat::Table && std::io::stdout().is_terminal();
    let connections = FleetConnections::single(connection);
    let mut shown: Option<BTreeMap<NodeKey, NodeRow>> = None;
    let mut outage = false;
    loop {
        match read_heads(&connections, &arguments.selection).await {
            Ok(view) => {
                let rows = rows(&view, &arguments.selection);
                let goes_on = if redraws {
                    redraw(&rows, shown.as_ref())?
                } else {
                    print_changes(arguments.output, &rows, shown.as_ref())?
                };
                if !goes_on {
                    return Ok(());
                }
                shown = Some(rows.into_iter().map(|row| ((row.node.clone(), row.bundle.clone()), row)).collect());
                if outage {
                    note("the fleet can be read again");
                }
                outage = false;
            }
            Err(error) if shown.is_some() => {
                if !outage {
                    note(&format!("{}; trying again until Ctrl-C", ErrorChain(error.as_ref())));
                }
                outage = true;
            }
            Err(error) => return Err(error),
        }
        if let Ok(None) = timeout(LOOK_AGAIN, feed.next()).await {
            bail!("the connection ended");
        }
        sleep(PAUSE).await;
        while let Some(Some(_)) = feed.next().now_or_never() {}
    }
}

fn redraw(rows: &[NodeRow], shown: Option<&BTreeMap<NodeKey, NodeRow>>) -> anyhow::Result<bool> {
    let same = shown.is_some_and(|shown| shown.values().eq(rows));
    if same {
        return Ok(true);
    }
    let table = table(&COLUMNS, rows.iter().map(cells));
    print_line_to_reader(&format!("{CLEAR}{}  (Ctrl-C ends)\n\n{table}", time_cell(Utc::now())))
}

fn print_changes(
    output: OutputFormat,
    rows: &[NodeRow],
    shown: Option<&BTreeMap<NodeKey, NodeRow>>,
) -> anyhow::Result<bool> {
    for row in rows {
        let before = shown.and_then(|shown| shown.get(&(row.node.clone(), row.bundle.clone())));
        if before == Some(row) {
            continue;
        }
        let line = match output {
            OutputFormat::Table => format!("{}  {}", time_cell(Utc::now()), cells(row).join("  ")),
            OutputFormat::Json | OutputFormat::Jsonl => {
                serde_json::to_string(&Change { seen_at: Utc::now(), before, after: row })?
            }
        };
        if !print_line_to_reader(&line)? {
            return Ok(false);
        }
    }
    Ok(true)
}
