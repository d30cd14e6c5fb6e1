//! `demonctl completions` and `demonctl man`: what a shell and `man` know of the command line, made from its definition.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::{Value, json};

use crate::output;

const PROGRAM: &str = "demonctl";

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell to complete for; source what is printed, or store it where the shell looks for completions.
    #[arg(value_enum)]
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Directory for the pages, one for each command; made if it is missing, pages of that name are replaced.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl CompletionsArguments {
    /// The effective settings.
    pub(crate) fn settings(&self) -> Value {
        json!({ "shell": self.shell.to_string() })
    }
}

impl ManArguments {
    /// The effective settings.
    pub(crate) fn settings(&self) -> Value {
        json!({ "directory": self.directory })
    }
}

/// Prints the completions of the command line.
pub(crate) fn print_completions(arguments: &CompletionsArguments, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, PROGRAM, &mut script);
    let script = String::from_utf8(script).context("the completions are no text")?;
    output::print_line(script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for the program and each of its commands, hidden ones left out.
pub(crate) fn write_pages(arguments: &ManArguments, command: Command) -> anyhow::Result<ExitCode> {
    let directory = &arguments.directory;
    let failed = || format!("man pages cannot be written to `{}`", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(command, directory).with_context(failed)?;
    output::note(&format!("man pages written to `{}`", directory.display()));
    Ok(ExitCode::SUCCESS)
}
