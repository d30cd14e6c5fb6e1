//! How often the agent looks, and when it tries again.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::ConfigFaults;
use super::values::{as_text, duration};
use crate::failures::RetryBounds;

const INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));
const REPORT_BOUNDS: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(10));
const RETRY_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(24));

/// Options about time. Durations are a whole number with `ms`, `s` or `m`.
#[derive(Debug, Clone, Args)]
pub struct TimingArguments {
    /// Time between two looks at the log and two heartbeats, give or take a fifth: 100ms to 60m. News arrives at once,
    /// whatever is set here
    #[arg(long, env = "DEMON_INTERVAL", value_name = "DURATION", default_value = "30s")]
    pub interval: String,

    /// Time before a failed release is tried again the first time; doubled with each failure
    #[arg(long, env = "DEMON_RETRY_FIRST", value_name = "DURATION", default_value = "1s")]
    pub retry_first: String,

    /// Longest time before a failed release is tried again
    #[arg(long, env = "DEMON_RETRY_LONGEST", value_name = "DURATION", default_value = "5m")]
    pub retry_longest: String,

    /// A switch is written down and told after half of this time to all of it, at random: 0s to 10s. A fleet switches at
    /// once, and what is told of it should not hold up those that have not switched yet. Where an application is told or a
    /// health check is set, nothing waits
    #[arg(long, env = "DEMON_REPORT_WITHIN", value_name = "DURATION", default_value = "500ms")]
    pub report_within: String,
}

/// Settings about time, each of them checked.
#[derive(Debug, Clone, Serialize)]
pub struct TimingConfig {
    /// Time between two looks at the log.
    #[serde(serialize_with = "as_text")]
    pub interval: Duration,
    /// Time before a failed release is tried again the first time.
    #[serde(serialize_with = "as_text")]
    pub retry_first: Duration,
    /// Longest time before a failed release is tried again.
    #[serde(serialize_with = "as_text")]
    pub retry_longest: Duration,
    /// The longest time between a switch and its report.
    #[serde(serialize_with = "as_text")]
    pub report_within: Duration,
}

impl TimingConfig {
    /// How long to wait before a switch is written down and told: a `spread` of 0 to 1 within the upper half.
    pub(crate) fn report_after(&self, spread: f64) -> Duration {
        self.report_within.mul_f64(0.5 + spread / 2.0)
    }

    pub(crate) fn retry(&self) -> RetryBounds {
        RetryBounds { first: self.retry_first, longest: self.retry_longest }
    }
}

impl TimingArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<TimingConfig> {
        let interval = duration(&self.interval, INTERVAL_BOUNDS, "--interval (DEMON_INTERVAL)", faults);
        let first = duration(&self.retry_first, RETRY_BOUNDS, "--retry-first (DEMON_RETRY_FIRST)", faults);
        let longest = duration(&self.retry_longest, RETRY_BOUNDS, "--retry-longest (DEMON_RETRY_LONGEST)", faults);
        if first.zip(longest).is_some_and(|(first, longest)| first > longest) {
            faults.add("--retry-longest (DEMON_RETRY_LONGEST)", "it is shorter than `--retry-first`");
        }
        let report = duration(&self.report_within, REPORT_BOUNDS, "--report-within (DEMON_REPORT_WITHIN)", faults);
        Some(TimingConfig { interval: interval?, retry_first: first?, retry_longest: longest?, report_within: report? })
    }
}
