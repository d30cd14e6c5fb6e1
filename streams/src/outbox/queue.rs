//! Events that wait for their number: one file each, in the order they were recorded.
//!
//! An entry is written as its envelope with the number 1 in place of the one it will get, so that one reader and one writer
//! serve both.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::daemon::crash_point::CrashPoint;
use shared::digest::Sha256Digest;
use shared::event_chain::EventDraft;
use shared::event_envelope::{EnvelopeError, EventEnvelope};
use shared::identifiers::{EventId, Incarnation};
use shared::source::Source;
use thiserror::Error;
use uuid::Uuid;

use super::RecordError;
use crate::durable_file;

/// Most events that may wait. At an event a minute this is a week offline, and at most 320 MiB of disk.
pub const MAX_WAITING: usize = 10_000;

/// The directory of entries that can never be sent, kept for people to look at.
const SET_ASIDE: &str = "set-aside";
const WAITING: &str = "waiting";

/// A queue that cannot do what it was asked.
#[derive(Debug, Error)]
pub enum QueueError {
    /// A file cannot be read or written.
    #[error("outbox file `{}` cannot be read or written", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// As many events wait as may.
    #[error("the outbox holds {limit} events, which is its limit")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The process is ending.
    #[error("the write was interrupted because the process is ending")]
    Interrupted,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    draft: EventDraft,
}

#[derive(Debug)]
pub(super) struct Queue {
    waiting: PathBuf,
    set_aside: PathBuf,
    limit: usize,
    /// Also taken for the time of a file's write: the order of files is the order of calls.
    entries: Mutex<VecDeque<Entry>>,
}

impl Queue {
    pub(super) fn open(directory: &Path, limit: usize) -> Result<Self, QueueError> {
        let (waiting, set_aside) = (directory.join(WAITING), directory.join(SET_ASIDE));
        for directory in [&waiting, &set_aside] {
            durable_file::create_private_directory(directory).map_err(|source| failed(directory, source))?;
        }
        let queue = Self { waiting, set_aside, limit, entries: Mutex::default() };
        queue.load()?;
        Ok(queue)
    }

    fn load(&self) -> Result<(), QueueError> {
        let mut found = Vec::new();
        let listing = std::fs::read_dir(&self.waiting).map_err(|source| failed(&self.waiting, source))?;
        for file in listing {
            let path = file.map_err(|source| failed(&self.waiting, source))?.path();
            if durable_file::is_temporary(&path) {
                // Its `record` never returned.
                durable_file::remove(&path).map_err(|source| failed(&path, source))?;
                continue;
            }
            let content = std::fs::read(&path).map_err(|source| failed(&path, source))?;
            if let (Some(number), Ok(envelope)) = (number_of(&path), EventEnvelope::parse(&content)) {
                let draft = EventDraft { id: envelope.id, time: envelope.time, event: envelope.event };
                found.push(Entry { number, draft });
            } else {
                tracing::error!(file = %path.display(), "an entry of the outbox cannot be read and is set aside");
                self.move_aside(&path)?;
            }
        }
        found.sort_by_key(|entry| entry.number);
        *self.entries() = found.into();
        Ok(())
    }

    /// Makes an entry durable at the end of the queue; nothing where one with its id waits already.
    pub(super) fn push(&self, source: &Source, draft: EventDraft) -> Result<(), RecordError> {
        let content = placeholder(source, &draft).to_bytes().map_err(RecordError::Invalid)?;
        if draft.event.stored_subject(source).is_none() {
            return Err(RecordError::Invalid(EnvelopeError::WrongSource {
                written_by: source.clone(),
                event_type: draft.event.event_type(),
            }));
        }
        let mut entries = self.entries();
        if entries.iter().any(|entry| entry.draft.id == draft.id) {
            return Ok(());
        }
        if entries.len() >= self.limit {
            return Err(RecordError::Queue(QueueError::Full { limit: self.limit }));
        }
        let number = entries.back().map_or(1, |entry| entry.number + 1);
        let path = self.path_of(number);
        durable_file::write(&path, &content).map_err(|source| RecordError::Queue(failed(&path, source)))?;
        CrashPoint::EventRecorded.reach();
        entries.push_back(Entry { number, draft });
        Ok(())
    }

    pub(super) fn first(&self) -> Option<EventDraft> {
        self.entries().front().map(|entry| entry.draft.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Removes the entry of an event that is in the log; nothing where it was removed before.
    pub(super) fn remove(&self, id: EventId) -> Result<(), QueueError> {
        let mut entries = self.entries();
        let Some(position) = entries.iter().position(|entry| entry.draft.id == id) else { return Ok(()) };
        let path = self.path_of(entries[position].number);
        // Out of the queue even where the file stays: sending it again would only find it stored.
        entries.remove(position);
        durable_file::remove(&path).map_err(|source| failed(&path, source))
    }

    pub(super) fn set_first_aside(&self) -> Result<(), QueueError> {
        let Some(entry) = self.entries().pop_front() else { return Ok(()) };
        self.move_aside(&self.path_of(entry.number))
    }

    fn move_aside(&self, path: &Path) -> Result<(), QueueError> {
        // Numbers begin anew when the queue runs empty, so the name alone could replace an earlier one.
        let name = format!("{}.json", Uuid::now_v7());
        std::fs::rename(path, self.set_aside.join(name)).map_err(|source| failed(path, source))?;
        CrashPoint::EntrySetAside.reach();
        Ok(())
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.waiting.join(format!("{number:020}.json"))
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        // Nothing in here panics half-way through a change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(path: &Path, source: io::Error) -> QueueError {
    QueueError::Io { path: path.to_owned(), source }
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

/// As large as the event will be, so that one that is too large is refused here and not when it is sent.
fn placeholder(source: &Source, draft: &EventDraft) -> EventEnvelope {
    EventEnvelope {
        id: draft.id,
        source: source.clone(),
        time: draft.time,
        incarnation: Incarnation::from_uuid(Uuid::nil()),
        sequence: 1,
        prevhash: Some(Sha256Digest::from_bytes([0; 32])),
        event: draft.event.clone(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use shared::event::{BundleEvent, FetchStrategy, RefreshAttempt};

    use super::*;

    fn source() -> Source {
        "/nodes/edge-17".parse().unwrap()
    }

    fn draft(number: u128) -> EventDraft {
        EventDraft {
            id: EventId::from_uuid(Uuid::from_u128(number)),
            time: DateTime::UNIX_EPOCH,
            event: BundleEvent::RefreshAttempt(RefreshAttempt {
                bundle: "contracts".parse().unwrap(),
                tag: "v1".parse().unwrap(),
                tree_digest: Sha256Digest::of(b"tree"),
                base_tag: None,
                strategy: FetchStrategy::Archive,
            }),
        }
    }

    #[test]
    fn entries_survive_a_restart_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        for number in 1..=12 {
            queue.push(&source(), draft(number)).unwrap();
        }
        queue.remove(draft(1).id).unwrap();
        drop(queue);

        // An interrupted write leaves a temporary file that counts for nothing.
        std::fs::write(directory.path().join(WAITING).join("00000000000000000013.json.tmp"), b"{").unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        assert_eq!(queue.len(), 11);
        for number in 2..=12 {
            let first = queue.first().unwrap();
            assert_eq!(first, draft(number));
            queue.remove(first.id).unwrap();
            queue.remove(first.id).unwrap();
        }
        assert_eq!(queue.first(), None);
    }

    #[test]
    fn an_entry_recorded_twice_waits_once() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        queue.push(&source(), draft(1)).unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        queue.push(&source(), draft(1)).unwrap();
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        queue.push(&source(), draft(1)).unwrap();
        queue.push(&source(), draft(2)).unwrap();
        std::fs::write(queue.path_of(1), b"not an event").unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        assert_eq!(queue.first().unwrap(), draft(2));
        queue.set_first_aside().unwrap();
        assert_eq!(queue.len(), 0);
        assert_eq!(std::fs::read_dir(directory.path().join(SET_ASIDE)).unwrap().count(), 2);
    }

    #[test]
    fn an_event_that_could_never_be_sent_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        let operator: Source = "/operators/ada".parse().unwrap();
        assert!(matches!(queue.push(&operator, draft(1)), Err(RecordError::Invalid(_))));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), 2).unwrap();
        queue.push(&source(), draft(1)).unwrap();
        queue.push(&source(), draft(2)).unwrap();
        let error = queue.push(&source(), draft(3)).unwrap_err();
        assert!(matches!(error, RecordError::Queue(QueueError::Full { limit: 2 })));
        queue.remove(draft(1).id).unwrap();
        queue.push(&source(), draft(3)).unwrap();
        assert_eq!(queue.first(), Some(draft(2)));
    }
}
