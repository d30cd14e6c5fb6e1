//! The main job with the real programs: a directory goes in, every agent switches, and the log tells the story.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::process::Process;
use acceptance::sample_trees::{change_one_contract, contracts, plain};
use acceptance::stored_log::{EVENT_STREAM, NODE_TABLE_STREAM, RELEASE_STREAM, event_log, of_node, types_of};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use rustix::process::Signal;
use serde_json::Value;

/// Publishes a directory once and returns the tag that channel `latest` points at then.
async fn publish(world: &World, bundle: &str, source: &Path) -> String {
    let mut command = world.publisher();
    command.args(["--bundle", bundle]).arg("--source").arg(source);
    succeeded(command).await;
    head(world, bundle).await["data"]["tag"].as_str().expect("a head names a tag").to_owned()
}

/// The event a channel points with.
async fn head(world: &World, bundle: &str) -> Value {
    let subject = format!("bundle.promoted.{bundle}.channel.latest");
    let log = event_log(&world.raw_operator().await).await;
    log.iter().rev().find(|message| message.subject == subject).expect("the channel has a head").event()
}

fn content(agent: &Agent) -> BTreeMap<String, Vec<u8>> {
    agent.files()
}

/// Both documented ways to check the digest: inside the cache, and from its parent.
async fn checksums_hold(agent: &Agent, tag: &str) {
    agent.flat_view_leads_to(tag).await;
    for (directory, file) in documented_checks(agent.cache()) {
        succeeded(checksum_command(&directory, &file)).await;
    }
}

fn documented_checks(cache: &Path) -> [(PathBuf, PathBuf); 2] {
    let parent = cache.parent().expect("a cache lies in a directory");
    let name = cache.file_name().expect("a cache has a name");
    [(cache.to_owned(), "bundle.sha256".into()), (parent.to_owned(), Path::new(name).join("bundle.sha256"))]
}

fn checksum_command(directory: &Path, file: &Path) -> Command {
    let mut command = Command::new("sha256sum");
    command.arg("--check").arg(file).current_dir(directory);
    command
}

#[tokio::test]
async fn the_documented_checksum_commands_notice_one_altered_byte() {
    let world = World::start(&["n1"]).await;
    let tag = publish(&world, "contracts", &contracts(world.directory())).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to(&tag).await;
    checksums_hold(&agent, &tag).await;
    agent.process.kill();

    let bundle = agent.cache().join("current/files/bundle.json").canonicalize().expect("the release has it");
    let mut altered = fs::read(&bundle).expect("the file can be read");
    *altered.last_mut().expect("the file is not empty") = b' ';
    // Released files are not writable; whoever owns the directory can still put another in the place of one.
    fs::remove_file(&bundle).expect("its owner may delete it");
    fs::write(&bundle, altered).expect("its owner may write there");
    for (directory, file) in documented_checks(agent.cache()) {
        let output = finished(checksum_command(&directory, &file)).await;
        assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
        assert!(both_outputs(&output).contains("FAILED"), "{}", both_outputs(&output));
    }
}

#[tokio::test]
async fn a_directory_goes_in_and_every_agent_switches_to_it_and_to_its_next_release() {
    let world = World::unprovisioned(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    let first = publish(&world, "contracts", &source).await;
    let mut agents = [world.start_agent("n1"), world.start_agent("n2")];
    for agent in &mut agents {
        agent.switched_to(&first).await;
        checksums_hold(agent, &first).await;
        let files = content(agent);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["bundle.json", "bundle.sha256", "manifest.json"]);
        let bundle: Value = serde_json::from_slice(&files["bundle.json"]).expect("JSON");
        assert!(bundle["schemas"]["approval.requested.v1.json"].is_string(), "{bundle}");
        assert_eq!(fs::read(agent.cache().join("bundle.json")).expect("the flat view"), files["bundle.json"]);
    }

    change_one_contract(&source, "second");
    let second = publish(&world, "contracts", &source).await;
    assert_ne!(first, second);
    for agent in &mut agents {
        agent.switched_to(&second).await;
        assert!(String::from_utf8_lossy(&content(agent)["bundle.json"]).contains("second"));
        checksums_hold(agent, &second).await;
        assert!(agent.cache().join("releases").join(&first).is_dir(), "the previous good release is kept");
    }

    let operator = world.raw_operator().await;
    eventually("both agents' last words", PATIENCE, async || {
        let log = event_log(&operator).await;
        for node in ["n1", "n2"] {
            satisfied(of_node(&log, "bundle.loaded", node).len() == 2, || format!("{node} has not said all"))?;
        }
        Ok(())
    })
    .await;
    let log = event_log(&operator).await;
    let round = ["bundle.refresh_attempt", "bundle.staged", "bundle.loaded"];
    assert_eq!(types_of(&log, ".node.n1"), [round, round].concat());
    let loaded = of_node(&log, "bundle.loaded", "n2")[1].data();
    assert_eq!((&loaded["tag"], &loaded["previous_tag"]), (&Value::from(second), &Value::from(first)));
    assert_eq!(loaded["activation_epoch"], 2);
    // Between its announcement and its promotion or after both.
    assert_eq!(of_node(&log, "bundle.staged", "n2")[1].data()["strategy"], "delta");
    for stream in [EVENT_STREAM, RELEASE_STREAM, NODE_TABLE_STREAM] {
        assert_eq!(operator.stream_state(stream).await.consumers, 0, "a consumer exists on {stream}");
    }
}

#[tokio::test]
async fn any_directory_travels_with_its_modes_and_names() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::start(&["n1"]).await;
    let source = plain(world.directory());
    let tag = publish(&world, "policies", &source).await;
    let mut command = world.agent_command("n1");
    command.args(["--bundle", "policies"]);
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    agent.switched_to(&tag).await;
    let files = content(&agent);
    assert_eq!(files.len(), 6);
    for (path, bytes) in &files {
        assert_eq!(&fs::read(source.join(path)).expect("the source has it"), bytes, "{path}");
    }
    let mode = |path: &str| {
        let file = agent.cache().join("current/files").join(path);
        fs::metadata(file).expect("the file is there").permissions().mode() & 0o777
    };
    assert_eq!((mode("bin/check"), mode("policy.rego"), mode("config")), (0o555, 0o444, 0o755));
    // What the playbook does to a cache that is in the way.
    fs::remove_dir_all(agent.cache()).expect("its owner may delete it");
    agent.process.signal(Signal::HUP);
    agent.switched_to(&tag).await;
    assert_eq!(content(&agent), files, "a deleted cache is restored");
}

#[tokio::test]
async fn publishing_the_same_content_again_adds_nothing_to_the_log() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let first = publish(&world, "contracts", &source).await;
    let operator = world.raw_operator().await;
    let before = operator.stream_state(EVENT_STREAM).await.last_sequence;
    assert_eq!(publish(&world, "contracts", &source).await, first);
    assert_eq!(operator.stream_state(EVENT_STREAM).await.last_sequence, before);
}

#[tokio::test]
async fn a_hangup_makes_an_agent_look_now() {
    let world = World::start(&["n1"]).await;
    let tag = publish(&world, "contracts", &contracts(world.directory())).await;
    // By itself it would look again in an hour, and no news wakes it.
    let mut command = world.agent_command("n1");
    command.args(["--interval", "60m"]);
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    agent.switched_to(&tag).await;
    let operator = world.raw_operator().await;
    eventually("its last word about the release", PATIENCE, async || {
        let loaded = of_node(&event_log(&operator).await, "bundle.loaded", "n1").len();
        satisfied(loaded == 1, || format!("{loaded} switches are in the log"))
    })
    .await;

    fs::remove_dir_all(agent.cache()).expect("its owner may delete it");
    agent.process.signal(Signal::HUP);
    agent.switched_to(&tag).await;
    checksums_hold(&agent, &tag).await;
}

#[tokio::test]
async fn a_terminated_agent_ends_well_within_its_bound() {
    let world = World::start(&["n1"]).await;
    let tag = publish(&world, "contracts", &contracts(world.directory())).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to(&tag).await;
    agent.process.signal(Signal::TERM);
    let status = agent.process.ended(std::time::Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn an_agent_without_a_log_waits_and_says_what_is_missing() {
    let world = World::unprovisioned(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    agent.process.log_line("what is missing", PATIENCE, |line| line.contains("the stream is missing")).await;
    let tag = publish(&world, "contracts", &contracts(world.directory())).await;
    agent.switched_to(&tag).await;
}

#[tokio::test]
async fn an_agent_killed_again_and_again_converges_and_its_numbers_have_no_gap() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let mut agent = world.start_agent("n1");
    let mut tag = String::new();
    for round in 0..6 {
        change_one_contract(&source, &format!("round {round}"));
        tag = publish(&world, "contracts", &source).await;
        // Each time a little later in the switch.
        let line = ["agent starts", "desired release", "fetching release", "staged", "bundle active", "bundle active"];
        agent.process.log_line(line[round], PATIENCE, |text| text.contains(line[round])).await;
        agent.process.kill();
        let directories = agent.directories();
        agent = world.start_agent_in("n1", &format!("n1-{round}"), directories);
    }
    agent.switched_to(&tag).await;
    checksums_hold(&agent, &tag).await;
    let operator = world.raw_operator().await;
    eventually("the last switch in the log", PATIENCE, async || {
        let log = event_log(&operator).await;
        let last = of_node(&log, "bundle.loaded", "n1").last().map(|message| message.data()["tag"].clone());
        satisfied(last == Some(Value::from(tag.clone())), || format!("the last one is {last:?}"))
    })
    .await;
    let log = event_log(&operator).await;
    let chains = acceptance::stored_log::checked_chains(&log);
    let incarnations = chains.keys().filter(|(source, _)| source == "/nodes/n1").count();
    assert_eq!(incarnations, 1, "a restart on the same state directory goes on with its numbers");
}

#[tokio::test]
async fn a_publisher_that_stays_publishes_what_changes() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let mut command = world.publisher_service();
    command.args(["--interval", "3600s"]).arg("--source").arg(&source);
    let mut publisher = Process::start("publisher", command, world.directory());
    let operator = world.raw_operator().await;
    let releases =
        async || event_log(&operator).await.iter().filter(|message| message.event_type() == "bundle.published").count();
    eventually("the first release", PATIENCE, async || {
        let count = releases().await;
        satisfied(count == 1, || format!("{count} releases"))
    })
    .await;
    change_one_contract(&source, "changed while it runs");
    publisher.signal(Signal::HUP);
    eventually("the second release", PATIENCE, async || {
        let count = releases().await;
        satisfied(count == 2, || format!("{count} releases"))
    })
    .await;
    publisher.signal(Signal::TERM);
    let status = publisher.ended(PATIENCE).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_source_that_breaks_the_rules_is_refused_with_the_path_and_nothing_is_written() {
    let world = World::start(&[]).await;
    let source = plain(world.directory());
    std::os::unix::fs::symlink("/etc/passwd", source.join("config/link")).expect("a link");
    let before = world.raw_operator().await.stream_state(EVENT_STREAM).await.last_sequence;
    let mut command = world.publisher();
    command.args(["--bundle", "policies"]).arg("--source").arg(&source);
    let output = finished(command).await;
    assert_eq!(output.status.code(), Some(1));
    let text = both_outputs(&output);
    assert!(text.contains("config/link"), "{text}");
    let operator = world.raw_operator().await;
    assert_eq!(operator.stream_state(EVENT_STREAM).await.last_sequence, before);
    assert_eq!(operator.stream_state(RELEASE_STREAM).await.messages, 0);
}
