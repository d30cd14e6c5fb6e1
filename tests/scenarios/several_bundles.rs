//! One agent that runs several bundles: each is fetched, switched, refused and shown by itself.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories, active_tag};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::http_request::get;
use acceptance::operations::{operate, operated_json, text_of};
use acceptance::stored_log::{StoredMessage, event_log};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished};
use rustix::process::Signal;
use serde_json::{Value, json};
use streams::release_store::{ReleaseStore, Tampering};

const NODE: &str = "edge-1";

/// Fields end in this order: the agent before the directory that it writes into.
struct Node {
    agent: Agent,
    policies: PathBuf,
    world: World,
}

impl Node {
    /// An agent that runs contracts `v1` and policies `p1`.
    async fn running_two() -> Self {
        let world = World::start(&[NODE]).await;
        released(&world, "contracts", "v1").await;
        released(&world, "policies", "p1").await;
        let policies = world.directory().join("elsewhere/policies");
        let agent = start(&world, &policies, "first");
        let mut node = Self { agent, policies, world };
        node.agent.switched_to("v1").await;
        node.policies_switched_to("p1").await;
        node
    }

    async fn policies_switched_to(&self, tag: &str) {
        eventually(&format!("the policies to be {tag}"), PATIENCE, async || {
            let active = active_tag(&self.policies);
            satisfied(active.as_deref() == Some(tag), || format!("they are {active:?}"))
        })
        .await;
    }

    /// The node's row about a bundle, once it stands like this.
    async fn row(&self, bundle: &str, state: &str) -> Value {
        eventually(&format!("{bundle} to be {state}"), PATIENCE, async || {
            let rows = operated_json(&self.world, &["fleet", "status"]).await;
            let found = rows.as_array().expect("rows").iter().find(|row| row["bundle"] == bundle).cloned();
            let found = found.ok_or_else(|| format!("no row: {rows}"))?;
            satisfied(found["state"] == state, || format!("{found}")).map(|()| found.clone())
        })
        .await
    }

    /// What the node reported, oldest first.
    async fn reported(&self) -> Vec<StoredMessage> {
        let log = event_log(&self.world.raw_operator().await).await;
        log.into_iter().filter(|message| message.subject.ends_with(&format!(".node.{NODE}"))).collect()
    }

    async fn loads(&self) -> Vec<String> {
        let loads = self.reported().await.into_iter().filter(|message| message.event_type() == "bundle.loaded");
        loads.map(|message| message.data()["tag"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn start(world: &World, policies: &Path, log: &str) -> Agent {
    let mut command = world.agent_command(NODE);
    command.args(["--bundle", "contracts"]).arg("--bundle").arg(format!("policies={}", policies.display()));
    command.args(["--interval", "1s"]);
    Agent::start(log, command, AgentDirectories::below(world.directory(), NODE), world.directory())
}

async fn stored(world: &World, bundle: &str, tag: &str) -> HandmadeRelease {
    let files =
        if bundle == "contracts" { contracts_files(tag) } else { vec![("rules.rego", tag.as_bytes().to_vec())] };
    HandmadeRelease::stored(&ReleaseStore::new(world.operator().await), bundle, tag, &files).await
}

async fn released(world: &World, bundle: &str, tag: &str) {
    stored(world, bundle, tag).await.announced(&world.log().await).await;
}

/// A release whose archive was altered in the store becomes the channel's head.
async fn released_broken(world: &World, bundle: &str, tag: &str) {
    let release = stored(world, bundle, tag).await;
    let store = ReleaseStore::new(world.operator().await);
    store.tamper(&release.objects()[0].name, Tampering::KeepMeta).await.expect("the operator may alter the store");
    release.announced(&world.log().await).await;
}

async fn answer(address: SocketAddr, path: &str) -> Value {
    let answer = get(address, path, &[]).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_release_of_one_bundle_does_not_touch_the_other() {
    let mut node = Node::running_two().await;
    let address = node.agent.http_address().await;
    released_broken(&node.world, "policies", "p2").await;
    let failed = node.row("policies", "failed").await;
    assert_eq!((&failed["tag"], &failed["desired"]), (&json!("p1"), &json!("p2")));

    // The contracts follow their channel while the policies keep failing.
    released(&node.world, "contracts", "v2").await;
    node.agent.switched_to("v2").await;
    operate(&node.world, &["fleet", "wait", "--channel", "latest"], 0).await;
    let late = ["fleet", "wait", "--channel", "latest", "--bundle", "policies", "--timeout", "200ms"];
    let late = text_of(&operate(&node.world, &late, 3).await.stderr);
    assert!(late.contains("node `edge-1` runs p1: its last attempt failed"), "{late}");
    let ok = node.row("contracts", "ok").await;
    assert_eq!((&ok["tag"], &ok["failure"]), (&json!("v2"), &Value::Null));
    // Once the entry has caught up, no bundle's row takes the other's events for missing ones.
    eventually("the table to agree with the log", PATIENCE, async || {
        let rows = operated_json(&node.world, &["fleet", "status"]).await;
        let agree = rows.as_array().expect("rows").iter().all(|row| row["contradiction"].is_null());
        satisfied(agree, || rows.to_string())
    })
    .await;
    let full = operated_json(&node.world, &["fleet", "status", "--full"]).await;
    let states: Vec<&Value> = full.as_array().expect("rows").iter().map(|row| &row["state"]).collect();
    assert_eq!(states, ["ok", "failed"], "{full}");

    // The node says the same over HTTP.
    let document = answer(address, "/api/contracts/status").await;
    let contracts = &document["contractBundle"];
    assert_eq!((&contracts["status"], &contracts["metadata"]["tag"]), (&json!("stale"), &json!("v2")));
    let bundles = answer(address, "/api/bundles").await;
    let names: Vec<&Value> = bundles["bundles"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["contracts", "policies"]);
    let policies = answer(address, "/api/bundles/policies").await;
    assert_eq!(policies["standing"]["status"], "verification_failed");
    assert_eq!(policies["standing"]["cacheDir"], node.policies.display().to_string());
    let strict = answer(address, "/healthz/strict").await;
    assert_eq!(strict["checks"]["policies.loaded"]["ok"], true, "the last good one runs: {strict}");
    let page = get(address, "/metrics", &[]).await.body;
    for series in [
        "demon_bundle_status{state=\"stale\",bundle=\"contracts\"} 1",
        "demon_bundle_status{state=\"verification_failed\",bundle=\"policies\"} 1",
        "demon_bundle_fallback_active{bundle=\"policies\"} 1",
        "demon_bundle_fallback_active{bundle=\"contracts\"} 0",
    ] {
        assert!(page.contains(series), "{series}\n{page}");
    }

    // What is good again is followed again.
    released(&node.world, "policies", "p3").await;
    node.policies_switched_to("p3").await;
    node.row("policies", "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_writes_one_chain_of_events_and_one_entry_about_all_its_bundles() {
    let mut node = Node::running_two().await;
    node.row("contracts", "ok").await;
    node.row("policies", "ok").await;
    let reported = node.reported().await;
    let mut numbers = Vec::new();
    let incarnation = reported[0].event()["incarnation"].clone();
    for message in &reported {
        let event = message.event();
        assert_eq!(event["incarnation"], incarnation);
        numbers.push(event["sequence"].as_str().expect("a number").parse::<usize>().expect("decimal"));
    }
    assert_eq!(numbers, (1..=reported.len()).collect::<Vec<_>>(), "one writer, whichever bundle an event is about");

    let shown = operated_json(&node.world, &["node", "show", NODE]).await;
    let shown: Vec<(&Value, &Value)> = shown
        .as_array()
        .expect("a report for each bundle")
        .iter()
        .map(|report| (&report["bundle"], &report["active"]["tag"]))
        .collect();
    assert_eq!(shown, [(&json!("contracts"), &json!("v1")), (&json!("policies"), &json!("p1"))]);
    operate(&node.world, &["events", "verify"], 0).await;

    // Started again it serves both, and has nothing to report: also with the one file of an earlier version.
    let loads = node.loads().await;
    node.agent.process.signal(Signal::TERM);
    node.agent.process.ended(PATIENCE).await;
    let state = node.agent.state().to_owned();
    fs::rename(state.join("state.contracts.json"), state.join("state.json")).expect("the memory can be moved");
    node.agent = start(&node.world, &node.policies, "second");
    let address = node.agent.http_address().await;
    eventually("both bundles to be served", PATIENCE, async || {
        let ready = get(address, "/ready", &[]).await;
        satisfied(ready.status == 200, || ready.body.clone())
    })
    .await;
    released(&node.world, "policies", "p2").await;
    node.policies_switched_to("p2").await;
    node.row("policies", "ok").await;
    assert_eq!(node.loads().await, [loads, vec!["p2".to_owned()]].concat());
    assert!(state.join("state.contracts.json").exists() && !state.join("state.json").exists());

    // A slip in the settings does not replace one bundle by another.
    node.agent.process.signal(Signal::TERM);
    node.agent.process.ended(PATIENCE).await;
    let mut slip = node.world.agent_command(NODE);
    slip.args(["--bundle", "policies", "--state-dir"]).arg(&state).arg("--cache").arg(node.agent.cache());
    let refused = finished(slip).await;
    let words = text_of(&refused.stderr);
    assert_eq!((refused.status.code(), words.lines().count()), (Some(1), 1), "{}", both_outputs(&refused));
    assert!(words.contains("holds bundle `contracts`"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_fetched_by_hand_pins_its_bundle_only() {
    let mut node = Node::running_two().await;
    released(&node.world, "policies", "p2").await;
    node.policies_switched_to("p2").await;
    let destination = node.policies.display().to_string();
    let state = node.agent.state().display().to_string();
    let fetch =
        ["bundle", "fetch", "--tag", "p1", "--bundle", "policies", "--dest", &destination, "--state-dir", &state];
    operate(&node.world, &fetch, 0).await;
    let pinned = node.row("policies", "pinned").await;
    assert_eq!((&pinned["tag"], &pinned["pinned"]), (&json!("p1"), &json!("p1")));
    released(&node.world, "contracts", "v2").await;
    node.agent.switched_to("v2").await;
    assert_eq!(node.row("contracts", "ok").await["pinned"], Value::Null);
    released(&node.world, "policies", "p3").await;
    node.policies_switched_to("p3").await;
}

#[tokio::test]
async fn bundles_in_one_directory_are_refused_also_where_a_link_hides_it() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    fs::create_dir(directory.path().join("disk")).expect("a directory");
    symlink(directory.path().join("disk"), directory.path().join("link")).expect("a link");
    let (one, other) = (directory.path().join("disk/one"), directory.path().join("link/one"));
    for (bundles, code) in [
        (format!("a={};b={}", one.display(), one.display()), 2),
        (format!("a={};b={}", one.display(), one.join("b").display()), 2),
        (format!("a={};b={}", one.display(), other.display()), 1),
    ] {
        let mut command: Command = acceptance::workspace_binary::WorkspaceBinary::Runtime.command();
        command.args(["--node", "n1", "--no-http", "--state-dir"]).arg(directory.path().join("agent"));
        command.env("DEMON_BUNDLE", &bundles);
        let output = finished(command).await;
        assert_eq!(output.status.code(), Some(code), "{bundles}: {}", both_outputs(&output));
        let words = text_of(&output.stderr);
        assert_eq!(words.lines().count(), 1, "{words}");
        assert!(words.contains("give each its own"), "{words}");
    }
}
