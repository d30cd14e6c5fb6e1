//! Where contracts releases are listed and fetched from.

use clap::ValueEnum;
use serde::Serialize;

/// A place that holds contracts releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ContractsSource {
    /// The log and the object store
    Nats,
    /// Releases of a GitHub repository
    Github,
}
