//! `demonctl log checkpoint`: signs what the log holds now.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use publisher::author::Author;
use publisher::checkpoints::CheckpointWriter;
use serde_json::{Value, json};
use shared::daemon::stop_signal;
use shared::event::BundleEvent;
use shared::subjects::{EVENT_STREAM, EventSubject};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::{EventLog, Reader};
use streams::log_keys::read_signer_key;

use super::show::CheckpointDocument;
use crate::operator::{self, ActorArguments};
use crate::output::{OutputFormat, note, print_document};

#[derive(Debug, Args)]
pub(crate) struct CheckpointArguments {
    /// File with the key that signs, made by `demonctl log keygen`.
    #[arg(long, env = "DEMON_CHECKPOINT_KEY_FILE", value_name = "FILE")]
    key: PathBuf,
    /// Form of the output; `table` is the signed note itself.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    actor: ActorArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl CheckpointArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let connection = operator::connection_settings(&self.connection)?;
        Ok(json!({ "key": self.key, "output": self.output, "connection": connection }))
    }
}

pub(super) async fn run(arguments: CheckpointArguments) -> anyhow::Result<ExitCode> {
    let key = read_signer_key(&arguments.key)?;
    let mut author = Author::operator(arguments.actor.name()?);
    let log = EventLog::new(operator::connect(&arguments.connection).await?);
    let stop = stop_signal().context("cannot listen for signals")?;
    let mut writer = CheckpointWriter::new(key, None);
    let written = tokio::select! {
        written = writer.write(&log, &mut author) => written?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    let document = if let Some(written) = written {
        CheckpointDocument::new(&written.signed, written.stream_sequence)
    } else {
        note("nothing is new since the last checkpoint");
        newest(&log).await?
    };
    print_document(arguments.output, &document, || document.note().trim_end().to_owned())?;
    Ok(ExitCode::SUCCESS)
}

async fn newest(log: &EventLog) -> anyhow::Result<CheckpointDocument> {
    let subject = EventSubject::checkpointed(EVENT_STREAM);
    let last = log.last(&subject, Reader::Leader).await.context("cannot read the newest checkpoint")?;
    let event = last.context("the log has no checkpoint")?;
    let BundleEvent::Checkpointed(data) = event.envelope()?.1.event else {
        bail!("event {} is of a newer version", event.stream_sequence)
    };
    Ok(CheckpointDocument::new(&data.note.parse()?, event.stream_sequence))
}
