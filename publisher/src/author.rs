//! Who writes to the log: a publisher with a state directory, or an operator's command.
//!
//! Holds the one writer of an incarnation. Before anything is decided, [`Author::settle`] finds out about an event
//! that an earlier run may or may not have stored.

use std::path::Path;
use std::time::Duration;

use chrono::Utc;
use shared::daemon::ErrorChain;
use shared::event::BundleEvent;
use shared::event_chain::EventDraft;
use shared::identifiers::ActorName;
use shared::source::Source;
use streams::event_log::{Appended, EventLog, Expectation};
use streams::event_writer::{ChainFileError, EventWriter, WriteError, new_event_id};

/// How long the same bytes are sent again while the server does not answer: an election of a new leader and more.
const PATIENCE: Duration = Duration::from_secs(15);

/// The writer of one publisher or operator.
#[derive(Debug)]
pub struct Author {
    name: ActorName,
    writer: EventWriter,
}

impl Author {
    /// A publisher whose incarnation lives as long as the directory. Fails where another process uses the directory.
    pub fn publisher(name: ActorName, directory: &Path) -> Result<Self, ChainFileError> {
        let writer = EventWriter::open(directory, Source::Publisher(name.clone()))?;
        Ok(Self { name, writer })
    }

    /// An operator whose incarnation ends with the process.
    pub fn operator(name: ActorName) -> Self {
        Self { writer: EventWriter::in_memory(Source::Operator(name.clone())), name }
    }

    /// The name that events carry as `actor`.
    pub fn name(&self) -> &ActorName {
        &self.name
    }

    /// Who the log says has written.
    pub fn source(&self) -> &Source {
        self.writer.source()
    }

    /// Finds out about an event whose fate an earlier run left open. Returns once it is in the log or certainly not;
    /// an event that turned out to be refused is logged and given up.
    pub async fn settle(&mut self, log: &EventLog) -> Result<(), WriteError> {
        match self.writer.resume(log, PATIENCE).await {
            Ok(_) => Ok(()),
            Err(error) if self.writer.in_flight().is_none() => {
                tracing::warn!(error = %ErrorChain(&error), "an event of an earlier run was refused and given up");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes an event that must follow this stream sequence on its own subject (0 stands for none). Returns only
    /// after the server has confirmed it; a publisher's event is durable before it is sent.
    pub(crate) async fn write(
        &mut self,
        log: &EventLog,
        event: impl Into<BundleEvent>,
        after: u64,
    ) -> Result<Appended, WriteError> {
        if self.writer.in_flight().is_some() {
            self.settle(log).await?;
        }
        let draft = EventDraft { id: new_event_id(), time: Utc::now(), event: event.into() };
        self.writer.append(log, &draft, Expectation::OnOwnSubject(after), PATIENCE).await
    }
}
