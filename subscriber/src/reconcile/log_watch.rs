//! The agent's look at the log's checkpoints, with each look at the log.

use metrics::{describe_gauge, gauge};
use shared::daemon::ErrorChain;
use shared::event::BundleEvent;
use shared::subjects::{EVENT_STREAM, EventSubject};
use streams::event_log::ReadError;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::agent::Agent;
use crate::alarms::Subject;
use crate::checkpoint_watch::{
    CheckpointFile, LogState, MemoryFault, SeenCheckpoint, ShownCheckpoint, Standing, compare, follow,
};
use crate::metrics::BundleMetrics;

const CONTRADICTED: &str = "demon_agent_log_contradicted";
const SIZE: &str = "demon_agent_log_checkpoint_size";
/// Most checkpoints that are followed in one look; the next look goes on from there.
const MOST_AT_ONCE: usize = 1000;

/// Says what the series mean.
pub(crate) fn describe_metrics() {
    describe_gauge!(CONTRADICTED, "1 while the log is shorter than, or not, what this node has seen signed");
    describe_gauge!(SIZE, "How many events the newest checkpoint speaks of that this node has seen and could connect");
}

/// Puts the series of a bundle on the page before anything was seen.
pub(crate) fn begin_metrics(metrics: &BundleMetrics) {
    gauge!(CONTRADICTED, metrics.labels(&[])).set(0.0);
    gauge!(SIZE, metrics.labels(&[])).set(0.0);
}

/// What the agent knows of checkpoints.
#[derive(Debug)]
pub(super) struct LogWatch {
    file: CheckpointFile,
    /// Whether the file was read.
    read: bool,
    /// The newest seen.
    seen: Option<SeenCheckpoint>,
    behind_since: Option<Instant>,
}

impl LogWatch {
    pub(super) fn new(file: CheckpointFile) -> Self {
        Self { file, read: false, seen: None, behind_since: None }
    }
}

impl Agent {
    /// Compares the log's newest checkpoint with the newest seen, remembers a newer one, and raises or ends the alarm.
    /// Changes nothing else: the release keeps running.
    pub(super) async fn watch_log(&mut self, state: LogState, shown: Option<ShownCheckpoint>) {
        let seen = match self.seen_checkpoint().await {
            Ok(seen) => seen,
            Err(fault) => return self.alarms.raise(Subject::Checkpoint, ErrorChain(&fault).to_string()),
        };
        let keys = self.config.log_check.log_key.clone();
        let mut standing = compare(seen.as_ref(), shown.as_ref(), state, keys.as_ref());
        if let (Standing::Ahead, Some(seen)) = (&standing, seen) {
            standing = match self.checkpoints_behind(seen.stream_sequence).await {
                Ok(between) => {
                    let (reached, fault) = follow(seen.clone(), &between, state.epoch, keys.as_ref());
                    if reached != seen {
                        self.remember_checkpoint(reached).await;
                    }
                    fault.map_or(Standing::Same, Standing::Contradiction)
                }
                // The look itself reports what keeps the log from being read; the next one tries again.
                Err(error) => return tracing::debug!(error = %ErrorChain(&error), "checkpoints cannot be followed"),
            };
        }
        self.settle_log_watch(standing).await;
    }

    /// The same for a log of which nothing could be used but how far it goes.
    pub(super) async fn watch_outdated_log(&mut self, up_to_sequence: u64) {
        let Ok(Some(seen)) = self.seen_checkpoint().await else { return };
        if up_to_sequence < seen.stream_sequence {
            let state = LogState { epoch: seen.epoch, up_to_sequence };
            let standing = compare(Some(&seen), None, state, None);
            self.settle_log_watch(standing).await;
        }
    }

    async fn settle_log_watch(&mut self, standing: Standing) {
        let behind = matches!(standing, Standing::Behind(_));
        let since = *self.log_watch.behind_since.get_or_insert_with(Instant::now);
        if !behind {
            self.log_watch.behind_since = None;
        }
        let alarm = match standing {
            Standing::Same | Standing::Ahead => None,
            Standing::Forward(next) => {
                self.remember_checkpoint(next).await;
                None
            }
            Standing::Behind(text) if since.elapsed() >= self.config.log_check.log_lag_tolerance => Some(text),
            // What was said before holds until it is known better.
            Standing::Behind(_) => return,
            Standing::Contradiction(text) => Some(text),
        };
        gauge!(CONTRADICTED, self.metrics.labels(&[])).set(if alarm.is_some() { 1.0 } else { 0.0 });
        let file = self.log_watch.file.path().display();
        let alarm = alarm.map(|text| {
            format!("{text}. Compare with `demonctl events verify`; where the log is as it should be, remove `{file}`")
        });
        self.alarms.set(Subject::Checkpoint, alarm);
    }

    async fn seen_checkpoint(&mut self) -> Result<Option<SeenCheckpoint>, MemoryFault> {
        // Removed by an operator who accepts the log as it is.
        if self.log_watch.seen.is_some() && !self.log_watch.file.path().exists() {
            tracing::warn!("the last seen checkpoint was removed: the next one is believed");
            self.log_watch.seen = None;
        }
        if !self.log_watch.read {
            let file = self.log_watch.file.clone();
            // A read that was cut off is tried again with the next look.
            let read = spawn_blocking(move || file.read()).await;
            let interrupted = |error| {
                let path = self.log_watch.file.path().to_owned();
                MemoryFault::Disk { path, source: std::io::Error::other(error) }
            };
            self.log_watch.seen = read.map_err(interrupted)??;
            self.log_watch.read = true;
            self.note_size();
        }
        Ok(self.log_watch.seen.clone())
    }

    async fn remember_checkpoint(&mut self, seen: SeenCheckpoint) {
        tracing::debug!(
            size = seen.size,
            event.sequence = seen.stream_sequence,
            "a newer checkpoint continues what was seen"
        );
        let (file, written) = (self.log_watch.file.clone(), seen.clone());
        match spawn_blocking(move || file.write(&written)).await {
            Ok(Ok(())) => {
                self.log_watch.seen = Some(seen);
                self.note_size();
            }
            Ok(Err(fault)) => tracing::warn!(error = %ErrorChain(&fault), "a checkpoint is not remembered"),
            Err(error) => tracing::warn!(%error, "a checkpoint is not remembered"),
        }
    }

    /// The checkpoints behind an event, oldest first. One that is no valid event ends them.
    async fn checkpoints_behind(&self, stream_sequence: u64) -> Result<Vec<ShownCheckpoint>, ReadError> {
        let subject = EventSubject::checkpointed(EVENT_STREAM).to_string();
        let mut pages = self.log.by_subject(subject, stream_sequence + 1);
        let mut between = Vec::new();
        while between.len() < MOST_AT_ONCE
            && let Some(page) = pages.next_page().await?
        {
            for event in page {
                let stream_sequence = event.stream_sequence;
                let Ok((_, envelope)) = event.envelope() else { return Ok(between) };
                let BundleEvent::Checkpointed(data) = envelope.event else { return Ok(between) };
                between.push(ShownCheckpoint { stream_sequence, data });
            }
        }
        Ok(between)
    }

    fn note_size(&self) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "stream sequences fit a double exactly for longer than streams last"
        )]
        let size = self.log_watch.seen.as_ref().map_or(0, |seen| seen.size) as f64;
        gauge!(SIZE, self.metrics.labels(&[])).set(size);
    }
}
