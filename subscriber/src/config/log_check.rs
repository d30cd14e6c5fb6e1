//! How the agent checks that the log it is shown is the one it was shown before.

use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};
use shared::signed_note::VerifierKeys;
use streams::log_keys::LogKeyArguments;

use super::ConfigFaults;
use super::values::{as_text, duration};

const TOLERANCE_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(24));

/// Options about the log's checkpoints.
#[derive(Debug, Clone, Args)]
pub struct LogCheckArguments {
    /// Which keys may sign checkpoints.
    #[command(flatten)]
    pub key: LogKeyArguments,

    /// How long a log that ends before a checkpoint this node has seen counts as a replica that lags; then it is an alarm
    #[arg(long, env = "DEMON_LOG_LAG_TOLERANCE", value_name = "DURATION", default_value = "1m")]
    pub log_lag_tolerance: String,
}

/// Settings about the log's checkpoints, each of them checked.
#[derive(Debug, Clone, Serialize)]
pub struct LogCheckConfig {
    /// The keys that may sign them; without any, signatures are not verified.
    #[serde(serialize_with = "as_keys")]
    pub log_key: Option<VerifierKeys>,
    /// How long a log that is too short may be one of a replica that lags.
    #[serde(serialize_with = "as_text")]
    pub log_lag_tolerance: Duration,
}

#[expect(clippy::ref_option, reason = "the signature of `serialize_with`")]
fn as_keys<S: Serializer>(keys: &Option<VerifierKeys>, serializer: S) -> Result<S::Ok, S::Error> {
    match keys {
        Some(keys) => serializer.collect_str(keys),
        None => serializer.serialize_none(),
    }
}

impl LogCheckArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<LogCheckConfig> {
        let option = "--log-lag-tolerance (DEMON_LOG_LAG_TOLERANCE)";
        let tolerance = duration(&self.log_lag_tolerance, TOLERANCE_BOUNDS, option, faults);
        let keys = self.key.keys().map_err(|error| faults.add_error("--log-key (DEMON_LOG_KEY)", &error));
        Some(LogCheckConfig { log_key: keys.ok()?, log_lag_tolerance: tolerance? })
    }
}
