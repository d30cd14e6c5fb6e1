//! A node's events on their way to the log: durable before [`Outbox::record`] returns, removed only once stored.
//!
//! ```text
//! record ─► waiting.jsonl ─► writer.json (numbered, sealed) ─► the log ─► its line is gone ─► writer.json (chain moves)
//! ```
//!
//! A crash between any two of these steps repeats the one it interrupted and loses or doubles nothing. The last step waits
//! for the next event, or for a moment without any. Offline, the queue grows to its limit ([`MAX_WAITING`] unless said
//! otherwise); then `record` refuses, and says so.

mod clock_watch;
mod next_step;
mod queue;
mod status;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::Utc;
use rand::RngExt as _;
use shared::daemon::ErrorChain;
use shared::daemon::crash_point::CrashPoint;
use shared::digest::Sha256Digest;
use shared::event_chain::EventDraft;
use shared::event_envelope::EnvelopeError;
use shared::identifiers::{EventId, Incarnation, NodeName};
use shared::source::Source;
use shared::subjects::node_filter;
use thiserror::Error;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::clock_watch::ClockWatch;
use self::next_step::{NextStep, lost_events, next_step, written_by_a_copy};
use self::queue::Queue;
pub use self::queue::{MAX_WAITING, QueueError};
pub use self::status::{CopiedState, LostEvents, OutboxStatus, Rival};
use crate::event_log::{EventLog, Expectation, ReadError};
use crate::event_writer::{ChainFileError, EventWriter};

/// How long one event is sent again before its fate is called unknown and the matter is looked at anew.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Without a next event for so long, the writer's file learns of the last confirmation.
const SETTLE_AFTER: Duration = Duration::from_millis(250);

/// An outbox that cannot be opened.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// The writer's state cannot be used.
    #[error("the outbox's writer cannot be opened")]
    Writer(#[source] ChainFileError),
    /// The queue cannot be used.
    #[error("the outbox's queue cannot be opened")]
    Queue(#[source] QueueError),
}

/// An event that was not recorded.
#[derive(Debug, Error)]
pub enum RecordError {
    /// This node cannot write such an event, or it is too large.
    #[error("the event cannot be written")]
    Invalid(#[source] EnvelopeError),
    /// It is not durable: the disk fails, or the queue is full.
    #[error("the event is not recorded")]
    Queue(#[source] QueueError),
}

/// The durable queue of one node's events and the writer that sends them. Clones share it.
#[derive(Debug, Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: NodeName,
    queue: Queue,
    /// The events that earlier processes recorded: the last that they stored, the one under way, those that wait.
    recorded_before: Vec<EventId>,
    /// Locked by whoever runs: there is one writer.
    writer: Mutex<EventWriter>,
    /// Ends only where a copy of this outbox is noticed.
    incarnation: RwLock<Incarnation>,
    recorded: Notify,
    status: watch::Sender<OutboxStatus>,
}

impl Outbox {
    /// Opens a node's outbox, or makes a new one with a new incarnation. Blocks on the disk; one process at a time can
    /// have it open.
    pub fn open(directory: &Path, node: NodeName) -> Result<Self, OutboxError> {
        Self::open_with_limit(directory, node, MAX_WAITING)
    }

    /// The same where at most so many events may wait. More that are there already stay.
    pub fn open_with_limit(directory: &Path, node: NodeName, most_waiting: usize) -> Result<Self, OutboxError> {
        let mut writer = EventWriter::open(directory, Source::Node(node.clone())).map_err(OutboxError::Writer)?;
        writer.defer_confirmations();
        let queue = Queue::open(directory, most_waiting).map_err(OutboxError::Queue)?;
        let mut recorded_before = writer.stored_recently().to_vec();
        for stored in &recorded_before {
            // A process ended between storing it and removing its entry, or could not remove it.
            queue.remove(*stored).map_err(OutboxError::Queue)?;
        }
        // One under way that does not wait any more is stored: its entry goes only then.
        recorded_before.extend(writer.in_flight());
        recorded_before.extend(queue.ids());
        let (status, _) = watch::channel(OutboxStatus { waiting: queue.len(), ..OutboxStatus::default() });
        let incarnation = writer.chain().incarnation;
        let inner = Inner {
            node,
            queue,
            recorded_before,
            writer: Mutex::new(writer),
            incarnation: RwLock::new(incarnation),
            recorded: Notify::new(),
            status,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The incarnation that this outbox writes under now. It changes only where another process is noticed that writes with
    /// a copy of this outbox: see [`OutboxStatus::copied`].
    pub fn incarnation(&self) -> Incarnation {
        *self.inner.incarnation.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the outbox is doing, and each change of it.
    pub fn status(&self) -> watch::Receiver<OutboxStatus> {
        self.inner.status.subscribe()
    }

    /// Makes an event durable, to be sent in the order of these calls. After it returns, no crash loses the event. One that
    /// is recorded again under the same id, because a crash came before its caller had noted the first time, counts once.
    pub async fn record(&self, draft: EventDraft) -> Result<(), RecordError> {
        self.record_all(vec![draft]).await.pop().unwrap_or(Ok(()))
    }

    /// The same for several, with one sync for all of them. Says for each what came of it.
    pub async fn record_all(&self, drafts: Vec<EventDraft>) -> Vec<Result<(), RecordError>> {
        let inner = Arc::clone(&self.inner);
        let (count, node) = (drafts.len(), Source::Node(inner.node.clone()));
        let recorded = tokio::task::spawn_blocking(move || {
            let is_new = |draft: &EventDraft| !inner.recorded_before.contains(&draft.id);
            let new: Vec<bool> = drafts.iter().map(is_new).collect();
            let mut said = inner.queue.push(&node, drafts.into_iter().filter(is_new).collect()).into_iter();
            new.into_iter().map(|new| if new { said.next().unwrap_or(Ok(())) } else { Ok(()) }).collect::<Vec<_>>()
        });
        let interrupted = || (0..count).map(|_| Err(RecordError::Queue(QueueError::Interrupted))).collect();
        let recorded = recorded.await.unwrap_or_else(|_| interrupted());
        let refused = recorded.iter().filter(|recorded| recorded.is_err()).count();
        self.inner.status.send_modify(|status| {
            status.refused += u64::try_from(refused).unwrap_or(u64::MAX);
            status.waiting = self.inner.queue.len();
        });
        self.inner.recorded.notify_one();
        recorded
    }

    /// Waits until everything recorded is in the log, at most `limit`; says whether it is.
    pub async fn wait_until_empty(&self, limit: Duration) -> bool {
        let mut status = self.inner.status.subscribe();
        let empty = status.wait_for(|status| status.waiting == 0);
        matches!(timeout(limit, empty).await, Ok(Ok(_)))
    }

    /// Sends what is recorded until `stop` is cancelled; a call on the way is finished or given up within the
    /// connection's request time. One task runs this; a second waits for the first to end.
    pub async fn run(&self, log: &EventLog, stop: CancellationToken) {
        let mut writer = self.inner.writer.lock().await;
        let mut sending = Sending {
            inner: Arc::clone(&self.inner),
            log,
            writer: &mut writer,
            last: None,
            lost: None,
            clock: ClockWatch::default(),
        };
        // A cancelled append leaves its event in flight, on disk, to be settled at the next start.
        stop.run_until_cancelled(sending.run()).await;
        sending.settle().await;
    }
}

/// The loop of [`Outbox::run`] and what it knows of the log.
struct Sending<'a> {
    inner: Arc<Inner>,
    log: &'a EventLog,
    writer: &'a mut EventWriter,
    /// Sequence of this node's last event in the log, once read.
    last: Option<u64>,
    /// What the log lacks by what was read, until an append under that knowledge has confirmed it.
    lost: Option<LostEvents>,
    clock: ClockWatch,
}

impl Sending<'_> {
    async fn run(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            if !self.has_work() {
                // A permit is kept for an event that was recorded since.
                let recorded = self.inner.recorded.notified();
                if !self.writer.is_unsettled() {
                    recorded.await;
                } else if timeout(SETTLE_AFTER, recorded).await.is_err() {
                    self.settle().await;
                }
                continue;
            }
            if !self.log.connection().wait_until_connected(FIRST_PAUSE).await {
                self.block("the server cannot be reached".to_owned());
                self.log.connection().wait_until_connected(LONGEST_PAUSE).await;
                continue;
            }
            // One that an earlier attempt may have stored says nothing about now.
            let (asked, first_sent) = (Utc::now(), self.writer.in_flight().is_none());
            let Some(step) = self.step().await else { continue };
            match step {
                NextStep::Advance { last } => {
                    self.last = Some(last);
                    pause = FIRST_PAUSE;
                    let answered = Utc::now();
                    self.advance(last).await;
                    self.tell_lost();
                    if first_sent
                        && !self.has_work()
                        && let Some(skew) = self.clock.measure(self.log, last, asked, answered).await
                    {
                        self.inner.status.send_modify(|status| status.clock = Some(skew));
                    }
                }
                NextStep::Rebase { last, rival } => {
                    self.last = last;
                    self.lost = None;
                    if let Some(rival) = rival {
                        self.note_rival(rival);
                    }
                    // Two writers that take turns in conflicting are drawn apart.
                    tokio::time::sleep(spread(pause)).await;
                }
                NextStep::BeginAnew { last, predecessor } => match self.begin_anew(last, predecessor).await {
                    Ok(()) => self.last = Some(last),
                    Err(error) => {
                        self.block(ErrorChain(&error).to_string());
                        self.pause(pause).await;
                    }
                },
                NextStep::Wait { reason } => {
                    self.block(reason);
                    self.pause(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                NextStep::SetAside { reason } => self.set_aside(&reason).await,
            }
        }
    }

    /// Writes down that the last event is stored. Where the disk refuses, the next start finds that out.
    async fn settle(&mut self) {
        if let Err(error) = self.writer.settle().await {
            tracing::debug!(error = %ErrorChain(&error), "the writer's file does not know of the last event yet");
        }
    }

    /// Settles the event in flight, else sends the first in the queue; `None` where there is neither.
    async fn step(&mut self) -> Option<NextStep> {
        if self.writer.in_flight().is_some() {
            let resumed = self.writer.resume(self.log, PATIENCE).await;
            return Some(next_step(self.writer.chain(), resumed));
        }
        let draft = self.inner.queue.first()?;
        let last = match self.last_in_log().await {
            Ok(last) => last,
            Err(error) => return Some(NextStep::Wait { reason: ErrorChain(&error).to_string() }),
        };
        let expectation = Expectation::OnNode { node: self.inner.node.clone(), last };
        let appended = self.writer.append(self.log, &draft, expectation, PATIENCE).await;
        Some(next_step(self.writer.chain(), appended.map(Some)))
    }

    fn has_work(&self) -> bool {
        self.writer.in_flight().is_some() || self.inner.queue.len() > 0
    }

    /// Where this node's events end. Read once, and again after a conflict that showed nothing.
    async fn last_in_log(&mut self) -> Result<u64, LogEndError> {
        if let Some(last) = self.last {
            return Ok(last);
        }
        let snapshot = self.log.last_of(&[node_filter(&self.inner.node)]).await.map_err(LogEndError::Read)?;
        self.lost = lost_events(self.writer.chain(), &snapshot.events);
        let newest = snapshot.events.iter().max_by_key(|event| event.stream_sequence);
        if let Some(newest) = newest {
            let predecessor: Sha256Digest = newest.digest();
            if snapshot.events.iter().any(|event| written_by_a_copy(self.writer.chain(), event)) {
                self.begin_anew(newest.stream_sequence, predecessor).await.map_err(LogEndError::State)?;
            } else {
                self.writer.continue_after(predecessor).await.map_err(LogEndError::State)?;
            }
        }
        let last = newest.map_or(0, |event| event.stream_sequence);
        self.last = Some(last);
        Ok(last)
    }

    /// Leaves the incarnation to whoever has a copy of it, and goes on under a new one.
    async fn begin_anew(&mut self, stream_sequence: u64, predecessor: Sha256Digest) -> Result<(), ChainFileError> {
        let shared = self.writer.chain().incarnation;
        self.writer.begin_anew(predecessor).await?;
        let begun = self.writer.chain().incarnation;
        tracing::error!(
            node.name = %self.inner.node, event.sequence = stream_sequence, %shared, %begun,
            "a copy of this agent's state directory is in use, or it was put back to an earlier state: the log holds events \
             of its incarnation that it did not write; it goes on under a new incarnation"
        );
        *self.inner.incarnation.write().unwrap_or_else(PoisonError::into_inner) = begun;
        self.inner.status.send_modify(|status| {
            status.copied = Some(CopiedState { shared, begun, stream_sequence });
            status.rival = Some(Rival { incarnation: Some(shared), stream_sequence });
            status.rivals_noticed += 1;
        });
        Ok(())
    }

    fn tell_lost(&mut self) {
        if let Some(lost) = self.lost.take() {
            tracing::error!(
                node.name = %self.inner.node, confirmed = lost.confirmed, found = lost.found,
                "the log does not hold any more what it had confirmed of this node's events"
            );
            self.inner.status.send_modify(|status| status.lost = Some(lost));
        }
    }

    async fn advance(&self, last: u64) {
        let removed = match self.writer.last_stored() {
            Some(stored) => self.on_disk(move |queue| queue.remove(stored)).await,
            None => Ok(()),
        };
        CrashPoint::EntryRemoved.reach();
        if let Err(error) = removed {
            // It is in the log; the entry is removed at the next start.
            tracing::error!(error = %ErrorChain(&error), "an entry of the outbox cannot be removed");
        }
        self.inner.status.send_modify(|status| {
            status.waiting = self.inner.queue.len();
            status.stored += 1;
            status.last_stream_sequence = Some(last);
            status.blocked = None;
        });
    }

    /// Changes the queue on a thread that may block.
    async fn on_disk(
        &self,
        change: impl FnOnce(&Queue) -> Result<(), QueueError> + Send + 'static,
    ) -> Result<(), QueueError> {
        let inner = Arc::clone(&self.inner);
        let changed = tokio::task::spawn_blocking(move || change(&inner.queue)).await;
        changed.unwrap_or(Err(QueueError::Interrupted))
    }

    fn note_rival(&self, rival: Rival) {
        tracing::error!(
            node.name = %self.inner.node,
            event.sequence = rival.stream_sequence,
            "another process writes events under this node's name"
        );
        self.inner.status.send_modify(|status| {
            status.rival = Some(rival);
            status.rivals_noticed += 1;
        });
    }

    fn block(&self, reason: String) {
        self.inner.status.send_if_modified(|status| {
            let changed = status.blocked.as_ref() != Some(&reason);
            if changed {
                tracing::warn!(reason, waiting = status.waiting, "events wait in the outbox");
                status.blocked = Some(reason);
            }
            changed
        });
    }

    async fn set_aside(&self, reason: &str) {
        tracing::error!(reason, "an event can never be sent and is set aside");
        let source = Source::Node(self.inner.node.clone());
        if let Err(error) = self.on_disk(move |queue| queue.set_first_aside(&source)).await {
            tracing::error!(error = %ErrorChain(&error), "an entry of the outbox cannot be set aside");
        }
        self.inner.status.send_modify(|status| status.waiting = self.inner.queue.len());
    }

    /// Waits before the next attempt; a new connection ends the wait.
    async fn pause(&self, pause: Duration) {
        let mut again = self.log.connection().connected_again();
        let _ = timeout(spread(pause), again.next()).await;
    }
}

/// A random part of a pause, so that a fleet does not act at once.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.2..1.0))
}

#[derive(Debug, Error)]
enum LogEndError {
    #[error("the node's last event cannot be read")]
    Read(#[source] ReadError),
    #[error("the writer's state cannot be saved")]
    State(#[source] ChainFileError),
}

#[cfg(test)]
mod tests;
