//! How often the agent looks, and when it tries again.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::ConfigFaults;
use super::values::{as_text, duration};
use crate::failures::RetryBounds;

const INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));
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
}

impl TimingConfig {
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
        Some(TimingConfig { interval: interval?, retry_first: first?, retry_longest: longest? })
    }
}
