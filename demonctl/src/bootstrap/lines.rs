//! The lines on standard output. Each is one JSON object with a string `event`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use shared::identifiers::Tag;
use subscriber::one_round::RoundOutcome;

use crate::output::print_line;

/// Who loaded the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DoneBy {
    /// This command.
    Bootstrap,
    /// The agent that runs here.
    Agent,
}

/// How it ended.
#[derive(Debug, PartialEq)]
pub(super) struct Done {
    pub(super) ok: bool,
    /// For programs.
    pub(super) fields: Value,
    /// For people; `{bundle}` stands for the bundle's name.
    pub(super) text: String,
}

/// Prints one line.
pub(super) fn print_event(event: &str, fields: &Value) -> anyhow::Result<()> {
    print_line(&line(event, Utc::now(), fields).to_string())
}

/// One line: the event's name and time, then what it says.
pub(super) fn line(event: &str, time: DateTime<Utc>, fields: &Value) -> Value {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), time.to_rfc3339_opts(SecondsFormat::Millis, true).into());
    line.insert("event".to_owned(), event.into());
    for (name, value) in fields.as_object().into_iter().flatten() {
        line.entry(name.clone()).or_insert_with(|| value.clone());
    }
    line.into()
}

/// The line of an event that the fleet's log holds, in the form of the agent's own log line; `None` where it does not
/// belong to the release that the node runs.
pub(super) fn of_stored(payload: &[u8], tag: &Tag) -> Option<Value> {
    let stored: Value = serde_json::from_slice(payload).ok()?;
    let (event, time) = (stored["type"].as_str()?, stored["time"].as_str()?.parse().ok()?);
    let mut fields = stored["data"].clone();
    if fields["tag"] != tag.as_str() {
        return None;
    }
    if let Some(source) = fields["source"].as_str() {
        // The word of the log line.
        let mut letters = source.chars();
        let word: String = letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect();
        fields["source"] = word.into();
    }
    if let Some(digest) = fields.get("content_digest").cloned() {
        fields["sha256"] = digest;
    }
    fields["by"] = "agent".into();
    Some(line(event, time, &fields))
}

/// The last line for an outcome.
pub(super) fn done(by: DoneBy, outcome: &RoundOutcome) -> Done {
    let by = match by {
        DoneBy::Bootstrap => "bootstrap",
        DoneBy::Agent => "agent",
    };
    let (ok, word, tag, reason, remediation) = match outcome {
        RoundOutcome::Runs { tag, instead } => (true, "runs", Some(tag), instead.as_deref(), None),
        RoundOutcome::Empty { reason } => (true, "empty", None, Some(reason.as_str()), None),
        RoundOutcome::Disabled => (true, "disabled", None, Some("DEMON_SKIP_CONTRACT_BUNDLE is on"), None),
        RoundOutcome::Failed { reason, remediation } => {
            (false, "failed", None, Some(reason.as_str()), Some(remediation.as_str()))
        }
        RoundOutcome::Unfinished { reason } => {
            let remedy = "check NATS_URL and the login, or give it longer: --timeout";
            (false, "unfinished", None, Some(reason.as_str()), Some(remedy))
        }
    };
    let begin = match (ok, tag) {
        (true, Some(tag)) => format!("bundle `{{bundle}}` runs release `{tag}`"),
        (true, None) => "warning: bundle `{bundle}` runs no release".to_owned(),
        (false, _) => "bundle `{bundle}` is not loaded".to_owned(),
    };
    let more = [reason, remediation].into_iter().flatten();
    let text = std::iter::once(begin.as_str()).chain(more).collect::<Vec<_>>().join("; ");
    let fields = json!({
        "ok": ok, "outcome": word, "by": by, "tag": tag, "reason": reason, "remediation": remediation,
    });
    Done { ok, fields, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_an_event_and_nothing_replaces_it() {
        let line = line("bootstrap.done", DateTime::UNIX_EPOCH, &json!({ "event": 7, "timestamp": 7, "ok": true }));
        assert_eq!(line, json!({ "timestamp": "1970-01-01T00:00:00.000Z", "event": "bootstrap.done", "ok": true }));
    }

    #[test]
    fn a_stored_event_reads_like_the_agents_line() {
        let stored = json!({
            "type": "bundle.loaded", "time": "2026-02-03T07:12:44Z",
            "data": { "tag": "v1", "source": "download", "content_digest": "ab" }
        });
        let payload = stored.to_string();
        let line = of_stored(payload.as_bytes(), &"v1".parse().unwrap()).unwrap();
        assert_eq!((&line["event"], &line["source"]), (&json!("bundle.loaded"), &json!("Download")));
        assert_eq!((&line["sha256"], &line["by"]), (&json!("ab"), &json!("agent")));
        assert_eq!(of_stored(payload.as_bytes(), &"v2".parse().unwrap()), None, "of another release");
        assert_eq!(of_stored(b"[]", &"v1".parse().unwrap()), None);
    }

    #[test]
    fn only_what_is_not_loaded_is_a_failure() {
        let empty = done(DoneBy::Agent, &RoundOutcome::Empty { reason: "nothing".to_owned() });
        assert!(empty.ok && empty.text.starts_with("warning: "), "{empty:?}");
        let late = done(DoneBy::Bootstrap, &RoundOutcome::Unfinished { reason: "no answer".to_owned() });
        assert!(!late.ok && late.text.contains("no answer") && late.text.contains("NATS_URL"), "{late:?}");
    }
}
