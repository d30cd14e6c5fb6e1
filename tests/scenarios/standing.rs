//! Stale releases and newer ones beside a pin: said once, and not again after a restart.

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::node_status::{status_when, told, told_times};
use acceptance::operations::{publish_command, publish_contracts};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::stored_log::{event_log, types_of};
use acceptance::world::{World, succeeded};
use chrono::{TimeDelta, Utc};
use serde_json::json;

#[tokio::test]
async fn a_stale_release_is_told_before_it_is_loaded_and_once_over_restarts() {
    let world = World::start(&["n1"]).await;
    let mut publish = publish_command(&world, &contracts(world.directory()), "old");
    publish.args(["--timestamp", &(Utc::now() - TimeDelta::hours(25)).to_rfc3339()]);
    succeeded(publish).await;
    let mut agent = world.start_agent("n1");
    let said = told_times(&world, "n1", "bundle.stale_detected", 1).await;
    assert_eq!((&said[0]["age_hours"], &said[0]["threshold_hours"]), (&json!(25), &json!(24)));
    told_times(&world, "n1", "bundle.loaded", 1).await;
    let log = event_log(&world.raw_operator().await).await;
    let types = types_of(&log, ".node.n1");
    let place = |wanted: &str| types.iter().position(|found| found == wanted);
    assert!(place("bundle.stale_detected") < place("bundle.loaded"), "{types:?}");

    agent.process.kill();
    let mut agent = world.start_agent_in("n1", "again", agent.directories());
    let address = agent.http_address().await;
    status_when(address, "stale", |status| status["status"] == "stale").await;
    change_one_contract(&world.directory().join("contracts"), "fresh");
    publish_contracts(&world, &world.directory().join("contracts"), "fresh").await;
    agent.switched_to("fresh").await;
    assert_eq!(told(&world, "n1", "bundle.stale_detected").await.len(), 1);
}

#[tokio::test]
async fn a_pinned_node_tells_once_that_something_newer_exists() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    publish_contracts(&world, &source, "v1").await;
    let start = |log: &str| {
        let mut command = world.agent_command("n1");
        command.env("DEMON_CONTRACTS_TAG", "v1").env("DEMON_INTERVAL", "500ms");
        Agent::start(log, command, AgentDirectories::below(world.directory(), "n1"), world.directory())
    };
    let mut agent = start("pinned");
    agent.switched_to("v1").await;
    assert!(told(&world, "n1", "bundle.update_detected").await.is_empty());
    change_one_contract(&source, "v2");
    publish_contracts(&world, &source, "v2").await;
    let said = told_times(&world, "n1", "bundle.update_detected", 1).await;
    assert_eq!((&said[0]["tag"], &said[0]["newer_tag"]), (&json!("v1"), &json!("v2")));
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));

    agent.process.kill();
    let mut agent = start("pinned-again");
    let address = agent.http_address().await;
    let newer = |status: &serde_json::Value| status["alerts"].to_string().contains("Newer contract bundle version");
    status_when(address, "the alert", newer).await;
    change_one_contract(&source, "v3");
    publish_contracts(&world, &source, "v3").await;
    let said = told_times(&world, "n1", "bundle.update_detected", 2).await;
    assert_eq!(said[1]["newer_tag"], "v3");
}
