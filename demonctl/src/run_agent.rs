//! Hidden: runs a node agent exactly as `demon-runtime` does, and stops it when standard input closes.
//!
//! `cargo run -p demonctl` builds no other package's binaries, so `demo` and `up` start their agents this way.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use shared::daemon::stop_signal;
use subscriber::AgentArguments;

use crate::parent_watch::cancel_when_parent_ends;

/// A disk operation that hangs must not keep a stopped agent alive.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct RunAgentArguments {
    #[command(flatten)]
    agent: AgentArguments,
}

/// Returns when the agent has stopped, with its exit code.
pub(crate) fn run(arguments: RunAgentArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let code = runtime.block_on(async {
        let stop = stop_signal().context("cannot listen for signals")?;
        cancel_when_parent_ends(stop.clone());
        anyhow::Ok(subscriber::main_with(arguments.agent, stop).await)
    });
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    code
}
