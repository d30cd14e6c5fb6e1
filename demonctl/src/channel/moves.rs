//! `demonctl channel promote|rollback|freeze|thaw`: the same steps for four orders.

mod report;

use std::process::ExitCode;

use clap::Args;
use publisher::author::Author;
use publisher::channel::{ChannelMove, Freeze, MoveRequest, Order, move_channel, preview_move};
use serde_json::{Value, json};
use shared::identifiers::{ChannelName, Tag};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;

use self::report::MoveReport;
use super::BundleArgument;
use crate::operator::{self, ActorArguments};
use crate::output::{OutputFormat, note, print_document};
use crate::release::refuse_alias;
use crate::rollout_wait::{WaitArguments, standing, wait_for};

#[derive(Debug, Args)]
pub(crate) struct PromoteArguments {
    /// The channel. Its first promotion makes it.
    channel: ChannelName,
    /// The release to point at.
    tag: Tag,
    #[command(flatten)]
    freeze: OverrideArgument,
    #[command(flatten)]
    common: MoveArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArguments {
    /// The channel.
    channel: ChannelName,
    /// The release to go back to. Default: the one that the channel pointed at before.
    #[arg(long, env = "DEMON_ROLLBACK_TO", value_name = "TAG")]
    to: Option<Tag>,
    #[command(flatten)]
    freeze: OverrideArgument,
    #[command(flatten)]
    common: MoveArguments,
}

#[derive(Debug, Args)]
pub(crate) struct StayArguments {
    /// The channel.
    channel: ChannelName,
    #[command(flatten)]
    common: MoveArguments,
}

#[derive(Debug, Args)]
struct OverrideArgument {
    /// Move the channel although it is frozen. The log says so, and the channel stays frozen.
    #[arg(long = "override", env = "DEMON_OVERRIDE", value_parser = clap::builder::BoolishValueParser::new())]
    overrides: bool,
}

#[derive(Debug, Args)]
struct MoveArguments {
    #[command(flatten)]
    bundle: BundleArgument,
    /// Why, in words for the log.
    #[arg(long, env = "DEMON_REASON", value_name = "TEXT", value_parser = operator::parse_reason)]
    reason: Option<String>,
    #[command(flatten)]
    actor: ActorArguments,
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

impl PromoteArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let own = json!({ "channel": self.channel, "tag": self.tag, "override": self.freeze.overrides });
        self.common.settings(own)
    }
}

impl RollbackArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        let own = json!({ "channel": self.channel, "to": self.to, "override": self.freeze.overrides });
        self.common.settings(own)
    }
}

impl StayArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        self.common.settings(json!({ "channel": self.channel }))
    }
}

impl MoveArguments {
    fn settings(&self, mut settings: Value) -> anyhow::Result<Value> {
        settings["bundle"] = json!(self.bundle.bundle);
        settings["reason"] = json!(self.reason);
        settings["actor"] = json!(self.actor.name().ok());
        settings["dry_run"] = json!(self.dry_run);
        settings["wait"] = self.wait.settings();
        settings["output"] = json!(self.output);
        settings["connection"] = operator::connection_settings(&self.connection)?;
        Ok(settings)
    }
}

impl OverrideArgument {
    fn freeze(&self) -> Freeze {
        if self.overrides { Freeze::Override } else { Freeze::Respect }
    }
}

/// Points a channel at a release.
pub(super) async fn promote(arguments: PromoteArguments) -> anyhow::Result<ExitCode> {
    refuse_alias(&arguments.common.bundle.bundle, &arguments.tag)?;
    carry_out(arguments.channel, Order::Promote(arguments.tag), arguments.freeze.freeze(), arguments.common).await
}

/// Points a channel at an earlier release.
pub(super) async fn rollback(arguments: RollbackArguments) -> anyhow::Result<ExitCode> {
    if let Some(tag) = &arguments.to {
        refuse_alias(&arguments.common.bundle.bundle, tag)?;
    }
    carry_out(arguments.channel, Order::Rollback(arguments.to), arguments.freeze.freeze(), arguments.common).await
}

/// Freezes a channel where it stands.
pub(super) async fn freeze(arguments: StayArguments) -> anyhow::Result<ExitCode> {
    carry_out(arguments.channel, Order::Freeze, Freeze::Respect, arguments.common).await
}

/// Lifts a hold or a freeze.
pub(super) async fn thaw(arguments: StayArguments) -> anyhow::Result<ExitCode> {
    carry_out(arguments.channel, Order::Thaw, Freeze::Respect, arguments.common).await
}

async fn carry_out(
    channel: ChannelName,
    order: Order,
    freeze: Freeze,
    arguments: MoveArguments,
) -> anyhow::Result<ExitCode> {
    // Before anything is asked of the server: nobody is to be found nameless after the wait.
    let actor = arguments.actor.name()?;
    let connection = operator::connect(&arguments.connection).await?;
    let log = EventLog::new(connection.clone());
    let bundle = arguments.bundle.bundle;
    let request =
        MoveRequest { bundle: bundle.clone(), channel: channel.clone(), order, reason: arguments.reason, freeze };
    if arguments.dry_run {
        let plan = preview_move(&log, &request).await?;
        let nodes = standing(&connection, &bundle, &channel, &plan.to, plan.tree_digest).await?;
        let report = MoveReport::planned(&request, actor, plan, nodes, &log).await?;
        print_document(arguments.output, &report, || report.line())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut author = Author::operator(actor);
    let (moved, head) = match move_channel(&log, &mut author, &request).await? {
        ChannelMove::Moved(head) => (true, head),
        ChannelMove::AlreadyThere(head) => (false, head),
    };
    let mut report = MoveReport::done(head, moved);
    if !arguments.wait.wait {
        print_document(arguments.output, &report, || report.line())?;
        connection.drain().await;
        return Ok(ExitCode::SUCCESS);
    }
    let for_people = arguments.output == OutputFormat::Table;
    if for_people {
        print_document(arguments.output, &report, || report.line())?;
    }
    let limit = arguments.wait.timeout;
    let waited = wait_for(&connection, &bundle, &channel, &report.to, report.tree_digest, limit).await;
    if let Ok(outcome) = &waited {
        if for_people {
            crate::output::print_line(&outcome.summary(&report.to))?;
        }
        outcome.note_stragglers();
        report.wait = Some(outcome.clone());
    } else {
        note("demonctl: the channel stands as ordered; whether the nodes follow is not known");
    }
    if !for_people {
        print_document(arguments.output, &report, String::new)?;
    }
    connection.drain().await;
    Ok(waited?.exit_code())
}
