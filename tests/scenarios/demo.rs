//! `demonctl demo` as a newcomer runs it, and what is left of it however it ends: nothing.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use acceptance::process::{Process, process_exists, processes_naming, signal_process};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{both_outputs, succeeded};
use rustix::process::Signal;
use tempfile::TempDir;

/// How long anything may be left after the end. The promise is five seconds on a machine that does nothing else.
const LEFT_BEHIND_LIMIT: Duration = Duration::from_secs(15);

/// The demo with a directory of its own for temporary files, by which its processes are found.
fn demo(directory: &TempDir) -> Command {
    let mut command = WorkspaceBinary::Demonctl.command();
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
    command.arg("demo").arg("--contracts").arg(contracts).env("TMPDIR", directory.path());
    command
}

/// Every process whose command line names the directory.
fn processes_of(directory: &TempDir) -> BTreeSet<u32> {
    processes_naming(directory.path().to_str().expect("a path in UTF-8"))
}

/// The server's port and process, from the line in which the demo says them.
async fn server_of(demo: &mut Process) -> (u16, u32) {
    let line = demo.log_line("the server's port", PATIENCE, |line| line.contains(" on port ")).await;
    let numbers: Vec<u32> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    let [.., port, process] = numbers.as_slice() else { panic!("no port and process in `{line}`") };
    (u16::try_from(*port).expect("a port"), *process)
}

async fn nothing_is_left(directory: &TempDir, recorded: &BTreeSet<u32>, port: u16) {
    eventually("everything to be gone", LEFT_BEHIND_LIMIT, async || {
        let left = processes_of(directory);
        satisfied(left.is_empty(), || format!("processes {left:?} are left"))?;
        let left: Vec<_> = recorded.iter().filter(|id| process_exists(**id)).collect();
        satisfied(left.is_empty(), || format!("recorded processes {left:?} are left"))?;
        satisfied(TcpStream::connect(("127.0.0.1", port)).is_err(), || format!("port {port} is open"))
    })
    .await;
}

/// A demo that has come to its end and stays, with everything that belongs to it.
async fn kept(directory: &TempDir) -> (Process, u16, BTreeSet<u32>) {
    let mut command = demo(directory);
    command.arg("--keep");
    let mut demo = Process::start("demo", command, directory.path());
    let (port, server) = server_of(&mut demo).await;
    demo.log_line("the end of the steps", PATIENCE, |line| line.starts_with("Everything stays up")).await;
    let processes = processes_of(directory);
    assert!(processes.contains(&server));
    // nats-server, its supervisor (and that one's first stage, where there is one), three agents.
    assert!(processes.len() >= 5, "only {processes:?} run");
    (demo, port, processes)
}

#[tokio::test]
async fn the_demo_shows_every_promised_step_and_leaves_nothing() {
    let directory = TempDir::new().expect("a directory");
    let output = succeeded(demo(&directory)).await;
    let text = both_outputs(&output);
    for step in 1..=10 {
        assert!(text.contains(&format!("[{step}/10]")), "step {step} is missing in\n{text}");
    }
    let count = |needle: &str| text.lines().filter(|line| line.contains(needle)).count();
    for node in ["edge-1", "edge-2", "edge-3"] {
        assert_eq!(count(&format!("{node}: published → switched in")), 1, "{text}");
        assert_eq!(count(&format!("{node}: bundle.verification_failed at contracts/")), 2, "{text}");
        assert_eq!(count(&format!("{node}: runs contracts-")), 2, "first A, then A again from the cache\n{text}");
    }
    assert_eq!(count("    expected "), 6);
    assert_eq!(count("    actual   "), 6);
    assert_eq!(count("Permissions Violation for Publish to `bundle.promoted.contracts.channel.latest`"), 1, "{text}");
    assert_eq!(count("(rollback, held)"), 1, "{text}");
    assert_eq!(count(" bundle.loaded "), 9, "three nodes switched three times\n{text}");
    assert!(text.lines().any(|line| line.starts_with(" 1 ") && line.contains("bundle.epoch_started")), "{text}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("the directory").collect();
    assert!(left.is_empty(), "files are left: {left:?}");
    assert_eq!(processes_of(&directory), BTreeSet::new());
}

#[tokio::test]
async fn a_kept_demo_can_be_looked_at_with_the_commands_it_prints_and_ends_with_ctrl_c() {
    let directory = TempDir::new().expect("a directory");
    let (mut demo, port, processes) = kept(&directory).await;
    let log = demo.log();
    let url = log.lines().find_map(|line| line.trim().strip_prefix("export NATS_URL=")).expect("the URL is printed");
    let mut tried = 0;
    for line in log.lines().map(str::trim).filter(|line| line.contains("demonctl ") && line.starts_with('/')) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).env("NATS_URL", url);
        let output = succeeded(command).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("contracts-"), "`{line}` printed\n{text}");
        tried += 1;
    }
    assert_eq!(tried, 3);
    demo.signal(Signal::INT);
    let status = demo.ended(PATIENCE).await;
    assert!(status.success(), "Ctrl-C is how a kept demo ends: {status}");
    nothing_is_left(&directory, &processes, port).await;
}

#[tokio::test]
async fn a_killed_demo_leaves_nothing() {
    let directory = TempDir::new().expect("a directory");
    let (mut demo, port, processes) = kept(&directory).await;
    demo.kill();
    nothing_is_left(&directory, &processes, port).await;
}

#[tokio::test]
async fn ctrl_c_in_the_middle_of_a_step_names_the_step_and_leaves_nothing() {
    let directory = TempDir::new().expect("a directory");
    let mut demo = Process::start("demo", demo(&directory), directory.path());
    let (port, server) = server_of(&mut demo).await;
    // A server that answers nobody keeps the demo in its step.
    signal_process(server, Signal::STOP);
    let processes = processes_of(&directory);
    demo.signal(Signal::INT);
    let status = demo.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(130), "{}", demo.log());
    assert!(demo.log().contains("/10 failed: "), "no step is named");
    nothing_is_left(&directory, &processes, port).await;
}

#[tokio::test]
async fn a_failed_step_is_named_and_leaves_nothing() {
    let directory = TempDir::new().expect("a directory");
    let mut demo = Process::start("demo", demo(&directory), directory.path());
    let (port, server) = server_of(&mut demo).await;
    signal_process(server, Signal::STOP);
    let processes = processes_of(&directory);
    let status = demo.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(1), "{}", demo.log());
    assert!(demo.log().contains("demonctl: demo: step "), "no step is named");
    nothing_is_left(&directory, &processes, port).await;
}
