//! Subjects, envelopes, whole logs and their exports.

use shared::event_envelope::EventEnvelope;
use shared::event_export::ExportReader;
use shared::fleet_history::timeline::FleetTimeline;
use shared::fleet_history::{FleetHistory, StoredMessage};
use shared::log_verification::LogVerifier;
use shared::subjects::EventSubject;

/// Most messages of one made-up log.
const MOST_MESSAGES: u64 = 64;

/// What is accepted is written as the same text.
pub fn subject(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(subject) = text.parse::<EventSubject>() else { return };
    assert_eq!(subject.to_string(), text, "one form only");
    assert_eq!(text.split('.').count(), 5);
}

/// What is written of an accepted event reads as the same event, and is the one form of it.
pub fn event_envelope(data: &[u8]) {
    let Ok(envelope) = EventEnvelope::parse(data) else { return };
    // Unknown types and events over the limit are read, but never written.
    let Ok(bytes) = envelope.to_bytes() else { return };
    let again = EventEnvelope::parse(&bytes).expect("what was written can be read");
    assert_eq!((again.id, &again.source, &again.event), (envelope.id, &envelope.source, &envelope.event));
    assert_eq!(again.to_bytes().expect("and written again"), bytes);
}

/// Input: lines of a subject, a space and a payload. The folds take any log, and replaying it again changes nothing.
pub fn event_log(data: &[u8]) {
    let mut messages = Vec::new();
    for (line, sequence) in data.split(|byte| *byte == b'\n').zip(1..=MOST_MESSAGES) {
        let Some(space) = line.iter().position(|byte| *byte == b' ') else { continue };
        let Ok(subject) = std::str::from_utf8(&line[..space]) else { continue };
        let stored_at = chrono_time(sequence);
        messages.push(StoredMessage { stream_sequence: sequence, stored_at, subject, payload: &line[space + 1..] });
    }
    let (mut once, mut twice) = (FleetHistory::default(), FleetHistory::default());
    let (mut timeline, mut verifier) = (FleetTimeline::default(), LogVerifier::default());
    for message in &messages {
        once.apply(*message);
        twice.apply(*message);
        timeline.apply(*message);
        verifier.check(*message, None);
    }
    for message in &messages {
        twice.apply(*message);
    }
    assert_eq!(once, twice, "replaying twice is replaying once");
    let report = verifier.finish(None);
    assert_eq!(report.events, messages.len() as u64);
    assert_eq!(report.clean, report.findings_total == 0);
}

/// An export that reads to its end has as many events as its footer says.
pub fn event_export(data: &[u8]) {
    let Ok(mut reader) = ExportReader::begin(data) else { return };
    let mut events = 0;
    while let Ok(Some(_)) = reader.next_event() {
        events += 1;
    }
    if let Some(footer) = reader.footer() {
        assert_eq!(footer.events, events);
    }
}

fn chrono_time(sequence: u64) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(i64::try_from(sequence).unwrap_or(0))
}
