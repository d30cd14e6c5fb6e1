//! Nodes that read the same large archive at the same time: the server reads it once, whatever one of them misses or
//! somebody else sends is made good, and nothing is believed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::http_request::get;
use acceptance::publishing::published;
use acceptance::raw_client::RawClient;
use acceptance::sample_trees::{change_one_contract, contracts, noise};
use acceptance::stored_log::{RELEASE_STREAM, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually};
use acceptance::world::World;
use async_nats::HeaderMap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use shared::digest::Sha256Digest;
use shared::subjects::multicast_prefix;
use streams::release_store::{
    CHUNK_SIZE, MulticastSettings, NewObject, ReleaseStore, SharedReadError, SharedReading, StoredObject,
};
use tokio::time::timeout;

const NAME: &str = "policies/v1.tar.zst";

/// A store whose objects are read together as soon as two readers are there.
async fn together(world: &World, node: &str) -> ReleaseStore {
    let settings = MulticastSettings { from_bytes: Some(1), readers: 2 };
    ReleaseStore::new(world.node(node).await).together(settings)
}

async fn put(world: &World, content: &[u8]) -> StoredObject {
    let store = ReleaseStore::new(world.operator().await);
    store.put(NewObject::named(NAME), content, &()).await.expect("it is stored")
}

async fn open(store: &ReleaseStore, object: &StoredObject) -> SharedReading {
    let reading = store.open_together(&object.reference()).await.expect("the bucket answers");
    reading.expect("it is large enough")
}

/// Reads the rest of an object; how much of it came by others' asking.
async fn rest(mut reading: SharedReading, content: &mut [u8]) -> Result<u64, SharedReadError> {
    let mut from_others = 0;
    let whole = async {
        while let Some(chunk) = reading.next().await? {
            let at = usize::try_from(chunk.offset).expect("it is small");
            content[at..at + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
            from_others += if chunk.from_others { chunk.bytes.len() as u64 } else { 0 };
        }
        Ok(from_others)
    };
    timeout(PATIENCE, whole).await.expect("a reader ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_asks_for_all_receive_and_a_late_one_completes_itself() {
    let nodes = ["n1", "n2", "n3", "n4"];
    let world = World::start(&nodes).await;
    let content = noise(20_000_000, 3);
    let object = put(&world, &content).await;
    let digest = Sha256Digest::of(&content);
    let mut reading = tokio::task::JoinSet::new();
    for (place, node) in nodes.into_iter().enumerate() {
        let (store, object) = (together(&world, node).await, object.clone());
        reading.spawn(async move {
            if place == 3 {
                // Others are on their way when it begins.
                let mut early = open(&store, &object).await;
                early.next().await.expect("it can be read").expect("it is not empty");
            }
            let mut received = vec![0; usize::try_from(object.size).expect("it is small")];
            let from_others = rest(open(&store, &object).await, &mut received).await.expect("it can be read");
            (from_others, Sha256Digest::of(&received))
        });
    }
    let mut shared = 0;
    while let Some(done) = reading.join_next().await {
        let (from_others, received) = done.expect("a reader ends");
        assert_eq!(received, digest);
        shared += from_others;
    }
    assert!(shared > object.size / 2, "only {shared} bytes were shared");
    assert_eq!(world.raw_operator().await.stream_state(RELEASE_STREAM).await.consumers, 0);
}

/// Lets everybody who reads an object hear chunks that somebody with a node's login asks for.
async fn lead(node: &RawClient, object: &StoredObject, from: &str, sequence: u64, batch: u64) {
    let reply = format!("{}0000000000000000.chunk.0", multicast_prefix(&object.nuid));
    let request = json!({ "seq": sequence, "next_by_subj": format!("$O.BUNDLES.C.{from}"), "batch": batch });
    node.send(&format!("$JS.API.DIRECT.GET.{RELEASE_STREAM}"), Some(&reply), HeaderMap::new(), request.to_string())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_or_lies_costs_time_only() {
    let world = World::start(&["n1", "n2"]).await;
    let content = noise(6_000_000, 4);
    let object = put(&world, &content).await;
    let other = ReleaseStore::new(world.operator().await);
    let other =
        other.put(NewObject::named("policies/v2.tar.zst"), &noise(3_000_000, 5)[..], &()).await.expect("stored");
    let mallory = world.raw_node("n2").await;
    let store = together(&world, "n1").await;

    let mut reading = open(&store, &object).await;
    // Chunks of another object, then some of this one out of order, then nothing more.
    lead(&mallory, &object, &other.nuid, 1, 5).await;
    lead(&mallory, &object, &object.nuid, 4, 3).await;
    lead(&mallory, &object, &object.nuid, 2, 1).await;
    let first = reading.next().await.expect("it can be read").expect("it is not empty");
    let mut received = vec![0; content.len()];
    let at = usize::try_from(first.offset).expect("it is small");
    received[at..at + first.bytes.len()].copy_from_slice(&first.bytes);
    rest(reading, &mut received).await.expect("it can be read");
    assert_eq!(Sha256Digest::of(&received), object.sha256);

    // Its login does not let a node send anything of its own making.
    let subject = format!("{}0000000000000000.chunk.0", multicast_prefix(&object.nuid));
    mallory.denied(&subject, HeaderMap::new(), vec![7; CHUNK_SIZE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_the_right_to_listen_reads_alone() {
    let world = World::without_multicast(&["n1"]).await;
    let content = noise(3_000_000, 6);
    let object = put(&world, &content).await;
    let store = together(&world, "n1").await;
    let mut received = vec![0; content.len()];
    let from_others = rest(open(&store, &object).await, &mut received).await.expect("it can be read");
    assert_eq!((from_others, Sha256Digest::of(&received)), (0, object.sha256));
    let again = store.open_together(&object.reference()).await.expect("the bucket answers");
    assert!(again.is_none(), "it does not ask for what it may not have");
}

/// Contracts whose archive has some chunks.
fn large_contracts(world: &World) -> PathBuf {
    let root = contracts(world.directory());
    for number in 1..=2 {
        let mut text = String::new();
        for byte in noise(900_000, number) {
            write!(text, "{byte:02x}").expect("a string takes text");
        }
        let schema = format!("{{\"type\":\"object\",\"description\":\"{text}\"}}\n");
        fs::write(root.join(format!("schemas/large{number}.v1.json")), schema).expect("the directory is writable");
    }
    root
}

fn start(world: &World, node: &str, change: impl FnOnce(&mut std::process::Command)) -> Agent {
    let mut command = world.agent_command(node);
    command.args(["--multicast-from", "1", "--multicast-readers", "2"]);
    change(&mut command);
    Agent::start(node, command, AgentDirectories::below(world.directory(), node), world.directory())
}

/// Bytes that an agent has because others asked for them.
async fn by_others(agent: &mut Agent) -> u64 {
    let address = agent.http_address().await;
    let page = get(address, "/metrics", &[]).await.body;
    let value = page.lines().find_map(|line| line.strip_prefix("demon_agent_multicast_bytes_total "));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no such series: {page}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_read_a_release_together() {
    let nodes = ["n1", "n2", "n3"];
    let world = World::start(&nodes).await;
    let operator = world.raw_operator().await;
    let source = large_contracts(&world);
    let mut agents: Vec<Agent> = nodes.iter().map(|node| start(&world, node, |_| {})).collect();
    for agent in &mut agents {
        agent.http_address().await;
    }
    // Three loops of this machine need not look at the same moment each time.
    let mut shared = 0;
    for release in 0..8 {
        let tag = format!("v{release}");
        change_one_contract(&source, &tag);
        published(&world, &source, &["--tag", &tag, "--deltas", "0"]).await;
        for agent in &mut agents {
            agent.switched_to(&tag).await;
            shared += by_others(agent).await;
        }
        if shared > 0 {
            break;
        }
    }
    assert!(shared > 0, "nothing was shared");
    let log = event_log(&operator).await;
    for (node, agent) in nodes.iter().zip(&agents) {
        assert_eq!(agent.files(), agents[0].files());
        for failure in ["bundle.verification_failed", "bundle.download_failed"] {
            assert!(of_node(&log, failure, node).is_empty(), "{failure} by {node}");
        }
        let staged = of_node(&log, "bundle.staged", node);
        assert!(staged.iter().all(|said| said.data()["strategy"] == "archive"), "{node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_chunks_never_become_visible_and_the_release_is_had_all_the_same() {
    let world = World::start(&["n1"]).await;
    let source = large_contracts(&world);
    published(&world, &source, &["--tag", "v1"]).await;
    let store = ReleaseStore::new(world.operator().await);
    let object = store.info("contracts/v1.tar.zst").await.expect("the bucket answers").expect("it is there");
    assert!(object.chunks > 1, "{object:?}");
    // With an operator's login the agent hears what an operator sends: nobody else may send here.
    let operator = world.raw_operator().await;
    let first = json!({ "seq": 1, "next_by_subj": format!("$O.BUNDLES.C.{}", object.nuid) });
    let first = operator.api(&format!("STREAM.MSG.GET.{RELEASE_STREAM}"), &first).await;
    let first = BASE64_STANDARD.decode(first["message"]["data"].as_str().expect("a chunk")).expect("it is base64");
    let (login, sender, forged) = (world.operator_login(), operator.clone(), object.clone());
    let forging = tokio::spawn(async move {
        loop {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Subject", format!("$O.BUNDLES.C.{}", forged.nuid));
            headers.insert("Nats-Sequence", "1");
            headers.insert("Nats-Num-Pending", (forged.chunks - 1).to_string());
            let subject = format!("{}0000000000000000.chunk.0", multicast_prefix(&forged.nuid));
            sender.send(&subject, None, headers, vec![7; first.len()]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut agent = start(&world, "n1", |command| {
        command.env("NATS_USER", &login.user).env("NATS_PASSWORD", &login.password);
    });
    agent.process.log_line("its second reading", PATIENCE, |line| line.contains("read again alone")).await;
    agent.switched_to("v1").await;
    forging.abort();
    let wire = eventually("the agent's report of what it read", PATIENCE, async || {
        let log = event_log(&operator).await;
        let staged = of_node(&log, "bundle.staged", "n1");
        let said = staged.first().and_then(|said| said.data()["wire_bytes"].as_u64());
        said.ok_or_else(|| format!("{} events so far", log.len()))
    })
    .await;
    assert!(wire > object.size, "what was read in vain is counted: {wire}");
    let log = event_log(&operator).await;
    assert!(of_node(&log, "bundle.verification_failed", "n1").is_empty(), "the store's own bytes are right");
}
