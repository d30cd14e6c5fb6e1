//! One real process: started, watched through its log, ended with the test.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::waiting::eventually;

/// How long a killed process may take to be gone before its directory is removed under it.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// Nobody tells when the child of another process is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A process whose output goes to a file that is shown when the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: File,
}

impl Process {
    /// Starts it. Its output goes to `<name>.log` in `directory`, appended where an earlier one of that name wrote.
    pub fn start(name: &str, command: Command, directory: &Path) -> Self {
        Self::start_with_input(name, command, directory, Stdio::null())
    }

    /// The same with a standard input.
    pub fn start_with_input(name: &str, mut command: Command, directory: &Path, input: Stdio) -> Self {
        let path = directory.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&path).expect("the log file can be opened");
        let errors = output.try_clone().expect("the log file can be shared");
        let log = File::open(&path).expect("the log file can be read");
        let program = command.get_program().to_owned();
        let child = command
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("`{}` does not start: {error}", program.display()));
        Self { name: name.to_owned(), child, log }
    }

    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far, both outputs.
    pub fn log(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut log = self.log.try_clone()?;
            log.seek(SeekFrom::Start(0))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
    }

    /// Waits for the first line of its log that satisfies a condition, and returns it.
    pub async fn log_line(&mut self, what: &str, limit: Duration, condition: impl Fn(&str) -> bool) -> String {
        let what = format!("a log line of `{}` with {what}", self.name);
        eventually(&what, limit, async || {
            let log = self.log();
            match log.lines().find(|line| condition(line)) {
                Some(line) => Ok(line.to_owned()),
                None => Err(format!("its log has {} lines without it", log.lines().count())),
            }
        })
        .await
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.runs(), "`{}` has ended already", self.name);
        kill_process(pid(self.id()), signal).expect("a process that runs takes signals");
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of `{}`", self.name);
        eventually(&what, limit, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Ends it at once, without a chance to do anything (`kill -9`).
    pub fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the test has failed; this is what its reader needs")]
            {
                eprintln!("--- log of `{}`\n{}\n---", self.name, self.log());
            }
        }
    }
}

/// Whether a process with this id exists that is not a corpse waiting for its parent.
pub fn process_exists(id: u32) -> bool {
    test_kill_process(pid(id)).is_ok() && !is_zombie(id)
}

/// Sends a signal to a process that is not a child of ours.
pub fn signal_process(id: u32, signal: Signal) {
    kill_process(pid(id), signal).unwrap_or_else(|error| panic!("process {id} takes no signal: {error}"));
}

/// Lets a stopped process go on, where it still exists.
pub fn continue_process(id: u32) {
    // Killed meanwhile: there is nothing to go on.
    let _ = kill_process(pid(id), Signal::CONT);
}

/// Kills a process that is not a child of ours, where it still runs, and waits until it is gone.
pub fn kill_process_and_wait(id: u32) {
    // Gone already is as good.
    let _ = kill_process(pid(id), Signal::KILL);
    wait_until_gone(id);
}

/// Waits, for a bounded time, until a process that was told to end is gone: for the end of a test, when the directory
/// is about to be removed into which the process writes. Blocks, and never panics.
pub fn wait_until_gone(id: u32) {
    let deadline = Instant::now() + GONE_LIMIT;
    while process_exists(id) && Instant::now() < deadline {
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn pid(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id is a positive number")
}

fn is_zombie(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"));
    // Elsewhere than on Linux a zombie cannot be told apart here, and waiting for its parent is right.
    status.is_ok_and(|status| status.lines().any(|line| line.starts_with("State:\tZ")))
}

/// The processes whose command line names this text, without help of programs that may not be installed.
pub fn processes_naming(text: &str) -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/proc").expect("this system has /proc");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| {
            // One that has just ended has no command line any more.
            let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(text) && process_exists(*id)
        })
        .collect()
}
