//! The options of a publisher that signs checkpoints of the log.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};
use shared::daemon::ErrorChain;
use shared::signed_note::SignerKey;
use streams::connection_arguments::parse_duration;
use streams::log_keys::read_signer_key;

use super::faults::ConfigFaults;

const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const KEY: &str = "--checkpoint-key (DEMON_CHECKPOINT_KEY_FILE)";
const INTERVAL: &str = "--checkpoint-interval (DEMON_CHECKPOINT_INTERVAL)";

/// Who signs what the log holds, and how often.
#[derive(Debug, Clone, Args)]
pub struct CheckpointArguments {
    /// File with the key that signs checkpoints of the log, made by `demonctl log keygen`; without it there are none
    #[arg(long, env = "DEMON_CHECKPOINT_KEY_FILE", value_name = "FILE")]
    pub checkpoint_key: Option<PathBuf>,

    /// Time between two checkpoints, where something is new: a whole number with `ms`, `s` or `m`, at least 100ms
    #[arg(long, env = "DEMON_CHECKPOINT_INTERVAL", value_name = "DURATION", default_value = "10m")]
    pub checkpoint_interval: String,
}

/// Checkpoints as they are to be written. Serialising it shows the public half of the key.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointConfig {
    /// The key that signs.
    #[serde(serialize_with = "as_verifier_key")]
    pub key: SignerKey,
    /// Time between two of them.
    #[serde(serialize_with = "super::serve::as_seconds")]
    pub interval: Duration,
}

fn as_verifier_key<S: Serializer>(key: &SignerKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key.verifier())
}

impl CheckpointArguments {
    /// Reads the key's file, where one is named.
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<CheckpointConfig> {
        let interval = faults.take(INTERVAL, parse_duration(&self.checkpoint_interval));
        if interval.is_some_and(|interval| interval < SHORTEST_INTERVAL) {
            faults.add(INTERVAL, "it is shorter than 100ms");
        }
        let path = self.checkpoint_key.as_ref().filter(|path| !path.as_os_str().is_empty())?;
        let key = read_signer_key(path).map_err(|error| ErrorChain(&error).to_string());
        let (key, interval) = (faults.take(KEY, key)?, interval?);
        Some(CheckpointConfig { key, interval })
    }
}
