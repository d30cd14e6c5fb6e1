//! The file that holds a writer's state: its chain, and the event under way with exactly the bytes that were sent.
//!
//! One file, replaced whole, so that no crash leaves a chain and an event that do not belong together.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shared::daemon::crash_point::CrashPoint;
use shared::digest::Sha256Digest;
use shared::event_chain::{EventChain, SealedEvent};
use shared::identifiers::{EventId, NodeName};
use shared::source::Source;
use thiserror::Error;

use super::{InFlight, WriterState};
use crate::alternating_file::write_in_turns;
use crate::durable_file;
use crate::event_log::Expectation;

const FILE_NAME: &str = "writer.json";
const LOCK_NAME: &str = "writer.lock";
const FORMAT: u32 = 1;
const STEPS: [CrashPoint; 3] =
    [CrashPoint::OutboxFileWritten, CrashPoint::OutboxFileSynced, CrashPoint::OutboxFileRenamed];

/// A writer's file that cannot be used.
#[derive(Debug, Error)]
pub enum ChainFileError {
    /// It cannot be read or written.
    #[error("writer state `{}` cannot be read or written", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process is ending.
    #[error("the write was interrupted because the process is ending")]
    Interrupted,
    /// Another process writes here.
    #[error("another process writes events with the state in `{}`", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("writer state `{}` is not valid", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A newer version of this program has written it.
    #[error("writer state `{}` has format {format}, this version knows {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// It belongs to somebody else: a node or publisher that was renamed needs a new directory.
    #[error("writer state `{}` belongs to `{found}`, not to `{expected}`", path.display())]
    OtherSource {
        /// The file.
        path: PathBuf,
        /// Who opens it.
        expected: Source,
        /// Who wrote it.
        found: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u32,
    source: String,
    chain: EventChain,
    last_stored: Option<EventId>,
    /// Absent in files of earlier versions.
    #[serde(default)]
    stored_recently: Vec<EventId>,
    in_flight: Option<WireInFlight>,
}

#[derive(Serialize, Deserialize)]
struct WireInFlight {
    id: EventId,
    subject: String,
    sequence: u64,
    payload: String,
    expected_last: u64,
    /// The node over whose subjects the expectation holds; absent where it holds over the event's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeName>,
}

/// The file, and the lock that keeps a second process away from it.
#[derive(Debug)]
pub(super) struct ChainFile {
    path: PathBuf,
    /// Held for as long as this lives.
    _lock: File,
    /// A write that was given up by its caller still ends before the next begins.
    writing: Mutex<()>,
}

impl ChainFile {
    pub(super) fn in_directory(directory: &Path) -> Result<Self, ChainFileError> {
        let io = |source| ChainFileError::Io { path: directory.to_owned(), source };
        durable_file::create_private_directory(directory).map_err(io)?;
        let lock = File::create(directory.join(LOCK_NAME)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {
                CrashPoint::OutboxOpened.reach();
                Ok(Self { path: directory.join(FILE_NAME), _lock: lock, writing: Mutex::new(()) })
            }
            Err(TryLockError::WouldBlock) => Err(ChainFileError::InUse { path: directory.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    pub(super) fn load(&self, source: &Source) -> Result<Option<WriterState>, ChainFileError> {
        let Some(content) = durable_file::read(&self.path).map_err(|source| self.io(source))? else { return Ok(None) };
        let wire: Wire = serde_json::from_slice(&content).map_err(|source| self.malformed(source))?;
        if wire.format != FORMAT {
            return Err(ChainFileError::Format { path: self.path.clone(), format: wire.format });
        }
        if wire.source != source.to_string() {
            let (path, expected) = (self.path.clone(), source.clone());
            return Err(ChainFileError::OtherSource { path, expected, found: wire.source });
        }
        let in_flight = wire.in_flight.map(|in_flight| self.sealed(in_flight)).transpose()?;
        let mut stored_recently = wire.stored_recently;
        if stored_recently.is_empty() {
            stored_recently.extend(wire.last_stored);
        }
        Ok(Some(WriterState { chain: wire.chain, last_stored: wire.last_stored, stored_recently, in_flight }))
    }

    /// Returns after the state is durable.
    pub(super) fn save(&self, source: &Source, state: &WriterState) -> Result<(), ChainFileError> {
        let wire = Wire {
            format: FORMAT,
            source: source.to_string(),
            chain: state.chain.clone(),
            last_stored: state.last_stored,
            stored_recently: state.stored_recently.clone(),
            in_flight: state.in_flight.as_ref().map(to_wire),
        };
        let content = serde_json::to_vec(&wire).map_err(|source| self.malformed(source))?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_in_turns(&self.path, &content, STEPS).map_err(|source| self.io(source))
    }

    fn sealed(&self, wire: WireInFlight) -> Result<InFlight, ChainFileError> {
        use serde::de::Error as _;
        let subject = wire.subject.parse().map_err(|error| self.malformed(serde_json::Error::custom(error)))?;
        let bytes = wire.payload.into_bytes();
        let digest = Sha256Digest::of(&bytes);
        Ok(InFlight {
            event: SealedEvent { id: wire.id, subject, sequence: wire.sequence, bytes, digest },
            expectation: match wire.node {
                Some(node) => Expectation::OnNode { node, last: wire.expected_last },
                None => Expectation::OnOwnSubject(wire.expected_last),
            },
        })
    }

    fn io(&self, source: io::Error) -> ChainFileError {
        ChainFileError::Io { path: self.path.clone(), source }
    }

    fn malformed(&self, source: serde_json::Error) -> ChainFileError {
        ChainFileError::Malformed { path: self.path.clone(), source }
    }
}

fn to_wire(in_flight: &InFlight) -> WireInFlight {
    let (expected_last, node) = match &in_flight.expectation {
        Expectation::OnOwnSubject(last) => (*last, None),
        Expectation::OnNode { node, last } => (*last, Some(node.clone())),
    };
    let event = &in_flight.event;
    WireInFlight {
        id: event.id,
        subject: event.subject.to_string(),
        sequence: event.sequence,
        // A sealed event is JSON, so nothing is lost here.
        payload: String::from_utf8_lossy(&event.bytes).into_owned(),
        expected_last,
        node,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use shared::event::{BundleEvent, EpochStarted};
    use shared::event_chain::EventDraft;
    use shared::identifiers::Incarnation;
    use uuid::Uuid;

    use super::*;

    fn source() -> Source {
        "/operators/ada".parse().unwrap()
    }

    fn state_in_flight() -> WriterState {
        let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(1)), Some(Sha256Digest::of(b"before")));
        let draft = EventDraft {
            id: EventId::from_uuid(Uuid::from_u128(9)),
            time: DateTime::UNIX_EPOCH,
            event: BundleEvent::EpochStarted(EpochStarted {
                stream: "BUNDLE_EVENTS".to_owned(),
                epoch: Incarnation::from_uuid(Uuid::from_u128(7)),
                continues: None,
                reason: None,
            }),
        };
        let event = chain.seal(&source(), &draft).unwrap();
        let expectation = Expectation::OnNode { node: "edge-17".parse().unwrap(), last: 12 };
        let in_flight = Some(InFlight { event, expectation });
        WriterState { chain, last_stored: None, stored_recently: Vec::new(), in_flight }
    }

    #[test]
    fn an_event_under_way_survives_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        let file = ChainFile::in_directory(directory.path()).unwrap();
        assert_eq!(file.load(&source()).unwrap(), None);
        let state = state_in_flight();
        file.save(&source(), &state).unwrap();
        assert_eq!(file.load(&source()).unwrap(), Some(state));
    }

    #[test]
    fn a_second_process_and_another_source_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = ChainFile::in_directory(directory.path()).unwrap();
        assert!(matches!(ChainFile::in_directory(directory.path()), Err(ChainFileError::InUse { .. })));
        file.save(&source(), &state_in_flight()).unwrap();
        let other: Source = "/nodes/edge-17".parse().unwrap();
        assert!(matches!(file.load(&other), Err(ChainFileError::OtherSource { .. })));
    }

    #[test]
    fn a_broken_or_newer_file_is_an_error_and_not_a_new_chain() {
        let directory = tempfile::tempdir().unwrap();
        let file = ChainFile::in_directory(directory.path()).unwrap();
        std::fs::write(&file.path, b"{").unwrap();
        assert!(matches!(file.load(&source()), Err(ChainFileError::Malformed { .. })));
        file.save(&source(), &state_in_flight()).unwrap();
        let text = std::fs::read_to_string(&file.path).unwrap().replace("\"format\":1", "\"format\":2");
        std::fs::write(&file.path, text).unwrap();
        assert!(matches!(file.load(&source()), Err(ChainFileError::Format { format: 2, .. })));
    }
}
