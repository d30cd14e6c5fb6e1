//! What the agent says about itself: one event in the durable outbox and one log line for each fact.
//!
//! Events are made durable in the order they happened by a task of their own, so that a fetch does not wait for the disk
//! to confirm that it was announced. Only the switch waits: it is remembered until its event is on disk. Where an event
//! cannot be made durable (the disk is full, the outbox has its limit), the log says so beside the fact.

mod ahead;

use chrono::{DateTime, SecondsFormat, Utc};
use shared::daemon::{AUDIT_TARGET, ErrorChain};
use shared::event::{
    BundleEvent, DownloadFailed, FailedCheck, FallbackSource, FetchStrategy, LoadSource, Loaded, RefreshAttempt,
    Reverted, Staged, VerificationFailed,
};
use shared::event_chain::EventDraft;
use shared::identifiers::{BundleName, EventId, Tag};
use shared::verification::VerificationFailure;
use streams::event_writer::new_event_id;
use streams::outbox::Outbox;
use tokio::sync::{mpsc, oneshot};

use crate::conditions::ConditionEvent;
use crate::fetch::StageFailure;
use crate::metrics::{BundleMetrics, Operation, VerificationError};
use crate::node_state::ReleaseId;

/// Events on their way to the disk. The agent produces a handful for each release.
const QUEUE: usize = 64;

/// Says what happened.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<Entry>,
    bundle: BundleName,
    metrics: BundleMetrics,
}

/// The way from the reporters of a node's bundles to its one [`Recorder`].
#[derive(Debug)]
pub(crate) struct Voice(mpsc::Sender<Entry>);

/// Makes durable what the [`Reporter`]s of a node say.
#[derive(Debug)]
pub(crate) struct Recorder {
    queue: mpsc::Receiver<Entry>,
    outbox: Outbox,
}

/// An event, and who waits until it is durable.
#[derive(Debug)]
struct Entry {
    draft: EventDraft,
    durable: Option<oneshot::Sender<()>>,
}

impl Recorder {
    /// A recorder and the way to it.
    pub(crate) fn new(outbox: Outbox) -> (Voice, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Voice(sender), Self { queue, outbox })
    }

    /// Works until every way to it is dropped and everything that was said is durable.
    pub(crate) async fn run(mut self) {
        let mut entries = Vec::with_capacity(QUEUE);
        let mut refused = 0_u64;
        // What came while the disk was busy is made durable together.
        while self.queue.recv_many(&mut entries, QUEUE).await > 0 {
            let (drafts, asking): (Vec<_>, Vec<_>) = entries
                .drain(..)
                .map(|Entry { draft, durable }| {
                    let event_type = draft.event.event_type();
                    (draft, (event_type, durable))
                })
                .unzip();
            for (recorded, (event_type, durable)) in self.outbox.record_all(drafts).await.into_iter().zip(asking) {
                match recorded {
                    Ok(()) => {
                        if refused > 0 {
                            tracing::warn!(refused, "events are recorded again; so many before are in this log only");
                            refused = 0;
                        }
                        // Whoever asked may have been dropped since.
                        let _ = durable.map(|durable| durable.send(()));
                    }
                    Err(error) => {
                        let error = ErrorChain(&error);
                        // The first of a row says why; how many there were is said once one is recorded again.
                        if refused == 0 {
                            tracing::error!(event.kind = %event_type, %error, "an event is not recorded");
                        } else {
                            tracing::debug!(event.kind = %event_type, %error, "an event is not recorded");
                        }
                        refused += 1;
                    }
                }
            }
        }
    }
}

impl Reporter {
    /// A reporter about a bundle. What it says goes where `voice` leads.
    pub(crate) fn new(voice: &Voice, bundle: BundleName, metrics: BundleMetrics) -> Self {
        Self { queue: voice.0.clone(), bundle, metrics }
    }

    /// A fetch begins. A retry of what failed a moment ago is no news for the log of the fleet.
    pub(crate) async fn refresh_attempt(
        &self,
        release: &ReleaseId,
        base: Option<&Tag>,
        strategy: FetchStrategy,
        news: bool,
    ) {
        self.metrics.count(Operation::RefreshAttempted);
        tracing::info!(
            target: AUDIT_TARGET, event = "bundle.refresh_attempt", bundle = %self.bundle, tag = %release.tag,
            base_tag = base.map(Tag::as_str), strategy = strategy.as_str(), "fetching release"
        );
        if news {
            let event = RefreshAttempt {
                bundle: self.bundle.clone(),
                tag: release.tag.clone(),
                tree_digest: release.tree_digest,
                base_tag: base.cloned(),
                strategy,
            };
            self.record(event).await;
        }
    }

    /// A release is fetched, verified and durable.
    pub(crate) async fn staged(&self, release: &ReleaseId, strategy: FetchStrategy, wire_bytes: u64, duration_ms: u64) {
        tracing::info!(
            target: AUDIT_TARGET, event = "bundle.staged", bundle = %self.bundle, tag = %release.tag,
            tree_digest = %release.tree_digest, strategy = strategy.as_str(), wire_bytes, duration_ms,
            "release staged and verified"
        );
        let event = Staged {
            bundle: self.bundle.clone(),
            tag: release.tag.clone(),
            tree_digest: release.tree_digest,
            strategy,
            wire_bytes,
            duration_ms,
        };
        self.record(event).await;
    }

    /// An event with an id that was chosen before and the time at which it happened. Says whether it is durable: the
    /// caller keeps it otherwise, and says it again under the same id, which counts once.
    pub(crate) async fn durable(&self, id: EventId, at: DateTime<Utc>, event: impl Into<BundleEvent>) -> bool {
        let (sender, durable) = oneshot::channel();
        self.send(EventDraft { id, time: at, event: event.into() }, Some(sender)).await;
        durable.await.is_ok()
    }

    /// A release could not be staged or switched to. `event` is its number of earlier repeats, or `None` where the same
    /// was reported a moment ago.
    pub(crate) async fn failed(
        &self,
        release: &ReleaseId,
        failure: &StageFailure,
        running: Option<&Tag>,
        event: Option<u64>,
    ) {
        match failure.refusal() {
            Some(refused) => self.verification_failed(release, refused, failure, running, event).await,
            None => self.download_failed(release, failure, running, event).await,
        }
    }

    async fn verification_failed(
        &self,
        release: &ReleaseId,
        refused: &VerificationFailure,
        failure: &StageFailure,
        running: Option<&Tag>,
        event: Option<u64>,
    ) {
        self.metrics.count(Operation::Refused);
        self.metrics.count_verification_failure(match refused.check {
            FailedCheck::Object | FailedCheck::Tree | FailedCheck::File => VerificationError::Digest,
            FailedCheck::Rule => VerificationError::Other,
        });
        let remediation = failure.remediation();
        tracing::error!(
            target: AUDIT_TARGET, event = "bundle.verification_failed", bundle = %self.bundle, tag = %release.tag,
            item = refused.item, expected = refused.expected, actual = refused.actual, error = failure.text(),
            remediation, running_tag = running.map(Tag::as_str), "release refused"
        );
        let Some(repeats) = event else { return };
        let event = VerificationFailed {
            bundle: self.bundle.clone(),
            tag: release.tag.clone(),
            tree_digest: release.tree_digest,
            check: refused.check,
            item: shortened(&refused.item),
            expected: shortened(&refused.expected),
            actual: shortened(&refused.actual),
            remediation: remediation.to_owned(),
            running_tag: running.cloned(),
            repeats,
            ahead: false,
        };
        self.record(event).await;
    }

    async fn download_failed(
        &self,
        release: &ReleaseId,
        failure: &StageFailure,
        running: Option<&Tag>,
        event: Option<u64>,
    ) {
        self.metrics.count(Operation::DownloadFailed);
        let (error, network_error, remediation) = (failure.text(), failure.network_error(), failure.remediation());
        tracing::error!(
            target: AUDIT_TARGET, event = "bundle.download_failed", bundle = %self.bundle, tag = %release.tag, error,
            network_error, remediation, running_tag = running.map(Tag::as_str), "release cannot be had"
        );
        let Some(repeats) = event else { return };
        let event = DownloadFailed {
            bundle: self.bundle.clone(),
            tag: release.tag.clone(),
            error,
            network_error,
            remediation: remediation.to_owned(),
            running_tag: running.cloned(),
            repeats,
            ahead: false,
        };
        self.record(event).await;
    }

    /// The log line and the count of an event about how the node stands.
    pub(crate) fn log_condition(&self, event: &ConditionEvent) {
        let bundle = &self.bundle;
        match event {
            ConditionEvent::FallbackActivated(data) => {
                self.metrics.count(Operation::FallbackActivated);
                let source = match data.source {
                    FallbackSource::LastGood => "Fallback",
                    FallbackSource::Embedded => "EmbeddedSchemas",
                };
                tracing::warn!(
                    target: AUDIT_TARGET, event = "bundle.fallback_activated", bundle = %bundle, tag = %data.tag, source,
                    sha256 = %data.content_digest, tree_digest = %data.tree_digest, cause = data.cause.as_str(),
                    wanted_tag = data.wanted_tag.as_ref().map(Tag::as_str), error = data.reason,
                    remediation = data.remediation, "running a fallback"
                );
            }
            ConditionEvent::StaleDetected(data) => {
                self.metrics.count(Operation::StaleDetected);
                let timestamp = data.bundle_timestamp.to_rfc3339_opts(SecondsFormat::Secs, true);
                tracing::warn!(
                    target: AUDIT_TARGET, event = "bundle.stale_detected", bundle = %bundle, tag = %data.tag,
                    bundle_timestamp = timestamp, age_hours = data.age_hours, threshold_hours = data.threshold_hours,
                    remediation = data.remediation, "bundle may be stale"
                );
            }
            ConditionEvent::UpdateDetected(data) => {
                self.metrics.count(Operation::UpdateDetected);
                tracing::info!(
                    target: AUDIT_TARGET, event = "bundle.update_detected", bundle = %bundle, tag = %data.tag,
                    newer_tag = %data.newer_tag, remediation = data.remediation, "newer bundle version exists"
                );
            }
            ConditionEvent::TamperDetected(data) => {
                self.metrics.count(Operation::TamperDetected);
                let first = data.paths.first().map(|damaged| damaged.path.as_str());
                tracing::error!(
                    target: AUDIT_TARGET, event = "bundle.tamper_detected", bundle = %bundle, tag = %data.tag,
                    tree_digest = %data.tree_digest, changed = data.changed, missing = data.missing, extra = data.extra,
                    first, mode = data.mode.as_str(), healed = data.healed, remediation = data.remediation,
                    "files of the running release changed"
                );
            }
            ConditionEvent::Reverted(data) => log_reverted(data),
        }
    }

    async fn record(&self, event: impl Into<BundleEvent>) {
        self.send(EventDraft { id: new_event_id(), time: Utc::now(), event: event.into() }, None).await;
    }

    async fn send(&self, draft: EventDraft, durable: Option<oneshot::Sender<()>>) {
        // The recorder ends after the reporter, unless the process is ending.
        let _ = self.queue.send(Entry { draft, durable }).await;
    }
}

/// The log line of a release that failed its health check.
pub(crate) fn log_reverted(reverted: &Reverted) {
    tracing::error!(
        target: AUDIT_TARGET, event = "bundle.reverted", bundle = %reverted.bundle, tag = %reverted.tag,
        tree_digest = %reverted.tree_digest, restored = reverted.restored.as_ref().map(|restored| restored.tag.as_str()),
        failed_epoch = reverted.failed_epoch, activation_epoch = reverted.activation_epoch, check = reverted.check,
        remediation = reverted.remediation, duration_ms = reverted.duration_ms, "health check failed after the switch"
    );
}

/// The log line of a release that runs now: after a switch, and at the start of an agent that finds it in place.
pub(crate) fn log_loaded(loaded: &Loaded, git_sha: Option<&str>) {
    let source = match loaded.source {
        LoadSource::Cache => "Cache",
        LoadSource::Download => "Download",
        LoadSource::Delta => "Delta",
        LoadSource::Embedded => "EmbeddedSchemas",
    };
    tracing::info!(
        target: AUDIT_TARGET, event = "bundle.loaded", bundle = %loaded.bundle, tag = %loaded.tag, source,
        sha256 = %loaded.content_digest, tree_digest = %loaded.tree_digest, git_sha,
        previous_tag = loaded.previous_tag.as_ref().map(Tag::as_str), wire_bytes = loaded.wire_bytes,
        duration_ms = loaded.duration_ms, activation_epoch = loaded.activation_epoch, verified = loaded.verified,
        "bundle active"
    );
}

fn shortened(text: &str) -> String {
    text.chars().take(1000).collect()
}

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;
    use shared::identifiers::NodeName;

    use super::*;

    fn outbox(directory: &std::path::Path) -> Outbox {
        let node: NodeName = "edge-17".parse().unwrap();
        Outbox::open(directory, node).unwrap()
    }

    fn reporter(outbox: &Outbox) -> (Reporter, Recorder) {
        let (voice, recorder) = Recorder::new(outbox.clone());
        (Reporter::new(&voice, "contracts".parse().unwrap(), BundleMetrics::default()), recorder)
    }

    fn release() -> ReleaseId {
        ReleaseId { tag: "v1".parse().unwrap(), tree_digest: Sha256Digest::of(b"1") }
    }

    /// How many events are durable after the reporter said what it has to say.
    async fn recorded(say: impl AsyncFnOnce(&Reporter)) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        let (reporter, recorder) = reporter(&outbox);
        say(&reporter).await;
        drop(reporter);
        recorder.run().await;
        outbox.status().borrow().waiting
    }

    #[tokio::test]
    async fn a_failure_with_boundless_text_still_fits_into_an_event() {
        let long = "\u{1F4A9}".repeat(100_000);
        let (item, expected, actual) = (long.clone(), long.clone(), long);
        let failure = VerificationFailure { check: FailedCheck::Rule, item, expected, actual };
        let say = async |reporter: &Reporter| reporter.failed(&release(), &failure.into(), None, Some(0)).await;
        assert_eq!(recorded(say).await, 1);
    }

    #[tokio::test]
    async fn repeats_reach_the_log_of_the_process_but_not_the_outbox() {
        let say = async |reporter: &Reporter| {
            let failure = StageFailure::NoRoom { needed: 2, available: 1 };
            reporter.failed(&release(), &failure, None, Some(0)).await;
            reporter.failed(&release(), &failure, None, None).await;
            reporter.refresh_attempt(&release(), None, FetchStrategy::Archive, false).await;
        };
        assert_eq!(recorded(say).await, 1);
    }

    #[tokio::test]
    async fn a_switch_is_durable_when_reporting_it_returns() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path());
        let (reporter, recorder) = reporter(&outbox);
        let recording = tokio::spawn(recorder.run());
        let loaded = Loaded {
            bundle: "contracts".parse().unwrap(),
            tag: release().tag,
            tree_digest: release().tree_digest,
            content_digest: release().tree_digest,
            channel: None,
            source: LoadSource::Cache,
            wire_bytes: 0,
            previous_tag: None,
            duration_ms: 1,
            activation_epoch: 1,
            unrecorded_switches: 0,
            verified: true,
        };
        assert!(reporter.durable(new_event_id(), Utc::now(), loaded.clone()).await);
        assert_eq!(outbox.status().borrow().waiting, 1);
        recording.abort();
        recording.await.unwrap_err();
        assert!(!reporter.durable(new_event_id(), Utc::now(), loaded).await, "nobody makes it durable any more");
    }
}
