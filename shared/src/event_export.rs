//! An exported log: one self-contained `.jsonl.zst` file that can be replayed and verified without any server.
//!
//! One JSON document a line, compressed with zstd: a header that says what follows, one line for each event with its
//! exact stored bytes, and a footer with the number of events and the SHA-256 of all lines before it, line ends
//! included. So `zstd -dc FILE | head -n -1 | sha256sum` gives the digest in the footer.
//!
//! Pure over [`std::io::Read`] and [`std::io::Write`]; what is in memory is one line.

mod reader;
mod writer;

use std::io;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::reader::ExportReader;
pub use self::writer::ExportWriter;
use crate::digest::Sha256Digest;
use crate::fleet_history::StoredMessage;
use crate::identifiers::Incarnation;

/// What the header and the footer call the format.
pub const EXPORT_FORMAT: &str = "demon-event-log";
/// Version of the form that this version writes and reads.
pub const EXPORT_VERSION: u32 = 1;
/// Longest line, in bytes. An event is at most 64 KiB, written in JSON at most six times that.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// How a footer begins.
const FOOTER_START: &[u8] = br#"{"end":"#;

/// What an export holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportHeader {
    /// [`EXPORT_FORMAT`].
    pub format: String,
    /// [`EXPORT_VERSION`].
    pub version: u32,
    /// Name of the stream.
    pub stream: String,
    /// The log's epoch when the export was made, where it has one.
    pub epoch: Option<Incarnation>,
    /// The stream sequence up to which the export goes; 0 for an empty log.
    pub last_sequence: u64,
    /// When it was made, by the clock of the machine that made it.
    pub exported_at: DateTime<Utc>,
}

/// One event of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedEvent {
    /// Its stream sequence.
    pub stream_sequence: u64,
    /// When the server stored it.
    pub stored_at: DateTime<Utc>,
    /// The subject it is stored under.
    pub subject: String,
    /// Its `Nats-Msg-Id`, where it was stored with one.
    pub message_id: Option<String>,
    /// The stored bytes.
    pub payload: Vec<u8>,
}

impl ExportedEvent {
    /// The event as the folds take it.
    pub fn message(&self) -> StoredMessage<'_> {
        StoredMessage {
            stream_sequence: self.stream_sequence,
            stored_at: self.stored_at,
            subject: &self.subject,
            payload: &self.payload,
        }
    }
}

/// How an export ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportFooter {
    /// [`EXPORT_FORMAT`]. The first field: a footer is known by it.
    pub end: String,
    /// How many events it holds.
    pub events: u64,
    /// SHA-256 of all lines before this one, line ends included.
    pub sha256: Sha256Digest,
}

/// A file that cannot be written, or must not be used.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Writing failed.
    #[error("the export cannot be written")]
    Output(#[source] io::Error),
    /// A line cannot be written as JSON, or is too long to be read again.
    #[error("event {stream_sequence} cannot be exported: it is larger than {MAX_LINE_BYTES} bytes as JSON")]
    TooLarge {
        /// The event.
        stream_sequence: u64,
    },
    /// Reading failed, or the compressed bytes are damaged.
    #[error("the export cannot be read, or its compressed bytes are damaged")]
    Input(#[source] io::Error),
    /// The first line is no header of ours.
    #[error("no exported event log: the first line is not a header of format `{EXPORT_FORMAT}`")]
    NotAnExport,
    /// Written by a version with another form.
    #[error("the export has version {actual}, this version reads version {EXPORT_VERSION}")]
    Version {
        /// What it says.
        actual: u32,
    },
    /// There is no footer.
    #[error("the export is cut off: it ends after line {line} without a footer")]
    Truncated {
        /// The last line.
        line: u64,
    },
    /// A line is no event.
    #[error("line {line} of the export is no event: it was altered")]
    Line {
        /// Which, from 1.
        line: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A payload is no base64.
    #[error("line {line} of the export holds no payload: it was altered")]
    Payload {
        /// Which, from 1.
        line: u64,
    },
    /// A line is longer than any of ours.
    #[error("line {line} of the export is longer than {MAX_LINE_BYTES} bytes: it was altered")]
    LongLine {
        /// Which, from 1.
        line: u64,
    },
    /// The digest in the footer is not that of the lines.
    #[error("the export was altered: expected SHA-256 {expected}, actual {actual}")]
    Digest {
        /// What the footer says.
        expected: Sha256Digest,
        /// What the lines give.
        actual: Sha256Digest,
    },
    /// The number in the footer is not that of the events.
    #[error("the export was altered: expected {expected} events, actual {actual}")]
    Count {
        /// What the footer says.
        expected: u64,
        /// What was read.
        actual: u64,
    },
    /// The footer is not written as we write it.
    #[error("the export was altered: its footer in line {line} is not in its own form")]
    Footer {
        /// Which, from 1.
        line: u64,
    },
    /// Something stands behind the footer.
    #[error("the export was altered: something stands behind its footer")]
    BehindFooter,
}

/// An event line as it is written. Of the two payloads exactly one is there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventLine {
    stream_sequence: u64,
    stored_at: DateTime<Utc>,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    message_id: Option<String>,
    /// The bytes, where they are UTF-8, as those of every event of ours are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    payload: Option<String>,
    /// The bytes, where they are not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    payload_base64: Option<String>,
}

#[cfg(test)]
mod tests;
