//! `demonctl`: the operator's command line.
//!
//! This file holds the command tree and the exit codes and nothing else; a folder or file for each noun does
//! the work. Exit codes: 0 ok, 1 refused or failed, 2 wrong usage, 3 done but not every node
//! followed in time (`--wait`), 130 and 143 stopped by Ctrl-C or SIGTERM.

mod agent_api;
mod bisect;
mod blame;
mod bootstrap;
mod bundle;
mod channel;
mod checkout;
mod completions;
mod config;
mod contracts;
mod demo;
mod diff;
mod doctor;
mod environment_masking;
mod event_text;
mod events;
mod fetch_progress;
mod fleet;
mod history_follower;
mod log;
mod log_input;
mod node;
mod operator;
mod output;
mod parent_watch;
mod point_in_time;
mod publishing;
mod release;
mod rollout_wait;
mod run_agent;
mod stack;
mod state_at;
mod state_report;
mod store;
mod supervise;
mod timeline_reader;
mod transfer_progress;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde_json::Value;
use shared::daemon::{ErrorChain, LogFormat, LogOutput, initialise_audit_output, initialise_log};
use streams::connection_arguments::ConnectionArgumentsError;
use streams::empty_variables::ignored;

/// Bundle distribution on NATS JetStream: push verified bundles to a fleet and replay what happened.
///
/// Start with `demonctl demo`: the whole job on a server of its own, in under a minute.
#[derive(Debug, Parser)]
#[command(
    name = "demonctl",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 ok, 1 refused or failed, 2 wrong usage, 3 done but not every node\n\
                  followed in time (--wait), 130 or 143 stopped by a signal.\n\
                  Logs go to standard error, filtered by RUST_LOG (default: warn)."
)]
struct CommandLine {
    /// Print the effective settings of the command as JSON, secrets masked, and do nothing else.
    #[arg(long, env = "DEMON_PRINT_CONFIG", value_parser = clap::builder::BoolishValueParser::new(), global = true)]
    print_config: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the main job end to end on a nats-server started for it, then clean up.
    Demo(demo::DemoArguments),
    /// Run server and agents in the foreground until Ctrl-C, keeping the data between runs.
    Up(up::UpArguments),
    /// Read, follow, replay, export and prove the log of everything that happened.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Sign what the log holds, and prove it to others.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Publish, fetch and check contract bundles.
    #[command(subcommand)]
    Contracts(contracts::ContractsCommand),
    /// Publish, fetch and compare releases of any bundle.
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Withdraw releases.
    #[command(subcommand)]
    Release(release::ReleaseCommand),
    /// Verify, repair and tidy the bucket that holds the releases.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Look at channels and move them: which release they point at.
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// Look at the fleet: what runs where.
    #[command(subcommand)]
    Fleet(fleet::FleetCommand),
    /// Show channels, releases and nodes, now or at any instant of the past.
    State(state_at::StateArguments),
    /// Show one node's way through the releases.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Show what changed in the fleet between two instants.
    Diff(diff::DiffArguments),
    /// Say which release, commit, promotion and actor put a file's content on a node.
    Blame(Box<blame::BlameArguments>),
    /// Find the promotion that broke something, with a command that tells good releases from bad ones.
    Bisect(Box<bisect::BisectArguments>),
    /// Check everything a node hangs on, with a remedy for what fails, and collect it for support.
    Doctor(Box<doctor::DoctorArguments>),
    /// Load this node's bundle once, or ask the agent that runs here; with --verify, check that all of it is there.
    Bootstrap(Box<bootstrap::BootstrapArguments>),
    /// Change the file of variables that the systemd units read.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print completions for a shell.
    Completions(completions::CompletionsArguments),
    /// Write the man pages.
    Man(completions::ManArguments),
    /// Print the version.
    Version,
    /// Run a program and stop it when standard input closes.
    #[command(hide = true)]
    Supervise(supervise::SuperviseArguments),
    /// Run a node agent and stop it when standard input closes.
    #[command(hide = true)]
    RunAgent(Box<run_agent::RunAgentArguments>),
}

impl Command {
    /// The effective settings; none for the version, and for the hidden commands, whose programs have such a flag.
    fn settings(&self) -> anyhow::Result<Value> {
        match self {
            Self::Demo(arguments) => Ok(arguments.settings()),
            Self::Up(arguments) => arguments.settings(),
            Self::Events(command) => command.settings(),
            Self::Log(command) => command.settings(),
            Self::Contracts(command) => command.settings(),
            Self::Bundle(command) => command.settings(),
            Self::Release(command) => command.settings(),
            Self::Store(command) => command.settings(),
            Self::Channel(command) => command.settings(),
            Self::Fleet(command) => command.settings(),
            Self::State(arguments) => arguments.settings(),
            Self::Node(command) => command.settings(),
            Self::Diff(arguments) => arguments.settings(),
            Self::Blame(arguments) => arguments.settings(),
            Self::Bisect(arguments) => arguments.settings(),
            Self::Doctor(arguments) => arguments.settings(),
            Self::Bootstrap(arguments) => arguments.settings(),
            Self::Config(command) => Ok(command.settings()),
            Self::Completions(arguments) => Ok(arguments.settings()),
            Self::Man(arguments) => Ok(arguments.settings()),
            Self::Version | Self::Supervise(_) | Self::RunAgent(_) => Ok(Value::Null),
        }
    }
}

fn main() -> ExitCode {
    let matches = ignored(CommandLine::command()).get_matches();
    let CommandLine { print_config, command } =
        CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if print_config {
        return finish(command.settings().and_then(|settings| {
            output::print_line(&serde_json::to_string_pretty(&settings)?)?;
            Ok(ExitCode::SUCCESS)
        }));
    }
    finish(match command {
        // These two set up what they need themselves.
        Command::Supervise(arguments) => return supervise::run(&arguments),
        Command::RunAgent(arguments) => run_agent::run(*arguments),
        Command::Version => {
            output::print_line(concat!("demonctl ", env!("CARGO_PKG_VERSION"))).map(|()| ExitCode::SUCCESS)
        }
        Command::Demo(arguments) => in_runtime(demo::run(arguments)),
        Command::Up(arguments) => in_runtime(up::run(arguments)),
        Command::Events(command) => in_runtime(events::run(command)),
        Command::Log(command) => in_runtime(log::run(command)),
        Command::Contracts(command) => in_runtime(contracts::run(command)),
        Command::Bundle(command) => in_runtime(bundle::run(command)),
        Command::Release(command) => in_runtime(release::run(command)),
        Command::Store(command) => in_runtime(store::run(command)),
        Command::Channel(command) => in_runtime(channel::run(command)),
        Command::Fleet(command) => in_runtime(fleet::run(command)),
        Command::State(arguments) => in_runtime(state_at::run(arguments)),
        Command::Node(command) => in_runtime(node::run(command)),
        Command::Diff(arguments) => in_runtime(diff::run(arguments)),
        Command::Blame(arguments) => in_runtime(blame::run(*arguments)),
        Command::Bisect(arguments) => in_runtime(bisect::run(*arguments)),
        Command::Doctor(arguments) => in_runtime(doctor::run(*arguments)),
        Command::Bootstrap(arguments) => {
            // Its data are the audit lines.
            initialise_audit_output(LOG_FILTER);
            in_runtime(bootstrap::run(*arguments))
        }
        Command::Config(command) => config::run(command),
        Command::Completions(arguments) => completions::print_completions(&arguments, CommandLine::command()),
        Command::Man(arguments) => completions::write_pages(&arguments, CommandLine::command()),
    })
}

/// Exit code of a command line that cannot be used; clap's own is the same.
const WRONG_USAGE: u8 = 2;

fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        output::note(&format!("demonctl: {}", ErrorChain(error.as_ref())));
        // How to connect is checked when it is needed, and is wrong usage all the same.
        let usage = error.downcast_ref::<ConnectionArgumentsError>().is_some();
        if usage { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
    })
}

/// Warnings and worse. What keeps a command from connecting it says itself, in its one line.
const LOG_FILTER: &str = "warn,async_nats::connector=off";

fn in_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    initialise_log(LogFormat::Text, LogOutput::Stderr, LOG_FILTER);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A blocking thread that hangs on a dead disk must not keep the command from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::CommandLine::command().debug_assert();
    }

    /// An option that stands after those of the connection is shown under their heading.
    fn misplaced_options(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let connection = ["nats_", "tls_", "credentials", "nkey", "inbox_prefix"];
        for option in command.get_arguments() {
            let name = option.get_id().as_str();
            let belongs = match option.get_help_heading() {
                Some("NATS connection") => connection.iter().any(|prefix| name.starts_with(prefix)),
                Some("GitHub releases") => option.get_long().is_some_and(|long| long.starts_with("github-")),
                _ => true,
            };
            if !belongs {
                found.push(format!("{path} {name}"));
            }
        }
        for inner in command.get_subcommands() {
            misplaced_options(inner, &format!("{path} {}", inner.get_name()), found);
        }
    }

    #[test]
    fn help_shows_no_option_under_a_heading_of_others() {
        let mut found = Vec::new();
        misplaced_options(&super::CommandLine::command(), "demonctl", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}
