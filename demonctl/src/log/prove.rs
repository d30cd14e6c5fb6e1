//! `demonctl log prove`: proofs to hand on, as one JSON document each.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shared::checkpoint::event_leaf;
use shared::digest::Sha256Digest;
use shared::identifiers::EventId;
use shared::log_proof::{LogProof, ProvenEvent, ProvenTree, Statement};
use shared::merkle::{Frontier, ProofBuilder};
use streams::connection_arguments::ConnectionArguments;

use super::checkpoint_survey::{Survey, Wanted};
use crate::log_input::{ExportFileArguments, LogInput, ReadingProgress};
use crate::operator;
use crate::output::print_line;

#[derive(Debug, Subcommand)]
pub(crate) enum ProveCommand {
    /// Prove that an event is in the log.
    Inclusion(InclusionArguments),
    /// Prove that one state of the log is the beginning of a later one.
    Consistency(ConsistencyArguments),
}

#[derive(Debug, Args)]
#[group(id = "proven_event", required = true, multiple = false, args = ["sequence", "event"])]
pub(crate) struct InclusionArguments {
    /// Stream sequence of the event.
    #[arg(long, env = "DEMON_SEQUENCE", value_name = "SEQUENCE")]
    sequence: Option<u64>,
    /// Id of the event.
    #[arg(long, env = "DEMON_EVENT_ID", value_name = "ID")]
    event: Option<EventId>,
    /// The state of the log to prove it for: how many events. Default: the newest checkpoint.
    #[arg(long, env = "DEMON_CHECKPOINT_SIZE", value_name = "SIZE")]
    size: Option<u64>,
    #[command(flatten)]
    source: LogSource,
}

#[derive(Debug, Args)]
pub(crate) struct ConsistencyArguments {
    /// The earlier state: how many events.
    #[arg(long, env = "DEMON_FROM_SIZE", value_name = "SIZE")]
    from_size: u64,
    /// The later state: how many events. Default: the newest checkpoint.
    #[arg(long, env = "DEMON_TO_SIZE", value_name = "SIZE")]
    to_size: Option<u64>,
    #[command(flatten)]
    source: LogSource,
}

#[derive(Debug, Args)]
struct LogSource {
    #[command(flatten)]
    file: ExportFileArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl LogSource {
    async fn open(&self) -> anyhow::Result<LogInput> {
        self.file.open(&self.connection).await
    }
}

impl ProveCommand {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let (mut settings, source) = match self {
            Self::Inclusion(InclusionArguments { sequence, event, size, source }) => {
                (json!({ "sequence": sequence, "event": event, "size": size }), source)
            }
            Self::Consistency(ConsistencyArguments { from_size, to_size, source }) => {
                (json!({ "from_size": from_size, "to_size": to_size }), source)
            }
        };
        settings["from"] = json!(source.file.from);
        settings["connection"] = operator::connection_settings(&source.connection)?;
        Ok(settings)
    }
}

pub(super) async fn run(command: ProveCommand) -> anyhow::Result<ExitCode> {
    let proof = match command {
        ProveCommand::Inclusion(arguments) => inclusion(&arguments).await?,
        ProveCommand::Consistency(arguments) => consistency(&arguments).await?,
    };
    print_line(&serde_json::to_string_pretty(&proof)?)?;
    Ok(ExitCode::SUCCESS)
}

const NO_CHECKPOINT: &str = "the log has no checkpoint yet: make one with `demonctl log checkpoint`, or name a size";

async fn inclusion(arguments: &InclusionArguments) -> anyhow::Result<LogProof> {
    let wanted = match (arguments.sequence, arguments.event) {
        (Some(sequence), _) => Wanted::Sequence(sequence),
        (None, Some(id)) => Wanted::Id(id),
        (None, None) => bail!("name an event: --sequence or --event"),
    };
    let survey = Survey::of(&mut arguments.source.open().await?, wanted).await?;
    let event = survey.event.as_ref().context("the log has no such event")?;
    let stream_sequence = event.stream_sequence;
    let size = arguments.size.or(survey.newest_size()).context(NO_CHECKPOINT)?;
    if stream_sequence > size {
        bail!(
            "event {stream_sequence} is not among events 1 to {size}, which the checkpoint speaks of: make a new one with \
             `demonctl log checkpoint`"
        );
    }
    let payload = String::from_utf8(event.payload.to_vec());
    let event = ProvenEvent {
        stream_sequence,
        stored_at: event.stored_at,
        subject: event.subject.clone(),
        payload: payload.ok().with_context(|| format!("message {stream_sequence} is no event: it holds no text"))?,
    };
    let builder = ProofBuilder::inclusion(stream_sequence - 1, size)?;
    let mut input = arguments.source.open().await?;
    let (proof, roots) = stream(&mut input, builder, [size]).await?;
    let [root] = roots;
    let tree = ProvenTree { size, root, checkpoint: survey.note_of(size) };
    Ok(LogProof::new(input.stream, input.epoch, Statement::Inclusion { event, tree }, proof))
}

async fn consistency(arguments: &ConsistencyArguments) -> anyhow::Result<LogProof> {
    let survey = Survey::of(&mut arguments.source.open().await?, Wanted::Nothing).await?;
    let (from, to) = (arguments.from_size, arguments.to_size.or(survey.newest_size()).context(NO_CHECKPOINT)?);
    let builder = ProofBuilder::consistency(from, to)?;
    let mut input = arguments.source.open().await?;
    let (proof, [from_root, to_root]) = stream(&mut input, builder, [from, to]).await?;
    let tree = |size, root| ProvenTree { size, root, checkpoint: survey.note_of(size) };
    let statement = Statement::Consistency { from: tree(from, from_root), to: tree(to, to_root) };
    Ok(LogProof::new(input.stream, input.epoch, statement, proof))
}

/// Makes the proof, and the roots of these sizes, in one pass.
async fn stream<const N: usize>(
    input: &mut LogInput,
    mut builder: ProofBuilder,
    sizes: [u64; N],
) -> anyhow::Result<(Vec<Sha256Digest>, [Sha256Digest; N])> {
    let largest = sizes.into_iter().max().unwrap_or(0);
    if largest > input.last_sequence {
        bail!("the log has {} events, so there is no state of {largest}", input.last_sequence);
    }
    let progress = ReadingProgress::start("proving", largest);
    let mut tree = Frontier::default();
    let mut roots = sizes.map(|_| tree.root());
    'pages: while let Some(page) = input.next_page().await? {
        for event in page {
            if tree.size() == largest {
                break 'pages;
            }
            let next = tree.size() + 1;
            if event.stream_sequence != next {
                bail!("message {next} is not in the stream: nothing can be proven; see `demonctl events verify`");
            }
            let leaf = event_leaf(&event.subject, event.stored_at, &event.payload);
            builder.push(leaf);
            tree.push(leaf);
            for (size, root) in sizes.iter().zip(&mut roots) {
                if *size == next {
                    *root = tree.root();
                }
            }
        }
        progress.at(tree.size());
    }
    if tree.size() < largest {
        bail!("message {} is not in the stream: nothing can be proven; see `demonctl events verify`", tree.size() + 1);
    }
    Ok((builder.finish()?, roots))
}
