//! The one writer task of an incarnation: numbers, seals and appends events, one at a time.
//!
//! An event gets its number only when it is sent. Its sealed bytes are made durable first and sent again byte for byte
//! until their fate is known; nothing else is numbered meanwhile. A refused event frees its number. A writer kept in
//! memory (an operator's command) keeps the same rules for as long as it runs.

mod chain_file;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shared::daemon::crash_point::CrashPoint;
use shared::digest::Sha256Digest;
use shared::event_chain::{EventChain, EventDraft, SealedEvent};
use shared::event_envelope::EnvelopeError;
use shared::identifiers::{EventId, Incarnation};
use shared::source::Source;
use thiserror::Error;
use uuid::Uuid;

use self::chain_file::ChainFile;
pub use self::chain_file::ChainFileError;
use crate::event_log::{AppendError, Appended, Attempts, EventLog, Expectation};

/// Stored events whose ids are remembered. Whoever records an event again after a crash is at most a few events late.
const MOST_RECENT: usize = 64;

/// Where a writer stands: all that a restart needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriterState {
    pub(crate) chain: EventChain,
    /// The last event that was stored: a queue removes its entry by it.
    pub(crate) last_stored: Option<EventId>,
    /// The last few before and with it, oldest first: one of them that is recorded again is in the log already.
    pub(crate) stored_recently: Vec<EventId>,
    /// The event whose fate is unknown.
    pub(crate) in_flight: Option<InFlight>,
}

/// A sealed event under way, with what it was sent under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) event: SealedEvent,
    pub(crate) expectation: Expectation,
}

impl WriterState {
    fn new(incarnation: Incarnation, predecessor: Option<Sha256Digest>) -> Self {
        Self {
            chain: EventChain::new(incarnation, predecessor),
            last_stored: None,
            stored_recently: Vec::new(),
            in_flight: None,
        }
    }

    fn sending(&self, in_flight: InFlight) -> Self {
        Self { in_flight: Some(in_flight), ..self.clone() }
    }

    fn stored(&self, event: &SealedEvent) -> Self {
        let mut stored_recently = self.stored_recently.clone();
        stored_recently.push(event.id);
        let surplus = stored_recently.len().saturating_sub(MOST_RECENT);
        stored_recently.drain(..surplus);
        Self { chain: self.chain.after(event), last_stored: Some(event.id), stored_recently, in_flight: None }
    }

    /// The event in flight is certainly not in the log: its number is free again.
    fn refused(&self) -> Self {
        Self { in_flight: None, ..self.clone() }
    }
}

/// An event that was not written, or whose fate is unknown.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The event cannot be written by this source, or is too large.
    #[error("the event cannot be written")]
    Seal(#[source] EnvelopeError),
    /// The writer's own file cannot be read or written. The event was not sent.
    #[error("the writer's state is not durable")]
    State(#[source] ChainFileError),
    /// The log did not take it, or did not say. After [`AppendError::Unknown`] the writer is bound to this event:
    /// [`EventWriter::resume`] finds out about it.
    #[error("the event was not confirmed by the event log")]
    Append(#[source] AppendError),
    /// An earlier event's fate is still unknown. This one was not numbered.
    #[error("the event before this one is not settled yet")]
    Unsettled(#[source] Box<WriteError>),
}

/// Writes the events of one incarnation.
#[derive(Debug)]
pub struct EventWriter {
    source: Source,
    state: WriterState,
    file: Option<Arc<ChainFile>>,
    /// Whether a confirmation may be in the file only with the next event.
    defers: bool,
    /// Whether one is not.
    deferred: bool,
}

impl EventWriter {
    /// A writer whose incarnation ends with the process.
    pub fn in_memory(source: Source) -> Self {
        let state = WriterState::new(new_incarnation(), None);
        Self { source, state, file: None, defers: false, deferred: false }
    }

    /// A writer whose incarnation lives as long as the directory. Makes the directory and, for a new incarnation, its
    /// file durable. Blocks on the disk.
    pub fn open(directory: &Path, source: Source) -> Result<Self, ChainFileError> {
        let file = ChainFile::in_directory(directory)?;
        let state = if let Some(state) = file.load(&source)? {
            state
        } else {
            let state = WriterState::new(new_incarnation(), None);
            file.save(&source, &state)?;
            state
        };
        Ok(Self { source, state, file: Some(Arc::new(file)), defers: false, deferred: false })
    }

    /// From now on the file learns of a confirmation together with the next event, or from [`EventWriter::settle`]. A crash
    /// in between costs the next start one request, which finds the event stored: what a crash right after the
    /// confirmation costs anyway.
    pub(crate) fn defer_confirmations(&mut self) {
        self.defers = true;
    }

    /// Whether the file still has to learn of a confirmation.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.deferred
    }

    /// Returns after the file says what this writer knows.
    pub(crate) async fn settle(&mut self) -> Result<(), ChainFileError> {
        if self.deferred { self.change(self.state.clone()).await } else { Ok(()) }
    }

    /// Who writes.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The incarnation's chain up to its last stored event.
    pub fn chain(&self) -> &EventChain {
        &self.state.chain
    }

    /// The last event this incarnation has in the log.
    pub fn last_stored(&self) -> Option<EventId> {
        self.state.last_stored
    }

    /// The events that this incarnation stored last, as many as are remembered.
    pub(crate) fn stored_recently(&self) -> &[EventId] {
        &self.state.stored_recently
    }

    /// The event whose fate is unknown, if any.
    pub fn in_flight(&self) -> Option<EventId> {
        self.state.in_flight.as_ref().map(|in_flight| in_flight.event.id)
    }

    /// Names the source's last event under an earlier incarnation. Only the first event of a new incarnation can
    /// carry it; later calls change nothing.
    pub async fn continue_after(&mut self, predecessor: Sha256Digest) -> Result<(), ChainFileError> {
        let chain = &self.state.chain;
        if chain.sequence > 0 || chain.last_hash.is_some() || self.state.in_flight.is_some() {
            return Ok(());
        }
        self.change(WriterState::new(chain.incarnation, Some(predecessor))).await
    }

    /// Ends this incarnation and begins a new one behind the source's last event in the log: somebody else writes under
    /// this one, because they have a copy of this writer's state. What was stored stays remembered.
    pub async fn begin_anew(&mut self, predecessor: Sha256Digest) -> Result<(), ChainFileError> {
        let WriterState { last_stored, stored_recently, .. } = self.state.clone();
        let begun = WriterState::new(new_incarnation(), Some(predecessor));
        self.change(WriterState { last_stored, stored_recently, ..begun }).await
    }

    /// Writes one event and returns after it is in the log. Settles the event before it first, where its fate is
    /// unknown. Each of the two may take `patience`. Where the event itself is the one in flight, it is sent again
    /// under the expectation it was first sent under: only that makes its fate certain.
    pub async fn append(
        &mut self,
        log: &EventLog,
        draft: &EventDraft,
        expectation: Expectation,
        patience: Duration,
    ) -> Result<Appended, WriteError> {
        if self.in_flight().is_some_and(|id| id != draft.id) {
            self.resume(log, patience).await.map_err(|error| WriteError::Unsettled(Box::new(error)))?;
        }
        let attempts = if self.state.in_flight.is_some() {
            Attempts::Earlier
        } else {
            let event = self.state.chain.seal(&self.source, draft).map_err(WriteError::Seal)?;
            self.change(self.state.sending(InFlight { event, expectation })).await.map_err(WriteError::State)?;
            CrashPoint::EventSealed.reach();
            Attempts::None
        };
        match self.send(log, attempts, patience).await? {
            Some(appended) => Ok(appended),
            // Cannot be: an event is in flight.
            None => Err(WriteError::Append(AppendError::NoLog { subject: String::new() })),
        }
    }

    /// Finds out about the event in flight by sending it again. `None` where there is none. An event that was refused
    /// for certain is given up and its number freed; the error says so.
    pub async fn resume(&mut self, log: &EventLog, patience: Duration) -> Result<Option<Appended>, WriteError> {
        self.send(log, Attempts::Earlier, patience).await
    }

    async fn send(
        &mut self,
        log: &EventLog,
        attempts: Attempts,
        patience: Duration,
    ) -> Result<Option<Appended>, WriteError> {
        let Some(InFlight { event, expectation }) = self.state.in_flight.clone() else { return Ok(None) };
        match log.append_after(attempts, &event, &expectation, patience).await {
            Ok(appended) => {
                CrashPoint::EventConfirmed.reach();
                let stored = self.state.stored(&event);
                if self.defers {
                    self.state = stored;
                    self.deferred = true;
                } else {
                    self.change(stored).await.map_err(WriteError::State)?;
                }
                CrashPoint::EventStored.reach();
                Ok(Some(appended))
            }
            Err(error) => {
                if is_final(&error) {
                    self.change(self.state.refused()).await.map_err(WriteError::State)?;
                }
                Err(WriteError::Append(error))
            }
        }
    }

    /// Moves to a state once it is durable. A caller that is cancelled here leaves the disk one step ahead; repeating
    /// that step, as the next call does, comes to the same.
    async fn change(&mut self, state: WriterState) -> Result<(), ChainFileError> {
        if let Some(file) = &self.file {
            let (file, source, next) = (Arc::clone(file), self.source.clone(), state.clone());
            let saved = tokio::task::spawn_blocking(move || file.save(&source, &next)).await;
            saved.map_err(|_| ChainFileError::Interrupted)??;
        }
        self.state = state;
        self.deferred = false;
        Ok(())
    }
}

/// Whether the event is certainly not in the log and cannot get there any more.
fn is_final(error: &AppendError) -> bool {
    match error {
        AppendError::Conflict { .. }
        | AppendError::PermissionDenied { .. }
        | AppendError::Refused { .. }
        | AppendError::TooLarge { .. }
        | AppendError::NoLog { .. }
        | AppendError::NoLeader { .. } => true,
        AppendError::Unknown { .. } => false,
    }
}

fn new_incarnation() -> Incarnation {
    Incarnation::from_uuid(Uuid::new_v4())
}

/// A new event's id, ordered by time.
pub fn new_event_id() -> EventId {
    EventId::from_uuid(Uuid::now_v7())
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

    fn in_flight(state: &WriterState, number: u128) -> InFlight {
        let event = state.chain.seal(&source(), &draft(number)).unwrap();
        InFlight { event, expectation: Expectation::OnNode { node: "edge-17".parse().unwrap(), last: 4 } }
    }

    /// What a process finds that starts after a crash at this point.
    fn after_crash(directory: &Path, state: &WriterState) -> EventWriter {
        ChainFile::in_directory(directory).unwrap().save(&source(), state).unwrap();
        EventWriter::open(directory, source()).unwrap()
    }

    #[test]
    fn a_crash_before_the_append_leaves_the_same_bytes_to_send() {
        let directory = tempfile::tempdir().unwrap();
        let start = WriterState::new(new_incarnation(), None);
        let sending = start.sending(in_flight(&start, 1));
        let writer = after_crash(directory.path(), &sending);
        assert_eq!(writer.state, sending);
        assert_eq!((writer.in_flight(), writer.chain().sequence), (Some(draft(1).id), 0));
    }

    #[test]
    fn a_crash_after_the_append_goes_on_with_the_next_number() {
        let directory = tempfile::tempdir().unwrap();
        let start = WriterState::new(new_incarnation(), None);
        let first = in_flight(&start, 1).event;
        let stored = start.sending(in_flight(&start, 1)).stored(&first);
        let writer = after_crash(directory.path(), &stored);
        assert_eq!((writer.in_flight(), writer.last_stored()), (None, Some(draft(1).id)));
        let second = writer.chain().seal(&source(), &draft(2)).unwrap();
        assert_eq!((second.sequence, writer.chain().last_hash), (2, Some(first.digest)));
    }

    #[test]
    fn a_refused_event_frees_its_number_and_its_retry_has_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let start = WriterState::new(new_incarnation(), None);
        let refused = start.sending(in_flight(&start, 1)).refused();
        let writer = after_crash(directory.path(), &refused);
        assert_eq!(writer.in_flight(), None);
        // Under whatever expectation it is sent next: an attempt that was thought refused would be recognised.
        assert_eq!(writer.chain().seal(&source(), &draft(1)).unwrap(), in_flight(&start, 1).event);
        assert_eq!(writer.chain().seal(&source(), &draft(2)).unwrap().sequence, 1);
    }

    #[tokio::test]
    async fn only_the_first_event_of_an_incarnation_names_a_predecessor() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(directory.path(), source()).unwrap();
        writer.continue_after(Sha256Digest::of(b"before")).await.unwrap();
        writer.continue_after(Sha256Digest::of(b"other")).await.unwrap();
        drop(writer);
        let writer = EventWriter::open(directory.path(), source()).unwrap();
        assert_eq!(writer.chain().last_hash, Some(Sha256Digest::of(b"before")));
    }

    #[test]
    fn only_certain_refusals_are_final() {
        let subject = || "s".to_owned();
        assert!(is_final(&AppendError::PermissionDenied { subject: subject() }));
        let source = Box::new(crate::event_log::UnknownCause::ReplicaBehind);
        assert!(!is_final(&AppendError::Unknown { subject: subject(), source }));
    }
}
