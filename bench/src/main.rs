//! `bench`: what the product costs, beside the floor and the naive way, in one run.
//!
//! A time alone says more about the machine than about us, so every case measures several ways of doing the same work
//! one after the other, round by round, and prints ratios. `docs/performance.md` explains the cases and shows a run.

mod agent_fleet;
mod bench_server;
mod cases;
mod event_maker;
mod measurement;
mod process_usage;
mod raw_fleet;
mod report;
mod sample_releases;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::daemon::{ErrorChain, LogFormat, LogOutput, initialise_log};
use streams::empty_variables::ignored;

use crate::report::Report;

/// Our own lines and those of the agents would be measured with what they speak of.
const LOG_FILTER: &str = "error,async_nats=off";

/// Measures the product beside the floor and the naive way, in one run.
///
/// Each case does the same work in several ways, round by round in one process: ours (the product's own code), the
/// floor (the least that any way must do) and the naive way (what the client library offers). It prints the median and
/// the 99th percentile of each, the ratios that `docs/performance.md` sets limits for, and what was checked to be sure
/// that the work was really done. Times depend on the machine; the ratios are what counts.
///
/// Every case starts a nats-server of its own in a temporary directory and removes it. Build with `--release`. The
/// defaults end in under a minute; the sizes of the documented run are in `docs/performance.md`.
///
/// Exit codes: 0 measured (whatever the ratios are), 1 the work was not done, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "bench", version, after_help = "Example: cargo run --release -p bench -- replay --events 1000000")]
struct CommandLine {
    #[command(subcommand)]
    case: Case,
}

#[derive(Debug, Subcommand)]
enum Case {
    /// Replay of the event log and its fold, beside a bare ordered consumer; and the memory it takes.
    Replay(cases::replay::ReplayArguments),
    /// `demonctl fleet status` over thousands of nodes, beside its own answer from the whole log.
    FleetStatus(cases::fleet_status::FleetStatusArguments),
    /// One node, one small release: promote → switched, beside the floor and long polling.
    One(cases::one::OneArguments),
    /// A release to many agents: announced → notified → staged → switched, beside floor, wire floor and naive way.
    Fleet(cases::fleet::FleetArguments),
    /// A promotion of what every node has already: only the switch is left.
    Flip(cases::flip::FlipArguments),
    /// The server restarts under a fleet, which comes back and follows.
    Reconnect(cases::reconnect::ReconnectArguments),
    /// One large object into the store, beside the client library's put.
    Put(cases::put::PutArguments),
    /// One release onto a node, verified and unpacked, beside the client library's get, SHA-256 and untar.
    Fetch(cases::fetch::FetchArguments),
    /// One large archive to many nodes at once, read together, beside as many readers each for itself.
    Multicast(cases::multicast::MulticastArguments),
    /// A tree of which little changed onto a node that has the one before, beside a bare copy and `rsync -acz`.
    Delta(cases::delta::DeltaArguments),
    /// An agent that has nothing to do: memory, messages, start.
    Idle(cases::idle::IdleArguments),
    /// Hidden: a node agent, entered as `demon-runtime` enters it.
    #[command(hide = true)]
    Agent(Box<subscriber::AgentArguments>),
    /// Hidden: runs a program and stops it when standard input closes.
    #[command(hide = true)]
    Supervise(SuperviseArguments),
}

/// Options of every case.
#[derive(Debug, Clone, Args)]
struct CommonArguments {
    /// How often each way is measured.
    #[arg(long, env = "DEMON_BENCH_ROUNDS", value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    /// Directory for the server's store and the nodes' files: the disk that is measured [default: the system's
    /// temporary directory]
    #[arg(long, env = "DEMON_BENCH_DIRECTORY", value_name = "DIRECTORY")]
    directory: Option<std::path::PathBuf>,
}

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

#[derive(Debug, Args)]
struct SuperviseArguments {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let matches = ignored(<CommandLine as clap::CommandFactory>::command()).get_matches();
    let CommandLine { case } =
        <CommandLine as clap::FromArgMatches>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Case::Supervise(arguments) = &case {
        return supervise(arguments);
    }
    if let Case::Agent(arguments) = case {
        return agent(*arguments);
    }
    initialise_log(LogFormat::Text, LogOutput::Stderr, LOG_FILTER);
    match run(case) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::note(&format!("bench: {}", ErrorChain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn run(case: Case) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime cannot be started")?;
    runtime.block_on(async move {
        let (report, output): (Report, OutputFormat) = match case {
            Case::Replay(arguments) => (cases::replay::run(&arguments).await?, arguments.common.output),
            Case::FleetStatus(arguments) => (cases::fleet_status::run(&arguments).await?, arguments.common.output),
            Case::One(arguments) => (cases::one::run(&arguments).await?, arguments.common.output),
            Case::Fleet(arguments) => (cases::fleet::run(&arguments).await?, arguments.common.output),
            Case::Flip(arguments) => (cases::flip::run(&arguments).await?, arguments.common.output),
            Case::Reconnect(arguments) => (cases::reconnect::run(&arguments).await?, arguments.common.output),
            Case::Put(arguments) => (cases::put::run(&arguments).await?, arguments.common.output),
            Case::Fetch(arguments) => (cases::fetch::run(&arguments).await?, arguments.common.output),
            Case::Multicast(arguments) => (cases::multicast::run(&arguments).await?, arguments.common.output),
            Case::Delta(arguments) => (cases::delta::run(&arguments).await?, arguments.common.output),
            Case::Idle(arguments) => (cases::idle::run(&arguments).await?, arguments.common.output),
            Case::Agent(_) | Case::Supervise(_) => return Ok(()),
        };
        match output {
            OutputFormat::Table => report::print(&report.to_table()),
            OutputFormat::Json => report::print(&report.to_json()?),
        }
    })
}

/// The same steps as the agent's own program, so that what is measured of the process is what that one takes.
fn agent(arguments: subscriber::AgentArguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::FAILURE };
    runtime.block_on(async {
        match shared::daemon::stop_signal() {
            Ok(stop) => subscriber::main_with(arguments, stop).await,
            Err(error) => {
                report::note(&format!("bench agent: {}", ErrorChain(&error)));
                ExitCode::FAILURE
            }
        }
    })
}

fn supervise(arguments: &SuperviseArguments) -> ExitCode {
    let Some((program, rest)) = arguments.command.split_first() else { return ExitCode::from(2) };
    match streams::embedded_server::supervisor::supervise(program, rest) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            report::note(&format!("bench supervise: {}", ErrorChain(&error)));
            ExitCode::FAILURE
        }
    }
}
