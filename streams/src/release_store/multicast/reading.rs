//! Reading an object together with others, chunk by chunk, in whatever order they arrive.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use rand::RngExt as _;
use shared::subjects::EVENT_STREAM;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until, timeout};

use super::chunk_map::{ChunkMap, Offered, Stretch};
use super::conduct::{Conduct, Mode};
use super::pace::Pace;
use super::wire::{self, Answer, Heard, ReaderId};
use super::{Multicast, SharedReadError};
use crate::connection::{Connection, RequestError};
use crate::direct_get::{DirectGetError, DirectGetRequest, MAX_BATCH, MAX_BATCH_BYTES};
use crate::layout::release_stream;
use crate::release_store::object_meta::chunk_subject;
use crate::release_store::{FetchError, StoredObject};
use crate::server_fault::{DeniedOperation, ServerFault};

/// What a reader asks for itself at a time, twice of which may be under way.
const OWN_BYTES: u64 = MAX_BATCH_BYTES as u64;
/// What a leader has read before that is asked for again, for the others: at most so much from the object's beginning.
const LEADING_AGAIN_BYTES: u64 = 4 << 20;
/// Missed bytes that a listener asks for at once; more of them may be sent to all once more.
const HOLE_BYTES: u64 = 8 << 20;
/// A subject of the log on which nothing stands.
const NOTHING: &str = "bundle.nothing";
/// Batches in a row that may bring nothing new.
const MOST_IN_VAIN: u32 = 4;
/// Time for an answer that goes to all: where it does not come, answers may not go there.
const LEADING_LIMIT: Duration = Duration::from_secs(2);

/// Bytes of an object and where they belong.
#[derive(Debug)]
pub struct PlacedChunk {
    /// Where they begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
    /// Whether they came because of another reader's asking.
    pub from_others: bool,
    /// Bytes received since the chunk before, those that were here already included.
    pub received: u64,
}

/// What was asked for and is not here yet.
#[derive(Debug, Clone, Copy)]
struct Asked {
    number: u64,
    stretch: Stretch,
    at: Duration,
    for_all: bool,
    /// Chunks that were missing then, where it asks for some of them.
    missing: Option<u64>,
}

/// An object on its way, read together with others. Its digest is for the caller to compare.
pub struct SharedReading {
    connection: Connection,
    multicast: Arc<Multicast>,
    object: String,
    nuid: String,
    own: ReaderId,
    begun: Instant,
    map: ChunkMap,
    conduct: Conduct,
    pace: Pace,
    asked: Vec<Asked>,
    next_number: u64,
    inbox: String,
    answers: Subscriber,
    /// Ends with leaving the others.
    others: Option<Subscriber>,
    /// As leader: what those behind it say.
    behind: Subscriber,
    /// Where to say that we are behind.
    report: Option<String>,
    faults: broadcast::Receiver<ServerFault>,
    received: u64,
    /// As leader: everything before it was asked for.
    led: u64,
    /// When something that we have asked for arrived last.
    last_answer: Duration,
    /// Batches in a row that brought nothing new.
    in_vain: u32,
}

/// What happened next.
enum Happened {
    Answer(Option<Message>),
    Heard(Option<Message>),
    Behind(Option<Message>),
    Fault(Option<ServerFault>),
    TimeCame,
}

impl SharedReading {
    pub(super) async fn begin(
        connection: &Connection,
        multicast: Arc<Multicast>,
        described: &StoredObject,
    ) -> Result<Option<Self>, FetchError> {
        let Some(map) = ChunkMap::new(described.size, described.chunks) else { return Ok(None) };
        let failed = |source| {
            let source = DirectGetError::Request { stream: release_stream(), source };
            FetchError::Read { object: described.name.clone(), offset: 0, source }
        };
        let own = ReaderId::random();
        let inbox = connection.new_inbox();
        let faults = connection.server_faults();
        let answers = subscribe(connection, format!("{inbox}.*")).await.map_err(failed)?;
        let others = subscribe(connection, wire::all_subjects(&described.nuid)).await.map_err(failed)?;
        let behind = subscribe(connection, wire::behind_subjects(own)).await.map_err(failed)?;
        Ok(Some(Self {
            connection: connection.clone(),
            conduct: Conduct::new(own, multicast.settings.readers, rand::rng().random()),
            multicast,
            object: described.name.clone(),
            nuid: described.nuid.clone(),
            own,
            begun: Instant::now(),
            map,
            pace: Pace::new(),
            asked: Vec::new(),
            next_number: 0,
            inbox,
            answers,
            others: Some(others),
            behind,
            report: None,
            faults,
            received: 0,
            led: 0,
            last_answer: Duration::ZERO,
            in_vain: 0,
        }))
    }

    /// The next bytes, each once, in no order; `None` once all are here.
    pub async fn next(&mut self) -> Result<Option<PlacedChunk>, SharedReadError> {
        loop {
            if self.map.is_complete() {
                return Ok(None);
            }
            self.act().await?;
            let placed = match self.wait().await {
                Happened::Answer(message) => {
                    self.take_answer(message.ok_or_else(|| self.failed(RequestError::Closed))?)?
                }
                Happened::Heard(Some(message)) => self.take_heard(message)?,
                Happened::Behind(message) => {
                    let lag = message.and_then(|message| wire::behind(self.own, &message));
                    if let Some(lag) = lag {
                        self.pace.behind(lag, self.now());
                    }
                    None
                }
                Happened::Heard(None) => {
                    self.leave();
                    None
                }
                Happened::Fault(fault) => self.take_fault(fault)?,
                Happened::TimeCame => {
                    self.check_times()?;
                    None
                }
            };
            if placed.is_some() {
                return Ok(placed);
            }
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Shows itself and asks for what it is time to ask for.
    async fn act(&mut self) -> Result<(), SharedReadError> {
        let now = self.now();
        if self.conduct.turn(now, rand::rng().random()) {
            self.say(wire::presence_subject(&self.nuid, self.own)).await?;
        }
        if let Some(subject) = self.report.take() {
            self.say(subject).await?;
        }
        if self.conduct.mode() == Mode::Left && self.others.is_some() {
            tracing::debug!(object = self.object, "reading on alone");
            self.leave();
        }
        while let Some((stretch, for_all)) = self.to_ask_for(now) {
            self.ask(stretch, for_all, now).await?;
        }
        Ok(())
    }

    /// What to ask for now.
    fn to_ask_for(&self, now: Duration) -> Option<(Stretch, bool)> {
        let under_way: Vec<Stretch> = self.asked.iter().map(|asked| asked.stretch).collect();
        let own = self.asked.iter().filter(|asked| !asked.for_all).count();
        let chunk_bytes = self.map.chunk_bytes().max(1);
        let batch = (OWN_BYTES / chunk_bytes).clamp(1, u64::from(MAX_BATCH));
        match self.conduct.mode() {
            // Before the first chunk is here nobody knows where the second batch begins.
            Mode::Alone | Mode::Left if own == 0 || own == 1 && self.map.has_any() => {
                Some((self.map.gap(&under_way, batch)?, false))
            }
            Mode::Listening if own == 0 && self.map.holes().saturating_mul(chunk_bytes) <= HOLE_BYTES => {
                Some((self.map.hole(&under_way, batch)?, false))
            }
            Mode::Leading if own == self.asked.len() => {
                let chunks = self.pace.chunks(chunk_bytes, now).min(u64::from(MAX_BATCH));
                if chunks == 0 {
                    return None;
                }
                // What a leader has read before it led, the others lack.
                let again = self.map.first_missing().min(LEADING_AGAIN_BYTES / chunk_bytes);
                let again = Stretch { first: self.led, count: again.saturating_sub(self.led).min(chunks) };
                if again.count > 0 { Some((again, true)) } else { Some((self.map.gap(&under_way, chunks)?, true)) }
            }
            Mode::Waiting | Mode::Alone | Mode::Listening | Mode::Leading | Mode::Left => None,
        }
    }

    async fn ask(&mut self, stretch: Stretch, for_all: bool, now: Duration) -> Result<(), SharedReadError> {
        let number = self.next_number;
        self.next_number += 1;
        let reply = if for_all {
            self.led = self.led.max(stretch.first + stretch.count);
            self.pace.asked(stretch.count.saturating_mul(self.map.chunk_bytes()), now);
            wire::chunks_subject(&self.nuid, self.own, milliseconds(now))
        } else {
            format!("{}.{number}", self.inbox)
        };
        let request = DirectGetRequest {
            sequence: Some(self.map.sequence_before(stretch.first)),
            next_by_subj: Some(chunk_subject(&self.nuid)),
            batch: Some(u32::try_from(stretch.count).unwrap_or(MAX_BATCH)),
            max_bytes: Some(MAX_BATCH_BYTES),
            ..DirectGetRequest::default()
        };
        self.send(&request_subject(), reply, &request).await?;
        let missing = (stretch.first >= self.map.first_missing()).then(|| self.map.missing());
        self.asked.push(Asked { number, stretch, at: now, for_all, missing });
        Ok(())
    }

    /// Asks for something that is not there, to be answered to others, for whom the subject says all. The log is asked: its
    /// answers do not wait behind chunks.
    async fn say(&self, subject: String) -> Result<(), SharedReadError> {
        let request = DirectGetRequest {
            sequence: Some(1),
            next_by_subj: Some(NOTHING.to_owned()),
            ..DirectGetRequest::default()
        };
        self.send(&format!("$JS.API.DIRECT.GET.{EVENT_STREAM}"), subject, &request).await
    }

    async fn send(&self, subject: &str, reply: String, request: &DirectGetRequest) -> Result<(), SharedReadError> {
        let payload = serde_json::to_vec(request).unwrap_or_default();
        let sent = self.connection.send(subject, reply, payload.into()).await;
        sent.map_err(|source| self.failed(source))
    }

    async fn wait(&mut self) -> Happened {
        let now = self.now();
        let unanswered = self.asked.iter().map(|asked| self.deadline(asked)).min();
        let leading = self.conduct.mode() == Mode::Leading;
        let paced = (leading && self.pace.not_before() > now).then(|| self.pace.not_before());
        let wakes_at = [Some(self.conduct.wakes_at()), unanswered, paced].into_iter().flatten().min();
        // Far from now is never: something else will happen before.
        let wakes_at = self.begun + wakes_at.unwrap_or(LEADING_LIMIT).min(now + LEADING_LIMIT);
        let others = async {
            match &mut self.others {
                Some(others) => others.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Our own answers first: they are what was asked for.
            biased;
            message = self.answers.next() => Happened::Answer(message),
            message = self.behind.next(), if leading => Happened::Behind(message),
            message = others => Happened::Heard(message),
            fault = self.faults.recv() => Happened::Fault(fault.ok()),
            () = sleep_until(wakes_at) => Happened::TimeCame,
        }
    }

    fn take_answer(&mut self, message: Message) -> Result<Option<PlacedChunk>, SharedReadError> {
        let number = message.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
        match wire::answer(&self.nuid, message) {
            Answer::Chunk { behind, sequence, payload } => Ok(self.place(behind, sequence, payload, false)?.0),
            Answer::End => {
                let ended = self.asked.iter().position(|asked| Some(asked.number) == number);
                ended.map(|ended| self.asked.remove(ended)).map_or(Ok(()), |asked| self.judge(asked))?;
                Ok(None)
            }
            // A chunk that is missing here stands nowhere.
            Answer::Missing => Err(self.misfit()),
            Answer::NoResponders => Err(self.failed(RequestError::NoResponders { subject: request_subject() })),
            Answer::Refused(status) => {
                Err(self.read_error(DirectGetError::Refused { stream: release_stream(), status }))
            }
        }
    }

    fn take_heard(&mut self, message: Message) -> Result<Option<PlacedChunk>, SharedReadError> {
        let now = self.now();
        match wire::heard(&self.nuid, message) {
            Heard::Present(reader) => {
                self.conduct.present(reader, now, rand::rng().random());
                Ok(None)
            }
            Heard::Chunk { reader, stamp, behind, sequence, payload } => {
                let (placed, new) = self.place(behind, sequence, payload, reader != self.own)?;
                let bytes_behind = behind.saturating_mul(self.map.chunk_bytes());
                if let Some(lag) = self.conduct.chunk(reader, stamp, new, bytes_behind, now) {
                    self.report = Some(wire::behind_subject(reader, lag));
                }
                Ok(placed)
            }
            Heard::End { reader } => {
                if reader == self.own
                    && let Some(ended) = self.asked.iter().position(|asked| asked.for_all)
                {
                    let asked = self.asked.remove(ended);
                    self.pace.arrived(now.saturating_sub(asked.at));
                    self.judge(asked)?;
                }
                Ok(None)
            }
            Heard::Nothing => Ok(None),
        }
    }

    /// Ends where asking for missing chunks keeps bringing none: somebody has told us a wrong place in the stream.
    fn judge(&mut self, ended: Asked) -> Result<(), SharedReadError> {
        self.in_vain = if ended.missing == Some(self.map.missing()) { self.in_vain + 1 } else { 0 };
        if self.in_vain < MOST_IN_VAIN { Ok(()) } else { Err(self.misfit()) }
    }

    /// Takes a chunk to its place; says too whether it was missing.
    fn place(
        &mut self,
        behind: u64,
        sequence: u64,
        bytes: Bytes,
        from_others: bool,
    ) -> Result<(Option<PlacedChunk>, bool), SharedReadError> {
        self.received += bytes.len() as u64;
        if !from_others {
            self.last_answer = self.now();
        }
        let offered = self.map.place(behind).map(|place| self.map.offer(place, bytes.len() as u64, sequence));
        match offered {
            Some(Offered::New { offset }) => {
                let received = std::mem::take(&mut self.received);
                Ok((Some(PlacedChunk { offset, bytes, from_others, received }), true))
            }
            // What others bring may be anything; what we have asked for should fit.
            Some(Offered::Misfit) | None if from_others => Ok((None, false)),
            Some(Offered::Known) => Ok((None, false)),
            Some(Offered::Misfit) | None => Err(self.misfit()),
        }
    }

    fn take_fault(&mut self, fault: Option<ServerFault>) -> Result<Option<PlacedChunk>, SharedReadError> {
        match fault {
            Some(fault) if fault.denies_publish(&request_subject()) => {
                Err(self.failed(RequestError::PermissionDenied { subject: request_subject() }))
            }
            Some(ServerFault::PermissionDenied { operation: DeniedOperation::Subscribe, subject })
                if subject == wire::all_subjects(&self.nuid) =>
            {
                if !self.multicast.denied.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        subject,
                        "large releases are read by this node alone: allow it to subscribe to `multicast.BUNDLES.>`"
                    );
                }
                self.leave();
                Ok(None)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Ends what got no answer in time. Only where nothing has arrived that would be one.
    fn check_times(&mut self) -> Result<(), SharedReadError> {
        let now = self.now();
        let late = self.asked.iter().position(|asked| now >= self.deadline(asked));
        match late.map(|late| self.asked.remove(late)) {
            None => Ok(()),
            Some(asked) if asked.for_all => {
                self.leave();
                Ok(())
            }
            Some(_) => {
                let limit = self.connection.request_timeout();
                Err(self.failed(RequestError::TimedOut { subject: request_subject(), limit }))
            }
        }
    }

    /// When something that was asked for is late: so long after the last sign of life.
    fn deadline(&self, asked: &Asked) -> Duration {
        let limit = self.connection.request_timeout();
        let limit = if asked.for_all { limit.min(LEADING_LIMIT) } else { limit };
        asked.at.max(self.last_answer) + limit
    }

    fn leave(&mut self) {
        self.conduct.leave();
        self.asked.retain(|asked| !asked.for_all);
        self.others = None;
    }

    fn misfit(&self) -> SharedReadError {
        SharedReadError::Misfit { object: self.object.clone() }
    }

    fn failed(&self, source: RequestError) -> SharedReadError {
        self.read_error(DirectGetError::Request { stream: release_stream(), source })
    }

    fn read_error(&self, source: DirectGetError) -> SharedReadError {
        let offset = self.map.size().saturating_sub(self.map.missing_bytes());
        SharedReadError::Failed(FetchError::Read { object: self.object.clone(), offset, source })
    }
}

fn request_subject() -> String {
    format!("$JS.API.DIRECT.GET.{}", release_stream())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn subscribe(connection: &Connection, subject: String) -> Result<Subscriber, RequestError> {
    let limit = connection.request_timeout();
    match timeout(limit, connection.client().subscribe(subject.clone())).await {
        Ok(Ok(subscriber)) => Ok(subscriber),
        Ok(Err(_)) => Err(RequestError::Closed),
        Err(_) => Err(RequestError::TimedOut { subject, limit }),
    }
}
