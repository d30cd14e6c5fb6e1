//! The way into an agent, the same for every binary that holds one.

use std::io::{self, Write};
use std::process::ExitCode;

use shared::daemon::{ErrorChain, LogOutput, initialise_log};
use tokio_util::sync::CancellationToken;

use crate::config::{AgentArguments, AgentConfig};
use crate::reconcile::{self, AgentError};

/// Exit code of a command line that cannot be used.
const USAGE: u8 = 2;
/// What is logged unless `RUST_LOG` says otherwise. The client library's own lines repeat what `streams` says.
const LOG_FILTER: &str = "info,async_nats=off";

/// Runs an agent until `stop` is cancelled, then ends it within five seconds. Nothing it does has to be finished: it can
/// be killed at any instruction.
///
/// Returns an error only where the agent cannot live: its state directory is another's, its cache cannot be made, its
/// credentials file cannot be read. A server that is not there, refuses, or holds no log yet is waited for.
pub async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    // A large future, kept off the stacks of the callers.
    Box::pin(reconcile::run(config, stop, drop)).await
}

/// All that a binary's `main` does with the agent's options: check, print or run, and the exit code: 0 stopped as asked,
/// 1 refused or failed, 2 options that cannot be used. Initialises the process's log.
pub async fn main_with(arguments: AgentArguments, stop: CancellationToken) -> ExitCode {
    let config = match arguments.check() {
        Ok(config) => config,
        Err(faults) => {
            say(&mut io::stderr(), &format!("demon-runtime: {faults}"));
            return ExitCode::from(USAGE);
        }
    };
    if arguments.print_config {
        return match serde_json::to_string_pretty(&config) {
            Ok(settings) => {
                say(&mut io::stdout(), &settings);
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
    }
    initialise_log(config.log_format, LogOutput::Stdout, LOG_FILTER);
    match run(config, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    say(&mut io::stderr(), &format!("demon-runtime: {}", ErrorChain(error)));
    ExitCode::FAILURE
}

/// Writes one line; a reader that went away is no fault of ours.
fn say(output: &mut dyn Write, line: &str) {
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
