//! `demonctl up`: a stack that keeps its data, its port and its passwords between runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use acceptance::process::{Process, process_exists, wait_until_gone};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{both_outputs, finished, succeeded};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const LEFT_BEHIND_LIMIT: Duration = Duration::from_secs(15);

fn up(data: &Path) -> Command {
    let mut command = WorkspaceBinary::Demonctl.command();
    let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
    command.args(["up", "--agents", "2", "--actor", "tests", "--port", "0"]).arg("--contracts").arg(contracts);
    command.arg("--data").arg(data);
    command
}

/// A stack that has come up.
struct Stack {
    process: Process,
    /// The URL it prints.
    url: String,
    /// Every process it records.
    recorded: Vec<u32>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Its children end a moment after it, and write into the directory until then.
        self.process.kill();
        self.recorded.iter().for_each(|id| wait_until_gone(*id));
    }
}

async fn started(name: &str, directory: &TempDir, data: &Path) -> Stack {
    let mut process = Process::start(name, up(data), directory.path());
    let is_url = |line: &str| line.trim().starts_with("export NATS_URL=");
    let url = process.log_line("the URL", PATIENCE, is_url).await;
    let url = url.trim().trim_start_matches("export NATS_URL=").to_owned();
    process.log_line("the last line", PATIENCE, |line| line.starts_with("Runs until Ctrl-C")).await;
    let record = std::fs::read(data.join("processes.json")).expect("the processes are recorded");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    let recorded = record["processes"].as_array().expect("a list");
    let recorded = recorded
        .iter()
        .map(|process| u32::try_from(process["process_id"].as_u64().expect("a number")).expect("a process id"))
        .collect();
    Stack { process, url, recorded }
}

async fn demonctl(url: &str, arguments: &[&str]) -> Value {
    let mut command = WorkspaceBinary::Demonctl.command();
    command.args(arguments).args(["--output", "json"]).env("NATS_URL", url);
    serde_json::from_slice(&succeeded(command).await.stdout).expect("JSON")
}

async fn both_nodes_run_something(url: &str) {
    eventually("two nodes that run a release", PATIENCE, async || {
        let nodes = demonctl(url, &["fleet", "status"]).await;
        let running = nodes.as_array().expect("rows").iter().filter(|node| node["tag"].is_string()).count();
        satisfied(running == 2, || format!("{nodes}"))
    })
    .await;
}

async fn all_gone(processes: &[u32]) {
    eventually("every recorded process to end", LEFT_BEHIND_LIMIT, async || {
        let left: Vec<_> = processes.iter().filter(|id| process_exists(**id)).collect();
        satisfied(left.is_empty(), || format!("{left:?} run"))
    })
    .await;
}

fn setup() -> (TempDir, PathBuf) {
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().join("stack");
    (directory, data)
}

#[tokio::test]
async fn data_port_and_passwords_are_kept_also_after_a_kill() {
    let (directory, data) = setup();
    let mut first = started("first", &directory, &data).await;
    both_nodes_run_something(&first.url).await;
    let events = demonctl(&first.url, &["events", "list"]).await;
    first.process.kill();
    // At once: what the killed run left behind is waited for.
    let mut second = started("second", &directory, &data).await;
    assert_eq!(first.url, second.url, "port and password are the same");
    all_gone(&first.recorded).await;
    let events_now = demonctl(&second.url, &["events", "list"]).await;
    let (before, now) = (events.as_array().expect("rows"), events_now.as_array().expect("rows"));
    assert_eq!(before.as_slice(), &now[..before.len()], "the log begins as it did");
    let log = second.process.log();
    assert!(log.contains("contracts are unchanged since "), "{log}");

    second.process.signal(Signal::TERM);
    let status = second.process.ended(PATIENCE).await;
    assert!(status.success(), "{status}");
    all_gone(&second.recorded).await;
    let mut third = started("third", &directory, &data).await;
    assert_eq!(first.url, third.url);
    both_nodes_run_something(&third.url).await;

    // What was decided about the contracts is no reason not to come up.
    let nodes = demonctl(&third.url, &["fleet", "status"]).await;
    let tag = nodes[0]["tag"].as_str().expect("it runs one");
    demonctl(&third.url, &["release", "withdraw", tag, "--reason", "a drill", "--yes", "--actor", "tests"]).await;
    third.process.signal(Signal::TERM);
    third.process.ended(PATIENCE).await;
    all_gone(&third.recorded).await;
    let fourth = started("fourth", &directory, &data).await;
    let log = fourth.process.log();
    assert!(log.contains("nothing is published: content ") && log.contains("a drill"), "{log}");
}

#[tokio::test]
async fn a_second_stack_on_the_same_data_gets_one_clear_line() {
    let (directory, data) = setup();
    let first = started("first", &directory, &data).await;
    let output = finished(up(&data)).await;
    assert_eq!(output.status.code(), Some(1));
    let text = both_outputs(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("another stack runs in"), "{text}");
    both_nodes_run_something(&first.url).await;
}

#[tokio::test]
async fn passwords_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, data) = setup();
    let stack = started("stack", &directory, &data).await;
    let password = stack.url.split(['/', ':', '@']).nth(4).expect("a password in the URL").to_owned();
    let mut holding = 0;
    let mut directories = vec![data];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file()
                && std::fs::read(entry.path()).is_ok_and(|bytes| holds(&bytes, password.as_bytes()))
            {
                holding += 1;
                let mode = entry.metadata().expect("metadata").permissions().mode();
                assert_eq!(mode & 0o077, 0, "`{}` has mode {mode:o}", entry.path().display());
            }
        }
    }
    assert_eq!(holding, 2, "the accounts and the server's configuration");
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
