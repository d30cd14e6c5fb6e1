//! `demonctl store repair`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use publisher::reseeding::{Reseeding, reseed};
use serde::Serialize;
use serde_json::{Value, json};
use shared::event::ObjectReference;
use shared::identifiers::{BundleName, Tag};
use shared::limits::ReleaseLimits;
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use subscriber::catalogue::announcement;

use crate::channel::BundleArgument;
use crate::operator;
use crate::output::{OutputFormat, print_document};
use crate::release::refuse_alias;
use crate::transfer_progress::transfer_progress;

#[derive(Debug, Args)]
pub(crate) struct RepairArguments {
    /// The release.
    tag: Tag,
    #[command(flatten)]
    bundle: BundleArgument,
    /// Where a copy of its files is: a node's cache (`.demon/contracts`), one of its `releases/<tag>`, a checkout, or the
    /// source it was made from. The copy must have the announced digest.
    #[arg(long, env = "DEMON_REPAIR_FROM", value_name = "DIRECTORY")]
    from: PathBuf,
    /// Check the copy and say what would be restored; write nothing.
    #[arg(long, env = "DEMON_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl RepairArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "tag": self.tag,
            "bundle": self.bundle.bundle,
            "from": self.from,
            "dry_run": self.dry_run,
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }
}

#[derive(Debug, Serialize)]
struct Document {
    bundle: BundleName,
    tag: Tag,
    dry_run: bool,
    intact: Vec<ObjectReference>,
    restored: Vec<ObjectReference>,
}

/// Restores what is damaged or gone.
pub(super) async fn run(arguments: RepairArguments) -> anyhow::Result<ExitCode> {
    let RepairArguments { tag, bundle, from, dry_run, output, connection } = arguments;
    let bundle = bundle.bundle;
    refuse_alias(&bundle, &tag)?;
    let connection = operator::connect(&connection).await?;
    let announced = announcement(&EventLog::new(connection.clone()), &bundle, &tag).await?.published;
    let store = ReleaseStore::new(connection.clone());
    let limits = ReleaseLimits::default();
    let reseeding = reseed(&store, &announced, &from, limits, dry_run, transfer_progress()).await;
    connection.drain().await;
    let Reseeding { intact, restored } =
        reseeding.with_context(|| format!("release `{tag}` cannot be repaired from `{}`", from.display()))?;
    let document = Document { bundle, tag, dry_run, intact, restored };
    print_document(output, &document, || lines(&document))?;
    Ok(ExitCode::SUCCESS)
}

fn lines(document: &Document) -> String {
    let done = if document.dry_run { "would be restored" } else { "restored" };
    let restored = document.restored.iter().map(|object| format!("{done}: {}", object.name));
    let intact = document.intact.iter().map(|object| format!("intact: {}", object.name));
    restored.chain(intact).collect::<Vec<_>>().join("\n")
}
