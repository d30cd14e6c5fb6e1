//! `demonctl events tail`: follows the log.
//!
//! The live feed only wakes; what is printed is read from the log by sequence. So nothing is missed and nothing comes
//! twice, whatever happens to the connection or the server meanwhile.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::identifiers::Incarnation;
use shared::subjects::{EVENT_STREAM, EVENT_SUBJECTS, EventSubject, LIVE_PREFIX};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::{EventLog, EventPages, ReadError, Reader};
use streams::live_feed::LiveFeed;
use tokio::time::timeout;

use super::event_rows::{Row, RowPrinter};
use super::filter::EventFilter;
use crate::log_input::epoch_of;
use crate::operator;
use crate::output::{OutputFormat, note};

/// How long a lost live message can delay an event.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct TailArguments {
    /// First stream sequence to show. Default: the next one to be stored, or the first since `--since`.
    #[arg(long, env = "DEMON_FROM_SEQUENCE", value_name = "SEQUENCE")]
    from: Option<u64>,
    /// End after so many events.
    #[arg(long, env = "DEMON_LIMIT", value_name = "N")]
    limit: Option<u64>,
    /// Form of the output; `json` is the same as `jsonl` here, because the output has no end.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    filter: EventFilter,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl TailArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "from": self.from,
            "limit": self.limit,
            "filter": self.filter,
            "output": self.output,
            "connection": connection,
        }))
    }
}

/// Ends with the limit, with the reader of the output, or when the log is replaced by another one.
pub(super) async fn run(arguments: TailArguments) -> anyhow::Result<ExitCode> {
    let log = EventLog::new(operator::connect(&arguments.connection).await?);
    // Before the first read, so that nothing stored in between waits for the next look.
    let subjects = [format!("{LIVE_PREFIX}{EVENT_SUBJECTS}")];
    let feed = LiveFeed::subscribe(log.connection(), &subjects).await.context("cannot listen to live events")?;
    let end = log.state().await.context("cannot ask for the end of the event log").map(|state| state.last_sequence);
    let (from, end) = match arguments.from {
        // A node's rights suffice then: without the end, a log that was replaced is known by its epoch only.
        Some(from) => (from, end.unwrap_or(0)),
        None if arguments.filter.begins_at_a_time() => (1, end.unwrap_or(0)),
        None => {
            let end = end?;
            (end + 1, end)
        }
    };
    let epoch = epoch(&log).await.context("cannot read the log's epoch")?;
    let format = match arguments.output {
        OutputFormat::Table => OutputFormat::Table,
        OutputFormat::Json | OutputFormat::Jsonl => OutputFormat::Jsonl,
    };
    let limit = arguments.limit.unwrap_or(u64::MAX);
    let printer = RowPrinter::of_live_events(format);
    let tail = Tail { log, filter: arguments.filter, from, next: from, end, epoch, limit, printer, started: false };
    tail.follow(feed).await
}

struct Tail {
    log: EventLog,
    filter: EventFilter,
    from: u64,
    /// The stream sequence behind the last event read.
    next: u64,
    /// The last stream sequence that is known to exist.
    end: u64,
    epoch: Option<Incarnation>,
    limit: u64,
    printer: RowPrinter,
    started: bool,
}

enum Reading {
    UpToDate,
    Ended,
}

impl Tail {
    async fn follow(mut self, mut feed: LiveFeed) -> anyhow::Result<ExitCode> {
        let mut outage = false;
        let mut connects = self.log.connection().status().connects;
        loop {
            let now = self.log.connection().status().connects;
            match self.read_on().await {
                Ok(Reading::Ended) => return Ok(ExitCode::SUCCESS),
                Ok(Reading::UpToDate) => {
                    if outage || connects != now {
                        self.same_log().await?;
                    }
                    if outage {
                        note("the event log can be read again");
                    }
                    (outage, connects) = (false, now);
                }
                Err(error) => match error.downcast::<ReadError>() {
                    Ok(error) if self.started => {
                        if !outage {
                            note(&format!("{}; trying again until Ctrl-C", ErrorChain(&error)));
                        }
                        outage = true;
                    }
                    Ok(error) => return Err(error).context("cannot read the event log"),
                    Err(error) => return Err(error),
                },
            }
            self.started = true;
            // Woken by a live message, or looks again: live messages may be lost.
            if let Ok(None) = timeout(LOOK_AGAIN, feed.next()).await {
                bail!("the connection ended");
            }
        }
    }

    /// Prints everything that is there and not printed yet. An error leaves the place where to go on.
    async fn read_on(&mut self) -> anyhow::Result<Reading> {
        if self.printer.printed() >= self.limit {
            return Ok(Reading::Ended);
        }
        let mut pages = self.pages();
        while let Some(page) = pages.next_page().await? {
            let mut rows = Vec::new();
            for event in &page {
                self.next = event.stream_sequence + 1;
                self.end = self.end.max(event.stream_sequence);
                self.epoch = epoch_of(event).or(self.epoch);
                if event.stream_sequence >= self.from && self.filter.accepts(event) {
                    rows.push(Row::new(event));
                }
            }
            self.started = true;
            rows.truncate(usize::try_from(self.limit - self.printer.printed()).unwrap_or(usize::MAX));
            if !self.printer.events(&rows)? || self.printer.printed() >= self.limit {
                return Ok(Reading::Ended);
            }
        }
        Ok(Reading::UpToDate)
    }

    fn pages(&self) -> EventPages {
        if self.next > self.from {
            self.filter.pages_after(&self.log, self.next)
        } else {
            self.filter.pages(&self.log, self.from)
        }
    }

    /// Fails where the server shows another log than before: its sequences mean something else. A log restored from a
    /// backup is shorter at first, and has another epoch from then on.
    async fn same_log(&self) -> anyhow::Result<()> {
        // An outage in this very moment is noticed by the next read.
        let Ok(epoch) = epoch(&self.log).await else { return Ok(()) };
        if let Ok(state) = self.log.state().await
            && state.last_sequence < self.end
        {
            bail!(
                "the log ends at event {} now, and went up to event {} before: it was replaced by another one; \
                 start again to follow that",
                state.last_sequence,
                self.end
            );
        }
        if epoch != self.epoch {
            let text = |epoch: Option<Incarnation>| epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
            bail!(
                "the log was replaced by another one: epoch {} before, {} now; start again to follow that",
                text(self.epoch),
                text(epoch)
            );
        }
        Ok(())
    }
}

async fn epoch(log: &EventLog) -> Result<Option<Incarnation>, ReadError> {
    let event = log.last(&EventSubject::epoch_started(EVENT_STREAM), Reader::AnyReplica).await?;
    Ok(event.and_then(|event| epoch_of(&event)))
}
