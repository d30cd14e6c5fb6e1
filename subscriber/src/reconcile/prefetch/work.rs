//! What goes on beside a bundle's rounds: asking which release was announced last, and fetching it.

use std::time::Duration;

use shared::daemon::ErrorChain;
use shared::event::{BundleEvent, Published};
use shared::identifiers::{BundleName, Tag};
use shared::limits::ReleaseLimits;
use shared::subjects::announcements_filter;
use streams::event_log::{EventLog, ReadError, Reader};
use streams::release_store::ReleaseStore;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::cache::Cache;
use crate::fetch::{StageFailure, StagedRelease, cheapest_way, fetch};
use crate::metrics::BundleMetrics;
use crate::node_state::ReleaseId;
use crate::plan::prefetch::id_of;
use crate::reconcile::look::catch_up_pause;
use crate::reports::Reporter;
use crate::wire_bytes::{Purpose, WireBytes};

/// How often a log that lags behind a live message is asked again.
const MOST_QUESTIONS: u32 = 8;

/// A task and what it came to. Dropped, it ends, and what it left on disk is what a crash would leave.
#[derive(Debug)]
pub(super) struct Task<T> {
    handle: AbortOnDropHandle<T>,
    outcome: Option<Result<T, JoinError>>,
}

impl<T: Send + 'static> Task<T> {
    pub(super) fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { handle: AbortOnDropHandle::new(tokio::spawn(work)), outcome: None }
    }

    /// Waits for its end. Cancel safe, and at once where it has ended.
    pub(super) async fn end(&mut self) {
        if self.outcome.is_none() {
            self.outcome = Some((&mut self.handle).await);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some() || self.handle.is_finished()
    }

    /// What it came to, once it has ended.
    pub(super) async fn outcome(mut self) -> Result<T, JoinError> {
        match self.outcome.take() {
            Some(outcome) => outcome,
            None => self.handle.await,
        }
    }
}

/// An announcement and its place in the log; `None` where there is none that is valid.
pub(super) type Newest = Option<(u64, Published)>;

/// The newest announcement in the log, as far as the replica asked knows. A live
/// message that named a place further on is given some time: replicas lag.
pub(super) async fn newest_announcement(log: EventLog, bundle: BundleName, floor: u64) -> Result<Newest, ReadError> {
    let filter = announcements_filter(&bundle);
    for attempt in 0.. {
        let stored = log.last_on(&filter, Reader::AnyReplica).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.stream_sequence);
        if sequence < floor && attempt < MOST_QUESTIONS {
            sleep(catch_up_pause(attempt)).await;
            continue;
        }
        let Some(stored) = stored else { break };
        match stored.envelope().map(|(_, envelope)| envelope.event) {
            Ok(BundleEvent::Published(published)) => return Ok(Some((sequence, published))),
            Ok(_) => tracing::debug!(event.sequence = sequence, "the newest announcement is of a newer version"),
            Err(error) => {
                tracing::warn!(event.sequence = sequence, error = %ErrorChain(&error), "no valid announcement");
            }
        }
        break;
    }
    Ok(None)
}

/// A fetch that goes on beside the rounds.
#[derive(Debug)]
pub(super) struct Fetching {
    pub(super) id: ReleaseId,
    /// Stream sequence of the announcement, and what it says.
    pub(super) announced: (u64, Published),
    pub(super) begun: Instant,
    pub(super) task: Task<Result<StagedRelease, StageFailure>>,
}

/// What a fetch needs.
pub(super) struct Errand {
    pub(super) store: ReleaseStore,
    pub(super) cache: Cache,
    pub(super) limits: ReleaseLimits,
    pub(super) reporter: Reporter,
    pub(super) metrics: BundleMetrics,
    /// What runs meanwhile.
    pub(super) running: Option<Tag>,
    /// Whether it is the first attempt.
    pub(super) news: bool,
}

impl Fetching {
    pub(super) fn start(announced: (u64, Published), errand: Errand) -> Self {
        let (id, published) = (id_of(&announced.1), announced.1.clone());
        Self { id, announced, begun: Instant::now(), task: Task::spawn(errand.run(published)) }
    }

    pub(super) fn duration_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Errand {
    async fn run(self, announced: Published) -> Result<StagedRelease, StageFailure> {
        let Self { store, cache, limits, reporter, metrics, running, news } = self;
        let way = cheapest_way(&store, &cache, &announced).await;
        reporter.refresh_attempt(&id_of(&announced), running.as_ref(), way.strategy(), news).await;
        let spent = WireBytes::new(&metrics, Purpose::Prefetch);
        let staged = fetch(&store, &cache, &announced, &way, limits, &spent).await?;
        spent.complete(staged.wire_bytes);
        Ok(staged)
    }
}

/// A release that could not be had ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setback {
    pub(super) id: ReleaseId,
    /// Attempts that failed in a row.
    pub(super) attempts: u32,
    /// When it is tried again; `None` once that is left to the promotion.
    pub(super) again_at: Option<Instant>,
}

impl Setback {
    /// After this many attempts it is left to the promotion.
    pub(super) const MOST_ATTEMPTS: u32 = 4;

    /// The setbacks of a release with one more. `pause` is the time to the next attempt after so many.
    pub(super) fn after(
        earlier: Option<&Self>,
        id: &ReleaseId,
        now: Instant,
        pause: impl FnOnce(u32) -> Duration,
    ) -> Self {
        let attempts = earlier.filter(|earlier| &earlier.id == id).map_or(0, |earlier| earlier.attempts) + 1;
        let again_at = (attempts < Self::MOST_ATTEMPTS).then(|| now + pause(attempts));
        Self { id: id.clone(), attempts, again_at }
    }
}

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;

    use super::*;

    fn id(tag: &str) -> ReleaseId {
        ReleaseId { tag: tag.parse().unwrap(), tree_digest: Sha256Digest::of(tag.as_bytes()) }
    }

    #[test]
    fn a_release_is_tried_a_few_times_and_another_one_begins_anew() {
        let now = Instant::now();
        let pause = |attempts: u32| Duration::from_secs(u64::from(attempts));
        let mut setback = None;
        for attempt in 1..Setback::MOST_ATTEMPTS {
            let after = Setback::after(setback.as_ref(), &id("v1"), now, pause);
            assert_eq!((after.attempts, after.again_at), (attempt, Some(now + pause(attempt))));
            setback = Some(after);
        }
        let last = Setback::after(setback.as_ref(), &id("v1"), now, pause);
        assert_eq!((last.attempts, last.again_at), (Setback::MOST_ATTEMPTS, None));
        assert_eq!(Setback::after(Some(&last), &id("v2"), now, pause).attempts, 1);
    }

    #[tokio::test]
    async fn a_task_that_has_ended_is_over_and_keeps_what_it_came_to() {
        let mut task = Task::spawn(async { 7 });
        task.end().await;
        task.end().await;
        assert!(task.is_over());
        assert_eq!(task.outcome().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_task_ends_with_whoever_owns_it() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        drop(Task::spawn(async move {
            let _held = sender;
            std::future::pending::<()>().await;
        }));
        assert!(receiver.await.is_err());
    }
}
