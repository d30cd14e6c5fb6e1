//! Follows the log: folds what is there, then waits for more until a condition holds.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::FutureExt as _;
use shared::fleet_history::FleetHistory;
use shared::subjects::{EVENT_SUBJECTS, LIVE_PREFIX};
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::live_feed::LiveFeed;
use streams::stored_event::StoredEvent;
use tokio::time::{Instant, timeout};

use crate::timeline_reader::message;

/// How long a lost live message can delay a condition that already holds.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The fold of the whole log, page by page.
pub(crate) async fn fold(connection: &Connection) -> anyhow::Result<FleetHistory> {
    let mut history = FleetHistory::default();
    let log = EventLog::new(connection.clone());
    let up_to = log.state().await.context("cannot read the event log")?.last_sequence;
    let mut pages = log.replay(EVENT_SUBJECTS, 1, up_to);
    while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
        for event in &page {
            history.apply(message(event));
        }
    }
    Ok(history)
}

/// The fold of the log as it grows. Keeps no event that it has folded, unless told to: a log may be larger than memory.
pub(crate) struct HistoryFollower {
    connection: Connection,
    feed: LiveFeed,
    history: FleetHistory,
    kept: Option<Vec<StoredEvent>>,
}

impl HistoryFollower {
    /// Starts at the log's first event.
    pub(crate) async fn start(connection: &Connection) -> anyhow::Result<Self> {
        let subjects = [format!("{LIVE_PREFIX}{EVENT_SUBJECTS}")];
        let feed = LiveFeed::subscribe(connection, &subjects).await.context("cannot listen to live events")?;
        Ok(Self { connection: connection.clone(), feed, history: FleetHistory::default(), kept: None })
    }

    /// Keeps every event from now on, for logs that are known to be short.
    pub(crate) fn keeping_events(self) -> Self {
        Self { kept: Some(self.kept.unwrap_or_default()), ..self }
    }

    /// The fold of every event read so far.
    pub(crate) fn history(&self) -> &FleetHistory {
        &self.history
    }

    /// Every event that was kept.
    pub(crate) fn events(&self) -> &[StoredEvent] {
        self.kept.as_deref().unwrap_or_default()
    }

    /// Reads on until `condition`, which sees the events that were kept, gives a value. Where it does not within `limit`, fails with the words it gave
    /// last for what is missing.
    pub(crate) async fn wait_for<T>(
        &mut self,
        limit: Duration,
        condition: impl Fn(&FleetHistory, &[StoredEvent]) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            self.read_on(|_| ()).await?;
            let missing = match condition(&self.history, self.events()) {
                Ok(value) => return Ok(value),
                Err(missing) => missing,
            };
            if !self.wait_for_more(deadline).await.with_context(|| missing.clone())? {
                bail!("after {} s: {missing}", limit.as_secs());
            }
        }
    }

    /// Reads and folds what the log has beyond what was read so far; `seen` gets each page after it was folded.
    pub(crate) async fn read_on(&mut self, mut seen: impl FnMut(&[StoredEvent])) -> anyhow::Result<()> {
        let (log, from) = (EventLog::new(self.connection.clone()), self.history.last_sequence + 1);
        let mut pages = if from == 1 {
            let up_to = log.state().await.context("cannot read the event log")?.last_sequence;
            log.replay(EVENT_SUBJECTS, from, up_to)
        } else {
            log.by_subject(EVENT_SUBJECTS, from)
        };
        while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
            for event in &page {
                self.history.apply(message(event));
            }
            seen(&page);
            if let Some(kept) = &mut self.kept {
                kept.extend(page);
            }
        }
        Ok(())
    }

    /// Waits until it is worth reading on: woken by a live message, or after a while, since live messages may be
    /// lost. False once the deadline has passed.
    pub(crate) async fn wait_for_more(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        if let Ok(None) = timeout(left.min(LOOK_AGAIN), self.feed.next()).await {
            bail!("the connection ended while waiting");
        }
        // One read answers all that has arrived meanwhile: a fleet that switches sends thousands.
        while let Some(Some(_)) = self.feed.next().now_or_never() {}
        Ok(true)
    }
}
