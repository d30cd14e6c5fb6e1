//! `demonctl contracts publish`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(crate) struct PublishArguments {}

impl PublishArguments {
    /// The effective settings, secrets masked.
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "skeleton")]
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({}))
    }
}

/// Skeleton.
#[expect(clippy::unused_async, reason = "skeleton")]
pub(super) async fn run(_arguments: PublishArguments) -> anyhow::Result<ExitCode> {
    bail!("not built yet")
}
