//! Telling the application that another release is current.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::Method;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use shared::daemon::ErrorChain;
use shared::identifiers::Tag;
use thiserror::Error;

use crate::activation_facts::ActivationFacts;
use crate::bounded_command::{BoundedCommand, CommandTextError};
use crate::health_check::is_address;
use crate::local_request::{LocalUrl, LocalUrlError};

/// The form of a signal.
const SIGNAL_FORM: &str = "signal:NAME:pidfile=PATH";
/// Signals that make sense; one that cannot be handled would only end the application.
const SIGNALS: [(&str, Signal); 6] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
];
/// Pauses before the hook is tried again. After the last of them it is given up until the next switch.
pub(crate) const RETRY_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How to tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SwitchHook {
    /// Run this.
    Command(BoundedCommand),
    /// Post the facts there, as JSON.
    Url(LocalUrl),
    /// Send a signal to the process that a file names.
    Signal {
        /// The signal.
        signal: Signal,
        /// The file.
        pid_file: PathBuf,
    },
}

/// Text that names no hook.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum SwitchHookError {
    /// It is no command.
    #[error("it is no command")]
    Command(#[source] CommandTextError),
    /// It is no address.
    #[error("it is no usable address")]
    Url(#[source] LocalUrlError),
    /// It is no signal.
    #[error("it is not of the form `{SIGNAL_FORM}` with HUP, INT, QUIT, TERM, USR1 or USR2")]
    Signal,
}

/// A signal that was not sent.
#[derive(Debug, Error)]
enum SignalFailure {
    /// The file cannot be read.
    #[error("process id file `{}` cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It names no process that could be meant.
    #[error("process id file `{}` holds no process id above 1", path.display())]
    NoProcess { path: PathBuf },
    /// The process takes no signal.
    #[error("process {process} of file `{}` takes no signal", path.display())]
    Refused {
        process: i32,
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

/// What the application is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwitchNews {
    /// The switch.
    pub facts: ActivationFacts,
    /// The release before it.
    pub previous_tag: Option<Tag>,
    /// Whether the release before it failed its trial, and this one returned.
    pub is_revert: bool,
    /// Where the release's files are.
    pub files: PathBuf,
}

impl SwitchHook {
    /// An address or a signal where it begins like one, else a command.
    pub(crate) fn parse(text: &str) -> Result<Self, SwitchHookError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("signal:") {
            return parse_signal(rest).ok_or(SwitchHookError::Signal);
        }
        if is_address(text) {
            LocalUrl::parse(text).map(Self::Url).map_err(SwitchHookError::Url)
        } else {
            BoundedCommand::parse(text).map(Self::Command).map_err(SwitchHookError::Command)
        }
    }

    /// Tells it once, at most this long. The error is one line for people.
    pub(crate) async fn tell(&self, news: &SwitchNews, limit: Duration) -> Result<(), String> {
        match self {
            Self::Command(command) => {
                let ran = command.run(&news.variables(), limit).await;
                ran.map(|_| ()).map_err(|failure| ErrorChain(&failure).to_string())
            }
            Self::Url(url) => {
                let body = news.document().to_string().into_bytes();
                let told = url.request(Method::POST, &news.facts.headers(), body, limit).await;
                told.map(|_| ()).map_err(|failure| ErrorChain(&failure).to_string())
            }
            Self::Signal { signal, pid_file } => {
                send(*signal, pid_file.clone()).map_err(|failure| ErrorChain(&failure).to_string())
            }
        }
    }
}

impl SwitchNews {
    fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.facts.variables().to_vec();
        variables.push(("DEMON_PREVIOUS_TAG", self.previous_tag.as_ref().map(Tag::to_string).unwrap_or_default()));
        variables.push(("DEMON_SWITCH_CAUSE", self.cause().to_owned()));
        variables.push(("DEMON_RELEASE_FILES", self.files.display().to_string()));
        variables
    }

    fn document(&self) -> serde_json::Value {
        json!({
            "bundle": self.facts.bundle,
            "tag": self.facts.tag,
            "tree_digest": self.facts.tree_digest,
            "activation_epoch": self.facts.activation_epoch,
            "previous_tag": self.previous_tag,
            "cause": self.cause(),
            "files": self.files,
        })
    }

    fn cause(&self) -> &'static str {
        if self.is_revert { "revert" } else { "switch" }
    }
}

fn parse_signal(text: &str) -> Option<SwitchHook> {
    let (name, path) = text.split_once(":pidfile=")?;
    let (_, signal) = SIGNALS.into_iter().find(|(known, _)| *known == name.trim_start_matches("SIG"))?;
    (!path.is_empty()).then(|| SwitchHook::Signal { signal, pid_file: PathBuf::from(path) })
}

/// A few bytes are read and a call is made: nothing that could block for long, unless the file is no plain one.
fn send(signal: Signal, path: PathBuf) -> Result<(), SignalFailure> {
    let unreadable = |source| SignalFailure::Unreadable { path: path.clone(), source };
    if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
        return Err(SignalFailure::NoProcess { path });
    }
    let text = std::fs::read_to_string(&path).map_err(unreadable)?;
    let process = text.split_whitespace().next().and_then(|word| word.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).ok();
    // Below 2 it would mean a group, every process, or init.
    let process = process.filter(|process| *process > 1 && Some(*process) != own);
    let Some((process, pid)) = process.and_then(|process| Some((process, Pid::from_raw(process)?))) else {
        return Err(SignalFailure::NoProcess { path });
    };
    kill_process(pid, signal).map_err(|source| SignalFailure::Refused { process, path, source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::activation_facts::tests::facts;

    const LIMIT: Duration = Duration::from_secs(20);

    fn news() -> SwitchNews {
        SwitchNews {
            facts: facts(),
            previous_tag: Some("v1".parse().unwrap()),
            is_revert: true,
            files: PathBuf::from("/cache/releases/v2/files"),
        }
    }

    #[test]
    fn the_three_kinds_are_told_apart() {
        let signal = SwitchHook::parse("signal:HUP:pidfile=/run/app.pid").unwrap();
        assert_eq!(signal, SwitchHook::Signal { signal: Signal::HUP, pid_file: "/run/app.pid".into() });
        assert!(SwitchHook::parse("signal:SIGUSR1:pidfile=a:b").is_ok());
        for wrong in ["signal:KILL:pidfile=/p", "signal:HUP", "signal:HUP:pidfile=", "signal:"] {
            assert_eq!(SwitchHook::parse(wrong), Err(SwitchHookError::Signal), "{wrong}");
        }
        assert!(matches!(SwitchHook::parse("http://127.0.0.1/reload"), Ok(SwitchHook::Url(_))));
        assert!(matches!(SwitchHook::parse("systemctl reload app"), Ok(SwitchHook::Command(_))));
    }

    #[tokio::test]
    async fn a_command_learns_what_happened() {
        let script = "test \"$DEMON_TAG $DEMON_PREVIOUS_TAG $DEMON_SWITCH_CAUSE\" = 'v2 v1 revert'";
        let hook = SwitchHook::parse(&serde_json::to_string(&["sh", "-c", script]).unwrap()).unwrap();
        hook.tell(&news(), LIMIT).await.unwrap();
    }

    #[test]
    fn a_file_that_names_no_process_hits_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.pid");
        let own = std::process::id().to_string();
        for content in ["", "x", "0", "1", "-1", "-42", &own] {
            fs::write(&path, content).unwrap();
            let failure = send(Signal::USR1, path.clone()).unwrap_err();
            assert!(matches!(failure, SignalFailure::NoProcess { .. }), "{content}: {failure}");
        }
        assert!(matches!(send(Signal::USR1, directory.path().join("none")), Err(SignalFailure::Unreadable { .. })));
    }

    #[test]
    fn the_process_of_the_file_gets_the_signal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.pid");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&path, format!("{}\n", child.id())).unwrap();
        send(Signal::TERM, path).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
