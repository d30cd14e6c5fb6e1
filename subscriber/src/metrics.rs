//! What the agent counts and measures, in Prometheus' terms. Names and labels are what the playbook's rules and
//! dashboard use.
//!
//! Recording goes to the process's recorder and costs nothing where none is installed; the binary installs one. What
//! follows from the state (one-hot status, age) is computed when the page is asked for.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use metrics::{Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use shared::identifiers::BundleName;
use streams::outbox::OutboxStatus;

use crate::agent_view::{AgentView, BundleState};
use crate::config::AgentConfig;
use crate::node_state::Provenance;

const STATUS: &str = "demon_bundle_status";
const OPERATIONS: &str = "demon_bundle_operations_total";
const REFRESH_DURATION: &str = "demon_bundle_refresh_duration_ms";
const AGE: &str = "demon_bundle_age_hours";
const VERIFICATION_FAILURES: &str = "demon_bundle_verification_failures_total";
const FALLBACK: &str = "demon_bundle_fallback_active";
const UNVERIFIED: &str = "demon_bundle_unverified";
const TAMPERED: &str = "demon_bundle_tampered";
const SKIPPED: &str = "demon_bundle_verification_skipped";
const CONNECTED: &str = "demon_agent_connected";
const WAITING_EVENTS: &str = "demon_agent_outbox_events";
const MULTICAST: &str = "demon_agent_multicast_bytes_total";
const REFUSED_EVENTS: &str = "demon_agent_outbox_refused_events_total";
const CLOCK_SKEW: &str = "demon_agent_server_clock_skew_seconds";
const REFUSED: &str = "demon_agent_refused_requests_total";
const BUILD: &str = "demon_agent_build_info";
const SECONDS_AN_HOUR: f64 = 3600.0;

/// Something that is counted: the label pair `operation` and `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A release became active.
    Loaded,
    /// A release was refused.
    Refused,
    /// A fetch began.
    RefreshAttempted,
    /// A fetch or switch failed.
    DownloadFailed,
    /// Another release than the desired one runs.
    FallbackActivated,
    /// The running release became stale.
    StaleDetected,
    /// There is something newer than the pinned release.
    UpdateDetected,
    /// The files of the running release changed.
    TamperDetected,
    /// A release was fetched before it was promoted.
    StagedAhead,
    /// That failed; nothing is amiss with what runs.
    NotStagedAhead,
}

impl Operation {
    const ALL: [Self; 10] = [
        Self::Loaded,
        Self::Refused,
        Self::RefreshAttempted,
        Self::DownloadFailed,
        Self::FallbackActivated,
        Self::StaleDetected,
        Self::UpdateDetected,
        Self::TamperDetected,
        Self::StagedAhead,
        Self::NotStagedAhead,
    ];

    fn labels(self) -> [(&'static str, &'static str); 2] {
        let (operation, result) = match self {
            Self::Loaded => ("load", "success"),
            Self::Refused => ("verify", "failed"),
            Self::RefreshAttempted => ("refresh", "attempt"),
            Self::DownloadFailed => ("download", "failed"),
            Self::FallbackActivated => ("fallback", "activated"),
            Self::StaleDetected => ("stale_check", "stale"),
            Self::UpdateDetected => ("update_check", "available"),
            Self::TamperDetected => ("tamper_check", "tampered"),
            Self::StagedAhead => ("prefetch", "success"),
            // Not `failed`: the alert on failing operations is about what should run.
            Self::NotStagedAhead => ("prefetch", "put_off"),
        };
        [("operation", operation), ("result", result)]
    }
}

/// Why a verification failed: the label `error_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VerificationError {
    /// A digest differs.
    Digest,
    /// Anything else that is not as announced.
    Other,
}

impl VerificationError {
    const ALL: [Self; 2] = [Self::Digest, Self::Other];

    fn label(self) -> [(&'static str, &'static str); 1] {
        [(
            "error_type",
            match self {
                Self::Digest => "sha256_mismatch",
                Self::Other => "other",
            },
        )]
    }
}

/// Counts and measures for one bundle. Of several bundles each series has a label `bundle`; the series of an agent with
/// one bundle are the playbook's, which has no such label. Rules and dashboards that select by the other labels match both.
#[derive(Debug, Clone, Default)]
pub(crate) struct BundleMetrics {
    label: Option<Label>,
}

impl BundleMetrics {
    /// The metrics of a bundle of this agent.
    pub(crate) fn new(config: &AgentConfig, bundle: &BundleName) -> Self {
        Self::labelled(bundle, config.bundles.bundles.len() > 1)
    }

    fn labelled(bundle: &BundleName, several: bool) -> Self {
        Self { label: several.then(|| Label::new("bundle", bundle.to_string())) }
    }

    /// Counts an operation.
    pub(crate) fn count(&self, operation: Operation) {
        counter!(OPERATIONS, self.labels(&operation.labels())).increment(1);
    }

    /// Counts a refused release.
    pub(crate) fn count_verification_failure(&self, error: VerificationError) {
        counter!(VERIFICATION_FAILURES, self.labels(&error.label())).increment(1);
    }

    /// Notes how long it took from the decision for a release to its switch, in milliseconds.
    pub(crate) fn note_refresh(&self, milliseconds: u32) {
        histogram!(REFRESH_DURATION, self.labels(&[])).record(f64::from(milliseconds));
    }

    /// Makes every series be there, at zero: a rule over one that does not exist says nothing.
    fn begin(&self) {
        for operation in Operation::ALL {
            counter!(OPERATIONS, self.labels(&operation.labels())).increment(0);
        }
        for error in VerificationError::ALL {
            counter!(VERIFICATION_FAILURES, self.labels(&error.label())).increment(0);
        }
        let _ = histogram!(REFRESH_DURATION, self.labels(&[]));
        crate::reconcile::log_watch::begin_metrics(self);
        crate::wire_bytes::begin_metrics(self);
    }

    pub(crate) fn labels(&self, others: &[(&'static str, &'static str)]) -> Vec<Label> {
        others.iter().map(Label::from).chain(self.label.clone()).collect()
    }
}

/// Counts a request to the API that was refused because its key was missing or wrong.
pub(crate) fn count_refused_request(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// Counts bytes of archives that arrived because another node had asked for them.
pub(crate) fn count_multicast(bytes: u64) {
    counter!(MULTICAST).increment(bytes);
}

/// The page that Prometheus reads.
#[derive(Clone)]
pub(crate) struct MetricsPage(Arc<PrometheusHandle>);

impl MetricsPage {
    /// Installs the process's recorder; `None` where the process has one already: an embedding program serves its own
    /// page.
    pub(crate) fn install(config: &AgentConfig) -> Option<Self> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = Self(Arc::new(recorder.handle()));
        metrics::set_global_recorder(recorder).ok()?;
        describe();
        config.bundles.bundles.iter().for_each(|target| BundleMetrics::new(config, &target.bundle).begin());
        Some(page)
    }

    /// The page for the views of all bundles at a time, in Prometheus' text format 0.0.4.
    pub(crate) fn render(&self, views: &[AgentView], stale_after: TimeDelta, now: DateTime<Utc>) -> String {
        show(views, stale_after, now);
        self.0.run_upkeep();
        without_unknown_ages(&self.0.render())
    }
}

impl std::fmt::Debug for MetricsPage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MetricsPage")
    }
}

/// Leaves out the ages that nobody knows: of nothing, of the embedded schemas, of releases without a manifest. A series that
/// is not there fires no rule and draws no line; one that is not a number makes sums over the fleet none either.
fn without_unknown_ages(page: &str) -> String {
    page.split_inclusive('\n').filter(|line| !(line.starts_with(AGE) && line.trim_end().ends_with(" NaN"))).collect()
}

fn describe() {
    describe_gauge!(STATUS, "1 for the state the bundle is in, 0 for every other");
    describe_counter!(OPERATIONS, "What the agent did with bundles, by operation and result");
    describe_histogram!(REFRESH_DURATION, Unit::Milliseconds, "Time from deciding for a release to running it");
    describe_gauge!(AGE, "Age of the running release by its manifest, in hours; no series where that is not known");
    describe_counter!(VERIFICATION_FAILURES, "Releases refused because their bytes are not as announced");
    describe_gauge!(FALLBACK, "1 while another release than the desired one runs");
    describe_gauge!(UNVERIFIED, "1 while a release runs whose digests do not match, let through by the emergency flag");
    describe_gauge!(TAMPERED, "1 while files of the running release are not what was announced");
    describe_gauge!(SKIPPED, "1 while the emergency flag says that digests are not to be compared");
    describe_gauge!(CONNECTED, "1 while a connection to NATS stands");
    describe_gauge!(WAITING_EVENTS, "Events that are recorded and not yet in the log");
    describe_counter!(MULTICAST, "Bytes of archives that arrived because another node had asked for them");
    counter!(MULTICAST).increment(0);
    describe_counter!(REFUSED, "Requests to the API that were refused for want of a right key");
    for reason in ["missing", "wrong"] {
        counter!(REFUSED, "reason" => reason).increment(0);
    }
    describe_counter!(REFUSED_EVENTS, "Events that could not be recorded and are in the agent's log only");
    counter!(REFUSED_EVENTS).absolute(0);
    describe_gauge!(
        CLOCK_SKEW,
        "How far the server's clock is ahead of this machine's, by an event that was just stored"
    );
    gauge!(CLOCK_SKEW).set(0.0);
    describe_gauge!(BUILD, "Always 1; the label is the agent's version");
    crate::reconcile::log_watch::describe_metrics();
    crate::wire_bytes::describe_metrics();
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Notes what the node's outbox has found out.
pub(crate) fn note_outbox(status: &OutboxStatus) {
    counter!(REFUSED_EVENTS).absolute(status.refused);
    if let Some(clock) = status.clock {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a clock fit a double exactly")]
        gauge!(CLOCK_SKEW).set(clock.milliseconds as f64 / 1000.0);
    }
}

fn show(views: &[AgentView], stale_after: TimeDelta, now: DateTime<Utc>) {
    for view in views {
        let metrics = BundleMetrics::labelled(&view.report.bundle, views.len() > 1);
        let state = view.state(stale_after, now);
        for each in BundleState::ALL {
            gauge!(STATUS, metrics.labels(&[("state", each.metric_label())])).set(flag(each == state));
        }
        let age = view.age(now).map_or(f64::NAN, |age| age.as_seconds_f64() / SECONDS_AN_HOUR);
        gauge!(AGE, metrics.labels(&[])).set(age);
        gauge!(FALLBACK, metrics.labels(&[])).set(flag(view.uses_fallback()));
        let unverified = view.integrity.provenance == Some(Provenance::Unverified);
        gauge!(UNVERIFIED, metrics.labels(&[])).set(flag(unverified));
        gauge!(TAMPERED, metrics.labels(&[])).set(flag(view.integrity.tampering.is_some()));
        gauge!(SKIPPED, metrics.labels(&[])).set(flag(view.integrity.verification_skipped));
    }
    // One connection and one outbox, whatever the number of bundles. One loop may notice earlier than another.
    let waiting = views.iter().map(|view| view.report.waiting_events).max().unwrap_or(0);
    gauge!(CONNECTED).set(flag(views.iter().all(|view| view.connected)));
    gauge!(WAITING_EVENTS).set(f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)));
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_view::tests::{at, view};

    /// The page of a recorder of its own.
    fn page(work: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            BundleMetrics::default().begin();
            work();
        });
        recorder.handle().render()
    }

    #[test]
    fn exactly_one_state_is_on_and_every_series_is_there_from_the_start() {
        let text = page(|| show(&[view()], TimeDelta::hours(24), at(48, 0)));
        let on: Vec<&str> =
            text.lines().filter(|line| line.starts_with("demon_bundle_status{") && line.ends_with(" 1")).collect();
        assert_eq!(on, ["demon_bundle_status{state=\"stale\"} 1"]);
        for series in [
            "demon_bundle_status{state=\"loaded\"} 0",
            "demon_bundle_status{state=\"fallback\"} 0",
            "demon_bundle_status{state=\"download_error\"} 0",
            "demon_bundle_age_hours 48",
            "demon_bundle_fallback_active 0",
            "demon_bundle_operations_total{operation=\"download\",result=\"failed\"} 0",
            "demon_bundle_verification_failures_total{error_type=\"sha256_mismatch\"} 0",
            "# HELP demon_bundle_age_hours",
            "# TYPE demon_bundle_operations_total counter",
        ] {
            assert!(text.contains(series), "{series}\n{text}");
        }
    }

    #[test]
    fn of_several_bundles_each_series_names_its_own() {
        let mut other = view();
        other.report.bundle = "policies".parse().unwrap();
        other.report.active = None;
        let text = page(|| {
            show(&[view(), other], TimeDelta::hours(24), at(2, 0));
            BundleMetrics::labelled(&"policies".parse().unwrap(), true).count(Operation::Refused);
        });
        let text = without_unknown_ages(&text);
        assert!(!text.contains("NaN"), "of nothing nobody knows the age: {text}");
        for series in [
            "demon_bundle_status{state=\"loaded\",bundle=\"contracts\"} 1",
            "demon_bundle_status{state=\"not_loaded\",bundle=\"policies\"} 1",
            "demon_bundle_age_hours{bundle=\"contracts\"} 2",
            "demon_bundle_operations_total{operation=\"verify\",result=\"failed\",bundle=\"policies\"} 1",
            "demon_agent_connected 1",
        ] {
            assert!(text.contains(series), "{series}\n{text}");
        }
    }

    #[test]
    fn durations_are_a_summary() {
        let text = page(|| BundleMetrics::default().note_refresh(84));
        assert!(text.contains("# TYPE demon_bundle_refresh_duration_ms summary"), "{text}");
        assert!(text.contains("demon_bundle_refresh_duration_ms{quantile=\"0.5\"} 8"), "{text}");
        assert!(text.contains("demon_bundle_refresh_duration_ms_count 1"), "{text}");
    }
}
