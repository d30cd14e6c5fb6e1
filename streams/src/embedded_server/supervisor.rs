//! The process between a program and its nats-server: it ends the server when the program ends, however that happens.
//!
//! A program enters [`supervise`] from a hidden subcommand. It holds the other end of this process's standard input and
//! closes it by ending, even by `kill -9`. On Linux the kernel also kills the server when this process itself is killed.

use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
#[cfg(not(target_os = "linux"))]
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Before a server that was asked to stop is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Exit code of a server that was killed by a signal, as shells count.
const SIGNAL_BASE: i32 = 128;

/// Runs a program until it ends, this process's standard input is closed, or SIGINT or SIGTERM arrives; then asks it
/// to stop, and kills it after 5 s. Returns its exit code. Blocks; must not be called from an async runtime.
pub fn supervise(program: &OsStr, arguments: &[impl AsRef<OsStr>]) -> io::Result<i32> {
    #[cfg(target_os = "linux")]
    if lifeline::is_inner_stage() {
        return Err(lifeline::become_program(program, arguments));
    }
    // One thread: on Linux the child dies with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(program, arguments))
}

async fn run(program: &OsStr, arguments: &[impl AsRef<OsStr>]) -> io::Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = command(program, arguments)?.stdin(Stdio::null()).kill_on_drop(true).spawn()?;
    let reason = tokio::select! {
        status = child.wait() => return status.map(exit_code),
        _ = standard_input_closed() => "standard input was closed",
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    tracing::debug!(reason, "stopping the supervised program");
    stop(&mut child).await.map(exit_code)
}

async fn stop(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // Not yet waited for, so the id is still its own. Ended already is as good.
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(status) = timeout(STOP_LIMIT, child.wait()).await {
        return status;
    }
    child.kill().await?;
    child.wait().await
}

/// Completes when standard input ends. Read on a thread of its own, which nothing waits for: such a read cannot be
/// interrupted.
fn standard_input_closed() -> oneshot::Receiver<()> {
    let (closed, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        // What is sent means nothing; the end and an error mean the same.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = closed.send(());
    });
    receiver
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| SIGNAL_BASE + status.signal().unwrap_or(0))
}

#[cfg(not(target_os = "linux"))]
fn command(program: &OsStr, arguments: &[impl AsRef<OsStr>]) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

#[cfg(target_os = "linux")]
use lifeline::command;

/// The kernel's promise to kill a child with its parent is asked for by the child itself, and survives `exec`. So this
/// program starts itself once more with the same arguments; that inner stage asks and then becomes the server.
#[cfg(target_os = "linux")]
mod lifeline {
    use std::ffi::OsStr;
    use std::io;
    use std::os::unix::process::CommandExt as _;

    use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
    use tokio::process::Command;

    /// Holds the process id of the supervisor that started the inner stage.
    const INNER_STAGE: &str = "DEMON_SUPERVISOR_PID";

    fn supervisor() -> Option<Pid> {
        Pid::from_raw(std::env::var(INNER_STAGE).ok()?.parse().ok()?)
    }

    pub(super) fn is_inner_stage() -> bool {
        supervisor().is_some()
    }

    pub(super) fn command(_program: &OsStr, _arguments: &[impl AsRef<OsStr>]) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1));
        command.env(INNER_STAGE, getpid().as_raw_nonzero().to_string());
        Ok(command)
    }

    /// Returns only where it fails.
    pub(super) fn become_program(program: &OsStr, arguments: &[impl AsRef<OsStr>]) -> io::Error {
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            return error.into();
        }
        // The supervisor may have ended before the promise was made.
        if getppid() != supervisor() {
            return io::Error::new(io::ErrorKind::BrokenPipe, "the supervisor has ended");
        }
        std::process::Command::new(program).args(arguments).env_remove(INNER_STAGE).exec()
    }
}
