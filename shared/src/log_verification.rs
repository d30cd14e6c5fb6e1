//! Proof that a log is what its writers wrote: numbering and hash chain of every source and incarnation, and the signed
//! checkpoints among them.
//!
//! Pure and streaming: stored messages in, findings out. What it keeps is bounded for each incarnation, never for each
//! event.
//!
//! What it cannot see by itself: that the very last events of an incarnation are missing, because nothing behind them
//! names them; or that the last one was replaced by another valid one. The stream's own last sequence, the digest of an
//! export, or a checkpoint that somebody kept elsewhere can.

mod chain;
mod checkpoints;
mod finding;
mod restores;

use std::collections::BTreeMap;

use self::chain::{Link, SourceChains};
use self::checkpoints::CheckpointAudit;
pub use self::finding::{Finding, Problem};
pub use self::restores::Restore;
use self::restores::Restores;
use crate::checkpoint::SignedCheckpoint;
use crate::digest::Sha256Digest;
use crate::event::BundleEvent;
use crate::event_envelope::EventEnvelope;
use crate::fleet_history::StoredMessage;
use crate::signed_note::VerifierKeys;
use crate::source::Source;
use crate::subjects::{EventSubject, Scope};
use serde::Serialize;

/// Most findings that a report keeps; all are counted.
pub const MAX_FINDINGS: usize = 10_000;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerificationReport {
    /// Whether nothing was found.
    pub clean: bool,
    /// How many messages were read.
    pub events: u64,
    /// Stream sequence of the first; 0 in an empty log.
    pub first_sequence: u64,
    /// Stream sequence of the last; 0 in an empty log.
    pub last_sequence: u64,
    /// How many sources wrote them.
    pub sources: u64,
    /// How many incarnations of those sources.
    pub incarnations: u64,
    /// Events of unknown type or newer schema: chained like all others, but their data was not read.
    pub unknown: BTreeMap<String, u64>,
    /// How many checkpoints it holds.
    pub checkpoints: u64,
    /// How many events the last of them speaks of.
    pub checkpointed_up_to: u64,
    /// Whether signatures were verified: only where keys are known.
    pub signatures_verified: bool,
    /// How often the log was restored from a backup and says so, with what is missing for that reason.
    pub restores: Vec<Restore>,
    /// Merkle root over all messages; absent where one is missing.
    pub root: Option<Sha256Digest>,
    /// How many findings there are.
    pub findings_total: u64,
    /// The findings by stream sequence, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
}

/// Checks the messages of a log, one after the other, in stream order.
#[derive(Debug, Default)]
pub struct LogVerifier {
    sources: BTreeMap<Source, SourceChains>,
    unknown: BTreeMap<String, u64>,
    checkpoints: CheckpointAudit,
    restores: Restores,
    signatures_verified: bool,
    findings: Vec<Finding>,
    findings_total: u64,
    events: u64,
    first_sequence: u64,
    last_sequence: u64,
}

impl LogVerifier {
    /// A verifier that knows who may sign checkpoints, and checkpoints that were kept elsewhere. Without keys it compares
    /// roots all the same.
    pub fn new(keys: Option<VerifierKeys>, outside: Vec<SignedCheckpoint>) -> Self {
        let signatures_verified = keys.is_some();
        Self { checkpoints: CheckpointAudit::new(keys, outside), signatures_verified, ..Self::default() }
    }

    /// Checks the next message, with the id it was stored under where that is known to have been one.
    pub fn check(&mut self, message: StoredMessage<'_>, message_id: Option<&str>) {
        self.events += 1;
        self.check_stream_order(&message);
        self.checkpoints.add(&message);
        let (sequence, subject) = (message.stream_sequence, message.subject);
        let envelope = match EventEnvelope::parse(message.payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                self.add(
                    Finding::at(sequence, subject).with(Problem::NotAnEvent { reason: format!("{error}{cause}") }),
                );
                return;
            }
        };
        if let Some(reason) = contradiction(subject, &envelope) {
            // It may be forged, so that it says nothing about the chain of the source it names.
            self.add(Finding::at(sequence, subject).by(&envelope).with(Problem::Contradiction { reason }));
            return;
        }
        let id = envelope.id.to_string();
        if let Some(actual) = message_id.filter(|actual| **actual != *id) {
            let problem = Problem::MessageId { expected: id, actual: shortened(actual) };
            self.add(Finding::at(sequence, subject).by(&envelope).with(problem));
        }
        if let BundleEvent::Unknown(unknown) = &envelope.event {
            *self.unknown.entry(unknown.event_type.to_string()).or_default() += 1;
        }
        if let BundleEvent::Checkpointed(data) = &envelope.event {
            for problem in self.checkpoints.check(data, sequence) {
                self.add(Finding::at(sequence, subject).by(&envelope).with(problem));
            }
        }
        if let BundleEvent::EpochStarted(data) = &envelope.event {
            self.restores.note(data, sequence);
        }
        let link = Link::new(&message, &envelope);
        let chains = self.sources.entry(envelope.source.clone()).or_default();
        for problem in chains.append(envelope.incarnation, link, subject) {
            self.add(Finding::at(sequence, subject).by(&envelope).with(problem));
        }
    }

    fn check_stream_order(&mut self, message: &StoredMessage<'_>) {
        let sequence = message.stream_sequence;
        if self.events == 1 {
            self.first_sequence = sequence;
        }
        let expected = self.last_sequence.saturating_add(1);
        if sequence > expected {
            let missing = Problem::MissingMessages { first: expected, last: sequence - 1 };
            self.add(Finding::at(expected, "").with(missing));
        } else if sequence < expected {
            let misplaced = Problem::StreamOrder { after: self.last_sequence };
            self.add(Finding::at(sequence, message.subject).with(misplaced));
        }
        self.last_sequence = self.last_sequence.max(sequence);
    }

    /// The report. `last_sequence` is what the stream itself, or an export's header, says its last sequence is.
    pub fn finish(mut self, last_sequence: Option<u64>) -> VerificationReport {
        let read_to = self.last_sequence;
        if let Some(last) = last_sequence.filter(|last| *last > read_to) {
            self.add(Finding::at(read_to + 1, "").with(Problem::MissingMessages { first: read_to + 1, last }));
        }
        let outside: Vec<_> = self.checkpoints.outside_problems().collect();
        for (size, problem) in outside {
            self.add(Finding::at(size, "").with(problem));
        }
        let sources = std::mem::take(&mut self.sources);
        let mut restores = std::mem::take(&mut self.restores);
        let mut incarnations = 0;
        for (source, chains) in &sources {
            incarnations += chains.incarnations();
            for (incarnation, gap) in chains.gaps() {
                if restores.explain(gap) {
                    continue;
                }
                let problem = Problem::Gap { first: gap.first, last: gap.last };
                self.add(gap.noticed(source, incarnation).with(problem));
            }
        }
        self.findings.sort_by_key(|finding| finding.stream_sequence);
        VerificationReport {
            clean: self.findings_total == 0,
            events: self.events,
            first_sequence: self.first_sequence,
            last_sequence: self.last_sequence,
            sources: sources.len() as u64,
            incarnations,
            unknown: self.unknown,
            checkpoints: self.checkpoints.checkpoints(),
            checkpointed_up_to: self.checkpoints.checkpointed_up_to(),
            signatures_verified: self.signatures_verified,
            restores: restores.finish(),
            root: self.checkpoints.root(),
            findings_total: self.findings_total,
            findings: self.findings,
        }
    }

    fn add(&mut self, finding: Finding) {
        self.findings_total += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

/// How an event contradicts the subject it is stored under.
fn contradiction(subject: &str, envelope: &EventEnvelope) -> Option<String> {
    let parsed: EventSubject = match subject.parse() {
        Ok(parsed) => parsed,
        Err(error) => return Some(error.to_string()),
    };
    let of_another_node = match (&envelope.source, parsed.scope()) {
        (Source::Node(node), Scope::Node(scope)) => node != scope,
        // Nodes speak of themselves and of nothing else, whatever the type.
        (Source::Node(_), Scope::Release(_) | Scope::Channel(_) | Scope::Stream(_)) => true,
        (Source::Publisher(_) | Source::Operator(_), _) => false,
    };
    if of_another_node || !envelope.belongs_under(&parsed) {
        return Some(format!("`{}` by `{}` may not stand under it", envelope.event.event_type(), envelope.source));
    }
    None
}

#[cfg(test)]
mod tests;
