//! Events that wait for their number: one file of lines, which is only added to.
//!
//! A line is an event's envelope with the number 1 in place of the one it will get, so that one reader and one writer serve
//! both; or it says that an event waits no more. Recording costs one sync and makes no file. Once most of a large file is of
//! no use any more, it is written anew.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
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
const WAITING_FILE: &str = "waiting.jsonl";
/// Where earlier versions kept one file for each event.
const WAITING_DIRECTORY: &str = "waiting";
/// A file that is not larger is never written anew because of what is in it.
const COMPACT_ABOVE: usize = 256 << 10;
/// Events that were sent and whose lines a power failure may bring back, at most: fewer than the ids of stored events that
/// the writer remembers.
const MOST_UNSYNCED: usize = 32;

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
    draft: EventDraft,
    /// The length of its line.
    length: usize,
}

/// A line that ends an event's wait.
#[derive(Serialize, Deserialize)]
struct Gone {
    gone: EventId,
}

#[derive(Debug)]
pub(super) struct Queue {
    file: PathBuf,
    set_aside: PathBuf,
    limit: usize,
    /// Also taken for the time of a write: the order of lines is the order of calls.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// Length of the file.
    length: usize,
    /// Length of the lines of entries.
    of_use: usize,
    /// Lines of no use since the last sync.
    unsynced: usize,
}

impl Queue {
    pub(super) fn open(directory: &Path, limit: usize) -> Result<Self, QueueError> {
        let (earlier, set_aside) = (directory.join(WAITING_DIRECTORY), directory.join(SET_ASIDE));
        for directory in [directory, &set_aside] {
            durable_file::create_private_directory(directory).map_err(|source| failed(directory, source))?;
        }
        let queue = Self { file: directory.join(WAITING_FILE), set_aside, limit, waiting: Mutex::default() };
        queue.load(&earlier)?;
        Ok(queue)
    }

    /// Reads what waits, writes it down anew where there is more than that, and takes over what an earlier version left.
    fn load(&self, earlier: &Path) -> Result<(), QueueError> {
        let files = self.files_of_earlier_version(earlier)?;
        let content = durable_file::read(&self.file).map_err(|source| failed(&self.file, source))?.unwrap_or_default();
        let mut drafts = VecDeque::new();
        for path in &files {
            let content = std::fs::read(path).map_err(|source| failed(path, source))?;
            self.take_line(&content, &mut drafts)?;
        }
        // Behind the last line end is what a crash left of a line: its `record` never returned.
        let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in content[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Ok(Gone { gone }) = serde_json::from_slice(line) {
                drafts.retain(|(draft, _): &(EventDraft, Vec<u8>)| draft.id != gone);
            } else {
                self.take_line(line, &mut drafts)?;
            }
        }
        let text: Vec<u8> = drafts.iter().flat_map(|(_, line)| line.iter().copied()).collect();
        if text != content {
            durable_file::write(&self.file, &text).map_err(|source| failed(&self.file, source))?;
        }
        for path in &files {
            durable_file::remove(path).map_err(|source| failed(path, source))?;
        }
        let entries = drafts.into_iter().map(|(draft, line)| Entry { draft, length: line.len() }).collect();
        *self.waiting() = Waiting { entries, length: text.len(), of_use: text.len(), unsynced: 0 };
        Ok(())
    }

    fn take_line(&self, line: &[u8], drafts: &mut VecDeque<(EventDraft, Vec<u8>)>) -> Result<(), QueueError> {
        let Ok(envelope) = EventEnvelope::parse(line) else {
            tracing::error!(file = %self.file.display(), "an entry of the outbox cannot be read and is set aside");
            return self.keep_aside(line);
        };
        if drafts.iter().all(|(draft, _)| draft.id != envelope.id) {
            let draft = EventDraft { id: envelope.id, time: envelope.time, event: envelope.event };
            drafts.push_back((draft, [line, b"\n"].concat()));
        }
        Ok(())
    }

    /// What an earlier version left, oldest first.
    fn files_of_earlier_version(&self, directory: &Path) -> Result<Vec<PathBuf>, QueueError> {
        let listing = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listing => listing.map_err(|source| failed(directory, source))?,
        };
        let mut found = Vec::new();
        for file in listing {
            let path = file.map_err(|source| failed(directory, source))?.path();
            if durable_file::is_temporary(&path) {
                // Its `record` never returned.
                durable_file::remove(&path).map_err(|source| failed(&path, source))?;
            } else if number_of(&path).is_some() {
                found.push(path);
            } else {
                let content = std::fs::read(&path).map_err(|source| failed(&path, source))?;
                tracing::error!(file = %path.display(), "an entry of the outbox cannot be read and is set aside");
                self.keep_aside(&content)?;
                durable_file::remove(&path).map_err(|source| failed(&path, source))?;
            }
        }
        found.sort_by_key(|path| number_of(path));
        Ok(found)
    }

    /// Makes entries durable at the end of the queue, all with one sync; nothing for one whose id waits already. Says for
    /// each what came of it.
    pub(super) fn push(&self, source: &Source, drafts: Vec<EventDraft>) -> Vec<Result<(), RecordError>> {
        let mut waiting = self.waiting();
        let (mut said, mut text, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for draft in drafts {
            let known = waiting.entries.iter().chain(&new).any(|entry: &Entry| entry.draft.id == draft.id);
            let line = if known { Ok(None) } else { line_of(source, &draft).map(Some) };
            said.push(match line {
                Ok(Some(_)) if waiting.entries.len() + new.len() >= self.limit => {
                    Err(RecordError::Queue(QueueError::Full { limit: self.limit }))
                }
                Ok(Some(line)) => {
                    new.push(Entry { draft, length: line.len() });
                    text.extend_from_slice(&line);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) => Err(RecordError::Invalid(error)),
            });
        }
        if new.is_empty() {
            return said;
        }
        if let Err(error) = durable_file::append(&self.file, &text) {
            // Those that wait already are durable, and those that are invalid stay so.
            let again = |said: Result<(), RecordError>| {
                said.and_then(|()| {
                    let source = io::Error::new(error.kind(), error.to_string());
                    Err(RecordError::Queue(failed(&self.file, source)))
                })
            };
            return said.into_iter().map(again).collect();
        }
        CrashPoint::EventRecorded.reach();
        waiting.length += text.len();
        waiting.of_use += text.len();
        waiting.unsynced = 0;
        waiting.entries.extend(new);
        said
    }

    pub(super) fn first(&self) -> Option<EventDraft> {
        self.waiting().entries.front().map(|entry| entry.draft.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().entries.len()
    }

    /// The events that wait.
    pub(super) fn ids(&self) -> Vec<EventId> {
        self.waiting().entries.iter().map(|entry| entry.draft.id).collect()
    }

    /// Ends the wait of an event that is in the log; nothing where it waits no more. A power failure may bring it back,
    /// together with at most a few others: the writer remembers longer which ones it stored.
    pub(super) fn remove(&self, id: EventId) -> Result<(), QueueError> {
        let mut waiting = self.waiting();
        let Some(position) = waiting.entries.iter().position(|entry| entry.draft.id == id) else { return Ok(()) };
        // Out of the queue even where the line stays: sending it again would only find it stored.
        let Some(entry) = waiting.entries.remove(position) else { return Ok(()) };
        self.forget(&mut waiting, &entry)
    }

    pub(super) fn set_first_aside(&self, source: &Source) -> Result<(), QueueError> {
        let mut waiting = self.waiting();
        let Some(entry) = waiting.entries.pop_front() else { return Ok(()) };
        self.keep_aside(&line_of(source, &entry.draft).unwrap_or_default())?;
        self.forget(&mut waiting, &entry)
    }

    fn forget(&self, waiting: &mut Waiting, entry: &Entry) -> Result<(), QueueError> {
        let failed = |source| failed(&self.file, source);
        waiting.of_use = waiting.of_use.saturating_sub(entry.length);
        // An id and a name always make a line.
        let mut line = serde_json::to_vec(&Gone { gone: entry.draft.id }).unwrap_or_default();
        line.push(b'\n');
        waiting.unsynced += 1;
        if waiting.unsynced >= MOST_UNSYNCED {
            durable_file::append(&self.file, &line).map_err(failed)?;
            waiting.unsynced = 0;
        } else {
            durable_file::append_unsynced(&self.file, &line).map_err(failed)?;
        }
        waiting.length += line.len();
        if waiting.length > COMPACT_ABOVE && waiting.of_use < waiting.length / 2 {
            self.compact(waiting).map_err(failed)?;
        }
        Ok(())
    }

    /// Writes the lines anew that are of use.
    fn compact(&self, waiting: &mut Waiting) -> io::Result<()> {
        let content = durable_file::read(&self.file)?.unwrap_or_default();
        let ids: Vec<EventId> = waiting.entries.iter().map(|entry| entry.draft.id).collect();
        let mut text = Vec::with_capacity(waiting.of_use);
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if EventEnvelope::parse(line.trim_ascii_end()).is_ok_and(|envelope| ids.contains(&envelope.id)) {
                text.extend_from_slice(line);
            }
        }
        durable_file::write(&self.file, &text)?;
        *waiting = Waiting {
            entries: std::mem::take(&mut waiting.entries),
            length: text.len(),
            of_use: text.len(),
            unsynced: 0,
        };
        Ok(())
    }

    fn keep_aside(&self, content: &[u8]) -> Result<(), QueueError> {
        let content = content.trim_ascii_end();
        // Named by what it holds: set aside again after a crash, it is kept once.
        let path = self.set_aside.join(format!("{}.json", Sha256Digest::of(content)));
        durable_file::write(&path, content).map_err(|source| failed(&path, source))?;
        CrashPoint::EntrySetAside.reach();
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(path: &Path, source: io::Error) -> QueueError {
    QueueError::Io { path: path.to_owned(), source }
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

/// The line of an event, or why its source cannot write it.
fn line_of(source: &Source, draft: &EventDraft) -> Result<Vec<u8>, EnvelopeError> {
    let mut line = placeholder(source, draft).to_bytes()?;
    if draft.event.stored_subject(source).is_none() {
        return Err(EnvelopeError::WrongSource { written_by: source.clone(), event_type: draft.event.event_type() });
    }
    line.push(b'\n');
    Ok(line)
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

    fn push(queue: &Queue, draft: EventDraft) -> Result<(), RecordError> {
        queue.push(&source(), vec![draft]).remove(0)
    }

    #[test]
    fn entries_survive_a_restart_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        for number in 1..=12 {
            push(&queue, draft(number)).unwrap();
        }
        queue.remove(draft(1).id).unwrap();
        drop(queue);

        // An interrupted write leaves a part of a line that counts for nothing.
        let file = directory.path().join(WAITING_FILE);
        durable_file::append(&file, b"{\"id\":\"0193").unwrap();
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
        push(&queue, draft(1)).unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        push(&queue, draft(1)).unwrap();
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        push(&queue, draft(1)).unwrap();
        push(&queue, draft(2)).unwrap();
        let spoiled = std::fs::read_to_string(&queue.file).unwrap().replacen("specversion", "spoiled", 1);
        std::fs::write(&queue.file, spoiled).unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        assert_eq!(queue.first().unwrap(), draft(2));
        queue.set_first_aside(&source()).unwrap();
        assert_eq!(queue.len(), 0);
        assert_eq!(std::fs::read_dir(directory.path().join(SET_ASIDE)).unwrap().count(), 2);
    }

    #[test]
    fn an_event_that_could_never_be_sent_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        let operator: Source = "/operators/ada".parse().unwrap();
        assert!(matches!(queue.push(&operator, vec![draft(1)])[..], [Err(RecordError::Invalid(_))]));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), 2).unwrap();
        push(&queue, draft(1)).unwrap();
        push(&queue, draft(2)).unwrap();
        let error = push(&queue, draft(3)).unwrap_err();
        assert!(matches!(error, RecordError::Queue(QueueError::Full { limit: 2 })));
        queue.remove(draft(1).id).unwrap();
        push(&queue, draft(3)).unwrap();
        assert_eq!(queue.first(), Some(draft(2)));
    }

    #[test]
    fn several_are_recorded_together_and_each_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), 2).unwrap();
        let said = queue.push(&source(), vec![draft(1), draft(1), draft(2), draft(3)]);
        assert!(matches!(said[..], [Ok(()), Ok(()), Ok(()), Err(RecordError::Queue(QueueError::Full { .. }))]));
        let queue = Queue::open(directory.path(), 2).unwrap();
        assert_eq!(queue.ids(), [draft(1).id, draft(2).id]);
    }

    #[test]
    fn a_file_full_of_what_is_gone_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        let length = || usize::try_from(std::fs::metadata(&queue.file).unwrap().len()).unwrap();
        let mut longest = 0;
        push(&queue, draft(1)).unwrap();
        for number in 2..1500 {
            push(&queue, draft(number)).unwrap();
            queue.remove(draft(number).id).unwrap();
            longest = longest.max(length());
            assert_eq!(length(), queue.waiting().length);
        }
        assert!(longest < COMPACT_ABOVE + 2000 && length() < longest, "{longest}, then {}", length());
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        assert_eq!(queue.ids(), [draft(1).id]);
    }

    #[test]
    fn what_an_earlier_version_left_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
        push(&queue, draft(3)).unwrap();
        let earlier = directory.path().join(WAITING_DIRECTORY);
        std::fs::create_dir(&earlier).unwrap();
        for number in [2, 1] {
            let content = placeholder(&source(), &draft(number)).to_bytes().unwrap();
            std::fs::write(earlier.join(format!("{number:020}.json")), content).unwrap();
        }
        for _ in 0..2 {
            let queue = Queue::open(directory.path(), MAX_WAITING).unwrap();
            assert_eq!(queue.ids(), [draft(1).id, draft(2).id, draft(3).id]);
            assert_eq!(std::fs::read_dir(&earlier).unwrap().count(), 0);
        }
    }
}
