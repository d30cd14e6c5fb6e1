//! The publisher's numbers for Prometheus: their names, their help lines, and the one place that writes each.

use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use shared::event::Trigger;
use streams::durability::{DurabilityFacts, DurabilityWarning, WarningKind};
use thiserror::Error;

use super::finished_run::{FinishedRun, RunResult};
use super::service_status::ServiceStatus;

const RUNS: &str = "demon_publisher_runs_total";
const RUN_SECONDS: &str = "demon_publisher_run_duration_seconds";
const LAST_SUCCESS: &str = "demon_publisher_last_success_timestamp_seconds";
const LAST_SCHEDULED: &str = "demon_publisher_last_scheduled_run_timestamp_seconds";
const NEXT_SCHEDULE: &str = "demon_publisher_next_schedule_timestamp_seconds";
const MISSED: &str = "demon_publisher_missed_schedules_total";
const POLLS: &str = "demon_publisher_source_polls_total";
const CONNECTED: &str = "demon_publisher_connected";
const READY: &str = "demon_publisher_ready";
const REFUSED_TRIGGERS: &str = "demon_publisher_trigger_requests_refused_total";
const CHECKPOINTS: &str = "demon_publisher_checkpoints_total";
const DURABILITY: &str = "demon_publisher_durability_warning";
const FILL: &str = "demon_publisher_stream_fill_ratio";
const SKEW: &str = "demon_publisher_server_clock_skew_seconds";
const CHECKPOINT_SIZE: &str = "demon_publisher_checkpoint_size";

const BUCKETS: [f64; 9] = [0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];
const TRIGGERS: [Trigger; 4] = [Trigger::Local, Trigger::Schedule, Trigger::WorkflowRun, Trigger::WorkflowDispatch];

/// Metrics that cannot be kept.
#[derive(Debug, Error)]
#[error("metrics cannot be set up")]
pub struct MetricsError(#[source] BuildError);

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct ServiceMetrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for ServiceMetrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServiceMetrics").finish_non_exhaustive()
    }
}

impl ServiceMetrics {
    /// Sets the process's metrics up, every counter at zero. Once a process.
    pub fn install() -> Result<Self, MetricsError> {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(RUN_SECONDS.to_owned()), &BUCKETS);
        let handle = builder.and_then(PrometheusBuilder::install_recorder).map_err(MetricsError)?;
        describe();
        Ok(Self { handle })
    }

    /// The text that Prometheus reads.
    pub fn render(&self, status: &ServiceStatus, connected: bool) -> String {
        gauge!(CONNECTED).set(f64::from(u8::from(connected)));
        gauge!(READY).set(f64::from(u8::from(connected && status.fault().is_none())));
        set_time(LAST_SUCCESS, status.last_success_at);
        if let Some(schedule) = &status.schedule {
            set_time(NEXT_SCHEDULE, schedule.next_due);
            set_time(LAST_SCHEDULED, schedule.done_until);
        }
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn describe() {
    describe_counter!(RUNS, "Runs by what started them and how they ended.");
    describe_histogram!(RUN_SECONDS, "Duration of runs in seconds.");
    describe_gauge!(LAST_SUCCESS, "When a run last ended well, in seconds since 1970; 0 before the first.");
    describe_gauge!(LAST_SCHEDULED, "Until when every scheduled run is done, in seconds since 1970; 0 while unknown.");
    describe_gauge!(NEXT_SCHEDULE, "When the schedule is due next, in seconds since 1970; 0 without a schedule.");
    describe_counter!(MISSED, "Scheduled runs that were not done within a minute of their time.");
    describe_counter!(POLLS, "Looks at the source by what they found.");
    describe_gauge!(CONNECTED, "Whether the server can be spoken to: 1 or 0.");
    describe_gauge!(READY, "Whether the publisher is connected and its last run ended well: 1 or 0.");
    describe_counter!(REFUSED_TRIGGERS, "Requests to publish that were refused for their key.");
    describe_counter!(CHECKPOINTS, "Checkpoints of the log by whether they were written.");
    describe_gauge!(
        CHECKPOINT_SIZE,
        "Up to which event the last checkpoint speaks that this process wrote; 0 before it."
    );
    describe_gauge!(DURABILITY, "1 while the server may lose what it acknowledges, by why; see docs/durability.md.");
    describe_gauge!(FILL, "How full a stream is, from 0 to 1; at 1 it refuses everything.");
    describe_gauge!(SKEW, "How far the server's clock is ahead of this machine's, in seconds.");
    for kind in WarningKind::ALL {
        gauge!(DURABILITY, "warning" => kind.as_str()).set(0.0);
    }
    for result in ["written", "failed"] {
        counter!(CHECKPOINTS, "result" => result).absolute(0);
    }
    gauge!(CHECKPOINT_SIZE).set(0.0);
    for trigger in TRIGGERS {
        for result in RunResult::ALL {
            counter!(RUNS, "trigger" => trigger.as_str(), "result" => result.as_str()).absolute(0);
        }
    }
    for result in ["changed", "unchanged", "failed"] {
        counter!(POLLS, "result" => result).absolute(0);
    }
    counter!(MISSED).absolute(0);
    counter!(REFUSED_TRIGGERS).absolute(0);
    for time in [LAST_SUCCESS, LAST_SCHEDULED, NEXT_SCHEDULE] {
        set_time(time, None);
    }
}

fn set_time(name: &'static str, time: Option<DateTime<Utc>>) {
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double exactly")]
    gauge!(name).set(time.map_or(0.0, |time| time.timestamp() as f64));
}

/// Counts a run that has ended.
pub(super) fn count_run(run: &FinishedRun, duration: Duration) {
    counter!(RUNS, "trigger" => run.trigger.as_str(), "result" => run.result.as_str()).increment(1);
    histogram!(RUN_SECONDS).record(duration);
    let poll = match run.result {
        RunResult::Published => "changed",
        RunResult::Unchanged => "unchanged",
        RunResult::Refused | RunResult::Unavailable | RunResult::Failed => "failed",
    };
    counter!(POLLS, "result" => poll).increment(1);
}

/// Counts due times that were missed.
pub(super) fn count_missed(missed: u64) {
    counter!(MISSED).increment(missed);
}

/// Counts a checkpoint that was written or not.
pub(super) fn count_checkpoint(result: &'static str) {
    counter!(CHECKPOINTS, "result" => result).increment(1);
}

/// Notes how far a checkpoint goes.
pub(super) fn note_checkpoint_size(size: u64) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "stream sequences fit a double exactly for longer than streams last"
    )]
    gauge!(CHECKPOINT_SIZE).set(size as f64);
}

/// Notes what was found out about the server's durability.
pub(super) fn note_durability(facts: &DurabilityFacts, warnings: &[DurabilityWarning]) {
    for kind in WarningKind::ALL {
        let on = warnings.iter().any(|warning| warning.kind == kind);
        gauge!(DURABILITY, "warning" => kind.as_str()).set(f64::from(u8::from(on)));
    }
    for stream in &facts.streams {
        gauge!(FILL, "stream" => stream.stream.clone()).set(stream.fill_ratio().unwrap_or(0.0));
    }
    if let Some(clock) = facts.clock {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a clock fit a double exactly")]
        gauge!(SKEW).set(clock.milliseconds as f64 / 1000.0);
    }
}

/// Counts a request whose key was refused.
pub(crate) fn count_refused_trigger() {
    counter!(REFUSED_TRIGGERS).increment(1);
}
