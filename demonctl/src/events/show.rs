//! `demonctl events show`: one event whole.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::identifiers::EventId;
use shared::subjects::EVENT_SUBJECTS;
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::{EventLog, EventPages};
use streams::stored_event::StoredEvent;
use uuid::Uuid;

use super::event_rows::Row;
use crate::event_text::describe;
use crate::operator;
use crate::output::{OutputFormat, print_line, printable};
use crate::point_in_time::to_the_millisecond;

/// How far a source's clock may be ahead of the server's before the whole log is searched for its event.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// How much of a payload that is no JSON is shown.
const RAW_CHARACTERS: usize = 2000;

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Stream sequence of the event, or its id.
    #[arg(value_name = "SEQUENCE|ID")]
    event: EventName,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum EventName {
    Sequence(u64),
    Id(EventId),
}

impl FromStr for EventName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self::Sequence(sequence));
        }
        text.parse().map(Self::Id).map_err(|error| format!("neither a stream sequence nor an event's id: {error}"))
    }
}

impl ShowArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({ "event": self.event, "output": self.output, "connection": connection }))
    }
}

pub(super) async fn run(arguments: ShowArguments) -> anyhow::Result<ExitCode> {
    let log = EventLog::new(operator::connect(&arguments.connection).await?);
    let event = match &arguments.event {
        EventName::Sequence(sequence) => {
            let found = log.at(*sequence).await.context("cannot read the event log")?;
            found.with_context(|| format!("the log has no event {sequence}"))?
        }
        EventName::Id(id) => with_id(&log, *id).await?,
    };
    print(arguments.output, &event)?;
    Ok(ExitCode::SUCCESS)
}

/// An event cannot be stored before its id was drawn: an id tells where to begin to look.
async fn with_id(log: &EventLog, id: EventId) -> anyhow::Result<StoredEvent> {
    if let Some(drawn) = time_of(id) {
        let pages = log.stored_since(EVENT_SUBJECTS, drawn - CLOCK_TOLERANCE);
        if let Some(found) = find(pages, id).await? {
            return Ok(found);
        }
    }
    match find(log.by_subject(EVENT_SUBJECTS, 1), id).await? {
        Some(found) => Ok(found),
        None => bail!("the log has no event with id {id}"),
    }
}

async fn find(mut pages: EventPages, id: EventId) -> anyhow::Result<Option<StoredEvent>> {
    #[derive(serde::Deserialize)]
    struct Id {
        id: EventId,
    }
    while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
        let is_it = |event: &StoredEvent| serde_json::from_slice::<Id>(&event.payload).is_ok_and(|read| read.id == id);
        if let Some(found) = page.into_iter().find(is_it) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// When an id was drawn, by the clock of whoever drew it.
fn time_of(id: EventId) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = Uuid::parse_str(&id.to_string()).ok()?.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}

#[derive(Serialize)]
struct WholeEvent {
    #[serde(flatten)]
    row: Row,
    /// SHA-256 of the stored bytes: what the source's next event names as `prevhash`.
    sha256: Sha256Digest,
    /// Size of the stored payload.
    payload_bytes: usize,
    /// The beginning of a payload that is no JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
}

fn print(format: OutputFormat, event: &StoredEvent) -> anyhow::Result<()> {
    let row = Row::new(event);
    let raw = || String::from_utf8_lossy(&event.payload).chars().take(RAW_CHARACTERS).collect();
    let raw = row.event.is_null().then(raw);
    let whole = WholeEvent { row, sha256: event.digest(), payload_bytes: event.payload.len(), raw };
    match format {
        OutputFormat::Json => print_line(&serde_json::to_string_pretty(&whole)?),
        OutputFormat::Jsonl => print_line(&serde_json::to_string(&whole)?),
        OutputFormat::Table => print_text(&whole),
    }
}

fn print_text(whole: &WholeEvent) -> anyhow::Result<()> {
    let row = &whole.row;
    let line = |name: &str, value: &str| print_line(&format!("{name:<16} {}", printable(value)));
    line("stream sequence", &row.stream_sequence.to_string())?;
    line("stored at", &to_the_millisecond(row.stored_at))?;
    line("subject", &row.subject)?;
    if let Some(problem) = &row.problem {
        line("problem", problem)?;
    }
    if let Some(envelope) = &row.envelope {
        line("happened at", &to_the_millisecond(envelope.time))?;
        line("type", &envelope.event.event_type().to_string())?;
        line("by", &envelope.source.to_string())?;
        line("what", &describe(&envelope.event))?;
        line("id", &envelope.id.to_string())?;
        line("incarnation", &envelope.incarnation.to_string())?;
        line("number", &envelope.sequence.to_string())?;
        line("prevhash", &envelope.prevhash.map_or_else(|| "-".to_owned(), |hash| hash.to_string()))?;
    }
    line("sha256", &whole.sha256.to_string())?;
    line("bytes", &whole.payload_bytes.to_string())?;
    match &whole.raw {
        Some(raw) => line("raw", raw),
        None => print_line(&serde_json::to_string_pretty(&row.event)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_named_by_number_or_id() {
        assert_eq!("12".parse(), Ok(EventName::Sequence(12)));
        assert!(matches!("0193b1c2-7e1f-7a55-8c11-0242ac120002".parse(), Ok(EventName::Id(_))));
        assert!("latest".parse::<EventName>().is_err());
    }

    #[test]
    fn an_id_tells_when_it_was_drawn() {
        let id = "0193b1c2-7e1f-7a55-8c11-0242ac120002".parse().unwrap();
        assert_eq!(time_of(id).unwrap().timestamp_millis(), 0x0193_b1c2_7e1f);
        let random = EventId::from_uuid(Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef));
        assert_eq!(time_of(random), None);
    }
}
