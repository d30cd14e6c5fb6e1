//! Hidden: runs a program (a nats-server) and stops it when standard input closes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use crate::output::note;

#[derive(Debug, Args)]
pub(crate) struct SuperviseArguments {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Returns when the program has ended, with its exit code.
pub(crate) fn run(arguments: &SuperviseArguments) -> ExitCode {
    let Some((program, rest)) = arguments.command.split_first() else { return ExitCode::from(2) };
    match streams::embedded_server::supervisor::supervise(program, rest) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            note(&format!("demonctl supervise: {}", shared::daemon::ErrorChain(&error)));
            ExitCode::FAILURE
        }
    }
}
