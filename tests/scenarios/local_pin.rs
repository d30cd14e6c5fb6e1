//! A release put into an agent's cache by hand: the agent takes it over and keeps it until its channel moves.

use std::fs;

use acceptance::agent::Agent;
use acceptance::fake_github::{FakeGitHub, FakeRelease};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::shell::Shell;
use acceptance::stored_log::{event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use serde_json::Value;
use streams::event_log::EventLog;
use streams::node_table::NodeTable;
use streams::release_store::ReleaseStore;

/// Fields end in this order: the agent before the directory that it writes into.
struct Node {
    agent: Agent,
    shell: Shell,
    log: EventLog,
    releases: Vec<HandmadeRelease>,
    world: World,
}

impl Node {
    /// An agent that runs `v3`, the last of three releases, and a shell beside its cache.
    async fn running_newest() -> Self {
        let world = World::start(&["edge-1"]).await;
        let (log, store) = (world.log().await, ReleaseStore::new(world.operator().await));
        let mut releases = Vec::new();
        for tag in ["v1", "v2", "v3"] {
            let release = HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await;
            release.announced(&log).await;
            releases.push(release);
        }
        let agent = world.start_agent("edge-1");
        let directory = agent.cache().parent().expect("a cache lies in a directory").to_owned();
        let shell = Shell::new(&directory, &world.demonctl()).with("DEMON_ACTOR", "ada");
        let shell = shell.with("DEMON_CONTRACTS_CACHE", "contracts");
        let mut node = Self { agent, shell, log, releases, world };
        node.agent.switched_to("v3").await;
        node.agent.flat_view_leads_to("v3").await;
        node.loads(&["v3"]).await;
        node
    }

    async fn fetch(&self, tag: &str) -> String {
        let script = format!("demonctl contracts fetch-bundle --tag {tag} 2>&1");
        self.shell.types(&script).await
    }

    /// Waits until these, and no others, are the switches that the node reported.
    async fn loads(&self, expected: &[&str]) {
        let operator = self.world.raw_operator().await;
        eventually(&format!("the node to report {expected:?}"), PATIENCE, async || {
            let log = event_log(&operator).await;
            let loaded: Vec<String> = of_node(&log, "bundle.loaded", "edge-1")
                .iter()
                .map(|message| message.data()["tag"].as_str().unwrap_or_default().to_owned())
                .collect();
            satisfied(loaded == expected, || format!("it reported {loaded:?}"))
        })
        .await;
    }

    /// Waits until the node's entry says that this is pinned, and that it runs.
    async fn shows(&self, pinned: Option<&str>, running: &str) {
        let table = NodeTable::new(self.world.operator().await);
        eventually(&format!("the node to show {pinned:?}"), PATIENCE, async || {
            let entry: Option<Value> = table
                .list()
                .await
                .map_err(|error| error.to_string())?
                .into_iter()
                .find(|entry| entry.node.as_str() == "edge-1")
                .and_then(|entry| serde_json::from_slice(&entry.value).ok());
            let entry = entry.ok_or("there is no entry")?;
            let bundle = &entry["bundles"][0];
            let shown = (bundle["pinned"].as_str(), bundle["active"]["tag"].as_str());
            satisfied(shown == (pinned, Some(running)), || format!("it shows {shown:?}"))
        })
        .await;
    }

    fn pin(&self) -> Option<Value> {
        let text = fs::read(self.shell.directory().join("contracts.pin")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    async fn pin_is_gone(&self) {
        eventually("the pin to be gone", PATIENCE, async || satisfied(self.pin().is_none(), || "it is there".into()))
            .await;
    }
}

#[tokio::test]
async fn a_release_fetched_by_hand_stays_until_the_channel_moves() {
    let mut node = Node::running_newest().await;
    let said = node.fetch("v1").await;
    assert!(said.contains("keeps `v1` until channel `latest` next moves"), "{said}");
    node.loads(&["v3", "v1"]).await;
    node.shows(Some("v1"), "v1").await;
    let pin = node.pin().expect("a pin");
    assert_eq!((pin["tag"].as_str(), pin["actor"].as_str()), (Some("v1"), Some("ada")));

    // A restart, a deleted cache and another look at the log change nothing.
    node.agent.process.kill();
    node.agent = node.world.start_agent_in("edge-1", "edge-1 again", node.agent.directories());
    // The entry may be that of the killed one.
    node.agent.process.log_line("the release", PATIENCE, |line| line.contains("\"bundle.loaded\"")).await;
    node.shows(Some("v1"), "v1").await;
    node.shell.types("rm -rf contracts/").await;
    node.agent.switched_to("v1").await;
    node.loads(&["v3", "v1", "v1"]).await;

    // The channel moves: back to following it.
    node.releases[1].promoted(&node.log).await;
    node.agent.switched_to("v2").await;
    node.pin_is_gone().await;
    node.shows(None, "v2").await;
    node.loads(&["v3", "v1", "v1", "v2"]).await;
}

#[tokio::test]
async fn fetching_what_the_channel_points_at_ends_a_pin_and_pins_nothing() {
    let mut node = Node::running_newest().await;
    node.fetch("contracts-latest").await;
    assert_eq!(node.pin(), None);
    node.fetch("v1").await;
    node.loads(&["v3", "v1"]).await;
    node.fetch("v2").await;
    node.loads(&["v3", "v1", "v2"]).await;
    node.fetch("contracts-latest").await;
    assert_eq!(node.pin(), None);
    node.agent.switched_to("v3").await;
    node.loads(&["v3", "v1", "v2", "v3"]).await;
    node.shows(None, "v3").await;
}

#[tokio::test]
async fn a_withdrawal_beats_the_pin() {
    let mut node = Node::running_newest().await;
    node.fetch("v1").await;
    node.loads(&["v3", "v1"]).await;
    node.releases[0].withdrawn(&node.log).await;
    node.agent.switched_to("v3").await;
    node.pin_is_gone().await;
    let refused = node.shell.fails("demonctl contracts fetch-bundle --tag v1", 1).await;
    assert!(refused.contains("was withdrawn"), "{refused}");
    assert_eq!(node.agent.active_tag().as_deref(), Some("v3"));
}

#[tokio::test]
async fn an_agent_that_was_down_serves_what_was_fetched_meanwhile_at_once() {
    let mut node = Node::running_newest().await;
    node.agent.process.kill();
    node.fetch("v2").await;
    node.agent = node.world.start_agent_in("edge-1", "edge-1 again", node.agent.directories());
    node.loads(&["v3", "v2"]).await;
    node.shows(Some("v2"), "v2").await;
    assert_eq!(node.agent.active_tag().as_deref(), Some("v2"));
}

#[tokio::test]
async fn an_agent_without_a_release_takes_over_one_that_is_fetched_by_hand() {
    let world = World::start(&["edge-1"]).await;
    let (log, store) = (world.log().await, ReleaseStore::new(world.operator().await));
    let release = HandmadeRelease::stored(&store, "contracts", "v1", &contracts_files("v1")).await;
    release.only_announced(&log).await;
    let mut agent = world.start_agent("edge-1");
    agent.process.log_line("its start", PATIENCE, |line| line.contains("points at no release yet")).await;
    let directory = agent.cache().parent().expect("a cache lies in a directory");
    let shell = Shell::new(directory, &world.demonctl()).with("DEMON_CONTRACTS_CACHE", "contracts");
    shell.types("demonctl contracts fetch-bundle --tag v1").await;
    agent.process.log_line("the switch", PATIENCE, |line| line.contains("\"bundle.loaded\"")).await;
    drop(agent);
}

#[tokio::test]
async fn a_release_that_the_log_does_not_announce_stays_too() {
    const TAG: &str = "contracts-20260203-1f0e9d8c";
    let mut node = Node::running_newest().await;
    let github = FakeGitHub::start("acme", "other");
    github.publish(FakeRelease::contracts(TAG, "{\"schemas\": {\"a.json\": \"{}\"}, \"wit\": {}}\n"));
    let url = github.url();
    let fetch = format!(
        "env -u HTTP_PROXY -u http_proxy GH_OWNER=acme GH_REPO=other DEMONCTL_GITHUB_API_URL={url} \
         demonctl contracts fetch-bundle --source github --tag {TAG} 2>&1"
    );
    let said = node.shell.types(&fetch).await;
    assert!(said.contains(&format!("keeps `{TAG}` until channel `latest` next moves")), "{said}");
    node.shows(Some(TAG), TAG).await;
    node.loads(&["v3", TAG]).await;
    node.releases[1].promoted(&node.log).await;
    node.agent.switched_to("v2").await;
    node.pin_is_gone().await;
}

#[tokio::test]
async fn a_cache_without_an_agent_gets_no_pin_and_no_event() {
    let world = World::start(&[]).await;
    let (log, store) = (world.log().await, ReleaseStore::new(world.operator().await));
    for tag in ["v1", "v2"] {
        let release = HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await;
        release.announced(&log).await;
    }
    let before = log.state().await.expect("the log").events;
    let shell = Shell::new(&world.subdirectory("work"), &world.demonctl());
    shell.types("demonctl contracts fetch-bundle --tag v1").await;
    assert_eq!(shell.types("ls -A .demon").await, "contracts\ncontracts.lock\n");
    assert_eq!(log.state().await.expect("the log").events, before);
}

#[tokio::test]
async fn the_playbooks_restore_works_under_a_running_agent() {
    let node = Node::running_newest().await;
    for tag in ["v1", "v2", "v1"] {
        let restore = format!(
            "set -e\nrm -rf contracts/\ndemonctl contracts fetch-bundle --tag {tag}\nshasum -a 256 -c contracts/bundle.sha256"
        );
        let printed = node.shell.types(&restore).await;
        assert!(printed.trim_end().ends_with("bundle.json: OK"), "{printed}");
        assert_eq!(node.agent.active_tag().as_deref(), Some(tag));
        node.shows(Some(tag), tag).await;
        assert_eq!(node.agent.active_tag().as_deref(), Some(tag), "the agent does not undo it");
    }
    let operator = node.world.raw_operator().await;
    let log = event_log(&operator).await;
    for failure in ["bundle.verification_failed", "bundle.download_failed"] {
        assert!(of_node(&log, failure, "edge-1").is_empty(), "{failure}");
    }
    node.agent.flat_view_leads_to("v1").await;
}
