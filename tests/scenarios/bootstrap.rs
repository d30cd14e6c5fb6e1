//! `demonctl bootstrap` as the playbooks type it: cold, warm, beside a running agent, and with something broken.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use acceptance::agent::{Agent, AgentDirectories, active_tag};
use acceptance::checkout::{Checkout, stderr, stdout};
use acceptance::sample_trees::contracts;
use acceptance::status_server::StatusServer;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use serde_json::Value;
use shared::event_type::EventType;

const NODE: &str = "edge-1";
/// The playbook's line, word for word.
const FILTERED: &str = r#"cargo run -p demonctl -- bootstrap | jq -r 'select(.event | startswith("bundle."))'"#;

async fn publish(world: &World, tag: &str) {
    let mut command = world.publisher();
    command.args(["--tag", tag]).arg("--source").arg(contracts(world.directory()));
    succeeded(command).await;
}

/// `demonctl bootstrap` on a node's directories, with the node's login.
fn bootstrap(world: &World, directories: &AgentDirectories, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.arg("bootstrap").args(arguments).args(["--node", NODE]);
    command.arg("--cache").arg(&directories.cache).arg("--state-dir").arg(&directories.state);
    command.env("NATS_USER", NODE).env("NATS_PASSWORD", world.password(NODE).expose());
    command
}

async fn beside(world: &World, agent: &mut Agent, arguments: &[&str]) -> Command {
    let address = format!("http://{}", agent.http_address().await);
    let mut command = bootstrap(world, &agent.directories(), arguments);
    command.env("DEMON_AGENT_URL", address);
    command
}

/// The lines on standard output; each must be an object with a string `event`.
fn lines(output: &Output) -> Vec<Value> {
    let lines = stdout(output);
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
    let lines: Vec<Value> = lines.collect();
    for line in &lines {
        assert!(line["event"].is_string(), "{line}");
    }
    lines
}

fn names(output: &Output) -> Vec<String> {
    lines(output).iter().map(|line| line["event"].as_str().expect("text").to_owned()).collect()
}

fn failed_checks(output: &Output) -> BTreeSet<String> {
    let done = lines(output).pop().expect("a last line");
    assert_eq!(done["event"], "bootstrap.done");
    let failed = done["failed"].as_array().expect("a list").iter();
    failed.map(|name| name.as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn the_playbooks_pipeline_prints_the_bundles_events_and_no_complaint() {
    let world = World::start(&[NODE]).await;
    publish(&world, "v1").await;
    let mut checkout = Checkout::new();
    checkout.connect(&world);
    checkout.set("DEMON_NODE_ID", NODE);
    // Only what cargo prints on top differs from the program itself.
    let cargo = "#!/bin/bash\n[[ \"$1 $2 $3 $4\" == 'run -p demonctl --' ]] || exit 9\nshift 4\nexec demonctl \"$@\"\n";
    checkout.shims.write_program("cargo", cargo);
    // `jq` has to be content with every line, the ones it drops too.
    let run = async |line: &str| {
        let line = format!("set -o pipefail; {}", line.replace("| jq", "2>/dev/null | jq"));
        let output = finished(checkout.bash_in(&checkout.work(), &line)).await;
        assert!(output.status.success(), "{}", both_outputs(&output));
        assert_eq!(stderr(&output), "", "jq complains");
        let printed = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
        printed.map(|line| line.expect("jq prints JSON")).collect::<Vec<_>>()
    };

    let cold = run(FILTERED).await;
    let events: Vec<&str> = cold.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(events, ["bundle.refresh_attempt", "bundle.staged", "bundle.loaded"]);
    let loaded = &cold[2];
    assert_eq!((loaded["source"].as_str(), loaded["tag"].as_str()), (Some("Download"), Some("v1")));
    assert!(loaded["sha256"].is_string() && loaded["duration_ms"].is_u64(), "{loaded}");

    // The same events, in the same order, are in the fleet's log.
    let mut pages = world.log().await.by_subject(format!("bundle.*.*.node.{NODE}"), 1);
    let mut stored = Vec::new();
    while let Some(page) = pages.next_page().await.expect("the log can be read") {
        stored.extend(page.iter().map(|event| event.envelope().expect("an event").1.event.event_type()));
    }
    assert_eq!(stored, [EventType::RefreshAttempt, EventType::Staged, EventType::Loaded]);

    let warm = run(FILTERED).await;
    let events: Vec<&str> = warm.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(events, ["bundle.loaded"], "nothing is downloaded again");
    assert_eq!(warm[0]["source"], "Cache");

    // As the playbook has it before: the cache is deleted.
    let output = finished(checkout.bash_in(&checkout.work(), "rm -rf .demon/contracts/")).await;
    assert!(output.status.success(), "{}", both_outputs(&output));
    assert!(run(FILTERED).await.iter().any(|line| line["event"] == "bundle.refresh_attempt"));
    assert_eq!(active_tag(&checkout.work().join(".demon/contracts")).as_deref(), Some("v1"));
}

#[tokio::test]
async fn a_running_agent_is_asked_and_left_alone() {
    let world = World::start(&[NODE]).await;
    let mut agent = world.start_agent(NODE);
    let output = finished(beside(&world, &mut agent, &[]).await).await;
    assert!(output.status.success(), "an empty system is no failure: {}", both_outputs(&output));
    assert_eq!(lines(&output).last().expect("a last line")["outcome"], "empty");

    publish(&world, "v1").await;
    agent.switched_to("v1").await;
    // The agent appends its events a moment after the switch.
    let output = eventually("the agent's events in the log", PATIENCE, async || {
        let output = finished(beside(&world, &mut agent, &[]).await).await;
        satisfied(names(&output).len() > 3, || both_outputs(&output))?;
        Ok(output)
    })
    .await;
    let expected = ["bootstrap.config", "bundle.refresh_attempt", "bundle.staged", "bundle.loaded", "bootstrap.done"];
    assert_eq!(names(&output), expected);
    let done = lines(&output).pop().expect("a last line");
    assert_eq!((done["by"].as_str(), done["tag"].as_str()), (Some("agent"), Some("v1")));

    // Without NATS the agent itself is enough.
    let mut offline = beside(&world, &mut agent, &[]).await;
    offline.env("NATS_URL", "nats://127.0.0.1:1");
    let output = finished(offline).await;
    assert_eq!(names(&output), ["bootstrap.config", "bundle.loaded", "bootstrap.done"], "{}", both_outputs(&output));
    assert!(agent.process.runs());

    // Another program at the address is not taken for it.
    let other = StatusServer::start("loaded").await;
    let mut elsewhere = beside(&world, &mut agent, &["--timeout", "2s"]).await;
    elsewhere.env("DEMON_AGENT_URL", format!("http://{}", other.address()));
    let output = finished(elsewhere).await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(stderr(&output).contains("--agent-url"), "{}", both_outputs(&output));
}

#[tokio::test]
async fn a_release_that_cannot_be_loaded_is_an_error_with_a_remedy() {
    let world = World::start(&[NODE]).await;
    let directories = AgentDirectories::below(world.directory(), NODE);
    let output = finished(bootstrap(&world, &directories, &[])).await;
    assert!(output.status.success(), "an empty system is no failure: {}", both_outputs(&output));
    assert!(stderr(&output).contains("warning: "), "{}", both_outputs(&output));

    publish(&world, "v1").await;
    let store = streams::release_store::ReleaseStore::new(world.operator().await);
    let (bundle, tag) = ("contracts".parse().expect("a name"), "v1".parse().expect("a tag"));
    let archive = shared::subjects::archive_object(&bundle, &tag);
    let how = streams::release_store::Tampering::RecomputeMeta;
    store.tamper(&archive, how).await.expect("the operator may alter the store");
    let output = finished(bootstrap(&world, &directories, &[])).await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(names(&output).contains(&"bundle.verification_failed".to_owned()), "{}", both_outputs(&output));
    let done = lines(&output).pop().expect("a last line");
    assert!(done["reason"].as_str().is_some_and(|reason| reason.contains("expected")), "{done}");
    assert!(done["remediation"].is_string());

    let mut dead = bootstrap(&world, &directories, &["--timeout", "500ms"]);
    dead.env("NATS_URL", "nats://127.0.0.1:1");
    let output = finished(dead).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("127.0.0.1:1"), "{}", both_outputs(&output));

    let output = finished(bootstrap(&world, &directories, &["--channel", "a b"])).await;
    assert_eq!(output.status.code(), Some(2), "options that cannot be used: {}", both_outputs(&output));
}

/// `demonctl bootstrap --verify` as an operator types it beside an agent.
fn verify(world: &World, agent_url: &str, directory: &Path) -> Command {
    let mut command = world.demonctl();
    command.args(["bootstrap", "--verify", "--node", NODE]).current_dir(directory).env("DEMON_AGENT_URL", agent_url);
    command
}

#[tokio::test]
async fn verifying_names_what_is_broken_and_changes_nothing() {
    let world = World::start(&[NODE]).await;
    let mut agent = world.start_agent(NODE);
    let (url, directory) = (format!("http://{}", agent.http_address().await), world.subdirectory("elsewhere"));
    let check = async |change: &dyn Fn(&mut Command)| {
        let mut command = verify(&world, &url, &directory);
        change(&mut command);
        finished(command).await
    };
    let empty = check(&|_| {}).await;
    assert!(empty.status.success(), "an empty system is no failure: {}", both_outputs(&empty));
    assert!(stderr(&empty).contains("warning"), "{}", both_outputs(&empty));

    publish(&world, "v1").await;
    agent.switched_to("v1").await;
    let well = check(&|_| {}).await;
    assert!(well.status.success(), "{}", both_outputs(&well));
    let outcomes: BTreeSet<String> = lines(&well)
        .iter()
        .filter(|line| line["event"] == "bootstrap.verify")
        .map(|line| format!("{} {}", line["name"].as_str().expect("a name"), line["outcome"].as_str().expect("one")))
        .collect();
    let expected =
        ["agent_reachable", "agent_status", "log_epoch", "nats_login", "nats_reachable", "published_release"];
    for name in expected.iter().chain(&["streams"]) {
        assert!(outcomes.contains(&format!("{name} yes")), "{name}: {outcomes:?}");
    }

    // A node's own login cannot compare the streams, and that is no fault.
    let as_node = check(&|command| {
        command.env("NATS_USER", NODE).env("NATS_PASSWORD", world.password(NODE).expose());
    })
    .await;
    assert!(as_node.status.success(), "{}", both_outputs(&as_node));

    let no_agent = check(&|command| {
        command.env("DEMON_AGENT_URL", "http://127.0.0.1:1");
    })
    .await;
    assert_eq!(no_agent.status.code(), Some(1));
    assert_eq!(failed_checks(&no_agent), BTreeSet::from(["agent_reachable".to_owned()]));

    let no_server = check(&|command| {
        command.env("NATS_URL", "nats://127.0.0.1:1");
    })
    .await;
    assert_eq!(failed_checks(&no_server), BTreeSet::from(["nats_reachable".to_owned()]));

    let operator = world.raw_operator().await;
    let answer = operator.api("STREAM.DELETE.OBJ_BUNDLES", &Value::Null).await;
    assert_eq!(answer["success"], true, "{answer}");
    let no_bucket = check(&|_| {}).await;
    assert!(failed_checks(&no_bucket).contains("streams"), "{}", both_outputs(&no_bucket));
    assert!(stderr(&no_bucket).contains("OBJ_BUNDLES"), "{}", both_outputs(&no_bucket));
    assert_eq!(directory.read_dir().expect("it is there").count(), 0, "nothing was written");
}

#[tokio::test]
async fn an_agent_in_trouble_fails_and_is_sent_the_tokens_that_are_set() {
    let world = World::start(&[NODE]).await;
    let directory = world.subdirectory("elsewhere");
    let status = StatusServer::start("download_error").await;
    let url = format!("http://{}", status.address());
    let mut command = verify(&world, &url, &directory);
    command.env("ADMIN_TOKEN", "admin-0123456789").env("AGENT_API_KEY", "old-0123456789abcdef,new-0123456789abcdef");
    let output = finished(command).await;
    assert_eq!(failed_checks(&output), BTreeSet::from(["agent_status".to_owned()]), "{}", both_outputs(&output));
    assert!(!both_outputs(&output).contains("0123456789"), "a secret is shown");
    assert_eq!(status.header("x-admin-token").as_deref(), Some("admin-0123456789"));
    assert_eq!(status.header("x-api-key").as_deref(), Some("old-0123456789abcdef"));

    let output = finished(verify(&world, &url, &directory)).await;
    assert_eq!(status.header("x-admin-token"), None, "{}", both_outputs(&output));
}
