//! `demonctl log show`: a checkpoint as it is to be kept elsewhere.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::checkpoint::SignedCheckpoint;
use shared::digest::Sha256Digest;
use shared::identifiers::Incarnation;
use shared::subjects::{EVENT_STREAM, EventSubject};
use streams::connection_arguments::ConnectionArguments;
use streams::log_keys::LogKeyArguments;

use super::checkpoint_survey::{Survey, Wanted};
use crate::log_input::ExportFileArguments;
use crate::operator;
use crate::output::{OutputFormat, print_document};

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// The checkpoint that speaks of so many events. Default: the newest.
    #[arg(long, env = "DEMON_CHECKPOINT_SIZE", value_name = "SIZE")]
    size: Option<u64>,
    /// Form of the output; `table` is the signed note itself.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    file: ExportFileArguments,
    #[command(flatten)]
    key: LogKeyArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl ShowArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({
            "size": self.size,
            "from": self.file.from,
            "log_key": self.key.log_key,
            "output": self.output,
            "connection": connection,
        }))
    }
}

/// A checkpoint with the place of its event.
#[derive(Debug, Serialize)]
pub(super) struct CheckpointDocument {
    size: u64,
    root: Sha256Digest,
    epoch: Option<Incarnation>,
    origin: String,
    stream_sequence: u64,
    note: String,
    /// Name and id of the key that verified it; absent where no key is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_by: Option<String>,
}

impl CheckpointDocument {
    pub(super) fn new(signed: &SignedCheckpoint, stream_sequence: u64) -> Self {
        let said = signed.checkpoint();
        Self {
            size: said.size,
            root: said.root,
            epoch: said.epoch,
            origin: said.origin.to_string(),
            stream_sequence,
            note: signed.note(),
            verified_by: None,
        }
    }

    pub(super) fn note(&self) -> &str {
        &self.note
    }
}

pub(super) async fn run(arguments: ShowArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments.key.keys().context("--log-key (DEMON_LOG_KEY) cannot be used")?;
    let mut input = arguments.file.open(&arguments.connection).await?;
    let survey = Survey::of(&mut input, Wanted::Nothing).await?;
    let mut newest_first = survey.checkpoints.iter().rev();
    let found = newest_first.find(|(_, data)| arguments.size.is_none_or(|size| size == data.size));
    let (stream_sequence, data) = found.with_context(|| match arguments.size {
        Some(size) => format!(
            "the log has no checkpoint of {size} events: see `demonctl events list --type {}`",
            EventSubject::checkpointed(EVENT_STREAM).event_type()
        ),
        None => "the log has no checkpoint yet: make one with `demonctl log checkpoint`, or give the publisher a key"
            .to_owned(),
    })?;
    let signed: SignedCheckpoint =
        data.note.parse().with_context(|| format!("the checkpoint in event {stream_sequence} cannot be read"))?;
    let mut document = CheckpointDocument::new(&signed, *stream_sequence);
    if let Some(keys) = &keys {
        let by =
            signed.verify(keys).with_context(|| format!("the checkpoint in event {stream_sequence} is refused"))?;
        document.verified_by = Some(by.label());
    }
    print_document(arguments.output, &document, || document.note().trim_end().to_owned())?;
    Ok(ExitCode::SUCCESS)
}
