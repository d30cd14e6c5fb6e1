//! Where a command reads the log from: a server, or an exported file.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use shared::event::BundleEvent;
use shared::event_envelope::EventEnvelope;
use shared::event_export::{ExportHeader, ExportReader};
use shared::identifiers::Incarnation;
use shared::subjects::{EVENT_STREAM, EVENT_SUBJECTS, EventSubject};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::{EventLog, EventPages, EventWithId, Reader};
use streams::stored_event::StoredEvent;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::operator;
use crate::output::may_draw;

/// Most events that are handed out at once.
const PAGE: usize = 1000;
/// Pages of at most 4 MiB that are read before they are asked for.
const PAGES_AHEAD: usize = 2;
/// How long a replica may lag behind what the leader has said.
const LAG: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The whole log from its beginning up to a fixed end, page by page.
pub(crate) struct LogInput {
    input: Input,
    /// Name of the stream.
    pub(crate) stream: String,
    /// The log's epoch, where it has one.
    pub(crate) epoch: Option<Incarnation>,
    /// The stream sequence up to which it goes; 0 for an empty log.
    pub(crate) last_sequence: u64,
}

enum Input {
    /// Pages that a task of their own reads ahead, so that reading and folding go on side by side.
    Server(mpsc::Receiver<anyhow::Result<Vec<EventWithId>>>),
    Export(Box<ExportReader<'static>>),
}

impl LogInput {
    /// The file where one is given, else the server.
    pub(crate) async fn open(file: Option<&Path>, connection: &ConnectionArguments) -> anyhow::Result<Self> {
        if let Some(file) = file {
            let file = file.to_owned();
            return tokio::task::spawn_blocking(move || Self::file(&file))
                .await
                .context("reading the export failed")?;
        }
        Self::server(&EventLog::new(operator::connect(connection).await?)).await
    }

    /// The log as it is now. What is appended later is not read.
    pub(crate) async fn server(log: &EventLog) -> anyhow::Result<Self> {
        let last_sequence = log.state().await.context("cannot ask for the end of the event log")?.last_sequence;
        let epoch = log.last(&EventSubject::epoch_started(EVENT_STREAM), Reader::AnyReplica).await;
        let epoch = epoch.context("cannot read the log's epoch")?.and_then(|event| epoch_of(&event));
        let input = Input::Server(read_ahead(log, last_sequence));
        Ok(Self { input, stream: EVENT_STREAM.to_owned(), epoch, last_sequence })
    }

    /// The same log up to an earlier end.
    pub(crate) fn up_to(mut self, log: &EventLog, last_sequence: u64) -> Self {
        let last_sequence = last_sequence.min(self.last_sequence);
        self.input = Input::Server(read_ahead(log, last_sequence));
        self.last_sequence = last_sequence;
        self
    }

    /// An export, proven whole and unaltered before anything of it is handed out.
    fn file(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut file = File::open(path).with_context(|| format!("export `{shown}` cannot be opened"))?;
        let unusable = || format!("export `{shown}` is refused");
        let mut proof = ExportReader::begin(&file).with_context(unusable)?;
        while proof.next_event().with_context(unusable)?.is_some() {}
        drop(proof);
        file.seek(SeekFrom::Start(0)).with_context(|| format!("export `{shown}` cannot be read twice"))?;
        let reader = ExportReader::begin(file).with_context(unusable)?;
        let ExportHeader { stream, epoch, last_sequence, .. } = reader.header().clone();
        Ok(Self { input: Input::Export(Box::new(reader)), stream, epoch, last_sequence })
    }

    /// The next page, never empty; `None` at the end.
    pub(crate) async fn next_page(&mut self) -> anyhow::Result<Option<Vec<StoredEvent>>> {
        let page = self.next_page_with_ids().await?;
        Ok(page.map(|events| events.into_iter().map(|with_id| with_id.event).collect()))
    }

    /// The same with the ids that the events were stored under.
    pub(crate) async fn next_page_with_ids(&mut self) -> anyhow::Result<Option<Vec<EventWithId>>> {
        match &mut self.input {
            Input::Server(pages) => pages.recv().await.transpose(),
            Input::Export(reader) => tokio::task::block_in_place(|| page_of_export(reader)),
        }
    }
}

/// Reads the log up to a stream sequence in a task that ends with its receiver.
fn read_ahead(log: &EventLog, last_sequence: u64) -> mpsc::Receiver<anyhow::Result<Vec<EventWithId>>> {
    let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
    let mut input =
        ServerInput { log: log.clone(), pages: log.replay(EVENT_SUBJECTS, 1, last_sequence), last_sequence };
    tokio::spawn(async move {
        while let Some(page) = input.next_page().await.transpose() {
            let failed = page.is_err();
            if sender.send(page).await.is_err() || failed {
                break;
            }
        }
    });
    receiver
}

struct ServerInput {
    log: EventLog,
    pages: EventPages,
    last_sequence: u64,
}

impl ServerInput {
    async fn next_page(&mut self) -> anyhow::Result<Option<Vec<EventWithId>>> {
        let mut waited = Duration::ZERO;
        loop {
            if let Some(page) = self.pages.next_page_with_ids().await.context("cannot read the event log")? {
                return Ok(Some(page));
            }
            let next = self.pages.next_sequence();
            if next > self.last_sequence || waited >= LAG {
                return Ok(None);
            }
            // A replica that is a moment behind its leader, or the last messages were deleted.
            sleep(LOOK_AGAIN).await;
            waited += LOOK_AGAIN;
            self.pages = self.log.replay(EVENT_SUBJECTS, next, self.last_sequence);
        }
    }
}

fn page_of_export(reader: &mut ExportReader<'_>) -> anyhow::Result<Option<Vec<EventWithId>>> {
    let mut page = Vec::new();
    while page.len() < PAGE {
        let Some(event) = reader.next_event().context("the export changed while it was read")? else { break };
        page.push(EventWithId {
            event: StoredEvent {
                stream_sequence: event.stream_sequence,
                stored_at: event.stored_at,
                subject: event.subject,
                payload: event.payload.into(),
            },
            message_id: event.message_id,
        });
    }
    Ok(if page.is_empty() { None } else { Some(page) })
}

/// The epoch that an event starts.
pub(crate) fn epoch_of(event: &StoredEvent) -> Option<Incarnation> {
    if event.subject != EventSubject::epoch_started(EVENT_STREAM).to_string() {
        return None;
    }
    match EventEnvelope::parse(&event.payload).ok()?.event {
        BundleEvent::EpochStarted(data) => Some(data.epoch),
        BundleEvent::Published(_)
        | BundleEvent::Promoted(_)
        | BundleEvent::Withdrawn(_)
        | BundleEvent::RefreshAttempt(_)
        | BundleEvent::Staged(_)
        | BundleEvent::Loaded(_)
        | BundleEvent::VerificationFailed(_)
        | BundleEvent::DownloadFailed(_)
        | BundleEvent::FallbackActivated(_)
        | BundleEvent::StaleDetected(_)
        | BundleEvent::UpdateDetected(_)
        | BundleEvent::TamperDetected(_)
        | BundleEvent::Reverted(_)
        | BundleEvent::Unknown(_) => None,
    }
}

/// Shows how far a long read is; draws on a terminal only.
pub(crate) struct ReadingProgress(Option<ProgressBar>);

impl ReadingProgress {
    /// Of a log that goes up to a stream sequence.
    pub(crate) fn start(what: &str, last_sequence: u64) -> Self {
        let style =
            ProgressStyle::with_template("{msg} {bar:30} {human_pos}/{human_len} events, {per_sec}, {eta} left");
        let bar = || {
            ProgressBar::new(last_sequence)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(what.to_owned())
        };
        Self(may_draw().then(bar))
    }

    /// So far it has been read.
    pub(crate) fn at(&self, stream_sequence: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(stream_sequence);
        }
    }
}

impl Drop for ReadingProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A file that is read instead of the server's log.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportFileArguments {
    /// Read this export instead of the server's log; no server is needed then.
    #[arg(long = "from", env = "DEMON_EXPORT_FILE", value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
}

impl ExportFileArguments {
    /// Opens what was asked for.
    pub(crate) async fn open(&self, connection: &ConnectionArguments) -> anyhow::Result<LogInput> {
        if self.from.as_ref().is_some_and(|file| file.is_dir()) {
            bail!("`--from` names a directory, not an export; see `demonctl events export`");
        }
        LogInput::open(self.from.as_deref(), connection).await
    }
}
