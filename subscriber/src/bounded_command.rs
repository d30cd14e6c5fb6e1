//! A command of the operator's, run without a shell: bounded in time and output, and ended with everything it started.
//!
//! It sees nothing of the agent's environment but a few harmless variables: what the agent logs in with is not the
//! command's business.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// What is kept of the output; the rest is read and thrown away.
const MOST_OUTPUT: usize = 16 << 10;
/// What somebody who inherited the output may delay its end after the command itself has ended.
const LAST_OUTPUT: Duration = Duration::from_millis(100);
/// Variables that a command inherits.
const INHERITED: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "SHELL"];

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundedCommand {
    program: String,
    arguments: Vec<String>,
}

/// Text that names no command.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum CommandTextError {
    /// There is nothing in it.
    #[error("it names no program")]
    Empty,
    /// It looks like JSON and is no list of texts.
    #[error("it begins with `[` but is no JSON list of texts")]
    NoList,
}

/// A command that did not end well.
#[derive(Debug, Error)]
pub(crate) enum CommandFailure {
    /// It cannot be started.
    #[error("`{program}` cannot be started")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("`{program}` did not end within {} ms and was killed", limit.as_millis())]
    TimedOut {
        /// The program.
        program: String,
        /// How long it was given.
        limit: Duration,
    },
    /// It ended with another exit code than 0, or by a signal.
    #[error("`{program}` ended with {status}{}", said(output))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
}

impl BoundedCommand {
    /// Takes a command apart: words between spaces, or a JSON list of words where one holds spaces. No shell is involved.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandTextError> {
        let text = text.trim();
        let words: Vec<String> = if text.starts_with('[') {
            serde_json::from_str(text).map_err(|_| CommandTextError::NoList)?
        } else {
            text.split_whitespace().map(str::to_owned).collect()
        };
        let mut words = words.into_iter();
        let program = words.next().filter(|program| !program.is_empty()).ok_or(CommandTextError::Empty)?;
        Ok(Self { program, arguments: words.collect() })
    }

    /// Runs it to its end and returns what it printed on standard output, at most 16 KiB. Dropped or out of time, it is
    /// killed with every process of its group.
    pub(crate) async fn run(&self, facts: &[(&str, String)], limit: Duration) -> Result<Vec<u8>, CommandFailure> {
        let program = || self.program.clone();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(inherited()).envs(facts.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| CommandFailure::Start { program: program(), source })?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = timeout(limit, async {
            let printed = async { tokio::join!(read(stdout, &mut output), read(stderr, &mut errors)) };
            tokio::pin!(printed);
            tokio::select! {
                ended = child.wait() => {
                    // Whoever inherited the pipes may hold them open for ever.
                    let _ = timeout(LAST_OUTPUT, printed).await;
                    ended
                }
                _ = &mut printed => child.wait().await,
            }
        });
        let status = match ended.await {
            Ok(Ok(status)) => status,
            Ok(Err(source)) => return Err(CommandFailure::Start { program: program(), source }),
            Err(_) => return Err(CommandFailure::TimedOut { program: program(), limit }),
        };
        // It is no more, and its number may soon be another's.
        group.forget();
        if status.success() {
            return Ok(output);
        }
        let last = if errors.is_empty() { &output } else { &errors };
        Err(CommandFailure::Failed { program: program(), status, output: last_line(last) })
    }
}

/// Kills a process group when dropped.
struct Group(Option<Pid>);

impl Group {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already, where it fails.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Reads to the end and keeps the beginning.
async fn read(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut part).await {
        let room = MOST_OUTPUT.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&part[..room]);
    }
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().chars().filter(|character| !character.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> BoundedCommand {
        BoundedCommand { program: "sh".to_owned(), arguments: vec!["-c".to_owned(), script.to_owned()] }
    }

    #[test]
    fn words_are_split_without_a_shell() {
        let command = BoundedCommand::parse("  check --url $HOME;x ").unwrap();
        assert_eq!((&*command.program, command.arguments), ("check", vec!["--url".to_owned(), "$HOME;x".to_owned()]));
        let command = BoundedCommand::parse("[\"a b\", \"c d\"]").unwrap();
        assert_eq!((&*command.program, command.arguments), ("a b", vec!["c d".to_owned()]));
        assert_eq!(BoundedCommand::parse(" "), Err(CommandTextError::Empty));
        assert_eq!(BoundedCommand::parse("[1]"), Err(CommandTextError::NoList));
        assert_eq!(BoundedCommand::parse("[]"), Err(CommandTextError::Empty));
    }

    #[tokio::test]
    async fn it_gets_the_facts_and_none_of_the_agents_variables() {
        // Set for every test by cargo, so it would be there.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let facts = [("DEMON_TAG", "v1".to_owned())];
        let output = shell("echo \"$DEMON_TAG,$CARGO_MANIFEST_DIR\"").run(&facts, LIMIT).await.unwrap();
        assert_eq!(output, b"v1,\n");
    }

    #[tokio::test]
    async fn a_failure_says_the_last_words() {
        let failure = shell("echo first >&2; echo 'not ready' >&2; exit 3").run(&[], LIMIT).await.unwrap_err();
        assert_eq!(failure.to_string(), "`sh` ended with exit status: 3: not ready");
        let missing = BoundedCommand::parse("/nonexistent/check").unwrap();
        assert!(matches!(missing.run(&[], LIMIT).await, Err(CommandFailure::Start { .. })));
    }

    #[tokio::test]
    async fn boundless_output_is_read_and_thrown_away() {
        let output = shell("head -c 3000000 /dev/zero").run(&[], LIMIT).await.unwrap();
        assert_eq!(output.len(), MOST_OUTPUT);
    }

    #[tokio::test]
    async fn out_of_time_the_whole_group_ends() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("alive");
        // The grandchild would go on writing for ever.
        let script = format!("(while true; do date > {}; sleep 0.05; done) & sleep 60", marker.display());
        let failure = shell(&script).run(&[], Duration::from_millis(500)).await.unwrap_err();
        assert!(matches!(failure, CommandFailure::TimedOut { .. }), "{failure}");
        let _ = std::fs::remove_file(&marker);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!marker.exists(), "a process of the command lives on");
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_output_open_holds_up_nobody() {
        let begun = Instant::now();
        shell("sleep 15 & exit 0").run(&[], LIMIT).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
