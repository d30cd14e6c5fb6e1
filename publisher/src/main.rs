//! `demon-publisher`: publishes a directory, once or whenever it changes.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use publisher::config::{PublisherArguments, PublisherConfig};
use publisher::progress::Silent;
use publisher::service::{Patience, PublishService, log_report};
use shared::daemon::{ErrorChain, LogOutput, initialise_log, stop_signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a command line that cannot be used; clap's own is the same.
const USAGE: u8 = 2;
/// What is logged unless `RUST_LOG` says otherwise. The client library's own lines repeat what `streams` says.
const LOG_FILTER: &str = "info,async_nats=error";
/// A disk operation that hangs does not keep a stopped publisher alive.
const LAST_WAIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let arguments = PublisherArguments::parse();
    let config = match arguments.check() {
        Ok(config) => config,
        Err(faults) => {
            say(&mut io::stderr(), &format!("demon-publisher: {faults}"));
            return ExitCode::from(USAGE);
        }
    };
    match start(arguments.print_config, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("demon-publisher: {}", ErrorChain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn start(print_config: bool, config: PublisherConfig) -> anyhow::Result<()> {
    if print_config {
        say(&mut io::stdout(), &serde_json::to_string_pretty(&config)?);
        return Ok(());
    }
    initialise_log(config.log_format, LogOutput::Stdout, LOG_FILTER);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(async {
        let stop = stop_signal().context("signals cannot be listened to")?;
        run(config, &stop).await
    });
    runtime.shutdown_timeout(LAST_WAIT);
    result
}

async fn run(config: PublisherConfig, stop: &CancellationToken) -> anyhow::Result<()> {
    let once = config.once;
    let patience = if once { Patience::FailAtOnce } else { Patience::KeepTrying };
    let mut service = PublishService::start(config, patience).await?;
    let progress = Silent::shared();
    if once {
        let report = tokio::select! {
            () = stop.cancelled() => anyhow::bail!("stopped before it was finished; run it again to finish"),
            report = service.publish(&progress) => report?,
        };
        log_report(&report);
    } else {
        service.serve(&progress, stop).await.context("signals cannot be listened to")?;
    }
    service.close().await;
    Ok(())
}

/// Writes one line; a reader that went away is no fault of ours.
fn say(output: &mut dyn Write, line: &str) {
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
