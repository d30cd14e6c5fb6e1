//! `demonctl contracts history`: what was published, newest first, as the log says.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Days, NaiveDate, NaiveTime, SecondsFormat, Utc};
use clap::Args;
use publisher::config::{TriggerArgument, parse_time};
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::event::{BundleEvent, GitFacts, Published, Trigger, Withdrawn};
use shared::fleet_history::read;
use shared::identifiers::{ActorName, BundleName, Tag};
use shared::subjects::{announcements_filter, withdrawals_filter};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;
use streams::stored_event::StoredEvent;

use crate::operator;
use crate::output::{OutputFormat, note, print_rows};

#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// Bundle whose history it is.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    bundle: BundleName,
    /// Most rows to show, from 1 to 1000.
    #[arg(long, env = "DEMON_LIMIT", value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Only what this trigger published.
    #[arg(long, value_name = "TRIGGER", value_enum)]
    trigger: Option<TriggerArgument>,
    /// Only what was published on this day in UTC, as YYYY-MM-DD.
    #[arg(long, value_name = "DAY", conflicts_with_all = ["since", "until"])]
    created: Option<NaiveDate>,
    /// Only what was published at this time or later: RFC 3339, a day in UTC as YYYY-MM-DD, or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    /// Only what was published before this time; a day counts with its whole length.
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    until: Option<DateTime<Utc>>,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl HistoryArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "bundle": self.bundle,
            "limit": self.limit,
            "trigger": self.trigger.map(Trigger::from),
            "created": self.created,
            "since": self.since,
            "until": self.until,
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }

    fn filter(&self) -> Filter {
        let (since, until) = match self.created {
            Some(day) => (Some(start_of(day)), start_after(day)),
            None => (self.since, self.until),
        };
        Filter { trigger: self.trigger.map(Trigger::from), since, until }
    }
}

/// One announcement.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    /// When the server stored it.
    time: DateTime<Utc>,
    bundle: BundleName,
    tag: Tag,
    trigger: Trigger,
    actor: ActorName,
    /// Who wrote it: a publisher or an operator.
    source: String,
    tree_digest: Sha256Digest,
    content_digest: Sha256Digest,
    git: Option<GitFacts>,
    /// Its stream sequence.
    sequence: u64,
    /// Whether its tree or its content must never run again.
    withdrawn: bool,
}

/// Which announcements to show.
#[derive(Debug, Clone, Copy, Default)]
struct Filter {
    trigger: Option<Trigger>,
    /// Inclusive.
    since: Option<DateTime<Utc>>,
    /// Exclusive.
    until: Option<DateTime<Utc>>,
}

impl Filter {
    fn takes(&self, time: DateTime<Utc>, trigger: Trigger) -> bool {
        self.trigger.is_none_or(|wanted| wanted == trigger)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
    }
}

/// Shows the history.
pub(super) async fn run(arguments: HistoryArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let log = EventLog::new(connection);
    let (bundle, unreadable) = (&arguments.bundle, "cannot read the event log");
    let announcements = log.by_subject(announcements_filter(bundle), 1).collect().await.context(unreadable)?;
    let withdrawals = log.by_subject(withdrawals_filter(bundle), 1).collect().await.context(unreadable)?;
    let rows = history(&announcements, &withdrawals, &arguments.filter(), arguments.limit.into());
    print_rows(
        arguments.output,
        &["time", "tag", "trigger", "by", "content", "commit", "seq", "withdrawn"],
        &rows,
        |row| {
            vec![
                row.time.to_rfc3339_opts(SecondsFormat::Secs, true),
                row.tag.to_string(),
                row.trigger.as_str().to_owned(),
                row.actor.to_string(),
                row.content_digest.short(),
                row.git.as_ref().map_or_else(|| "-".to_owned(), |git| git.sha.chars().take(8).collect()),
                row.sequence.to_string(),
                if row.withdrawn { "withdrawn" } else { "-" }.to_owned(),
            ]
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The rows, newest first. What is no event of ours is left out and said.
fn history(announcements: &[StoredEvent], withdrawals: &[StoredEvent], filter: &Filter, limit: usize) -> Vec<Row> {
    let withdrawn: Vec<Withdrawn> = withdrawals
        .iter()
        .filter_map(|event| {
            let BundleEvent::Withdrawn(data) = read(&event.subject, &event.payload).ok()?.event else { return None };
            Some(data)
        })
        .collect();
    let newest_first = announcements.iter().rev().filter_map(|event| row(event, &withdrawn));
    newest_first.filter(|row| filter.takes(row.time, row.trigger)).take(limit).collect()
}

fn row(event: &StoredEvent, withdrawn: &[Withdrawn]) -> Option<Row> {
    let envelope = match read(&event.subject, &event.payload) {
        Ok(envelope) => envelope,
        Err(problem) => {
            note(&format!("demonctl: warning: message {} is left out: {problem}", event.stream_sequence));
            return None;
        }
    };
    let source = envelope.source.to_string();
    let BundleEvent::Published(Published { bundle, tag, tree_digest, content_digest, git, trigger, actor, .. }) =
        envelope.event
    else {
        note(&format!("demonctl: warning: message {} is left out: it is of a later version", event.stream_sequence));
        return None;
    };
    let falls = |data: &Withdrawn| data.tree_digest == tree_digest || data.content_digest == content_digest;
    Some(Row {
        time: event.stored_at,
        bundle,
        tag,
        trigger,
        actor,
        source,
        tree_digest,
        content_digest,
        git,
        sequence: event.stream_sequence,
        withdrawn: withdrawn.iter().any(falls),
    })
}

fn start_of(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// The first instant after a day; none after the last day there is.
fn start_after(day: NaiveDate) -> Option<DateTime<Utc>> {
    day.checked_add_days(Days::new(1)).map(start_of)
}

fn parse_since(text: &str) -> Result<DateTime<Utc>, String> {
    text.parse().map(start_of).or_else(|_| parse_time(text))
}

fn parse_until(text: &str) -> Result<DateTime<Utc>, String> {
    match text.parse::<NaiveDate>() {
        Ok(day) => start_after(day).ok_or_else(|| "it is beyond the calendar".to_owned()),
        Err(_) => parse_time(text),
    }
}

#[cfg(test)]
mod tests {
    use shared::event::ObjectReference;
    use shared::event_chain::{EventChain, EventDraft};
    use shared::identifiers::{EventId, Incarnation};
    use uuid::Uuid;

    use super::*;

    fn stored(sequence: u64, stored_at: &str, event: impl Into<BundleEvent>) -> StoredEvent {
        let id = EventId::from_uuid(Uuid::from_u128(sequence.into()));
        let draft = EventDraft { id, time: DateTime::UNIX_EPOCH, event: event.into() };
        let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(1)), None);
        let sealed = chain.seal(&"/operators/ada".parse().unwrap(), &draft).unwrap();
        StoredEvent {
            stream_sequence: sequence,
            stored_at: parse_time(stored_at).unwrap(),
            subject: sealed.subject.to_string(),
            payload: sealed.bytes.into(),
        }
    }

    fn published(tag: &str, content: &str, trigger: Trigger) -> Published {
        let object = ObjectReference { name: "x".to_owned(), size: 1, sha256: Sha256Digest::of(b"x") };
        Published {
            bundle: "contracts".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: Sha256Digest::of(tag.as_bytes()),
            content_digest: Sha256Digest::of(content.as_bytes()),
            files: 1,
            total_bytes: 1,
            archive: object.clone(),
            release: object,
            deltas: Vec::new(),
            git: None,
            trigger,
            actor: "ada".parse().unwrap(),
        }
    }

    fn log() -> Vec<StoredEvent> {
        use Trigger::{Local, Schedule};
        [
            (2, "2026-02-02T23:59:59Z", "v1", Schedule),
            (3, "2026-02-03T00:00:00Z", "v2", Local),
            (4, "2026-02-03T06:00:11Z", "v3", Schedule),
            (6, "2026-02-03T23:59:59.999Z", "v3", Local),
            (8, "2026-02-04T00:00:00Z", "v4", Schedule),
        ]
        .map(|(sequence, time, tag, trigger)| stored(sequence, time, published(tag, tag, trigger)))
        .into()
    }

    fn shown(filter: &Filter, limit: usize) -> Vec<u64> {
        history(&log(), &[], filter, limit).iter().map(|row| row.sequence).collect()
    }

    #[test]
    fn the_newest_come_first_and_a_repeated_announcement_is_a_row_of_its_own() {
        assert_eq!(shown(&Filter::default(), 10), [8, 6, 4, 3, 2]);
        assert_eq!(shown(&Filter::default(), 2), [8, 6]);
        assert_eq!(shown(&Filter::default(), 0), [0_u64; 0]);
        assert_eq!(shown(&Filter { trigger: Some(Trigger::Schedule), ..Filter::default() }, 2), [8, 4]);
    }

    #[test]
    fn a_day_begins_and_ends_at_midnight_in_utc() {
        let day: NaiveDate = "2026-02-03".parse().unwrap();
        let filter = Filter { since: Some(start_of(day)), until: start_after(day), trigger: None };
        assert_eq!(shown(&filter, 10), [6, 4, 3]);
        let since = Filter { since: Some(parse_since("2026-02-03").unwrap()), ..Filter::default() };
        assert_eq!(shown(&since, 10), [8, 6, 4, 3]);
        let until = Filter { until: Some(parse_until("2026-02-03").unwrap()), ..Filter::default() };
        assert_eq!(shown(&until, 10), [6, 4, 3, 2]);
        // An instant with an offset is the same instant in UTC.
        let since = Filter { since: Some(parse_since("2026-02-03T01:00:00+01:00").unwrap()), ..Filter::default() };
        assert_eq!(shown(&since, 10), [8, 6, 4, 3]);
        assert!(parse_since("yesterday").is_err() && parse_until("2026-02-30").is_err());
    }

    #[test]
    fn a_withdrawal_marks_every_release_of_the_content() {
        let release = published("v1", "v1", Trigger::Local);
        let withdrawn = Withdrawn {
            bundle: release.bundle,
            tag: release.tag,
            tree_digest: release.tree_digest,
            content_digest: Sha256Digest::of(b"v4"),
            reason: "broken".to_owned(),
            actor: "eve".parse().unwrap(),
        };
        let rows = history(&log(), &[stored(9, "2026-02-05T00:00:00Z", withdrawn)], &Filter::default(), 10);
        let marked: Vec<u64> = rows.iter().filter(|row| row.withdrawn).map(|row| row.sequence).collect();
        assert_eq!(marked, [8, 2], "by tree and by content");
    }

    #[test]
    fn what_is_no_event_is_no_row() {
        let mut broken = stored(9, "2026-02-05T00:00:00Z", published("v9", "v9", Trigger::Local));
        broken.payload = "{}".into();
        assert_eq!(history(&[broken], &[], &Filter::default(), 10), []);
    }
}
