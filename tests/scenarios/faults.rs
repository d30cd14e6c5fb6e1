//! What the system promises while something breaks: servers, lines, disks, stored bytes, clocks, and nodes that are not
//! what they were.

mod broken_lines;
mod cluster;
mod damaged_copies;
mod damaged_store;
mod elections;
mod full_disks;
mod full_outboxes;
mod misbehaving_peers;
mod odd_nodes;
mod random_cluster_run;
mod random_run;
mod server_killed;
mod wrong_clocks;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::node_status::told;
use acceptance::operations::{operator_command, publish_command};
use acceptance::promises::Acknowledged;
use acceptance::sample_trees::change_one_contract;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished};
use tokio::time::{Instant, timeout};

/// What a program is given to reach the server in these scenarios.
const REQUEST_TIMEOUT: &str = "2s";

/// Publishes once and records it where the program says that it is done. Never hangs, and never ends otherwise than
/// with 0, or with 1 and one line that says why.
async fn try_publish(world: &World, source: &Path, tag: &str, acknowledged: &mut Acknowledged) -> bool {
    change_one_contract(source, tag);
    let mut command = publish_command(world, source, tag);
    command.env("NATS_TIMEOUT", REQUEST_TIMEOUT);
    let done = done_or_refused(&format!("publishing {tag}"), finished(command)).await.is_some();
    if done {
        acknowledged.published.insert(tag.to_owned());
    }
    done
}

/// Publishes again and again until the program says that it is done: a cluster may have to elect a leader first.
async fn publish_until_done(world: &World, source: &Path, tag: &str, acknowledged: &mut Acknowledged) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if try_publish(world, source, tag, acknowledged).await {
            return;
        }
    }
    panic!("{tag} cannot be published although nothing is broken any more");
}

/// Waits until a node's last switch in the log is the one to this release.
async fn told_last(world: &World, node: &str, tag: &str) {
    eventually(&format!("the switch of {node} to {tag} as its last in the log"), PATIENCE, async || {
        let all = told(world, node, "bundle.loaded").await;
        satisfied(all.last().is_some_and(|last| last["tag"] == tag), || format!("{all:?}"))
    })
    .await;
}

/// Starts an agent in directories of its own that looks and tries again soon.
fn trying_again_soon(world: &World, node: &str) -> Agent {
    let mut command = world.agent_command(node);
    command.env("DEMON_INTERVAL", "1s").env("DEMON_RETRY_FIRST", "100ms").env("DEMON_RETRY_LONGEST", "1s");
    let directories = AgentDirectories::below(world.directory(), node);
    Agent::start(node, command, directories, world.directory())
}

/// Moves channel `latest` by an operator and records it where the program says that it is done.
async fn try_promote(world: &World, tag: &str, reason: &str, acknowledged: &mut Acknowledged) -> bool {
    let mut command = operator_command(world, &["channel", "promote", "latest", tag, "--reason", reason]);
    command.env("NATS_TIMEOUT", REQUEST_TIMEOUT);
    let done = done_or_refused(&format!("promoting {tag}"), finished(command)).await;
    // Where the channel points there already nothing is moved.
    if done.as_ref().is_some_and(|words| words.contains(" → ")) {
        acknowledged.moved.insert((tag.to_owned(), reason.to_owned()));
    }
    done.is_some()
}

/// What it printed, where it is done; nothing where it was refused.
async fn done_or_refused(what: &str, work: impl Future<Output = Output>) -> Option<String> {
    let output =
        timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} hangs: it did not end in {PATIENCE:?}"));
    match output.status.code() {
        Some(0) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(1) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let complaint = words.lines().filter(|line| !line.starts_with('{')).count();
            assert_eq!(complaint, 1, "{what}: one line that says why: {words}");
            say(&format!("{what}: {}", words.lines().last().unwrap_or_default()));
            None
        }
        _ => panic!("{what} ended with {}: {}", output.status, both_outputs(&output)),
    }
}

/// A seed: that of an earlier run from the environment, or a new one. It is printed, and repeats the run's choices.
fn seed() -> u64 {
    let given = std::env::var("DEMON_FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seed = given.unwrap_or(now.as_secs() % 1_000_000);
    say(&format!("DEMON_FAULT_SEED={seed} repeats these choices"));
    seed
}

#[expect(clippy::print_stderr, reason = "who reads a failed or long run needs its seed and numbers")]
fn say(text: &str) {
    eprintln!("faults: {text}");
}
