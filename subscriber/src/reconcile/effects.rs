//! Carrying steps out: the planner says which, this says how, and what went wrong is remembered and reported.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::RngExt as _;
use shared::daemon::crash_point::CrashPoint;
use shared::digest::Sha256Digest;
use shared::event::{FailedCheck, LoadSource, Loaded, Published};
use shared::identifiers::Tag;
use shared::release::Release;
use shared::subjects::EventSubject;
use shared::verification::{Activatable as _, CheckedRelease, EmergencyFlag, VerificationFailure};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::agent::{Agent, Next, Staged};
use super::prefetch::Joined;
use super::wake_ups::WakeUps;
use crate::activation::activate;
use crate::alarms::Subject;
use crate::desired::{Answer, Extent, Head};
use crate::failures::{FailureKey, FailureKind, Report};
use crate::fetch::{StageFailure, StagedRelease, cheapest_way, fetch, fetch_without_digests, reuse};
use crate::local_pin::LocalPin;
use crate::metrics::Operation;
use crate::node_state::{Provenance, ReleaseId};
use crate::plan::{Desired, Idle, Refusal, Situation, Step, WaitReason, next_step};
use crate::release_directory::says_to_be;
use crate::reports::log_loaded;
use crate::retention::QUIET_TIME;
use crate::wire_bytes::{Purpose, WireBytes};

/// Steps that took longer than this are followed by another look at the log.
const FRESH: Duration = Duration::from_secs(1);
/// Between two looks at the log during a fetch that fail or bring nothing.
const RELOOK_PAUSE: Duration = Duration::from_millis(200);

impl Agent {
    /// Takes step after step until nothing is left to do, or until the log should be read again first.
    pub(super) async fn converge(&mut self, wake_ups: &mut WakeUps) -> Next {
        let begun = Instant::now();
        let mut known_on_disk = None;
        loop {
            self.settle_trial().await;
            let on_disk = match known_on_disk.take() {
                Some(known) => known,
                None => self.on_disk().await,
            };
            let embedded = self.last_resort();
            let now = Utc::now();
            let desired = self.desired.clone().map(|release| {
                let announcement = self.announcement(&release);
                Desired { release, announcement }
            });
            let step = next_step(&Situation {
                desired: desired.as_ref(),
                withdrawn: &self.withdrawn,
                active: self.active(),
                previous: &self.history(),
                on_disk: &on_disk,
                embedded: embedded.as_ref(),
                staged: self.staged.as_ref().map(|staged| &staged.id),
                failures: &self.state.failures,
                trials: &self.state.trials,
                retry: &self.config.timing.retry(),
                now,
            });
            let step = self.give_way(step);
            if let Some(rest) = self.resting(&step, now) {
                // Verified now, it would be switched to unseen when it is wanted again.
                self.staged = None;
                if self.note_rejection() {
                    self.save().await;
                    self.report_waiting().await;
                }
                // Not while something is tried: the alarm would end and begin again with each attempt.
                self.alarms.set(Subject::Desired, self.complaint(&step, desired.as_ref()));
                return Next::Rest(rest);
            }
            // A release taken from the cache for want of a better one has no announcement.
            let key = |id: &ReleaseId| match &desired {
                Some(desired) if &desired.release == id => desired.failure_key(),
                Some(_) | None => FailureKey { release: id.clone(), announcement: 0 },
            };
            match &step {
                Step::Reuse(id) => self.reuse(id).await,
                Step::Fetch(id) => {
                    if let Next::Look = self.fetch(id, key(id), wake_ups).await {
                        return Next::Look;
                    }
                }
                Step::Embed(id) => self.embed(id).await,
                Step::Switch(id) => {
                    if let Next::Look = self.switch(id, key(id)).await {
                        return Next::Look;
                    }
                }
                Step::Refuse(Refusal::Contradiction { promoted, announced }) => {
                    if let Some(desired) = &desired {
                        let failure = self.contradiction(&desired.release, *promoted, *announced);
                        self.failed(&key(&desired.release), &failure).await;
                    }
                }
                Step::Idle(_) | Step::Wait { .. } | Step::Refuse(Refusal::NothingLeft) => {}
            }
            if let (Some(staged), Step::Reuse(_) | Step::Fetch(_)) = (&self.staged, &step) {
                // The switch that follows looks at its place once more.
                let mut on_disk = on_disk;
                on_disk.insert(staged.id.clone());
                known_on_disk = Some(on_disk);
            } else {
                self.read_manifest().await;
                self.show();
            }
            if wake_ups.news() || begun.elapsed() > FRESH {
                return Next::Look;
            }
        }
    }

    /// How long this step lets the agent rest; `None` where there is something to do.
    fn resting(&self, step: &Step, now: DateTime<Utc>) -> Option<Duration> {
        match step {
            Step::Idle(Idle::NothingDesired) => Some(self.last_resort_in().unwrap_or(self.config.timing.interval)),
            Step::Idle(_) | Step::Refuse(Refusal::NothingLeft) => Some(self.config.timing.interval),
            // Its announcement wakes the agent; looking is for the case that the replica asked lags behind.
            Step::Wait { reason: WaitReason::NotAnnounced, .. } => {
                let delay = self.config.timing.retry().delay(u64::from(self.unannounced), rand::rng().random());
                Some(delay.min(self.config.timing.interval))
            }
            Step::Wait { until, reason: WaitReason::Retry } => {
                Some((*until - now).to_std().unwrap_or_default().max(Duration::from_millis(1)))
            }
            Step::Reuse(_)
            | Step::Fetch(_)
            | Step::Embed(_)
            | Step::Switch(_)
            | Step::Refuse(Refusal::Contradiction { .. }) => None,
        }
    }

    /// What is wrong with a step, for operators.
    fn complaint(&self, step: &Step, desired: Option<&Desired>) -> Option<String> {
        let tag = &desired?.release.tag;
        match step {
            Step::Idle(Idle::KeepingUnwithdrawn) => {
                Some(format!("desired release `{tag}` is withdrawn; the last one that is not keeps running"))
            }
            Step::Idle(Idle::LastResort) => {
                Some(format!("release `{tag}` cannot run; the schemas that are compiled into the agent do"))
            }
            Step::Wait { reason: WaitReason::NotAnnounced, .. } => {
                Some(format!("release `{tag}` is not announced yet"))
            }
            Step::Wait { reason: WaitReason::Retry, .. } => {
                let failure = self.state.failures.iter().rev().find(|failure| &failure.key.release.tag == tag)?;
                Some(format!("release `{tag}` cannot be had ({}); it is tried again", failure.cause))
            }
            Step::Refuse(Refusal::NothingLeft) => {
                Some(format!("release `{tag}` is withdrawn, and the node has none that is not: it keeps what it has"))
            }
            // Shown as trouble, with what can be done about it.
            Step::Idle(Idle::Converged | Idle::NothingDesired | Idle::Rejected)
            | Step::Reuse(_)
            | Step::Fetch(_)
            | Step::Embed(_)
            | Step::Switch(_)
            | Step::Refuse(Refusal::Contradiction { .. }) => None,
        }
    }

    /// The releases in the cache that matter now, by what they say about themselves. Asks the disk only where something
    /// is to be done.
    async fn on_disk(&self) -> BTreeSet<ReleaseId> {
        let settled = self.active().is_some_and(|active| {
            active.provenance != Provenance::Embedded
                && !self.must_not_run(active)
                && self.desired.as_ref().is_none_or(|desired| desired == &active.id)
        });
        if settled {
            return BTreeSet::new();
        }
        let (cache, interest) = (self.cache.clone(), self.of_interest());
        let found = spawn_blocking(move || {
            interest.into_iter().filter(|id| says_to_be(&cache.release(&id.tag), id)).collect::<BTreeSet<_>>()
        });
        let mut found = found.await.unwrap_or_default();
        found.retain(|id| !self.damaged.contains(id));
        found
    }

    async fn reuse(&mut self, id: &ReleaseId) {
        let decided = Instant::now();
        match reuse(&self.cache, id, self.limits).await {
            Ok(staged) => self.stage(id, staged, LoadSource::Cache, decided),
            Err(failure) => {
                self.damaged.insert(id.clone());
                if let StageFailure::Refused(_) = failure {
                    self.reporter.failed(id, &failure, self.running(), Some(0)).await;
                } else {
                    tracing::warn!(tag = %id.tag, error = failure.text(), "the release in the cache cannot be used");
                }
            }
        }
    }

    async fn fetch(&mut self, id: &ReleaseId, key: FailureKey, wake_ups: &mut WakeUps) -> Next {
        let Some((_, announced)) = self.announced.clone() else { return Next::Look };
        if self.forgotten.is_some() {
            // The outbox knows the events of the last switch again for a while, but not for as long as a fetch may take.
            self.save().await;
        }
        let decided = Instant::now();
        let fetched = match self.join_prefetch(id, wake_ups).await {
            Some(Joined::Ended(fetched)) => Some(fetched),
            Some(Joined::GivenUp) => None,
            None => self.fetch_now(id, &key, &announced, wake_ups).await,
        };
        let Some(fetched) = fetched else { return Next::Look };
        match fetched {
            Ok(staged) => {
                self.damaged.remove(id);
                self.reporter.staged(id, staged.strategy, staged.wire_bytes, milliseconds(decided)).await;
                let source = staged.source();
                self.stage(id, staged, source, decided);
            }
            // It is tried again at once, with the room that was made.
            Err(failure) if self.make_room(id, &failure).await => {}
            Err(failure) => {
                if let Err(failure) = self.fetch_unverified(id, failure, decided).await {
                    self.failed(&key, &failure).await;
                }
            }
        }
        Next::Rest(Duration::ZERO)
    }

    /// Fetches a release, unless something comes first.
    async fn fetch_now(
        &mut self,
        id: &ReleaseId,
        key: &FailureKey,
        announced: &Published,
        wake_ups: &mut WakeUps,
    ) -> Option<Result<StagedRelease, StageFailure>> {
        let news = self.state.failures.attempt_is_news(key, Utc::now());
        let way = tokio::select! {
            way = cheapest_way(&self.store, &self.cache, announced) => way,
            () = self.trial_failed() => return None,
        };
        self.reporter.refresh_attempt(id, self.running(), way.strategy(), news).await;
        let failed = self.trial_failed();
        let spent = WireBytes::new(&self.metrics, Purpose::Switch);
        tokio::select! {
            fetched = fetch(&self.store, &self.cache, announced, &way, self.limits, &spent) => {
                spent.complete(fetched.as_ref().map_or(0, |staged| staged.wire_bytes));
                Some(fetched)
            }
            // Leaves nothing behind: a large release does not hold up the one that is wanted instead.
            () = self.superseded(id, wake_ups) => {
                tracing::info!(tag = %id.tag, "fetching is given up: another release is desired now");
                None
            }
            () = failed => {
                tracing::info!(tag = %id.tag, "fetching is put off: the running release failed its health check");
                None
            }
        }
    }

    /// Where the emergency flag is raised, what failed for its digests alone is fetched again without comparing them.
    async fn fetch_unverified(
        &mut self,
        id: &ReleaseId,
        failure: StageFailure,
        decided: Instant,
    ) -> Result<(), StageFailure> {
        let flag = EmergencyFlag::raised(self.config.integrity.skip_bundle_verification);
        let (Some(flag), true, Some((_, announced))) = (flag, failure.is_of_digests(), self.announced.clone()) else {
            return Err(failure);
        };
        let (release, wire_bytes) =
            fetch_without_digests(&self.store, &self.cache, &announced, self.limits, flag).await?;
        tracing::error!(
            tag = %id.tag, error = failure.text(),
            "DEMON_SKIP_BUNDLE_VERIFICATION is set: a release whose digests do not match is let through UNVERIFIED"
        );
        self.stage_checked(id, release.into(), wire_bytes, LoadSource::Download, decided);
        Ok(())
    }

    /// Ends when the log names another release than this one. What wakes it is not believed: the log is read.
    pub(super) async fn superseded(&self, id: &ReleaseId, wake_ups: &mut WakeUps) {
        loop {
            wake_ups.live().await;
            if let Ok(Answer::Current(reading)) =
                self.question.ask(&self.log, &self.state.position, &Extent::Move(None)).await
            {
                let withdrawn = reading.withdrawn.holds(id.tree_digest, None);
                let pinned = self.pinned_release(self.judge_pin(&reading));
                let moved = match &reading.head {
                    Head::Channel(..) if pinned.is_some() => pinned.as_ref() != Some(id),
                    Head::Channel(_, promoted) => (&promoted.tag, promoted.tree_digest) != (&id.tag, id.tree_digest),
                    Head::Pinned(_, published) => published.tree_digest != id.tree_digest,
                    Head::Missing | Head::Unchanged => false,
                };
                if moved || withdrawn {
                    return;
                }
            }
            sleep(RELOOK_PAUSE).await;
        }
    }

    pub(super) fn stage(&mut self, id: &ReleaseId, release: StagedRelease, source: LoadSource, decided: Instant) {
        self.stage_checked(id, release.verified.into(), release.wire_bytes, source, decided);
    }

    fn stage_checked(
        &mut self,
        id: &ReleaseId,
        release: CheckedRelease,
        wire_bytes: u64,
        source: LoadSource,
        decided: Instant,
    ) {
        let git_sha = self.announced.as_ref().filter(|(_, announced)| announced.tag == id.tag);
        let git_sha = git_sha.and_then(|(_, announced)| announced.git.as_ref()).map(|git| git.sha.clone());
        let remembered = || self.state.previous.iter().find(|release| &release.id == id)?.git_sha.clone();
        self.staged =
            Some(Staged { id: id.clone(), release, source, wire_bytes, git_sha: git_sha.or_else(remembered), decided });
    }

    async fn switch(&mut self, id: &ReleaseId, key: FailureKey) -> Next {
        let Some(staged) = self.staged.take() else { return Next::Look };
        let release = staged.release.release().clone();
        let verified = staged.release.is_verified();
        let pin = self.pin_stamp();
        let switched = async {
            let lock = self.cache.lock().await?;
            let cache = self.cache.clone();
            let switching = spawn_blocking(move || {
                // Somebody put another release into the cache meanwhile: what should run is decided anew.
                if LocalPin::stamp(&cache) != pin {
                    return Ok(false);
                }
                activate(&cache, &lock, &staged.release).map(|()| true)
            });
            Ok(switching.await??)
        };
        match switched.await {
            Ok(true) => {}
            Ok(false) => {
                self.refresh_pin().await;
                return Next::Look;
            }
            Err(failure) => {
                self.failed(&key, &failure).await;
                return Next::Rest(Duration::ZERO);
            }
        }
        CrashPoint::SwitchUnremembered.reach();
        self.intact = true;
        self.files_are_fresh();
        self.damaged.remove(id);
        self.collect_at = Some(Instant::now() + QUIET_TIME + Duration::from_secs(1));
        let loaded = self.loaded(&release, staged.source, staged.wire_bytes, milliseconds(staged.decided));
        let loaded = Loaded { verified, ..loaded };
        if loaded.source != LoadSource::Embedded {
            self.note_staleness(id).await;
            log_loaded(&loaded, staged.git_sha.as_deref());
            self.metrics.count(Operation::Loaded);
        }
        self.metrics.note_refresh(u32::try_from(loaded.duration_ms).unwrap_or(u32::MAX));
        self.remember_switch(id.clone(), &release, staged.git_sha, loaded).await;
        Next::Rest(Duration::ZERO)
    }

    /// The event of a switch that has just happened.
    pub(super) fn loaded(&self, release: &Release, source: LoadSource, wire_bytes: u64, duration_ms: u64) -> Loaded {
        let previous = self.state.active.as_ref().map(|active| active.id.tag.clone());
        Loaded {
            bundle: release.bundle().clone(),
            tag: release.tag().clone(),
            tree_digest: release.tree_digest(),
            content_digest: release.content_digest(),
            channel: self.target.follow.channel().cloned(),
            source,
            wire_bytes,
            previous_tag: previous.filter(|previous| previous != release.tag()),
            duration_ms,
            activation_epoch: self.state.activation_epoch + 1,
            unrecorded_switches: 0,
            verified: true,
        }
    }

    /// Remembers a failure, says so where that is news, and keeps what runs.
    async fn failed(&mut self, key: &FailureKey, failure: &StageFailure) {
        let kind = if failure.refusal().is_some() { FailureKind::Verification } else { FailureKind::Download };
        self.prefetch.forget(&key.release.tag);
        self.note_trouble(key, kind, failure);
        let (retry, spread) = (self.config.timing.retry(), rand::rng().random());
        let delay = |attempts| retry.delay(attempts, spread);
        let report = self.state.failures.note(key.clone(), kind, &failure.cause(), Utc::now(), delay);
        let event = match report {
            Report::Event { repeats } => Some(repeats),
            Report::Counted => None,
        };
        self.reporter.failed(&key.release, failure, self.running(), event).await;
        self.save().await;
    }

    fn contradiction(&self, release: &ReleaseId, promoted: Sha256Digest, announced: Sha256Digest) -> StageFailure {
        let subject = EventSubject::release_announcement(&self.target.bundle, &release.tag);
        StageFailure::Refused(VerificationFailure {
            check: FailedCheck::Tree,
            item: subject.to_string(),
            expected: promoted.to_string(),
            actual: announced.to_string(),
        })
    }

    fn running(&self) -> Option<&Tag> {
        self.active().map(|active| &active.id.tag)
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
