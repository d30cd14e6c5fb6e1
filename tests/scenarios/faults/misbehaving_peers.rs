//! Servers that answer with nonsense, too much, too slowly or nothing: commands end in one line, agents stay.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::http_request::get;
use acceptance::operations::text_of;
use acceptance::sample_trees::contracts;
use acceptance::scripted_peer::{Script, ScriptedPeer};
use acceptance::waiting::PATIENCE;
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::finished;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::random_run::usage;
use super::say;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Connecting takes at most five seconds, and each of a few requests one; machines that test are busy.
const LIMIT: Duration = Duration::from_secs(30);
/// What an agent may use beside a peer that sends 8 MiB before it is given up.
const MOST_KILOBYTES: u64 = 120 << 10;

fn commands(peer: &ScriptedPeer, source: &Path, state: &Path) -> Vec<Command> {
    let mut publisher = WorkspaceBinary::Publisher.command();
    publisher.args(["publish", "--tag", "v1"]).arg("--source").arg(source).arg("--state-dir").arg(state);
    let operator = |arguments: &[&str]| {
        let mut command = WorkspaceBinary::Demonctl.command();
        command.args(arguments).env("DEMON_ACTOR", "ada");
        command
    };
    let mut all = vec![
        publisher,
        operator(&["channel", "promote", "latest", "v1"]),
        operator(&["events", "list"]),
        operator(&["fleet", "status"]),
        operator(&["store", "verify"]),
    ];
    for command in &mut all {
        command.env("NATS_URL", peer.url()).env("NATS_TIMEOUT", format!("{}s", REQUEST_TIMEOUT.as_secs()));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_answers_commands_end_in_one_line() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let source = contracts(directory.path());
    let peers: Vec<(Script, ScriptedPeer)> =
        Script::ALL.into_iter().map(|script| (script, ScriptedPeer::start(script))).collect();
    let mut running = Vec::new();
    for (script, peer) in &peers {
        let state = directory.path().join(format!("{script:?}"));
        for command in commands(peer, &source, &state) {
            let what = format!("{script:?}: {command:?}");
            running.push(async move {
                let begun = Instant::now();
                let output = timeout(LIMIT, finished(command)).await.unwrap_or_else(|_| panic!("{what} hangs"));
                (what, output, begun.elapsed())
            });
        }
    }
    // A handful at a time.
    let mut results = Vec::new();
    while !running.is_empty() {
        let few: Vec<_> = running.drain(..running.len().min(6)).collect();
        results.extend(futures_util::future::join_all(few).await);
    }
    let mut faults = Vec::new();
    for (what, output, took) in results {
        let words = text_of(&output.stderr);
        let complaints = words.lines().filter(|line| !line.starts_with('{')).count();
        let dump =
            ["panicked", "Error {", "Some(", "Os {", "RUST_BACKTRACE"].into_iter().find(|part| words.contains(part));
        if output.status.code() != Some(1) || complaints != 1 || dump.is_some() {
            faults.push(format!("{what}: {} after {took:?}, {complaints} lines: {words}", output.status));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_answers_an_agent_stays_and_is_bounded() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let mut agents = Vec::new();
    for script in Script::ALL {
        let peer = ScriptedPeer::start(script);
        let name = format!("{script:?}");
        let mut command = WorkspaceBinary::Runtime.command();
        command.args(["--node", "n1", "--nats-url", &peer.url()]).env("PORT", "0");
        command.env("NATS_TIMEOUT", format!("{}s", REQUEST_TIMEOUT.as_secs()));
        let directories = AgentDirectories::below(directory.path(), &name);
        agents.push((script, peer, Agent::start(&name, command, directories, directory.path())));
    }
    let mut most = 0;
    for _ in 0..16 {
        sleep(Duration::from_millis(500)).await;
        for (script, _, agent) in &mut agents {
            assert!(agent.process.runs(), "{script:?} ended the agent: {}", agent.process.log());
            let (memory, _) = usage(agent.process.id());
            assert!(memory < MOST_KILOBYTES, "{script:?}: {memory} KiB");
            most = most.max(memory);
        }
    }
    for (script, _, agent) in &mut agents {
        let address = agent.http_address().await;
        let status = get(address, "/api/contracts/status", &[]).await;
        assert_eq!(status.status, 200, "{script:?}: {}", status.body);
        let log = agent.process.log();
        assert!(!log.contains("panicked"), "{script:?}: {log}");
        let lines = log.lines().count();
        assert!(lines < 60, "{script:?}: {lines} lines in eight seconds: {log}");
        assert!(log.lines().any(|line| line.contains("\"WARN\"")), "{script:?}: nothing is said: {log}");
        agent.process.signal(Signal::TERM);
    }
    for (_, _, agent) in &mut agents {
        agent.process.ended(PATIENCE).await;
    }
    say(&format!("the largest agent used {most} KiB"));
}
