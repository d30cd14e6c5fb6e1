//! `demonctl contracts bundle`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(crate) struct BundleArguments {}

impl BundleArguments {
    /// The effective settings, secrets masked.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "skeleton")]
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({}))
    }
}

/// Skeleton.
#[expect(clippy::unused_async, reason = "skeleton")]
pub(super) async fn run(_arguments: BundleArguments) -> anyhow::Result<ExitCode> {
    bail!("not built yet")
}
