//! Follows the log: folds what is there, then waits for more until a condition holds.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::FutureExt as _;
use shared::fleet_history::FleetHistory;
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::live_feed::LiveFeed;
use streams::stored_event::StoredEvent;
use tokio::time::{Instant, timeout};

use crate::timeline_reader::message;

/// How long a lost live message can delay a condition that already holds.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Every event of the log, from a sequence on, in order.
pub(crate) async fn all_events(connection: &Connection, from: u64) -> anyhow::Result<Vec<StoredEvent>> {
    let log = EventLog::new(connection.clone());
    log.by_subject(shared::subjects::EVENT_SUBJECTS, from).collect().await.context("cannot read the event log")
}

/// The fold of the whole log, page by page.
pub(crate) async fn fold(connection: &Connection) -> anyhow::Result<FleetHistory> {
    let mut history = FleetHistory::default();
    let log = EventLog::new(connection.clone());
    let up_to = log.state().await.context("cannot read the event log")?.last_sequence;
    let mut pages = log.replay(shared::subjects::EVENT_SUBJECTS, 1, up_to);
    while let Some(page) = pages.next_page().await.context("cannot read the event log")? {
        for event in &page {
            history.apply(message(event));
        }
    }
    Ok(history)
}

/// The fold of the log as it grows, with the events it was made of.
pub(crate) struct HistoryFollower {
    connection: Connection,
    feed: LiveFeed,
    history: FleetHistory,
    events: Vec<StoredEvent>,
}

impl HistoryFollower {
    /// Starts at the log's first event.
    pub(crate) async fn start(connection: &Connection) -> anyhow::Result<Self> {
        let subjects = [format!("{}{}", shared::subjects::LIVE_PREFIX, shared::subjects::EVENT_SUBJECTS)];
        let feed = LiveFeed::subscribe(connection, &subjects).await.context("cannot listen to live events")?;
        Ok(Self { connection: connection.clone(), feed, history: FleetHistory::default(), events: Vec::new() })
    }

    /// The fold of every event read so far.
    pub(crate) fn history(&self) -> &FleetHistory {
        &self.history
    }

    /// Every event read so far.
    pub(crate) fn events(&self) -> &[StoredEvent] {
        &self.events
    }

    /// Reads on until `condition` gives a value. Where it does not within `limit`, fails with the words it gave
    /// last for what is missing.
    pub(crate) async fn wait_for<T>(
        &mut self,
        limit: Duration,
        condition: impl Fn(&FleetHistory, &[StoredEvent]) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            self.read_on().await?;
            let missing = match condition(&self.history, &self.events) {
                Ok(value) => return Ok(value),
                Err(missing) => missing,
            };
            if !self.wait_for_more(deadline).await.with_context(|| missing.clone())? {
                bail!("after {} s: {missing}", limit.as_secs());
            }
        }
    }

    /// Reads and folds what the log has beyond what was read so far.
    pub(crate) async fn read_on(&mut self) -> anyhow::Result<()> {
        for event in all_events(&self.connection, self.history.last_sequence + 1).await? {
            self.history.apply(message(&event));
            self.events.push(event);
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
