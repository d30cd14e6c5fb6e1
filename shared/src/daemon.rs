//! What every binary needs around its work: logs, error chains, the signal to stop, and HTTP for probes and people.

#[cfg(feature = "http")]
pub mod api_keys;
pub mod crash_point;
#[cfg(feature = "http")]
pub mod http_server;
#[cfg(feature = "http")]
pub mod refused_keys;

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};

use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt as log_format;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Target of the log lines that repeat an audit event, so that `RUST_LOG=runtime::audit=info` shows just them.
pub const AUDIT_TARGET: &str = "runtime::audit";

/// Shows an error with all its causes in one line: `what: why: why`.
///
/// Stays one line whatever a server or a file has put into a cause: control characters are shown as spaces. Used in every
/// log and by the command line, because the JSON log format drops the causes of an error field.
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let more = error.to_string();
            // Some libraries repeat a cause in their own text.
            if !text.ends_with(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        text.chars()
            .map(|character| if character.is_control() { ' ' } else { character })
            .try_for_each(|character| formatter.write_char(character))
    }
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One compact JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where the log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output: a daemon's only output.
    Stdout,
    /// Standard error: where standard output is for data.
    Stderr,
}

/// Sets the process's log up, filtered by `RUST_LOG`, else by `default_filter`. A second call changes nothing.
pub fn initialise_log(format: LogFormat, output: LogOutput, default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let (writer, terminal) = match output {
        LogOutput::Stdout => (BoxMakeWriter::new(io::stdout), io::stdout().is_terminal()),
        LogOutput::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal);
    // A log that is set up already, by a test or an embedding program, is left as it is.
    let _ = match format {
        LogFormat::Json => {
            subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
        LogFormat::Text => subscriber.compact().try_init(),
    };
}

/// Sets the process's log up for a command whose data is what happened: the audit lines go to standard output, whatever
/// `RUST_LOG` says, each as one compact JSON object as a daemon writes it; everything else goes to standard error as text.
pub fn initialise_audit_output(default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let audit = log_format::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(io::stdout)
        .log_internal_errors(false)
        .with_filter(filter_fn(|metadata| metadata.target() == AUDIT_TARGET));
    let rest = log_format::layer()
        .compact()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .with_filter(filter_fn(|metadata| metadata.target() != AUDIT_TARGET).and(filter));
    let _ = tracing_subscriber::registry().with(audit).with(rest).try_init();
}

/// A token that is cancelled by the first SIGINT or SIGTERM. A second signal ends the process at once, with
/// the exit code that shells give for it (128 + signal number).
pub fn stop_signal() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if stopping.is_cancelled() {
                #[expect(clippy::exit, reason = "the second signal means: now")]
                std::process::exit(code);
            }
            stopping.cancel();
        }
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (first, rest) = texts.split_first().unwrap();
        Layer { text: first, source: (!rest.is_empty()).then(|| Box::new(layers(rest))) }
    }

    #[test]
    fn every_cause_is_shown_once() {
        assert_eq!(
            ErrorChain(&layers(&["no release", "no file", "not found"])).to_string(),
            "no release: no file: not found"
        );
        assert_eq!(ErrorChain(&layers(&["no file: not found", "not found"])).to_string(), "no file: not found");
    }

    #[test]
    fn what_others_wrote_stays_in_one_line() {
        let chain = layers(&["the server refuses", "odd\nwith \u{1b}[31mcolour\r\n"]);
        assert_eq!(ErrorChain(&chain).to_string(), "the server refuses: odd with  [31mcolour  ");
    }
}
