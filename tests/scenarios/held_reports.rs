//! What a switch is written down and told with may wait a moment, so that other nodes can switch; nothing of it gets lost.

use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::stored_log::{StoredMessage, event_log, of_node};
use acceptance::waiting::PATIENCE;
use acceptance::world::World;
use rustix::process::Signal;
use streams::release_store::ReleaseStore;

/// Longer than any step of these tests.
const HOLD: &str = "10s";

async fn published(world: &World, tag: &str) {
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await.announced(&world.log().await).await;
}

fn holding(world: &World) -> Command {
    let mut command = world.agent_command("n1");
    command.env("DEMON_REPORT_WITHIN", HOLD);
    command
}

/// The tags of the node's switches with their numbers, as the log has them.
async fn told(world: &World) -> Vec<(String, u64)> {
    let log = event_log(&world.raw_operator().await).await;
    let of = |event: &&StoredMessage| {
        let data = event.data();
        (data["tag"].as_str().unwrap_or_default().to_owned(), data["activation_epoch"].as_u64().unwrap_or_default())
    };
    of_node(&log, "bundle.loaded", "n1").iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_told_before_the_next_switch_and_when_the_agent_ends() {
    let world = World::start(&["n1"]).await;
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", holding(&world), directories, world.directory());
    for tag in ["v1", "v2", "v3"] {
        published(&world, tag).await;
        agent.switched_to(tag).await;
    }
    agent.process.signal(Signal::TERM);
    assert!(agent.process.ended(PATIENCE).await.success(), "{}", agent.process.log());
    assert_eq!(told(&world).await, [("v1".to_owned(), 1), ("v2".to_owned(), 2), ("v3".to_owned(), 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_when_the_agent_was_killed_is_told_by_the_next() {
    let world = World::start(&["n1"]).await;
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", holding(&world), directories, world.directory());
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    agent.process.kill();
    assert!(told(&world).await.is_empty());
    let mut agent = Agent::start("again", world.agent_command("n1"), agent.directories(), world.directory());
    published(&world, "v2").await;
    agent.switched_to("v2").await;
    agent.process.signal(Signal::TERM);
    assert!(agent.process.ended(PATIENCE).await.success(), "{}", agent.process.log());
    assert_eq!(told(&world).await, [("v1".to_owned(), 1), ("v2".to_owned(), 2)]);
}
