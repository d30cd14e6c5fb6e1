//! `demonctl config`: the file of variables that the systemd units read, changed without an editor.
//!
//! A unit does not see what a shell exports; it reads this file when it starts.

mod environment_file;
mod known_variables;

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use self::environment_file::EnvironmentFile;
use crate::environment_masking::{is_secret, masked};
use crate::output::{self, OutputFormat, print_line, print_rows};

/// Largest value read from standard input, in bytes.
const LARGEST_VALUE: u64 = 64 * 1024;

/// Commands on the file.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Set variables; a restarted unit obeys them.
    Set(SetArguments),
    /// Print the value of a variable; exit code 1 where it is not set.
    Get(GetArguments),
    /// List the variables, secrets masked.
    List(ListArguments),
    /// Remove variables.
    Unset(UnsetArguments),
}

#[derive(Debug, Args)]
struct FileArgument {
    /// The file that the units name as `EnvironmentFile=`.
    #[arg(long, env = "DEMON_CONFIG_FILE", value_name = "FILE", default_value = "/etc/demon/runtime.env")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    // Not parsed by clap, whose error would repeat the value.
    /// `KEY=VALUE`; `KEY` alone takes the value from standard input, where nobody sees a secret.
    #[arg(value_name = "KEY=VALUE", required = true)]
    variables: Vec<String>,
    #[command(flatten)]
    file: FileArgument,
}

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// The variable.
    #[arg(value_name = "KEY")]
    variable: String,
    /// Print a secret as it is.
    #[arg(long, env = "DEMON_REVEAL", value_parser = clap::builder::BoolishValueParser::new())]
    reveal: bool,
    #[command(flatten)]
    file: FileArgument,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    file: FileArgument,
}

#[derive(Debug, Args)]
pub(crate) struct UnsetArguments {
    /// The variables.
    #[arg(value_name = "KEY", required = true)]
    variables: Vec<String>,
    #[command(flatten)]
    file: FileArgument,
}

#[derive(Serialize)]
struct Row {
    key: String,
    value: String,
    known: bool,
}

impl ConfigCommand {
    /// The effective settings, values left out.
    pub(crate) fn settings(&self) -> Value {
        match self {
            Self::Set(arguments) => {
                let names = arguments.variables.iter().map(|text| text.split('=').next().unwrap_or_default());
                json!({ "file": arguments.file.file, "variables": names.collect::<Vec<_>>() })
            }
            Self::Get(arguments) => {
                let (variable, reveal) = (&arguments.variable, arguments.reveal);
                json!({ "file": arguments.file.file, "variable": variable, "reveal": reveal })
            }
            Self::List(arguments) => json!({ "file": arguments.file.file, "output": arguments.output }),
            Self::Unset(arguments) => json!({ "file": arguments.file.file, "variables": arguments.variables }),
        }
    }
}

/// Runs one of the commands.
pub(crate) fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Set(arguments) => set(&arguments),
        ConfigCommand::Get(arguments) => get(&arguments),
        ConfigCommand::List(arguments) => list(&arguments),
        ConfigCommand::Unset(arguments) => unset(&arguments),
    }
}

fn set(arguments: &SetArguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.file.file;
    let mut file = EnvironmentFile::read(path)?;
    if arguments.variables.iter().filter(|text| !text.contains('=')).count() > 1 {
        bail!("only one value can come from standard input: set the variables one by one");
    }
    for text in &arguments.variables {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (text.as_str(), value_from_input()?),
        };
        file.set(name, &value)?;
        if !known_variables::is_known(name) {
            output::note(&format!("warning: no program of ours reads `{name}`; is it spelt right?"));
        }
    }
    file.write(path)?;
    output::note(&format!("written to `{}`; restart the unit to apply it", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn value_from_input() -> anyhow::Result<String> {
    let mut value = String::new();
    io::stdin().lock().take(LARGEST_VALUE).read_to_string(&mut value).context("standard input cannot be read")?;
    Ok(value.trim_end_matches(['\r', '\n']).to_owned())
}

fn get(arguments: &GetArguments) -> anyhow::Result<ExitCode> {
    let file = EnvironmentFile::read(&arguments.file.file)?;
    let name = &arguments.variable;
    let Some(value) = file.get(name) else {
        bail!("`{}` does not set `{name}`", arguments.file.file.display());
    };
    print_line(&if arguments.reveal { value.to_owned() } else { masked(name, value) })?;
    if is_secret(name) && !arguments.reveal {
        output::note("a secret; --reveal prints it");
    }
    Ok(ExitCode::SUCCESS)
}

fn list(arguments: &ListArguments) -> anyhow::Result<ExitCode> {
    let file = EnvironmentFile::read(&arguments.file.file)?;
    let row = |(key, value): (&str, &str)| Row {
        key: key.to_owned(),
        value: masked(key, value),
        known: known_variables::is_known(key),
    };
    let rows: Vec<Row> = file.effective().into_iter().map(row).collect();
    print_rows(arguments.output, &["key", "value", "known"], &rows, |row| {
        vec![row.key.clone(), row.value.clone(), if row.known { "yes" } else { "no" }.to_owned()]
    })?;
    Ok(ExitCode::SUCCESS)
}

fn unset(arguments: &UnsetArguments) -> anyhow::Result<ExitCode> {
    let path = &arguments.file.file;
    let mut file = EnvironmentFile::read(path)?;
    for name in &arguments.variables {
        if !file.unset(name) {
            output::note(&format!("`{name}` was not set"));
        }
    }
    file.write(path)?;
    Ok(ExitCode::SUCCESS)
}
