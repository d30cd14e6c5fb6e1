//! Fetching ahead: the newest release that was announced is put into the cache before it is promoted, so that a promotion
//! costs only the switch. Reasons: `docs/adr/0026-releases-are-staged-when-they-are-announced.md`.
//!
//! It happens beside the rounds and gives way to them: what the channel's head names comes first, and nothing here ever
//! switches. A fetch under way of what is promoted meanwhile is waited for, not begun again.

mod work;

use std::time::Duration;

use rand::RngExt as _;
use shared::event::Published;
use shared::identifiers::Tag;
use streams::connection::ConnectionState;
use streams::event_log::ReadError;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use self::work::{Errand, Fetching, Newest, Setback, Task, newest_announcement};
use super::agent::Agent;
use super::wake_ups::WakeUps;
use crate::cache::{Cache, CacheLock, Current};
use crate::config::Follow;
use crate::fetch::{StageFailure, StagedRelease};
use crate::metrics::Operation;
use crate::node_state::ReleaseId;
use crate::plan::Step;
use crate::plan::prefetch::{Announcements, Outlook, StagedAhead, id_of, release_ahead};
use crate::release_directory::says_to_be;
use crate::retention::QUIET_TIME;
use crate::staging::remove_unused;

/// After a start or a new connection the newest announcement is asked for within this time: a whole fleet may connect at
/// once, and nothing waits for the answer.
const LONGEST_CATCH_UP: Duration = Duration::from_secs(1);
/// How long an answer on its way is waited for by who would ask the same.
const SHORT_WAIT: Duration = Duration::from_millis(50);
/// Time between two questions that live messages cause.
const SPACING: Duration = Duration::from_millis(10);
/// How long to wait before the log is asked again after it could not be read.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What is going on beside the rounds.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    announcements: Announcements,
    /// The log is to be asked.
    question: Option<Question>,
    asking: Option<Task<Result<Newest, ReadError>>>,
    asked_at: Option<Instant>,
    fetching: Option<Fetching>,
    setback: Option<Setback>,
    /// What should run does, or something is in its way that a fetch would not remove.
    at_rest: bool,
    /// When there is something to begin.
    due: Option<Instant>,
}

/// A question to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    /// Where a live message claims the newest announcement to be; 0 where none does.
    floor: u64,
    not_before: Instant,
}

/// What came of waiting for a fetch under way.
#[derive(Debug)]
pub(super) enum Joined {
    /// It ended.
    Ended(Result<StagedRelease, StageFailure>),
    /// It was given up: something else comes first.
    GivenUp,
}

impl Prefetch {
    /// A live message says that something was announced, at this place in the log.
    pub(super) fn announced(&mut self, floor: u64) {
        let floor = self.question.map_or(0, |question| question.floor).max(floor);
        // A flood of messages costs a bounded number of reads.
        let not_before = self.asked_at.map_or_else(Instant::now, |asked_at| asked_at + SPACING);
        self.question = Some(Question { floor, not_before });
    }

    /// Live messages may have been missed: the log is to be asked soon.
    pub(super) fn catch_up(&mut self) {
        let not_before = Instant::now() + LONGEST_CATCH_UP.mul_f64(rand::rng().random());
        self.question.get_or_insert(Question { floor: 0, not_before });
        // What could not be had over the last connection may be over this one.
        self.setback = None;
    }

    /// The log was restored: what was read of it means nothing any more.
    pub(super) fn enter_epoch(&mut self) {
        self.announcements.clear();
        self.catch_up();
    }

    /// How a tag was announced is to be looked up anew.
    pub(super) fn forget(&mut self, tag: &Tag) {
        self.announcements.forget(tag);
    }

    /// Waits until there is something to be done about it. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let Self { asking, fetching, due, .. } = self;
        let answered = async {
            match asking {
                Some(task) => task.end().await,
                None => std::future::pending().await,
            }
        };
        let fetched = async {
            match fetching {
                Some(fetching) => fetching.task.end().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            match due {
                Some(due) => sleep_until(*due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = answered => {}
            () = fetched => {}
            () = due => {}
        }
    }

    fn is_fetching(&self, id: &ReleaseId) -> bool {
        self.fetching.as_ref().is_some_and(|fetching| &fetching.id == id)
    }
}

impl Agent {
    /// What the planner proposes goes before anything that is fetched ahead. A release that is on its way is no release
    /// that stands in the cache: it is waited for.
    pub(super) fn give_way(&mut self, step: Step) -> Step {
        self.prefetch.at_rest = matches!(step, Step::Idle(_));
        let mut step = step;
        if let Step::Reuse(id) = &step
            && self.prefetch.is_fetching(id)
        {
            step = Step::Fetch(id.clone());
        }
        let kept = match &step {
            Step::Idle(_) => true,
            Step::Fetch(id) => self.prefetch.is_fetching(id),
            Step::Reuse(_) | Step::Embed(_) | Step::Switch(_) | Step::Wait { .. } | Step::Refuse(_) => false,
        };
        if !kept && let Some(given_up) = self.prefetch.fetching.take() {
            tracing::info!(tag = %given_up.id.tag, "fetching ahead is given up: what should run comes first");
        }
        step
    }

    /// How the desired release was announced, where that was read already to have it ahead, or is being read.
    pub(super) async fn announcement_read_ahead(&mut self, desired: &ReleaseId) -> Option<(u64, Published)> {
        if let Some(task) = &mut self.prefetch.asking
            && timeout(SHORT_WAIT, task.end()).await.is_ok()
        {
            self.take_answer().await;
        }
        self.prefetch.announcements.find(desired).cloned()
    }

    /// Waits for the fetch under way of this release, where there is one, unless something comes first.
    pub(super) async fn join_prefetch(&mut self, id: &ReleaseId, wake_ups: &mut WakeUps) -> Option<Joined> {
        let mut fetching = self.prefetch.fetching.take_if(|fetching| &fetching.id == id)?;
        tracing::debug!(tag = %id.tag, "the release is on its way already");
        let failed = self.trial_failed();
        tokio::select! {
            () = fetching.task.end() => {}
            () = self.superseded(id, wake_ups) => {
                tracing::info!(tag = %id.tag, "fetching is given up: another release is desired now");
                return Some(Joined::GivenUp);
            }
            () = failed => {
                tracing::info!(tag = %id.tag, "fetching is put off: the running release failed its health check");
                return Some(Joined::GivenUp);
            }
        }
        Some(Joined::Ended(fetching.task.outcome().await.unwrap_or_else(|error| Err(error.into()))))
    }

    /// Takes in what has come to an end, and begins what there is to begin. Reads the log where a question is due, and
    /// nothing otherwise.
    pub(super) async fn tend_prefetch(&mut self) {
        self.prefetch.due = None;
        if self.prefetch.asking.as_ref().is_some_and(Task::is_over) {
            self.take_answer().await;
        }
        if let Some(ended) = self.prefetch.fetching.take_if(|fetching| fetching.task.is_over()) {
            self.settle_prefetch(ended).await;
        }
        self.drop_withdrawn_ahead().await;
        if !self.may_prefetch() {
            self.prefetch.fetching = None;
            return;
        }
        self.ask_for_announcements();
        self.fetch_ahead().await;
    }

    fn may_prefetch(&self) -> bool {
        self.target.prefetch
            && matches!(self.target.follow, Follow::Channel(_))
            && self.known_pin.pin.is_none()
            && self.looked
            && self.prefetch.at_rest
            && self.connection.status().state == ConnectionState::Connected
    }

    fn ask_for_announcements(&mut self) {
        let Some(question) = self.prefetch.question.filter(|_| self.prefetch.asking.is_none()) else { return };
        if question.not_before > Instant::now() {
            self.due(question.not_before);
            return;
        }
        self.prefetch.question = None;
        self.prefetch.asked_at = Some(Instant::now());
        let (log, bundle) = (self.log.clone(), self.target.bundle.clone());
        self.prefetch.asking = Some(Task::spawn(newest_announcement(log, bundle, question.floor)));
    }

    async fn take_answer(&mut self) {
        let Some(task) = self.prefetch.asking.take() else { return };
        match task.outcome().await {
            Ok(Ok(Some((sequence, published)))) => self.prefetch.announcements.take(sequence, published),
            Ok(Ok(None)) => {}
            Ok(Err(_)) | Err(_) => {
                // Whether the log can be read is noticed and said elsewhere.
                let not_before = Instant::now() + ASK_AGAIN;
                self.prefetch.question.get_or_insert(Question { floor: 0, not_before });
            }
        }
    }

    /// The release to have in the cache ahead.
    fn wanted_ahead(&self) -> Option<(u64, Published)> {
        let active = self.state.active.iter().chain(&self.state.previous).map(|release| release.id.clone());
        let in_use: Vec<ReleaseId> = active.chain(self.desired.clone()).collect();
        let found = release_ahead(&Outlook {
            announcements: &self.prefetch.announcements,
            head: self.state.ahead.head.as_ref(),
            withdrawn: &self.withdrawn,
            trials: &self.state.trials,
            in_use: &in_use,
        });
        found.cloned()
    }

    async fn fetch_ahead(&mut self) {
        let wanted = self.wanted_ahead();
        let id = wanted.as_ref().map(|(_, published)| id_of(published));
        if let Some(other) = self.prefetch.fetching.take_if(|fetching| Some(&fetching.id) != id.as_ref()) {
            tracing::info!(tag = %other.id.tag, "fetching ahead is given up: the release is not awaited any more");
        }
        let (Some(announced), Some(id)) = (wanted, id) else { return };
        if self.prefetch.fetching.is_some() || self.state.ahead.staged.as_ref().is_some_and(|staged| staged.id == id) {
            return;
        }
        let setback = self.prefetch.setback.as_ref().filter(|setback| setback.id == id);
        match setback.map(|setback| setback.again_at) {
            Some(None) => return,
            Some(Some(again_at)) if again_at > Instant::now() => return self.due(again_at),
            Some(Some(_)) | None => {}
        }
        if self.stands_in_cache(&id).await {
            // A fetch whose end this node does not remember.
            self.note_staged_ahead(&announced);
            return;
        }
        let errand = Errand {
            store: self.store.clone(),
            cache: self.cache.clone(),
            limits: self.limits,
            reporter: self.reporter.clone(),
            metrics: self.metrics.clone(),
            running: self.active().map(|active| active.id.tag.clone()),
            news: setback.is_none(),
        };
        self.prefetch.fetching = Some(Fetching::start(announced, errand));
    }

    async fn stands_in_cache(&self, id: &ReleaseId) -> bool {
        if self.damaged.contains(id) {
            return false;
        }
        let (home, id) = (self.cache.release(&id.tag), id.clone());
        spawn_blocking(move || says_to_be(&home, &id)).await.unwrap_or(false)
    }

    /// Takes over what a fetch has come to that nobody waited for.
    async fn settle_prefetch(&mut self, ended: Fetching) {
        let duration_ms = ended.duration_ms();
        let Fetching { id, announced, task, .. } = ended;
        match task.outcome().await.unwrap_or_else(|error| Err(error.into())) {
            Ok(staged) => {
                self.prefetch.setback = None;
                self.damaged.remove(&id);
                self.metrics.count(Operation::StagedAhead);
                self.reporter.staged(&id, staged.strategy, staged.wire_bytes, duration_ms).await;
                self.note_staged_ahead(&announced);
                self.collect_later();
            }
            Err(failure) => self.note_setback(&id, &failure).await,
        }
    }

    fn note_staged_ahead(&mut self, (announcement, published): &(u64, Published)) {
        let content_digest = published.content_digest;
        self.state.ahead.staged =
            Some(StagedAhead { id: id_of(published), content_digest, announcement: *announcement });
        // Forgotten, it costs a look into the cache: no reason to wait for the disk now.
        self.unsaved = true;
    }

    /// Nothing is wrong with the node: it is said once, tried again a few times, and left to the promotion.
    async fn note_setback(&mut self, id: &ReleaseId, failure: &StageFailure) {
        let (retry, spread) = (self.config.timing.retry(), rand::rng().random());
        let pause = |attempts| retry.delay(u64::from(attempts), spread);
        let setback = Setback::after(self.prefetch.setback.as_ref(), id, Instant::now(), pause);
        let tell = self.state.ahead.note_failure(id);
        self.unsaved |= tell;
        self.reporter.not_had_ahead(id, failure, self.active().map(|active| &active.id.tag), tell).await;
        if setback.again_at.is_none() {
            tracing::warn!(tag = %id.tag, attempts = setback.attempts, "the release is fetched when it is promoted");
        }
        self.prefetch.setback = Some(setback);
    }

    /// Takes a withdrawn release out of the cache that was fetched ahead: nobody has run it, and nobody will.
    async fn drop_withdrawn_ahead(&mut self) {
        let is_withdrawn =
            |staged: &mut StagedAhead| self.withdrawn.holds(staged.id.tree_digest, Some(staged.content_digest));
        let Some(withdrawn) = self.state.ahead.staged.take_if(is_withdrawn) else { return };
        self.unsaved = true;
        tracing::info!(tag = %withdrawn.id.tag, "the release that was fetched ahead is withdrawn: it is removed");
        self.discard(withdrawn.id).await;
    }

    /// What should run comes first, also on the disk: where room is missing for it, what was fetched ahead is given up.
    /// Says whether there was something to give up.
    pub(super) async fn make_room(&mut self, wanted: &ReleaseId, failure: &StageFailure) -> bool {
        let other = |staged: &mut StagedAhead| &staged.id != wanted;
        let Some(staged) = failure.is_of_room().then(|| self.state.ahead.staged.take_if(other)).flatten() else {
            return false;
        };
        self.unsaved = true;
        tracing::warn!(
            tag = %wanted.tag, ahead = %staged.id.tag, error = failure.text(),
            "what was fetched ahead is removed to make room for what should run"
        );
        self.discard(staged.id).await
    }

    /// Removes a release that was never switched to. Says whether that went well.
    async fn discard(&mut self, id: ReleaseId) -> bool {
        let tag = id.tag.clone();
        let removed = match self.cache.lock().await {
            Ok(lock) => {
                let cache = self.cache.clone();
                let work = move || take_out(&cache, &lock, &id);
                spawn_blocking(work).await.unwrap_or_else(|error| Err(StageFailure::from(error)))
            }
            Err(error) => Err(error.into()),
        };
        if let Err(failure) = &removed {
            tracing::warn!(%tag, error = failure.text(), "a release that is not needed any more cannot be removed");
        }
        self.collect_later();
        removed.is_ok()
    }

    /// What is not needed any more goes once nobody can be reading it.
    fn collect_later(&mut self) {
        let at = Instant::now() + QUIET_TIME + Duration::from_secs(1);
        self.collect_at = Some(self.collect_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn due(&mut self, at: Instant) {
        self.prefetch.due = Some(self.prefetch.due.map_or(at, |due| due.min(at)));
    }
}

/// Removes a release from `releases/`, unless it is current or another one stands there.
fn take_out(cache: &Cache, lock: &CacheLock, id: &ReleaseId) -> Result<(), StageFailure> {
    let home = cache.release(&id.tag);
    if cache.current()? != Current::Release(id.tag.clone()) && says_to_be(&home, id) {
        remove_unused(cache, lock, &home).map_err(StageFailure::Archive)?;
    }
    Ok(())
}
