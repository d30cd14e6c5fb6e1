//! `demonctl log verify-proof`: a proof, without the log.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::log_proof::{LogProof, MAX_PROOF_BYTES, Statement, Voucher};
use streams::log_keys::LogKeyArguments;

use crate::output::{OutputFormat, print_document, printable};

#[derive(Debug, Args)]
pub(crate) struct VerifyProofArguments {
    /// File with a proof, as `demonctl log prove` prints it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    key: LogKeyArguments,
}

impl VerifyProofArguments {
    pub(super) fn settings(&self) -> Value {
        json!({ "file": self.file, "log_key": self.key.log_key, "output": self.output })
    }
}

/// What was proven, and who vouches for the states of the log it is about.
#[derive(Debug, Serialize)]
struct Verified {
    holds: bool,
    stream: String,
    #[serde(flatten)]
    statement: Statement,
    vouched_by: Vec<Voucher>,
}

pub(super) fn run(arguments: &VerifyProofArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments.key.keys().context("--log-key (DEMON_LOG_KEY) cannot be used")?;
    let shown = arguments.file.display();
    let mut text = String::new();
    let read = File::open(&arguments.file).and_then(|file| file.take(MAX_PROOF_BYTES + 1).read_to_string(&mut text));
    read.with_context(|| format!("proof `{shown}` cannot be read"))?;
    if text.len() as u64 > MAX_PROOF_BYTES {
        bail!("proof `{shown}` is larger than any: more than {MAX_PROOF_BYTES} bytes");
    }
    let proof: LogProof = serde_json::from_str(&text).with_context(|| format!("`{shown}` holds no proof"))?;
    let vouched_by = proof.verify(keys.as_ref()).with_context(|| format!("proof `{shown}` is refused"))?;
    let verified = Verified { holds: true, stream: proof.stream, statement: proof.statement, vouched_by };
    print_document(arguments.output, &verified, || in_words(&verified))?;
    Ok(ExitCode::SUCCESS)
}

fn in_words(verified: &Verified) -> String {
    let what = match &verified.statement {
        Statement::Inclusion { event, tree } => format!(
            "event {} on {} is among events 1 to {} of {}",
            event.stream_sequence,
            printable(&event.subject),
            tree.size,
            printable(&verified.stream)
        ),
        Statement::Consistency { from, to } => format!(
            "events 1 to {} of {} are the beginning of events 1 to {}",
            from.size,
            printable(&verified.stream),
            to.size
        ),
    };
    let vouchers = verified.vouched_by.iter().map(|voucher| match voucher {
        Voucher::Key(key) => format!("signed by {key}"),
        Voucher::NotVerified => "signed, not verified: give --log-key".to_owned(),
        Voucher::Nobody => "signed by nobody: compare the root with one that you trust".to_owned(),
    });
    let roots: Vec<_> = match &verified.statement {
        Statement::Inclusion { tree, .. } => vec![tree],
        Statement::Consistency { from, to } => vec![from, to],
    };
    let lines =
        roots.into_iter().zip(vouchers).map(|(tree, by)| format!("\nroot of {}: {}, {by}", tree.size, tree.root));
    std::iter::once(format!("the proof holds: {what}")).chain(lines).collect()
}
