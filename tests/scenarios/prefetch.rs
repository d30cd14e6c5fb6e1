//! Releases that are announced lie in the cache before they are promoted, and nothing else happens because of that.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::node_status::{status, status_when, told, told_times};
use acceptance::operations::operated_json;
use acceptance::small_disk::SmallDisk;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use serde_json::{Value, json};
use streams::release_store::ReleaseStore;

async fn stored(world: &World, tag: &str) -> HandmadeRelease {
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await
}

/// Announces a release and moves no channel.
async fn announced(world: &World, tag: &str) -> HandmadeRelease {
    let release = stored(world, tag).await;
    release.only_announced(&world.log().await).await;
    release
}

/// An agent that runs `v1`.
async fn running_v1(world: &World, node: &str, settings: &[(&str, &str)]) -> Agent {
    stored(world, "v1").await.announced(&world.log().await).await;
    let mut agent = start(world, node, settings);
    agent.switched_to("v1").await;
    told_times(world, node, "bundle.loaded", 1).await;
    agent
}

fn start(world: &World, node: &str, settings: &[(&str, &str)]) -> Agent {
    start_in(world, node, AgentDirectories::below(world.directory(), node), settings)
}

fn start_in(world: &World, node: &str, directories: AgentDirectories, settings: &[(&str, &str)]) -> Agent {
    start_again(world, node, node, directories, settings)
}

/// Starts an agent whose log has a name of its own.
fn start_again(
    world: &World,
    node: &str,
    log: &str,
    directories: AgentDirectories,
    settings: &[(&str, &str)],
) -> Agent {
    let mut command: Command = world.agent_command(node);
    // The releases of these tests are old.
    command.env("DEMON_CONTRACTS_STALE_THRESHOLD_HOURS", "1000000").envs(settings.iter().copied());
    Agent::start(log, command, directories, world.directory())
}

/// The node's events of a type about a release.
async fn told_of(world: &World, node: &str, event_type: &str, tag: &str) -> Vec<Value> {
    told(world, node, event_type).await.into_iter().filter(|data| data["tag"] == tag).collect()
}

/// Waits until the node has told of a release, and returns what it said.
async fn said_of(world: &World, node: &str, event_type: &str, tag: &str) -> Value {
    eventually(&format!("{event_type} of {tag} by {node}"), PATIENCE, async || {
        told_of(world, node, event_type, tag).await.pop().ok_or_else(|| "it has not said so".to_owned())
    })
    .await
}

fn home(agent: &Agent, tag: &str) -> PathBuf {
    agent.cache().join("releases").join(tag)
}

/// The cache's lock, as another program on the node may hold it for a moment.
fn locked(agent: &Agent) -> File {
    let path = agent.cache().with_file_name("contracts.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(path).expect("the lock can be opened");
    lock.lock().expect("the lock can be taken");
    lock
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_lies_in_the_cache_before_it_is_promoted_and_the_promotion_reads_nothing() {
    let world = World::start(&["n1"]).await;
    let mut agent = running_v1(&world, "n1", &[]).await;
    let address = agent.http_address().await;
    assert_eq!(status(address).await.get("staged"), None, "nothing is fetched ahead");

    let release = announced(&world, "v2").await;
    let staged = said_of(&world, "n1", "bundle.staged", "v2").await;
    assert!(staged["wire_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{staged}");
    assert_eq!(staged["tree_digest"], json!(release.tree_digest().to_string()));
    assert_eq!(agent.active_tag().as_deref(), Some("v1"), "nothing is switched");
    assert!(home(&agent, "v2").join("files/bundle.json").is_file());
    let shown = status_when(address, "the staged release in the status", |status| status["staged"] == "v2").await;
    assert_eq!((&shown["status"], &shown["alerts"]), (&json!("loaded"), &json!([])));
    let fleet = operated_json(&world, &["fleet", "status"]).await;
    assert_eq!((&fleet[0]["staged"], &fleet[0]["state"]), (&json!("v2"), &json!("ok")), "{fleet}");

    release.promoted(&world.log().await).await;
    agent.switched_to("v2").await;
    let loaded = said_of(&world, "n1", "bundle.loaded", "v2").await;
    assert_eq!((&loaded["source"], &loaded["wire_bytes"]), (&json!("cache"), &json!(0)), "{loaded}");
    assert_eq!(told_of(&world, "n1", "bundle.refresh_attempt", "v2").await.len(), 1);
    assert_eq!(told_of(&world, "n1", "bundle.staged", "v2").await.len(), 1);
    status_when(address, "nothing staged any more", |status| status.get("staged").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_was_announced_while_the_agent_was_away_the_newest_is_staged() {
    let world = World::start(&["n1"]).await;
    let agent = running_v1(&world, "n1", &[]).await;
    let directories = agent.directories();
    drop(agent);
    for tag in ["v2", "v3", "v4"] {
        announced(&world, tag).await;
    }
    let agent = start_in(&world, "n1", directories, &[]);
    said_of(&world, "n1", "bundle.staged", "v4").await;
    for tag in ["v2", "v3"] {
        assert!(!home(&agent, tag).exists(), "{tag} was fetched");
    }
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));
    assert_eq!(told(&world, "n1", "bundle.refresh_attempt").await.len(), 2, "v1 and v4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_under_way_is_joined_by_the_promotion_and_not_begun_again() {
    let world = World::start(&["n1"]).await;
    let mut agent = running_v1(&world, "n1", &[]).await;
    let lock = locked(&agent);
    let release = announced(&world, "v2").await;
    said_of(&world, "n1", "bundle.refresh_attempt", "v2").await;
    release.promoted(&world.log().await).await;
    agent
        .process
        .log_line("that v2 is desired", PATIENCE, |line| {
            line.contains("\"desired release\"") && line.contains("\"v2\"")
        })
        .await;
    drop(lock);
    agent.switched_to("v2").await;
    said_of(&world, "n1", "bundle.loaded", "v2").await;
    assert_eq!(told_of(&world, "n1", "bundle.refresh_attempt", "v2").await.len(), 1);
    assert_eq!(told_of(&world, "n1", "bundle.staged", "v2").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_under_way_gives_way_to_another_release_that_is_promoted() {
    let world = World::start(&["n1"]).await;
    let earlier = stored(&world, "v0").await;
    earlier.announced(&world.log().await).await;
    let mut agent = start(&world, "n1", &[]);
    agent.switched_to("v0").await;
    stored(&world, "v1").await.announced(&world.log().await).await;
    agent.switched_to("v1").await;
    let lock = locked(&agent);
    announced(&world, "v2").await;
    said_of(&world, "n1", "bundle.refresh_attempt", "v2").await;
    earlier.promoted(&world.log().await).await;
    let given_up = |line: &str| line.contains("fetching ahead is given up") && line.contains("\"v2\"");
    agent.process.log_line("that v2 is given up", PATIENCE, given_up).await;
    drop(lock);
    agent.switched_to("v0").await;
    said_of(&world, "n1", "bundle.loaded", "v0").await;
    assert_eq!(told_of(&world, "n1", "bundle.staged", "v2").await, Vec::<Value>::new());
    assert!(!home(&agent, "v2").exists(), "the channel has passed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_withdrawn_while_it_waits_is_removed_and_never_run() {
    let world = World::start(&["n1"]).await;
    let mut agent = running_v1(&world, "n1", &[]).await;
    let address = agent.http_address().await;
    let release = announced(&world, "v2").await;
    said_of(&world, "n1", "bundle.staged", "v2").await;
    release.withdrawn(&world.log().await).await;
    eventually("the withdrawn release to be taken out", PATIENCE, async || {
        satisfied(!home(&agent, "v2").exists(), || "it stands in the cache".to_owned())
    })
    .await;
    status_when(address, "nothing staged any more", |status| status.get("staged").is_none()).await;
    eventually("nothing staged in the fleet's table", PATIENCE, async || {
        let fleet = operated_json(&world, &["fleet", "status"]).await;
        satisfied(fleet[0]["staged"].is_null(), || fleet.to_string())
    })
    .await;

    // Also by a head that points at it all the same.
    release.promoted(&world.log().await).await;
    status_when(address, "that a withdrawn release is wanted", |status| {
        status["alerts"].to_string().contains("`v2` is withdrawn")
    })
    .await;
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));
    assert!(!home(&agent, "v2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_pinned_or_is_told_not_to_fetches_nothing_ahead() {
    let world = World::start(&["pinned", "off", "own", "ahead"]).await;
    stored(&world, "v1").await.announced(&world.log().await).await;
    let entry = |node: &str| {
        let cache = AgentDirectories::below(world.directory(), node).cache;
        format!("contracts={},prefetch=off", cache.display())
    };
    let own = entry("own");
    let settings: [(&str, &[(&str, &str)]); 4] = [
        ("pinned", &[("DEMON_CONTRACTS_TAG", "v1")]),
        ("off", &[("DEMON_PREFETCH", "off")]),
        ("own", &[("DEMON_BUNDLE", &own)]),
        ("ahead", &[]),
    ];
    let mut agents = Vec::new();
    for (node, settings) in settings {
        let mut agent = start(&world, node, settings);
        agent.switched_to("v1").await;
        agents.push(agent);
    }
    let release = announced(&world, "v2").await;
    said_of(&world, "ahead", "bundle.staged", "v2").await;
    release.promoted(&world.log().await).await;
    for (agent, source) in agents[1..].iter_mut().zip(["download", "download", "cache"]) {
        agent.switched_to("v2").await;
        let node = agent.process.name().to_owned();
        assert_eq!(said_of(&world, &node, "bundle.loaded", "v2").await["source"], source, "{node}");
    }
    assert_eq!(agents[0].active_tag().as_deref(), Some("v1"));
    assert_eq!(told_of(&world, "pinned", "bundle.refresh_attempt", "v2").await, Vec::<Value>::new());
    assert!(!home(&agents[0], "v2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_for_a_release_ahead_is_said_once_and_nothing_is_amiss() {
    let world = World::start(&["n1"]).await;
    let Some(disk) = SmallDisk::mount(&world.directory().join("small-disk"), 40 << 20) else { return };
    stored(&world, "v1").await.announced(&world.log().await).await;
    let settings = [("DEMON_RETRY_FIRST", "10ms"), ("DEMON_RETRY_LONGEST", "50ms")];
    // Only the cache: the outbox has room.
    let directories = AgentDirectories {
        cache: disk.path().join("contracts"),
        state: AgentDirectories::below(world.directory(), "n1").state,
    };
    let mut agent = start_in(&world, "n1", directories, &settings);
    let address = agent.http_address().await;
    agent.switched_to("v1").await;
    disk.fill();
    let release = announced(&world, "v2").await;
    let left = |line: &str| line.contains("the release is fetched when it is promoted");
    agent.process.log_line("that it is left to the promotion", PATIENCE, left).await;
    let failed = told_times(&world, "n1", "bundle.download_failed", 1).await;
    assert_eq!((&failed[0]["tag"], &failed[0]["ahead"]), (&json!("v2"), &json!(true)), "{failed:?}");
    let attempts = agent.process.log().matches("cannot be had before it is promoted").count();
    assert_eq!(attempts, 4, "it is tried a few times");
    let shown = status(address).await;
    assert_eq!((&shown["status"], &shown["alerts"]), (&json!("loaded"), &json!([])), "{shown}");
    let fleet = operated_json(&world, &["fleet", "status"]).await;
    let node = &fleet[0];
    assert_eq!((&node["state"], &node["failure"], &node["alarms"]), (&json!("ok"), &Value::Null, &json!([])), "{node}");

    disk.make_room();
    release.promoted(&world.log().await).await;
    agent.switched_to("v2").await;
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_release_outlives_a_kill_of_the_agent() {
    let world = World::start(&["n1"]).await;
    let mut agent = running_v1(&world, "n1", &[]).await;
    let release = announced(&world, "v2").await;
    said_of(&world, "n1", "bundle.staged", "v2").await;
    agent.process.kill();
    let mut agent = start_again(&world, "n1", "n1-again", agent.directories(), &[]);
    let address = agent.http_address().await;
    status_when(address, "the staged release", |status| status["staged"] == "v2").await;
    release.promoted(&world.log().await).await;
    agent.switched_to("v2").await;
    let loaded = said_of(&world, "n1", "bundle.loaded", "v2").await;
    assert_eq!((&loaded["source"], &loaded["wire_bytes"]), (&json!("cache"), &json!(0)), "{loaded}");
    assert_eq!(told_of(&world, "n1", "bundle.refresh_attempt", "v2").await.len(), 1);
}

fn damage(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("the file is there");
    let mut content = fs::read(file).expect("the file can be read");
    content[0] ^= 1;
    fs::write(file, content).expect("the file can be written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o444)).expect("the file is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_copy_that_was_changed_since_is_fetched_again_and_not_run() {
    let world = World::start(&["n1"]).await;
    let mut agent = running_v1(&world, "n1", &[]).await;
    let release = announced(&world, "v2").await;
    said_of(&world, "n1", "bundle.staged", "v2").await;
    damage(&home(&agent, "v2").join("files/bundle.json"));
    release.promoted(&world.log().await).await;
    agent.switched_to("v2").await;
    let loaded = said_of(&world, "n1", "bundle.loaded", "v2").await;
    assert_eq!(loaded["source"], "download", "{loaded}");
    assert!(loaded["wire_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{loaded}");
    let refused = said_of(&world, "n1", "bundle.verification_failed", "v2").await;
    assert_eq!((&refused["item"], refused.get("ahead")), (&json!("bundle.json"), None), "{refused}");
    let expected = contracts_files("v2");
    let files = agent.files();
    for (path, content) in &expected {
        assert_eq!(files.get(*path), Some(content), "{path}");
    }
}
