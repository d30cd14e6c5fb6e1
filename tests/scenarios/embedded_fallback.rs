//! When nothing that was released can run, the schemas compiled into the agent do, and the log says so once.

use std::fs;
use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::http_request::get;
use acceptance::node_status::{status, status_when, told, told_times};
use acceptance::operations::{operated, publish_contracts};
use acceptance::sample_trees::contracts;
use acceptance::waiting::PATIENCE;
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::World;
use serde_json::{Value, json};
use streams::release_store::{ReleaseStore, Tampering};

const SCHEMA: &str = "/api/schema/metadata?schemaName=approval.requested.v1";
const PREFIX: &str = "contracts-embedded-";

fn on_embedded(status: &Value) -> bool {
    status["metadata"]["tag"].as_str().is_some_and(|tag| tag.starts_with(PREFIX))
}

#[tokio::test]
async fn without_a_server_and_without_a_cache_the_built_in_schemas_serve() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let mut command = WorkspaceBinary::Runtime.command();
    // Nothing listens on port 1.
    command.args(["--node", "n1", "--nats-url", "nats://127.0.0.1:1"]).env("PORT", "0");
    let directories = AgentDirectories::below(directory.path(), "n1");
    let mut agent = Agent::start("n1", command, directories, directory.path());
    let address = agent.http_address().await;
    let schema = get(address, SCHEMA, &[]).await;
    assert_eq!(schema.status, 200, "also before anything is in the cache: {}", schema.body);

    let status = status_when(address, "the built-in schemas to run", on_embedded).await;
    assert_eq!(
        (&status["status"], &status["usingFallback"], &status["source"]),
        (&json!("download_error"), &json!(true), &json!("fallback"))
    );
    let log = agent.process.log();
    let said = log.lines().filter(|line| line.contains("\"event\":\"bundle.fallback_activated\"")).count();
    assert_eq!(said, 1, "{log}");
    assert!(!log.contains("\"event\":\"bundle.loaded\""), "{log}");

    // They have the form of any contracts release: the flat view, and a checksum that passes.
    let tag = agent.active_tag().expect("something is current");
    agent.flat_view_leads_to(&tag).await;
    let mut check = Command::new("sha256sum");
    let check = check.args(["--check", "bundle.sha256"]).current_dir(agent.cache()).output();
    assert!(check.expect("sha256sum is installed").status.success());
    let schema = get(address, SCHEMA, &[]).await;
    assert_eq!((schema.status, schema.json()["tag"].clone()), (200, json!(tag)));
    assert_eq!(get(address, "/api/schema/metadata?schemaName=no.such.v1", &[]).await.status, 404);
    assert_eq!(get(address, "/api/schema/metadata", &[]).await.status, 400);
}

#[tokio::test]
async fn a_node_that_can_fetch_nothing_runs_them_until_something_valid_is_there() {
    let world = World::start(&["n1"]).await;
    let store = ReleaseStore::new(world.operator().await);
    let bad = HandmadeRelease::stored(&store, "contracts", "bad", &contracts_files("bad")).await;
    store.tamper(&bad.objects()[0].name, Tampering::KeepMeta).await.expect("the operator may alter the store");
    bad.announced(&world.log().await).await;
    let mut agent = world.start_agent("n1");
    let address = agent.http_address().await;
    let status = status_when(address, "the built-in schemas to run", on_embedded).await;
    assert_eq!((&status["status"], &status["usingFallback"]), (&json!("verification_failed"), &json!(true)));

    let said = told_times(&world, "n1", "bundle.fallback_activated", 1).await;
    assert_eq!(
        (&said[0]["source"], &said[0]["cause"], &said[0]["wanted_tag"]),
        (&json!("embedded"), &json!("verification_failed"), &json!("bad"))
    );
    let fleet: Value = serde_json::from_str(&operated(&world, &["fleet", "status", "--output", "json"]).await)
        .expect("the output is JSON");
    assert!(fleet.to_string().contains(PREFIX), "{fleet}");

    // A restart finds them in place and says nothing again.
    agent.process.kill();
    let mut agent = world.start_agent_in("n1", "again", agent.directories());
    let address = agent.http_address().await;
    status_when(address, "the built-in schemas to run", on_embedded).await;
    publish_contracts(&world, &contracts(world.directory()), "good").await;
    agent.switched_to("good").await;
    let status = status_when(address, "good to run", |status| status["status"] == "loaded").await;
    assert_eq!((&status["usingFallback"], &status["source"]), (&json!(false), &json!("primary")));
    assert_eq!(told(&world, "n1", "bundle.fallback_activated").await.len(), 1);
    assert_eq!(told(&world, "n1", "bundle.loaded").await.len(), 1);
}

#[tokio::test]
async fn a_last_good_release_comes_first_and_withdrawing_it_leaves_the_built_in_schemas() {
    let world = World::start(&["n1"]).await;
    publish_contracts(&world, &contracts(world.directory()), "only").await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("only").await;
    let store = ReleaseStore::new(world.operator().await);
    let bad = HandmadeRelease::stored(&store, "contracts", "bad", &contracts_files("bad")).await;
    store.tamper(&bad.objects()[0].name, Tampering::KeepMeta).await.expect("the operator may alter the store");
    bad.announced(&world.log().await).await;
    let said = told_times(&world, "n1", "bundle.fallback_activated", 1).await;
    assert_eq!((&said[0]["source"], &said[0]["tag"]), (&json!("last_good"), &json!("only")));
    assert_eq!(agent.active_tag().as_deref(), Some("only"));

    operated(&world, &["release", "withdraw", "only", "--reason", "broken", "--yes"]).await;
    let address = agent.http_address().await;
    status_when(address, "the built-in schemas to run", on_embedded).await;
    let said = told_times(&world, "n1", "bundle.fallback_activated", 2).await;
    assert_eq!(said[1]["source"], "embedded");
    assert!(fs::read_link(agent.cache().join("current")).expect("a link").display().to_string().contains(PREFIX));
    assert_eq!(status(address).await["usingFallback"], json!(true));
    agent.process.log_line("why", PATIENCE, |line| line.contains("compiled into the agent")).await;
}
