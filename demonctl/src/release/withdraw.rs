//! `demonctl release withdraw`.

mod report;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use publisher::author::Author;
use publisher::withdrawal::{
    ChannelOutcome, WithdrawalPlan, WithdrawalReport, WithdrawalRequest, preview_withdrawal, withdraw,
};
use serde_json::{Value, json};
use shared::identifiers::Tag;
use streams::connection::Connection;
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;
use tokio::time::Instant;

use self::report::WithdrawalDocument;
use super::refuse_alias;
use crate::channel::BundleArgument;
use crate::operator::{self, ActorArguments};
use crate::output::{OutputFormat, note, print_document, print_line};
use crate::rollout_wait::{NOT_EVERY_NODE, WaitArguments, wait_for};

/// Wrong usage: nobody to ask, and nobody said yes.
const WRONG_USAGE: u8 = 2;

#[derive(Debug, Args)]
pub(crate) struct WithdrawArguments {
    /// The release. Its content falls with it, under whatever tag it was published. `<bundle>-latest` is no release
    /// and is refused.
    tag: Tag,
    #[command(flatten)]
    bundle: BundleArgument,
    /// Why, in words for the log and for everybody who is refused the release later.
    #[arg(long, env = "DEMON_REASON", value_name = "TEXT", value_parser = operator::parse_reason)]
    reason: String,
    #[command(flatten)]
    actor: ActorArguments,
    /// Do not ask. Needed where there is no terminal to ask on: a withdrawal cannot be undone.
    #[arg(long, env = "DEMON_YES", value_parser = clap::builder::BoolishValueParser::new())]
    yes: bool,
    /// Say what would happen and write nothing.
    #[arg(long, env = "DEMON_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArguments,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl WithdrawArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "tag": self.tag,
            "bundle": self.bundle.bundle,
            "reason": self.reason,
            "actor": self.actor.name().ok(),
            "yes": self.yes,
            "dry_run": self.dry_run,
            "wait": self.wait.settings(),
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }
}

/// Withdraws a release.
pub(super) async fn run(arguments: WithdrawArguments) -> anyhow::Result<ExitCode> {
    let WithdrawArguments { tag, connection, bundle, reason, actor, yes, dry_run, wait, output } = arguments;
    let bundle = bundle.bundle;
    refuse_alias(&bundle, &tag)?;
    let asks = !yes && !dry_run;
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        note("demonctl: a withdrawal cannot be undone and there is no terminal to ask on: say --yes");
        return Ok(ExitCode::from(WRONG_USAGE));
    }
    let actor = actor.name()?;
    let connection = operator::connect(&connection).await?;
    let log = EventLog::new(connection.clone());
    let request = WithdrawalRequest { bundle, tag, reason };
    if asks || dry_run {
        let plan = preview_withdrawal(&log, &request).await?;
        if dry_run {
            let document = WithdrawalDocument::planned(&request, actor, plan);
            print_document(output, &document, || document.lines())?;
            return Ok(ExitCode::SUCCESS);
        }
        if !confirmed(&request, plan).await? {
            bail!("not confirmed, nothing was withdrawn");
        }
    }
    let mut author = Author::operator(actor);
    let report = withdraw(&log, &mut author, &request).await?;
    let mut document = WithdrawalDocument::done(&report);
    let for_people = output == OutputFormat::Table;
    if for_people || !wait.wait {
        print_document(output, &document, || document.lines())?;
    }
    if !wait.wait {
        connection.drain().await;
        return Ok(ExitCode::SUCCESS);
    }
    let waited = wait_for_channels(&connection, &report, &mut document, wait.timeout, for_people).await;
    if !for_people {
        print_document(output, &document, String::new)?;
    }
    connection.drain().await;
    waited
}

/// Waits until the nodes have left the release with their channels, all channels together for at most `limit`.
async fn wait_for_channels(
    connection: &Connection,
    report: &WithdrawalReport,
    document: &mut WithdrawalDocument,
    limit: Duration,
    for_people: bool,
) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + limit;
    let mut code = ExitCode::SUCCESS;
    for moved in &report.channels {
        let head = match &moved.outcome {
            ChannelOutcome::Moved(head) | ChannelOutcome::MovedByOthers(head) => &head.promoted,
            ChannelOutcome::NothingToMoveTo => {
                note(&format!(
                    "channel `{}` has no release to move to: nodes that follow it keep what they run until it is promoted",
                    moved.channel
                ));
                code = ExitCode::from(NOT_EVERY_NODE);
                continue;
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = wait_for(connection, &head.bundle, &head.channel, &head.tag, head.tree_digest, left).await?;
        if for_people {
            print_line(&format!("{}: {}", head.channel, outcome.summary(&head.tag)))?;
        }
        outcome.note_stragglers();
        if !outcome.stragglers.is_empty() {
            code = outcome.exit_code();
        }
        document.waited(&head.channel, outcome);
    }
    Ok(code)
}

/// Asks the person at the terminal. Anything but yes is no.
async fn confirmed(request: &WithdrawalRequest, plan: WithdrawalPlan) -> anyhow::Result<bool> {
    let channels: Vec<String> =
        plan.channels.iter().map(|(channel, from, to)| report::step(channel, from, to.as_ref())).collect();
    for line in report::fallen(&plan.also_withdrawn).into_iter().chain(channels) {
        note(&line);
    }
    let question = format!("Withdraw {} of {}, for good, on every node? [y/N] ", request.tag, request.bundle);
    let answer = tokio::task::spawn_blocking(move || -> io::Result<String> {
        let mut screen = io::stderr().lock();
        screen.write_all(question.as_bytes())?;
        screen.flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    });
    let answer = answer.await.context("asking was interrupted")?.context("the answer cannot be read")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
