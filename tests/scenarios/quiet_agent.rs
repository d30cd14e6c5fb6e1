//! What an agent costs that has nothing to do, and how much it says when it has.

use acceptance::agent::Agent;
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::http_request::get;
use acceptance::raw_client::RawClient;
use acceptance::stored_log::{NODE_TABLE_STREAM, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use streams::release_store::ReleaseStore;

/// Heartbeats that are counted.
const HEARTBEATS: u64 = 20;
/// Most lines at `info` that a switch may cost.
const LINES_A_SWITCH: usize = 10;

/// Messages that a node's connection has sent to the server and received from it, as the server counts.
async fn messages(world: &World, node: &str) -> (u64, u64) {
    let page = get(world.server.monitoring(), "/connz?auth=1", &[]).await.json();
    let connections = page["connections"].as_array().expect("connections").clone();
    let of_node: Vec<_> = connections.iter().filter(|found| found["authorized_user"] == node).collect();
    assert_eq!(of_node.len(), 1, "one connection an agent: {page}");
    let count = |member: &str| of_node[0][member].as_u64().expect("a number");
    (count("in_msgs"), count("out_msgs"))
}

async fn published(world: &World, tag: &str) {
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await.announced(&world.log().await).await;
}

/// Waits until the switch is in the log, so that nothing is on its way any more.
async fn told(operator: &RawClient, tag: &str) {
    eventually(&format!("the switch to {tag} in the log"), PATIENCE, async || {
        let log = event_log(operator).await;
        let found = of_node(&log, "bundle.loaded", "n1").iter().any(|event| event.data()["tag"] == tag);
        satisfied(found, || format!("{} events, not this one", log.len()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_sends_a_heartbeat_and_a_head_read_an_interval_and_nothing_else() {
    let world = World::monitored(&["n1"]).await;
    let operator = world.raw_operator().await;
    published(&world, "v1").await;
    let mut command = world.agent_command("n1");
    command.env("DEMON_INTERVAL", "100ms");
    let directories = acceptance::agent::AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    agent.switched_to("v1").await;
    told(&operator, "v1").await;

    // What the switch changed in the node's entry is shown within the next heartbeats.
    let heartbeats = async || operator.stream_state(NODE_TABLE_STREAM).await.last_sequence;
    let await_heartbeats = async |number: u64| {
        eventually(&format!("heartbeat {number}"), PATIENCE, async || {
            let beaten = heartbeats().await;
            satisfied(beaten >= number, || format!("the last is {beaten}"))
        })
        .await;
    };
    await_heartbeats(heartbeats().await + 5).await;
    let (beaten, (sent, received)) = (heartbeats().await, messages(&world, "n1").await);
    await_heartbeats(beaten + HEARTBEATS).await;
    let (sent_now, received_now) = messages(&world, "n1").await;
    let beats = heartbeats().await - beaten;

    // Both timers are spread by a fifth, so that there may be 1.5 head reads to a heartbeat, and one more at each end.
    let most_reads = beats + beats / 2 + 2;
    let (sent, received) = (sent_now - sent, received_now - received);
    assert!(sent >= beats, "{sent} messages in {beats} heartbeats");
    assert!(sent <= beats + most_reads, "{sent} messages in {beats} heartbeats: more than one read to each");
    // The confirmation of a heartbeat; the head, the epoch, the node's own last events and the end of the answer.
    assert!(received <= beats + most_reads * 8, "{received} messages received in {beats} heartbeats");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_costs_at_most_ten_lines_of_log() {
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    published(&world, "v1").await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("v1").await;
    told(&operator, "v1").await;
    let mut lines = agent.process.log().lines().count();
    for tag in ["v2", "v3", "v4"] {
        published(&world, tag).await;
        agent.switched_to(tag).await;
        told(&operator, tag).await;
        let log = agent.process.log();
        let said: Vec<&str> = log.lines().skip(lines).collect();
        assert!(said.len() <= LINES_A_SWITCH, "{} lines for one switch: {said:#?}", said.len());
        for event in ["bundle.refresh_attempt", "bundle.staged", "bundle.loaded"] {
            let told = said.iter().filter(|line| line.contains(&format!("\"event\":\"{event}\""))).count();
            assert_eq!(told, 1, "{event} in {said:#?}");
        }
        lines += said.len();
    }
}
