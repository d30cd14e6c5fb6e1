//! `demon-runtime`: the node agent as a process of its own.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use shared::daemon::stop_signal;
use streams::empty_variables::ignored;
use subscriber::{AgentArguments, main_with};

/// A disk operation that hangs does not keep a stopped agent alive.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Node agent: follows a channel, fetches and verifies releases, switches to them atomically.
///
/// Stops on SIGINT or SIGTERM (a second one ends it at once); SIGHUP makes it look for news now.
/// Exit codes: 0 stopped as asked, 1 refused or failed, 2 options that cannot be used.
#[derive(Debug, Parser)]
#[command(name = "demon-runtime", version)]
struct CommandLine {
    #[command(flatten)]
    agent: AgentArguments,
}

fn main() -> anyhow::Result<ExitCode> {
    let matches = ignored(CommandLine::command()).get_matches();
    let CommandLine { agent } = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let code = runtime.block_on(async {
        let stop = stop_signal().context("signals cannot be listened to")?;
        anyhow::Ok(main_with(agent, stop).await)
    });
    runtime.shutdown_timeout(LAST_WAIT);
    code
}
