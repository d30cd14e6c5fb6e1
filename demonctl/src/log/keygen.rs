//! `demonctl log keygen`: a key for checkpoints.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use rand::RngExt as _;
use serde::Serialize;
use serde_json::{Value, json};
use shared::signed_note::{KeyName, SignerKey};

use crate::output::{OutputFormat, note, print_document};

#[derive(Debug, Args)]
pub(crate) struct KeygenArguments {
    /// File for the key that signs; it must not exist yet, and only its owner can read it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the log, which its checkpoints begin with: by custom a host name and a path, without spaces and `+`.
    #[arg(long, env = "DEMON_LOG_NAME", value_name = "NAME", default_value = "demon/BUNDLE_EVENTS", value_parser = parse_name)]
    name: String,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
}

fn parse_name(text: &str) -> Result<String, String> {
    text.parse::<KeyName>().map(|name| name.to_string()).map_err(|error| error.to_string())
}

impl KeygenArguments {
    pub(super) fn settings(&self) -> Value {
        json!({ "file": self.file, "name": self.name, "output": self.output })
    }
}

#[derive(Debug, Serialize)]
struct GeneratedKey<'a> {
    file: &'a Path,
    name: &'a str,
    verifier_key: String,
}

pub(super) fn run(arguments: &KeygenArguments) -> anyhow::Result<ExitCode> {
    let key = SignerKey::from_seed(arguments.name.parse()?, &rand::rng().random());
    write_new(&arguments.file, &key.to_private_text()).with_context(|| {
        let file = arguments.file.display();
        format!("key file `{file}` cannot be written (a key is never replaced: name a file that does not exist)")
    })?;
    let verifier_key = key.verifier().to_string();
    let document = GeneratedKey { file: &arguments.file, name: &arguments.name, verifier_key: verifier_key.clone() };
    print_document(arguments.output, &document, || verifier_key)?;
    if arguments.output == OutputFormat::Table {
        note(&format!(
            "the key that signs is in `{}`: give it to the publisher as --checkpoint-key, and to nobody else; the line \
             above verifies: give it to agents and readers as DEMON_LOG_KEY",
            arguments.file.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the file durable before it returns.
fn write_new(path: &Path, key: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
