//! `demonctl log begin-epoch`: says that the log was restored from a backup.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Serialize;
use serde_json::{Value, json};
use shared::checkpoint::SignedCheckpoint;
use shared::daemon::ErrorChain;
use shared::event::{BundleEvent, ContinuedEpoch};
use shared::fleet_history::FleetHistory;
use shared::identifiers::{BundleName, ChannelName, Incarnation, Tag};
use shared::log_verification::{Finding, LogVerifier, Problem, VerificationReport};
use shared::source::Source;
use shared::subjects::{EVENT_STREAM, EventSubject};
use streams::connection::Connection;
use streams::connection_arguments::ConnectionArguments;
use streams::epoch::continue_epoch;
use streams::event_log::{EventLog, Reader};
use streams::log_keys::LogKeyArguments;
use streams::node_table::NodeTable;
use subscriber::node_report::NodeReport;

use super::restored_log::{CurrentEpoch, Findings, KeptCheckpoint, LostNumbers, NodeAhead, Order, Plan, plan};
use crate::events::verify::read_checkpoint;
use crate::log_input::{LogInput, ReadingProgress};
use crate::operator::{self, ActorArguments};
use crate::output::{OutputFormat, note, print_document, printable};
use crate::timeline_reader::message;

const WHAT_FOLLOWS: [&str; 3] = [
    "agents read the log anew and go on: each keeps what it runs where its channel still leads there, and follows the \
     channels below where they lead elsewhere",
    "releases and promotions that are lost have to be published and promoted again",
    "a node that has seen a checkpoint of lost events keeps its alarm until `checkpoint.<bundle>.json` is removed from its \
     state directory",
];

#[derive(Debug, Args)]
pub(crate) struct BeginEpochArguments {
    /// A checkpoint that was kept elsewhere, by `demonctl log show` or by the publisher (`checkpoint.txt` in its state
    /// directory): the log must lack what it speaks of. May be given several times.
    #[arg(long, env = "DEMON_CHECKPOINT_FILE", value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Up to which event the log is the backup's. Default: its end; needed where it went on since it was restored.
    #[arg(long, env = "DEMON_KEPT_UP_TO", value_name = "SEQUENCE")]
    kept_up_to: Option<u64>,
    /// The epoch that is continued, where the backup is older than that. Default: the newest checkpoint's, else the log's.
    #[arg(long, env = "DEMON_CONTINUES", value_name = "EPOCH")]
    continues: Option<Incarnation>,
    /// Begin it although nothing shows that the log was restored, or although `events verify` finds faults.
    #[arg(long, env = "DEMON_FORCE", value_parser = BoolishValueParser::new())]
    force: bool,
    /// Say what would be written, and write nothing.
    #[arg(long, env = "DEMON_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
    /// Why, as the log will show it: which backup, which incident.
    #[arg(long, env = "DEMON_REASON", value_name = "TEXT", value_parser = operator::parse_reason)]
    reason: String,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    key: LogKeyArguments,
    #[command(flatten)]
    actor: ActorArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl BeginEpochArguments {
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "checkpoint": self.checkpoint,
            "kept_up_to": self.kept_up_to,
            "continues": self.continues,
            "force": self.force,
            "dry_run": self.dry_run,
            "reason": self.reason,
            "log_key": self.key.log_key,
            "actor": self.actor.name().ok(),
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }
}

/// Where a channel leads in the restored log.
#[derive(Debug, Serialize)]
struct ChannelHead {
    bundle: BundleName,
    channel: ChannelName,
    tag: Tag,
    stream_sequence: u64,
}

#[derive(Debug, Serialize)]
struct Document {
    stream: &'static str,
    dry_run: bool,
    /// The new epoch; absent where none was begun.
    epoch: Option<Incarnation>,
    /// Where its event stands; absent where there is none.
    stream_sequence: Option<u64>,
    continues: ContinuedEpoch,
    reason: String,
    actor: String,
    evidence: Vec<String>,
    /// Up to which event the log is known to have gone once.
    known_up_to: u64,
    channels: Vec<ChannelHead>,
    what_follows: [&'static str; 3],
}

/// Exit code 1 where it is refused.
pub(super) async fn run(arguments: BeginEpochArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments.key.keys().context("--log-key (DEMON_LOG_KEY) cannot be used")?;
    let kept: Vec<SignedCheckpoint> =
        arguments.checkpoint.iter().map(|path| read_checkpoint(path)).collect::<anyhow::Result<_>>()?;
    let actor = arguments.actor.name()?;
    let connection = operator::connect(&arguments.connection).await?;
    let log = EventLog::new(connection.clone());
    let epoch = current_epoch(&log).await?;
    let mut verifier = LogVerifier::new(keys, kept.clone());
    let mut history = FleetHistory::default();
    let mut input = LogInput::server(&log).await?;
    let last_sequence = input.last_sequence;
    let progress = ReadingProgress::start("verifying", last_sequence);
    while let Some(page) = input.next_page_with_ids().await? {
        for with_id in &page {
            verifier.check(message(&with_id.event), with_id.message_id.as_deref());
            history.apply(message(&with_id.event));
        }
        progress.at(page.last().map_or(0, |last| last.event.stream_sequence));
    }
    drop(progress);
    let report = verifier.finish(Some(last_sequence));
    let lost_numbers = lost_numbers(&report, epoch.stream_sequence);
    let found = Findings {
        last_sequence,
        flaws: report.findings_total - outside_total(&report) - lost_numbers.len() as u64,
        lost_numbers,
        checkpoints: kept.iter().map(|kept| standing(kept, &report)).collect(),
        nodes_ahead: nodes_ahead(&connection, last_sequence).await,
        epoch,
    };
    let order = Order { kept_up_to: arguments.kept_up_to, continues: arguments.continues, force: arguments.force };
    let Plan { continues, evidence, known_up_to } = plan(&found, &order)?;

    let mut document = Document {
        stream: EVENT_STREAM,
        dry_run: arguments.dry_run,
        epoch: None,
        stream_sequence: None,
        continues: continues.clone(),
        reason: arguments.reason.clone(),
        actor: actor.to_string(),
        evidence,
        known_up_to,
        channels: heads(&history),
        what_follows: WHAT_FOLLOWS,
    };
    if !arguments.dry_run {
        let after = found.epoch.stream_sequence;
        let begun = continue_epoch(&log, Source::Operator(actor), after, continues, arguments.reason).await?;
        document.epoch = Some(begun.epoch);
        document.stream_sequence = Some(begun.stream_sequence);
    }
    connection.drain().await;
    print_document(arguments.output, &document, || document.lines())?;
    Ok(ExitCode::SUCCESS)
}

async fn current_epoch(log: &EventLog) -> anyhow::Result<CurrentEpoch> {
    let subject = EventSubject::epoch_started(EVENT_STREAM);
    let event = log.last(&subject, Reader::Leader).await.context("cannot read the log's epoch")?;
    let event = event.context("the log has no beginning: start `demon-publisher serve`, which begins it")?;
    let BundleEvent::EpochStarted(data) = event.envelope().context("the log's epoch cannot be understood")?.1.event
    else {
        bail!("the log's epoch, event {}, is of a newer version", event.stream_sequence)
    };
    Ok(CurrentEpoch {
        epoch: data.epoch,
        stream_sequence: event.stream_sequence,
        begun_at: event.stored_at,
        continues: data.continues,
    })
}

fn outside_total(report: &VerificationReport) -> u64 {
    report.findings.iter().filter(|finding| matches!(finding.problem, Problem::OutsideCheckpoint { .. })).count() as u64
}

/// Numbers missing behind the epoch, in a log from which no message is missing.
fn lost_numbers(report: &VerificationReport, epoch_at: u64) -> Vec<LostNumbers> {
    if report.findings.iter().any(|finding| matches!(finding.problem, Problem::MissingMessages { .. })) {
        return Vec::new();
    }
    let lost = |finding: &Finding| {
        let Problem::Gap { first, last } = &finding.problem else { return None };
        (finding.stream_sequence > epoch_at).then(|| LostNumbers {
            source: finding.source.as_ref().map(ToString::to_string).unwrap_or_default(),
            count: last - first + 1,
            noticed_at: finding.stream_sequence,
        })
    };
    report.findings.iter().filter_map(lost).collect()
}

fn standing(kept: &SignedCheckpoint, report: &VerificationReport) -> KeptCheckpoint {
    let said = kept.checkpoint();
    let lacks = |problem: &Problem| matches!(problem, Problem::OutsideCheckpoint { size, expected, .. } if (*size, *expected) == (said.size, said.root));
    let held = !report.findings.iter().any(|finding| lacks(&finding.problem));
    KeptCheckpoint { size: said.size, epoch: said.epoch, held }
}

/// The nodes that say they have stored an event behind the end of the log. A table that cannot be read says nothing.
async fn nodes_ahead(connection: &Connection, last_sequence: u64) -> Vec<NodeAhead> {
    let entries = match NodeTable::new(connection.clone()).list().await {
        Ok(entries) => entries,
        Err(error) => {
            note(&format!("demonctl: what the nodes have seen is not known: {}", ErrorChain(&error)));
            return Vec::new();
        }
    };
    let ahead = |entry: streams::node_table::NodeEntry| {
        let reports = NodeReport::read_entry(&entry.value).ok()?;
        let newest = reports.iter().map(|report| report.last_sequence).max()?;
        let ahead = NodeAhead { node: entry.node, last_sequence: newest, said_at: entry.stored_at };
        (newest > last_sequence).then_some(ahead)
    };
    entries.into_iter().filter_map(ahead).collect()
}

fn heads(history: &FleetHistory) -> Vec<ChannelHead> {
    let head =
        |((bundle, channel), state): (&(BundleName, ChannelName), &shared::fleet_history::ChannelState)| ChannelHead {
            bundle: bundle.clone(),
            channel: channel.clone(),
            tag: state.head.tag.clone(),
            stream_sequence: state.stream_sequence,
        };
    history.channels.iter().map(head).collect()
}

impl Document {
    fn lines(&self) -> String {
        let ContinuedEpoch { epoch: continued, stream_sequence: kept } = &self.continues;
        let mut text = match (self.epoch, self.stream_sequence) {
            (Some(epoch), Some(sequence)) => format!("{} began epoch {epoch} with event {sequence}", self.stream),
            _ => format!("{} would begin a new epoch", self.stream),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "; it continues epoch {continued} behind its event {kept}");
        if self.known_up_to > *kept {
            let _ = write!(text, ", of {} that were known", self.known_up_to);
        }
        for evidence in &self.evidence {
            let _ = write!(text, "\nbecause {}", printable(evidence));
        }
        for ChannelHead { bundle, channel, tag, stream_sequence } in &self.channels {
            let _ = write!(text, "\nchannel `{channel}` of `{bundle}` leads to `{tag}` (event {stream_sequence})");
        }
        for follows in self.what_follows {
            let _ = write!(text, "\nwhat follows: {follows}");
        }
        text
    }
}
