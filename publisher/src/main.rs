//! `demon-publisher`: publishes a source, once or whenever there is something new.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};
use publisher::config::{CommandLine, ConfigFaults, PublishConfig, PublisherCommand, PublisherConfig, ServeConfig};
use publisher::durability_gate::look_before_publishing;
use publisher::progress::Silent;
use publisher::publish_cycle::ReleasePolicy;
use publisher::service::{GivenCommit, Patience, PublishService, RunOrder, log_report};
use publisher::serving::serve;
use serde::Serialize;
use shared::daemon::{ErrorChain, LogOutput, initialise_log, stop_signal};
use streams::empty_variables::ignored;
use tokio_util::sync::CancellationToken;

/// Exit code of a command line that cannot be used; clap's own is the same.
const USAGE: u8 = 2;
/// What is logged unless `RUST_LOG` says otherwise. The client library's own lines repeat what `streams` says.
const LOG_FILTER: &str = "info,async_nats=error";
/// A disk operation that hangs does not keep a stopped publisher alive.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// What is to be done, with settings that are checked.
#[derive(Serialize)]
#[serde(untagged)]
enum Work {
    Publish(Box<PublishConfig>),
    Serve(Box<ServeConfig>),
}

impl Work {
    fn publisher(&self) -> &PublisherConfig {
        match self {
            Self::Publish(config) => &config.publisher,
            Self::Serve(config) => &config.publisher,
        }
    }
}

fn main() -> ExitCode {
    let matches = ignored(CommandLine::command()).get_matches();
    let command_line = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (print_config, work) = match check(&command_line.command) {
        Ok(checked) => checked,
        Err(faults) => {
            say(&mut io::stderr(), &format!("demon-publisher: {faults}"));
            return ExitCode::from(USAGE);
        }
    };
    match start(print_config, work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("demon-publisher: {}", ErrorChain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn check(command: &PublisherCommand) -> Result<(bool, Work), ConfigFaults> {
    Ok(match command {
        PublisherCommand::Publish(arguments) => {
            (arguments.publisher.print_config, Work::Publish(Box::new(arguments.check()?)))
        }
        PublisherCommand::Serve(arguments) => {
            (arguments.publisher.print_config, Work::Serve(Box::new(arguments.check()?)))
        }
    })
}

fn start(print_config: bool, work: Work) -> anyhow::Result<()> {
    if print_config {
        say(&mut io::stdout(), &serde_json::to_string_pretty(&work)?);
        return Ok(());
    }
    initialise_log(work.publisher().log_format, LogOutput::Stdout, LOG_FILTER);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(async {
        let stop = stop_signal().context("signals cannot be listened to")?;
        match work {
            Work::Publish(config) => publish_once(*config, &stop).await,
            Work::Serve(config) => Ok(serve(*config, &Silent::shared(), &stop).await?),
        }
    });
    runtime.shutdown_timeout(LAST_WAIT);
    result
}

async fn publish_once(config: PublishConfig, stop: &CancellationToken) -> anyhow::Result<()> {
    let order = RunOrder {
        trigger: config.trigger,
        policy: if config.force { ReleasePolicy::Force } else { ReleasePolicy::OnChange },
        tag: config.tag,
        timestamp: config.timestamp,
        given_commit: GivenCommit::NamesTheContent,
    };
    let mut service = PublishService::start(config.publisher, Patience::FailAtOnce).await?;
    let progress = Silent::shared();
    let run = async {
        service.prepare().await?;
        look_before_publishing(service.connection(), &config.durability).await?;
        anyhow::Ok(service.run(&order, &progress).await?)
    };
    let report = tokio::select! {
        () = stop.cancelled() => anyhow::bail!("stopped before it was finished; run it again to finish"),
        report = run => report?,
    };
    report.releases.iter().for_each(log_report);
    if report.releases.is_empty() {
        tracing::info!("nothing new at the source");
    }
    service.close().await;
    Ok(())
}

/// Writes one line; a reader that went away is no fault of ours.
fn say(output: &mut dyn Write, line: &str) {
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
