//! What a verification can find, and where.

use std::fmt;

use serde::Serialize;

use crate::digest::Sha256Digest;
use crate::event_envelope::EventEnvelope;
use crate::identifiers::Incarnation;
use crate::source::Source;

/// One thing that is wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stream sequence of the message that shows it.
    pub stream_sequence: u64,
    /// That message's subject; empty where the message is missing.
    pub subject: String,
    /// Who wrote it, where known.
    pub source: Option<Source>,
    /// The writer's incarnation, where known.
    pub incarnation: Option<Incarnation>,
    /// Its number within the incarnation, where known.
    pub sequence: Option<u64>,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// Stream sequences without message: deleted, or left out.
    MissingMessages {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// A stream sequence at or below an earlier one.
    StreamOrder {
        /// The highest one before it.
        after: u64,
    },
    /// The payload is no event of ours.
    NotAnEvent {
        /// Why.
        reason: String,
    },
    /// Type, source or scope contradict the subject.
    Contradiction {
        /// How.
        reason: String,
    },
    /// Numbers of the incarnation that no event has.
    Gap {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// The same bytes a second time.
    Duplicate {
        /// Stream sequence of the first time.
        first_at: u64,
    },
    /// Another event with the same number.
    Fork {
        /// Stream sequence of the other.
        other_at: u64,
    },
    /// A number that was passed long ago: a duplicate or a fork.
    Repeated {
        /// The incarnation's highest number before it.
        after: u64,
    },
    /// A number that comes after a higher one.
    Reordered {
        /// The incarnation's highest number before it.
        after: u64,
    },
    /// The bytes of an event are not those that the next one names: one of the two was altered.
    Altered {
        /// Stream sequence of the earlier of the two.
        named_at: u64,
        /// Number of the earlier of the two.
        named_sequence: u64,
        /// What the later one names.
        expected: Option<Sha256Digest>,
        /// The digest of the earlier one's stored bytes.
        actual: Sha256Digest,
    },
    /// The first event of an incarnation names a predecessor that its source did not write.
    UnknownPredecessor {
        /// What it names.
        named: Sha256Digest,
    },
    /// The message's `Nats-Msg-Id` is not the event's id.
    MessageId {
        /// The event's id.
        expected: String,
        /// What it was stored under.
        actual: String,
    },
    /// A checkpoint's root is not that of the events it speaks of: they were altered after it was signed.
    CheckpointMismatch {
        /// How many events it speaks of.
        size: u64,
        /// The root it states.
        expected: Sha256Digest,
        /// The root of these events.
        actual: Sha256Digest,
    },
    /// A checkpoint that cannot be believed, or not be checked.
    BadCheckpoint {
        /// Why.
        reason: String,
    },
    /// A checkpoint that was kept elsewhere is not one of this log: it is shorter, or another one.
    OutsideCheckpoint {
        /// How many events it speaks of.
        size: u64,
        /// The root it states.
        expected: Sha256Digest,
        /// The root of these events; absent where the log has fewer.
        actual: Option<Sha256Digest>,
        /// How many events without gap the log has.
        available: u64,
    },
}

impl Problem {
    /// The problem's text form.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MissingMessages { .. } => "missing_messages",
            Self::StreamOrder { .. } => "stream_order",
            Self::NotAnEvent { .. } => "not_an_event",
            Self::Contradiction { .. } => "contradiction",
            Self::Gap { .. } => "gap",
            Self::Duplicate { .. } => "duplicate",
            Self::Fork { .. } => "fork",
            Self::Repeated { .. } => "repeated",
            Self::Reordered { .. } => "reordered",
            Self::Altered { .. } => "altered",
            Self::UnknownPredecessor { .. } => "unknown_predecessor",
            Self::MessageId { .. } => "message_id",
            Self::CheckpointMismatch { .. } => "checkpoint_mismatch",
            Self::BadCheckpoint { .. } => "bad_checkpoint",
            Self::OutsideCheckpoint { .. } => "outside_checkpoint",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingMessages { first, last } if first == last => {
                write!(formatter, "message {first} is not in the stream")
            }
            Self::MissingMessages { first, last } => {
                write!(formatter, "messages {first} to {last} are not in the stream")
            }
            Self::StreamOrder { after } => write!(formatter, "it stands behind message {after}"),
            Self::NotAnEvent { reason } => write!(formatter, "no event: {reason}"),
            Self::Contradiction { reason } => write!(formatter, "contradicts its subject: {reason}"),
            Self::Gap { first, last } if first == last => write!(formatter, "number {first} is missing before it"),
            Self::Gap { first, last } => write!(formatter, "numbers {first} to {last} are missing before it"),
            Self::Duplicate { first_at } => write!(formatter, "the same bytes as message {first_at}"),
            Self::Fork { other_at } => write!(formatter, "another event than message {other_at} with the same number"),
            Self::Repeated { after } => {
                write!(formatter, "its number was passed long ago, the last was {after}: a duplicate or a fork")
            }
            Self::Reordered { after } => write!(formatter, "it comes after number {after}"),
            Self::Altered { named_at, named_sequence, expected, actual } => {
                let expected = expected.map_or_else(|| "no hash".to_owned(), |digest| digest.to_string());
                write!(
                    formatter,
                    "it names {expected} as the bytes of number {named_sequence}, which stands at message {named_at} \
                     with {actual}: one of the two was altered"
                )
            }
            Self::UnknownPredecessor { named } => {
                write!(formatter, "it follows an event with SHA-256 {named}, which its source did not write before it")
            }
            Self::MessageId { expected, actual } => {
                write!(formatter, "stored under the id `{actual}`, but the event's is `{expected}`")
            }
            Self::CheckpointMismatch { size, expected, actual } => write!(
                formatter,
                "it states root {expected} for events 1 to {size}, which have {actual}: they were altered after it was \
                 signed"
            ),
            Self::BadCheckpoint { reason } => write!(formatter, "no good checkpoint: {reason}"),
            Self::OutsideCheckpoint { size, actual: None, available, .. } => write!(
                formatter,
                "the checkpoint kept elsewhere speaks of events 1 to {size}, but the log has only {available}: it was \
                 cut off, or is another one"
            ),
            Self::OutsideCheckpoint { size, expected, actual: Some(actual), .. } => write!(
                formatter,
                "the checkpoint kept elsewhere states root {expected} for events 1 to {size}, which have {actual}: it is \
                 another log, or was altered"
            ),
        }
    }
}

impl Finding {
    /// A finding without problem yet.
    pub(super) fn at(stream_sequence: u64, subject: &str) -> Unnamed {
        Unnamed { stream_sequence, subject: subject.to_owned(), source: None, incarnation: None, sequence: None }
    }
}

/// Where something is wrong, before it is said what.
#[derive(Debug, Clone)]
pub(super) struct Unnamed {
    stream_sequence: u64,
    subject: String,
    source: Option<Source>,
    incarnation: Option<Incarnation>,
    sequence: Option<u64>,
}

impl Unnamed {
    pub(super) fn by(self, envelope: &EventEnvelope) -> Self {
        self.of(&envelope.source, envelope.incarnation, envelope.sequence)
    }

    pub(super) fn of(self, source: &Source, incarnation: Incarnation, sequence: u64) -> Self {
        Self { source: Some(source.clone()), incarnation: Some(incarnation), sequence: Some(sequence), ..self }
    }

    pub(super) fn with(self, problem: Problem) -> Finding {
        let Self { stream_sequence, subject, source, incarnation, sequence } = self;
        Finding { stream_sequence, subject, source, incarnation, sequence, problem }
    }
}
