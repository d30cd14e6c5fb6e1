//! Agents that share what should be one agent's own: a state directory, a name, a cache. No harm is done, and the log
//! tells them apart.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use acceptance::agent::{Agent, AgentDirectories, active_tag};
use acceptance::raw_client::RawClient;
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::stored_log::{StoredMessage, checked_chains, event_log, of_node, text, types_of};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, succeeded};
use serde_json::Value;
use shared::digest::Sha256Digest;
use tokio::task::JoinHandle;

/// How many agents work on one machine, each with directories of its own.
const SIDE_BY_SIDE: usize = 10;

/// Publishes the contracts with this text in them.
async fn publish(world: &World, source: &Path, tag: &str) {
    change_one_contract(source, tag);
    let mut command = world.publisher();
    command.args(["--tag", tag]).arg("--source").arg(source);
    succeeded(command).await;
}

/// Waits until at least so many events of a node say that a release was switched to, and returns the log.
async fn log_with_switches(operator: &RawClient, node: &str, tag: &str, switches: usize) -> Vec<StoredMessage> {
    eventually(&format!("{switches} switches of {node} to {tag} in the log"), PATIENCE, async || {
        let log = event_log(operator).await;
        let to_tag = |message: &&StoredMessage| message.data()["tag"] == tag;
        let found = of_node(&log, "bundle.loaded", node).into_iter().filter(to_tag).count();
        satisfied(found >= switches, || format!("{found} are there"))?;
        Ok(log)
    })
    .await
}

/// The numbers of events that each incarnation of a node wrote; its hash chains are followed on the way.
fn incarnations(log: &[StoredMessage], node: &str) -> Vec<(String, u64)> {
    let source = format!("/nodes/{node}");
    let of_node = checked_chains(log).into_iter().filter(|((writer, _), _)| writer == &source);
    of_node.map(|((_, incarnation), events)| (incarnation, events)).collect()
}

/// The incarnation that an agent's log begins with.
async fn incarnation_of(agent: &mut Agent) -> String {
    let line = agent.process.log_line("its start", PATIENCE, |line| line.contains("\"agent starts\"")).await;
    text(&serde_json::from_str(&line).expect("a log line is JSON"), "incarnation")
}

/// Nothing was refused, repaired or given up.
fn no_harm(log: &[StoredMessage]) {
    let harmless = [
        "bundle.epoch_started",
        "bundle.published",
        "bundle.promoted",
        "bundle.refresh_attempt",
        "bundle.staged",
        "bundle.loaded",
    ];
    let harm: Vec<_> =
        log.iter().map(StoredMessage::event_type).filter(|of| !harmless.contains(&of.as_str())).collect();
    assert!(harm.is_empty(), "{harm:?}");
}

/// Every file of a release directory against the list in its `release.json`.
fn whole(release: &Path) -> Result<(), String> {
    let described = fs::read(release.join("release.json")).map_err(|error| format!("release.json: {error}"))?;
    let described: Value = serde_json::from_slice(&described).map_err(|error| format!("release.json: {error}"))?;
    let files = described["files"].as_array().expect("a release lists its files");
    for file in files {
        let path = text(file, "path");
        let content = fs::read(release.join("files").join(&path)).map_err(|error| format!("{path}: {error}"))?;
        let digest = Sha256Digest::of(&content).to_string();
        satisfied(file["sha256"] == digest, || format!("{path} is torn: {digest}"))?;
    }
    satisfied(files.len() == 3, || format!("{} files", files.len()))
}

/// Reads the current release again and again, as a user of the cache does, until told to stop; returns the tags it met.
///
/// # Panics
/// Where a release is not whole, or none is current any more after the first.
fn reader(cache: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<BTreeSet<String>> {
    tokio::task::spawn_blocking(move || {
        let mut met = BTreeSet::new();
        while !stop.load(Ordering::Relaxed) {
            match fs::canonicalize(cache.join("current")) {
                Ok(release) => {
                    whole(&release).unwrap_or_else(|fault| panic!("{}: {fault}", release.display()));
                    met.insert(release.file_name().expect("a tag").to_string_lossy().into_owned());
                }
                Err(error) => assert!(met.is_empty(), "`current` is gone: {error}"),
            }
        }
        met
    })
}

#[tokio::test]
async fn a_second_agent_on_one_state_directory_ends_with_one_line_and_the_first_is_unharmed() {
    let world = World::start(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    publish(&world, &source, "first").await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;

    // Whatever else it brings: the same name and cache, or others.
    let AgentDirectories { cache, state } = agent.directories();
    let elsewhere = world.directory().join("elsewhere/contracts");
    for (node, cache) in [("n1", &cache), ("n2", &elsewhere)] {
        let directories = AgentDirectories { cache: cache.clone(), state: state.clone() };
        let mut second = world.start_agent_in(node, &format!("second-{node}"), directories);
        let status = second.process.ended(PATIENCE).await;
        assert_eq!(status.code(), Some(1), "{status}");
        // On both outputs: it did nothing before it looked.
        let line = format!("demon-runtime: another agent is running with state directory `{}`\n", state.display());
        assert_eq!(second.process.log(), line);
    }
    assert!(!elsewhere.exists(), "a refused agent has made a cache");

    publish(&world, &source, "second").await;
    agent.switched_to("second").await;
    let log = log_with_switches(&world.raw_operator().await, "n1", "second", 1).await;
    assert_eq!(incarnations(&log, "n1"), [(incarnation_of(&mut agent).await, 6)], "only the first has written");
    assert_eq!(incarnations(&log, "n2"), []);
    no_harm(&log);

    // The lock goes with its holder, however that ends.
    agent.process.kill();
    let mut next = world.start_agent_in("n1", "n1-next", AgentDirectories { cache, state });
    publish(&world, &source, "third").await;
    next.switched_to("third").await;
}

#[tokio::test]
async fn two_agents_under_one_name_both_run_every_release_and_are_warned_of_each_other() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let started = |log: &str| world.start_agent_in("n1", log, AgentDirectories::below(world.directory(), log));
    let mut agents = [started("one"), started("other")];
    let operator = world.raw_operator().await;
    let mut log = Vec::new();
    for tag in ["first", "second", "third"] {
        publish(&world, &source, tag).await;
        for agent in &mut agents {
            agent.switched_to(tag).await;
        }
        log = log_with_switches(&operator, "n1", tag, 2).await;
    }

    let [one, other] = &mut agents;
    let (of_one, of_other) = (incarnation_of(one).await, incarnation_of(other).await);
    // Nothing of either is lost: three words for each of three releases.
    let mut expected = [(of_one.clone(), 9), (of_other.clone(), 9)];
    expected.sort();
    assert_eq!(incarnations(&log, "n1"), expected);
    no_harm(&log);
    // Who writes is refused where the other wrote before; each learns it at the latest from its own next event.
    for (agent, rival) in [(one, of_other), (other, of_one)] {
        let named = |line: &str| line.contains("\"level\":\"WARN\"") && line.contains(&rival);
        let line = agent.process.log_line("the other's incarnation", PATIENCE, named).await;
        let words = format!("another agent (incarnation {rival}) reports under the name `n1`");
        assert!(line.contains(&words), "{line}");
        assert!(agent.process.runs(), "both keep running");
    }
}

#[tokio::test]
async fn two_agents_on_one_cache_do_each_other_no_harm_and_are_told_apart_in_the_log() {
    let world = World::start(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    let cache = world.directory().join("shared/contracts");
    let started = |node: &str| {
        let state = world.directory().join(node).join("agent");
        world.start_agent_in(node, node, AgentDirectories { cache: cache.clone(), state })
    };
    let mut agents = [started("n1"), started("n2")];
    let stop = Arc::new(AtomicBool::new(false));
    let reading = reader(cache.clone(), Arc::clone(&stop));
    let operator = world.raw_operator().await;
    let tags = ["first", "second", "third", "fourth", "fifth"];
    let mut log = Vec::new();
    for tag in tags {
        publish(&world, &source, tag).await;
        for node in ["n1", "n2"] {
            log = log_with_switches(&operator, node, tag, 1).await;
        }
        assert_eq!(active_tag(&cache).as_deref(), Some(tag));
    }
    // Releases that come faster than they are switched to: some may be skipped, the last is not.
    let burst = ["sixth", "seventh", "eighth"];
    for tag in burst {
        publish(&world, &source, tag).await;
    }
    for node in ["n1", "n2"] {
        log = log_with_switches(&operator, node, "eighth", 1).await;
    }
    assert_eq!(active_tag(&cache).as_deref(), Some("eighth"));
    stop.store(true, Ordering::Relaxed);
    let met = reading.await.expect("every read found a whole release");
    assert!(
        met.contains("fifth") && met.iter().all(|tag| tags.iter().chain(&burst).any(|published| published == tag)),
        "{met:?}"
    );

    // The flat view is whole, and so is every release beside it.
    let content = String::from_utf8(fs::read(cache.join("bundle.json")).expect("the flat view")).expect("UTF-8");
    assert!(content.contains("eighth"), "{content}");
    for name in ["bundle.json", "manifest.json"] {
        let flat = fs::canonicalize(cache.join(name)).expect("the flat view leads somewhere");
        assert!(flat.ends_with(Path::new("releases/eighth/files").join(name)), "{}", flat.display());
    }
    let digest = Sha256Digest::of(content.as_bytes()).to_string();
    let sum = fs::read_to_string(cache.join("bundle.sha256")).expect("the flat view");
    assert!(sum.starts_with(&format!("{digest}  ")), "{sum}");
    let mut kept = BTreeSet::new();
    for entry in fs::read_dir(cache.join("releases")).expect("the releases") {
        let release = entry.expect("an entry").path();
        whole(&release).unwrap_or_else(|fault| panic!("{}: {fault}", release.display()));
        kept.insert(release.file_name().expect("a tag").to_string_lossy().into_owned());
    }
    assert!(kept.contains("fifth") && kept.contains("eighth"), "{kept:?}");
    eventually("nothing half done in the cache", PATIENCE, async || {
        let left = fs::read_dir(cache.join("staging")).map(Iterator::count).unwrap_or_default();
        satisfied(left == 0, || format!("{left} entries in staging"))
    })
    .await;

    // Each has its own story with every release in it, and one writer.
    no_harm(&log);
    for (node, agent) in ["n1", "n2"].into_iter().zip(&mut agents) {
        let written = u64::try_from(types_of(&log, &format!(".node.{node}")).len()).expect("a count");
        assert_eq!(incarnations(&log, node), [(incarnation_of(agent).await, written)]);
        let loaded: Vec<_> =
            of_node(&log, "bundle.loaded", node).into_iter().map(|message| text(&message.data(), "tag")).collect();
        assert_eq!(loaded[..tags.len()], tags);
        assert_eq!(loaded.last().map(String::as_str), Some("eighth"));
        assert!(!agent.process.log().contains("reports under the name"), "one name each is no rivalry");
        assert!(!agent.process.log().contains("\"level\":\"ERROR\""), "something went wrong");
    }
}

#[tokio::test]
async fn many_agents_on_one_machine_each_run_every_release_and_the_server_keeps_nothing_for_them() {
    let nodes: Vec<String> = (1..=SIDE_BY_SIDE).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let world = World::start(&names).await;
    let source = contracts(world.directory());
    let mut agents: Vec<Agent> = names.iter().map(|node| world.start_agent(node)).collect();
    for tag in ["first", "second"] {
        publish(&world, &source, tag).await;
        for agent in &mut agents {
            agent.switched_to(tag).await;
        }
    }
    let operator = world.raw_operator().await;
    for node in &names {
        let log = log_with_switches(&operator, node, "second", 1).await;
        assert_eq!(incarnations(&log, node).len(), 1, "{node}");
        no_harm(&log);
    }
    for stream in [acceptance::stored_log::EVENT_STREAM, acceptance::stored_log::RELEASE_STREAM] {
        assert_eq!(operator.stream_state(stream).await.consumers, 0, "a consumer exists on {stream}");
    }
}
