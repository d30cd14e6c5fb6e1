//! An agent that is cut off for longer than its outbox has room: switches are kept or summed up, nothing is told twice, and
//! how much is missing is said.

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::fault_proxy::{Fault, FaultProxy};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::http_request::get;
use acceptance::node_status::{told, told_times};
use acceptance::operations::operated;
use acceptance::stored_log::{checked_chains, event_log, text};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use streams::release_store::ReleaseStore;

/// The smallest that may be set.
const LIMIT: usize = 16;
/// Each is three events: more than the outbox takes.
const SWITCHES: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_beyond_its_limit_and_beyond_the_servers_memory_doubles_nothing_and_says_what_is_missing() {
    let mut world = World::start(&["n1"]).await;
    let (log, store) = (world.log().await, ReleaseStore::new(world.operator().await));
    let published = async |tag: &str| {
        HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await.announced(&log).await;
    };
    published("first").await;
    // What the agent reads passes, and what it writes is never answered: as many releases come as do, and no event goes out.
    let operator = world.raw_operator().await;
    let proxy = FaultProxy::start(world.server.port());
    world.reached_by(Some(proxy.url()));
    let mut command = world.agent_command("n1");
    command.env("DEMON_OUTBOX_LIMIT", LIMIT.to_string()).env("DEMON_INTERVAL", "200ms").env("NATS_TIMEOUT", "1s");
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    agent.switched_to("first").await;
    told_times(&world, "n1", "bundle.loaded", 1).await;
    let address = agent.http_address().await;

    // A stream that is full takes no event of a node; the releases of this test are let in one by one.
    let mut config = operator.api("STREAM.INFO.BUNDLE_EVENTS", &json!(null)).await["config"].take();
    config["duplicate_window"] = json!(100_000_000);
    let roomy = config.clone();
    let (mut tight, mut sealed) = (config.clone(), 0);
    for number in 0..SWITCHES {
        let tag = format!("unheard-{number:02}");
        let answer = operator.api("STREAM.UPDATE.BUNDLE_EVENTS", &roomy).await;
        assert!(answer["error"].is_null(), "{answer}");
        proxy.set(Fault::Cut);
        published(&tag).await;
        let bytes = operator.api("STREAM.INFO.BUNDLE_EVENTS", &json!(null)).await["state"]["bytes"].as_u64();
        tight["max_bytes"] = json!(bytes.expect("a size") + 1);
        let answer = operator.api("STREAM.UPDATE.BUNDLE_EVENTS", &tight).await;
        assert!(answer["error"].is_null(), "{answer}");
        proxy.heal();
        agent.switched_to(&tag).await;
        sealed += 1;
    }
    assert_eq!(sealed, SWITCHES);
    let full = |line: &str| line.contains("an event is not recorded") && line.contains("which is its limit");
    agent.process.log_line("that the outbox is full", PATIENCE, full).await;
    let complaints = agent.process.log().lines().filter(|line| full(line)).count();
    assert!(complaints <= 3, "{complaints} lines about one full outbox");
    let waiting = metric(address, "demon_agent_outbox_events").await;
    assert!((1..=LIMIT).contains(&waiting), "{waiting} wait");

    let answer = operator.api("STREAM.UPDATE.BUNDLE_EVENTS", &roomy).await;
    assert!(answer["error"].is_null(), "{answer}");
    let last = format!("unheard-{:02}", SWITCHES - 1);
    let account = eventually("the last switch in the log", PATIENCE, async || {
        let all = told(&world, "n1", "bundle.loaded").await;
        satisfied(all.last().is_some_and(|data| data["tag"] == last.as_str()), || format!("{all:?}"))?;
        Ok(all)
    })
    .await;
    // Every switch is told by itself: the agent's memory keeps what the outbox has no room for.
    let tags: BTreeSet<String> = account.iter().map(|data| text(data, "tag")).collect();
    assert_eq!((account.len(), tags.len()), (SWITCHES + 1, SWITCHES + 1), "{account:?}");
    let again = |line: &str| line.contains("so many before are in this log only") && line.contains("\"refused\":");
    agent.process.log_line("how many are missing", PATIENCE, again).await;
    assert!(metric(address, "demon_agent_outbox_refused_events_total").await > 0);
    let status = get(address, "/api/contracts/status", &[]).await.body;
    assert!(status.contains("events could not be recorded since the start"), "{status}");

    let log = event_log(&operator).await;
    let ids: BTreeSet<String> = log.iter().map(|message| text(&message.event(), "id")).collect();
    assert_eq!(ids.len(), log.len(), "an event stands in the log twice");
    checked_chains(&log);
    operated(&world, &["events", "verify"]).await;
}

/// What the agent's metrics say about this one, which has no labels.
async fn metric(address: SocketAddr, name: &str) -> usize {
    let metrics = get(address, "/metrics", &[]).await.body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("`{name}`: {metrics}"))
}
