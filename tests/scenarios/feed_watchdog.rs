//! News that does not arrive is noticed, although the log can be read; and a log that cannot be read, although news would.

use std::net::SocketAddr;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::http_request::get;
use acceptance::operations::publish_contracts;
use acceptance::sample_trees::contracts;
use acceptance::stored_log::EVENT_STREAM;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use serde_json::{Value, json};
use streams::release_store::ReleaseStore;

async fn published(world: &World, tag: &str) {
    publish_contracts(world, &contracts(world.directory()), tag).await;
}

async fn announced_by_hand(world: &World, tag: &str) {
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await.announced(&world.log().await).await;
}

/// Changes the stream's settings behind everybody's back.
async fn reconfigure(world: &World, change: impl FnOnce(&mut Value)) {
    let operator = world.raw_operator().await;
    let info = operator.api(&format!("STREAM.INFO.{EVENT_STREAM}"), &Value::Null).await;
    let mut config = info["config"].clone();
    change(&mut config);
    let answer = operator.api(&format!("STREAM.UPDATE.{EVENT_STREAM}"), &config).await;
    assert!(answer["error"].is_null(), "{answer}");
}

/// Waits until the connection counts as lost, with these words among the warnings, or as standing.
async fn connected(address: SocketAddr, expected: bool, words: &str) {
    eventually(&format!("connected: {expected}"), PATIENCE, async || {
        let strict = get(address, "/healthz/strict", &[]).await;
        let shown = strict.json()["checks"]["connected"]["ok"] == expected && strict.body.contains(words);
        satisfied(shown, || strict.body.clone())
    })
    .await;
}

async fn start(world: &World) -> (Agent, SocketAddr) {
    let mut command = world.agent_command("n1");
    command.env("DEMON_INTERVAL", "300ms").env("DEMON_STRICT_REQUIRES", "connected");
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    let address = agent.http_address().await;
    (agent, address)
}

#[tokio::test]
async fn a_feed_that_delivers_nothing_is_noticed_while_reads_go_on() {
    let world = World::start(&["n1"]).await;
    let (mut agent, address) = start(&world).await;
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    connected(address, true, "").await;

    // Whoever republishes elsewhere: subscriptions stand, and nothing comes.
    reconfigure(&world, |config| config["republish"]["dest"] = json!("elsewhere.bundle.>")).await;
    // The publisher would refuse such a stream.
    announced_by_hand(&world, "v2").await;
    agent.switched_to("v2").await;
    connected(address, false, "live messages do not arrive").await;
    agent.process.log_line("the new subscription", PATIENCE, |line| line.contains("subscribing anew")).await;

    reconfigure(&world, |config| config["republish"]["dest"] = json!("live.bundle.>")).await;
    published(&world, "v3").await;
    agent.switched_to("v3").await;
    connected(address, true, "").await;
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_noticed_while_the_connection_stands() {
    let world = World::start(&["n1"]).await;
    let (mut agent, address) = start(&world).await;
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    connected(address, true, "").await;
    reconfigure(&world, |config| config["allow_direct"] = json!(false)).await;
    connected(address, false, "").await;
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));
    reconfigure(&world, |config| config["allow_direct"] = json!(true)).await;
    connected(address, true, "").await;
}
