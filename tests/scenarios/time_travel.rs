//! `demonctl state|node show|diff|blame`: any instant of the past, by the server's clock and by the nodes' clocks.

use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::reported::{download_failed, loaded, reported, writer_of};
use acceptance::stored_log::{event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually};
use acceptance::world::{World, both_outputs, finished, succeeded};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use streams::release_store::ReleaseStore;

fn demonctl(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.args(arguments);
    command
}

async fn json(world: &World, arguments: &[&str]) -> Value {
    let output = succeeded(demonctl(world, &[arguments, &["--output", "json"]].concat())).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both_outputs(&output)))
}

async fn text(world: &World, arguments: &[&str]) -> String {
    String::from_utf8_lossy(&succeeded(demonctl(world, arguments)).await.stdout).into_owned()
}

async fn refused(world: &World, arguments: &[&str]) -> String {
    let output = finished(demonctl(world, arguments)).await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn released(world: &World, bundle: &str, tag: &str, files: &[(&str, Vec<u8>)]) {
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, bundle, tag, files).await.announced(&world.log().await).await;
}

/// Waits until the node's switch to a release is in the log; returns its stream sequence.
async fn told(world: &World, node: &str, tag: &str) -> u64 {
    let operator = world.raw_operator().await;
    eventually(&format!("the switch of {node} to {tag} in the log"), PATIENCE, async || {
        let log = event_log(&operator).await;
        let found = of_node(&log, "bundle.loaded", node).into_iter().find(|event| event.data()["tag"] == tag);
        found.map(|event| event.sequence).ok_or_else(|| "not there".to_owned())
    })
    .await
}

fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_stays_what_it_was_and_the_difference_is_named() {
    let world = World::start(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    released(&world, "contracts", "v1", &contracts_files("v1")).await;
    agent.switched_to("v1").await;
    let first = told(&world, "n1", "v1").await.to_string();
    let before = json(&world, &["state", "--at", &first]).await;
    released(&world, "contracts", "v2", &contracts_files("v2")).await;
    agent.switched_to("v2").await;
    let second = told(&world, "n1", "v2").await;

    assert_eq!(json(&world, &["state", "--at", &first]).await, before);
    assert_eq!(before["channels"][0]["head"]["tag"], "v1");
    let now = json(&world, &["state"]).await;
    assert_eq!(now["channels"][0]["moves"].as_array().expect("moves").len(), 2);
    let adoption = &now["releases"][0]["adoption"][0];
    assert_eq!((&adoption["node"], &adoption["until"]["stream_sequence"]), (&Value::from("n1"), &Value::from(second)));

    let shown = json(&world, &["node", "show", "n1", "--at", &first]).await;
    assert_eq!(
        (&shown[0]["active"]["tag"], &shown[0]["promotion"]["actor"]),
        (&Value::from("v1"), &Value::from("tests"))
    );
    let stored_at = shown[0]["active"]["stored_at"].as_str().expect("a time").to_owned();
    let by_time = json(&world, &["node", "show", "n1", "--at", &stored_at]).await;
    assert_eq!(by_time[0]["active"]["tag"], "v1");
    let now = text(&world, &["node", "show", "n1"]).await;
    assert!(now.contains("runs         v2") && now.contains("on latest by tests"), "{now}");
    assert!(now.lines().any(|line| line.contains("v1")), "its way is shown: {now}");

    let difference = json(&world, &["diff", "--from", &first]).await;
    assert_eq!(difference["channels"][0]["after"]["tag"], "v2");
    assert_eq!(difference["published"][0]["tag"], "v2");
    let node = &difference["nodes"][0];
    assert_eq!((&node["before"]["tag"], &node["after"]["tag"]), (&Value::from("v1"), &Value::from("v2")));
    let nothing = text(&world, &["diff", "--from", &first, "--to", &first]).await;
    assert!(nothing.contains("nothing changed"), "{nothing}");
    let backwards = refused(&world, &["diff", "--from", &first, "--to", "1"]).await;
    assert!(backwards.contains("exchange the two"), "{backwards}");
    let unknown = refused(&world, &["node", "show", "n9"]).await;
    assert!(unknown.contains("has reported nothing"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_offline_for_days_reports_late_and_both_clocks_tell_their_own_story() {
    let world = World::start(&["n1", "n2"]).await;
    let mut agent = world.start_agent("n1");
    released(&world, "contracts", "v1", &contracts_files("v1")).await;
    agent.switched_to("v1").await;
    told(&world, "n1", "v1").await;
    let before_the_reports = world.raw_operator().await.stream_state("BUNDLE_EVENTS").await.last_sequence.to_string();
    // n2 was cut off from Thursday to today: it switched twice and failed once, and says so only now.
    let (log, mut n2) = (world.log().await, writer_of("n2"));
    let ago = |hours| Utc::now() - TimeDelta::hours(hours);
    reported(&log, &mut n2, loaded("v1", 1), ago(72)).await;
    reported(&log, &mut n2, download_failed("v2"), ago(48)).await;
    let last = reported(&log, &mut n2, loaded("v2", 2), ago(24)).await;

    // What was known then: nothing.
    let unknown = refused(&world, &["node", "show", "n2", "--at", &before_the_reports]).await;
    assert!(unknown.contains("has reported nothing"), "{unknown}");
    let known = json(&world, &["state", "--at", &before_the_reports]).await;
    assert_eq!(known["nodes"].as_array().expect("nodes").len(), 1);
    // What had happened then, as is known today.
    let tag = async |hours: i64| {
        let at = written(ago(hours));
        json(&world, &["node", "show", "n2", "--happened-at", &at]).await[0]["active"]["tag"].clone()
    };
    assert_eq!(tag(60).await, "v1");
    assert_eq!(tag(36).await, "v1");
    assert_eq!(tag(12).await, "v2");
    let failing = json(&world, &["node", "show", "n2", "--happened-at", &written(ago(36))]).await;
    assert_eq!(failing[0]["failing"]["tag"], "v2");
    let healthy = json(&world, &["node", "show", "n2", "--happened-at", &written(ago(60))]).await;
    assert_eq!(healthy[0]["failing"], Value::Null);
    let before_all = refused(&world, &["node", "show", "n2", "--happened-at", &written(ago(96))]).await;
    assert!(before_all.contains("has reported nothing"), "{before_all}");
    // Both clocks: what was known before the reports about the day before yesterday.
    let both = ["node", "show", "n2", "--at", &before_the_reports, "--happened-at", &written(ago(36))];
    assert!(refused(&world, &both).await.contains("has reported nothing"));
    let both = json(&world, &["state", "--at", &last.to_string(), "--happened-at", &written(ago(36))]).await;
    assert_eq!(both["nodes"].as_array().expect("nodes").len(), 1, "n1 switched today only: {both}");
    assert_eq!(both["nodes"][0]["node"], "n2");
    let words = text(&world, &["node", "show", "n2"]).await;
    assert!(words.contains("reported"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blame_names_the_release_that_brought_a_files_content() {
    let world = World::start(&["n1"]).await;
    let mut command = world.agent_command("n1");
    command.args(["--bundle", "policies"]);
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    let file = |text: &str| text.as_bytes().to_vec();
    for (tag, policy, limits) in [("p1", "one", "10"), ("p2", "one", "20"), ("p3", "two", "20"), ("p4", "one", "20")] {
        released(&world, "policies", tag, &[("policy.rego", file(policy)), ("config/limits.json", file(limits))]).await;
        agent.switched_to(tag).await;
        told(&world, "n1", tag).await;
    }
    // The limits came with p2; the policy of p1 was replaced by p3's and came back with p4.
    for (path, tag) in [("config/limits.json", "p2"), ("policy.rego", "p4")] {
        let blame = json(&world, &["blame", "n1", path]).await;
        assert_eq!(
            (&blame["since"]["tag"], &blame["active"]["tag"]),
            (&Value::from(tag), &Value::from("p4")),
            "{path}"
        );
        assert_eq!(blame["promotion"]["tag"], tag);
        assert_eq!(blame["announcement"]["tag"], tag);
        assert_eq!(blame["not_known_before"], Value::Null);
    }
    let third = told(&world, "n1", "p3").await.to_string();
    let then = json(&world, &["blame", "n1", "policy.rego", "--at", &third]).await;
    assert_eq!(then["since"]["tag"], "p3");
    let words = text(&world, &["blame", "n1", "config/limits.json"]).await;
    assert!(words.contains("came with    p2") && words.contains("by tests"), "{words}");
    let missing = refused(&world, &["blame", "n1", "other"]).await;
    assert!(missing.contains("has no file `other`") && missing.contains("policy.rego"), "{missing}");
    let wrong = finished(demonctl(&world, &["blame", "n1", "../etc/passwd"])).await;
    assert_eq!(wrong.status.code(), Some(2));
}
