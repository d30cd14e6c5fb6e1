//! Signed checkpoints: written by the publisher, verified and proven by anybody, watched by agents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acceptance::publisher_service::PublisherService;
use acceptance::reported::{loaded, reported, writer_of};
use acceptance::sample_trees::contracts;
use acceptance::stored_log::{StoredMessage, event_log};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{World, both_outputs, finished, succeeded};
use chrono::Utc;
use serde_json::{Value, json};

use crate::publisher_service::{announced, watching};

/// A key in a file, and the key that verifies it.
struct Key {
    file: PathBuf,
    verifier: String,
}

impl Key {
    async fn made(world: &World, name: &str) -> Self {
        let file = world.directory().join(name);
        let mut command = world.demonctl();
        command.args(["log", "keygen", "--name", "example.com/fleet"]).arg(&file);
        let verifier = String::from_utf8(succeeded(command).await.stdout).expect("text").trim().to_owned();
        Self { file, verifier }
    }

    /// A publisher that signs with it whenever something is new.
    async fn publisher(&self, world: &World, source: &Path) -> PublisherService {
        let mut command = watching(world, source);
        command.arg("--checkpoint-key").arg(&self.file).args(["--checkpoint-interval", "100ms"]);
        PublisherService::start("publisher", command, world.directory()).await
    }
}

fn demonctl(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.args(arguments);
    command
}

/// A command with no server to be reached.
async fn offline(arguments: &[&str]) -> Output {
    let mut command = WorkspaceBinary::Demonctl.command();
    command.env("NATS_URL", "nats://127.0.0.1:9").args(arguments);
    finished(command).await
}

async fn checkpoints(world: &World) -> Vec<StoredMessage> {
    let log = event_log(&world.raw_operator().await).await;
    log.into_iter().filter(|message| message.event_type() == "bundle.checkpointed").collect()
}

/// Waits until the last checkpoint speaks of all events up to one.
async fn checkpointed(world: &World, size: u64) -> Value {
    eventually(&format!("a checkpoint of {size} events"), PATIENCE, async || {
        let last = checkpoints(world).await.last().map(StoredMessage::data).unwrap_or_default();
        if last["size"].as_u64() >= Some(size) { Ok(last) } else { Err(format!("the last one is {last}")) }
    })
    .await
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn kept(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let file = directory.join(name);
    fs::write(&file, content).expect("the directory is the test's own");
    file
}

fn problems(output: &Output) -> Vec<String> {
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both_outputs(output)));
    let findings = report["findings"].as_array().expect("findings").clone();
    findings.iter().map(|finding| finding["problem"].as_str().expect("a problem").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_signs_the_log_and_anybody_verifies_and_proves_it() {
    let world = World::start(&["n1"]).await;
    let (key, stranger) = (Key::made(&world, "log.key").await, Key::made(&world, "other.key").await);
    let again = finished(demonctl(&world, &["log", "keygen", text(&key.file)])).await;
    assert_eq!(again.status.code(), Some(1), "a key is never replaced: {}", both_outputs(&again));

    let _service = key.publisher(&world, &contracts(world.directory())).await;
    let published = announced(&world, 1).await[0].sequence;
    checkpointed(&world, published).await;
    // More than one, so that they are chained.
    let late = reported(&world.log().await, &mut writer_of("n1"), loaded("v1", 1), Utc::now()).await;
    let newest = checkpointed(&world, late).await;
    assert!(newest["previous"]["size"].as_u64() < newest["size"].as_u64(), "{newest}");

    // Nothing is signed twice: the publisher's own checkpoint is no news.
    let before = checkpoints(&world).await.len();
    let nothing_new = succeeded(demonctl(&world, &["log", "checkpoint", "--key", text(&key.file)])).await;
    assert!(String::from_utf8_lossy(&nothing_new.stderr).contains("nothing is new"), "{}", both_outputs(&nothing_new));
    assert_eq!(checkpoints(&world).await.len(), before);
    assert_eq!(nothing_new.stdout, newest["note"].as_str().expect("a note").as_bytes());

    let verify = |key: &str| demonctl(&world, &["events", "verify", "--output", "json", "--log-key", key]);
    let clean = succeeded(verify(&key.verifier)).await;
    let report: Value = serde_json::from_slice(&clean.stdout).expect("JSON");
    assert_eq!((&report["signatures_verified"], &report["checkpoints"]), (&json!(true), &json!(before)));
    let foreign = finished(verify(&stranger.verifier)).await;
    assert_eq!(foreign.status.code(), Some(1), "{}", both_outputs(&foreign));
    assert!(problems(&foreign).iter().all(|problem| problem == "bad_checkpoint"), "{}", both_outputs(&foreign));

    let note = succeeded(demonctl(&world, &["log", "show", "--log-key", &key.verifier])).await;
    let outside = kept(world.directory(), "checkpoint.txt", &note.stdout);
    let export = world.directory().join("log.jsonl.zst");
    succeeded(demonctl(&world, &["events", "export", text(&export)])).await;
    let export = text(&export);
    let arguments = ["events", "verify", "--from", export, "--checkpoint", text(&outside), "--log-key", &key.verifier];
    let proven = offline(&arguments).await;
    assert_eq!(proven.status.code(), Some(0), "{}", both_outputs(&proven));

    let sequence = published.to_string();
    let inclusion = succeeded(demonctl(&world, &["log", "prove", "inclusion", "--sequence", &sequence])).await;
    let consistency = offline(&["log", "prove", "consistency", "--from-size", "1", "--from", export]).await;
    for (name, proof) in [("inclusion.json", inclusion), ("consistency.json", consistency)] {
        let file = kept(world.directory(), name, &proof.stdout);
        let holds = offline(&["log", "verify-proof", text(&file), "--log-key", &key.verifier]).await;
        assert_eq!(holds.status.code(), Some(0), "{}", both_outputs(&holds));
        assert!(
            String::from_utf8_lossy(&holds.stdout).contains("signed by example.com/fleet+"),
            "{}",
            both_outputs(&holds)
        );
        let refused = offline(&["log", "verify-proof", text(&file), "--log-key", &stranger.verifier]).await;
        assert_eq!(refused.status.code(), Some(1), "{}", both_outputs(&refused));
    }
    let proof = fs::read_to_string(world.directory().join("inclusion.json")).expect("the proof");
    let altered = kept(world.directory(), "altered.json", proof.replace("contracts", "kontracts").as_bytes());
    let refused = offline(&["log", "verify-proof", text(&altered)]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", both_outputs(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("does not hold"), "{}", both_outputs(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_off_or_replaced_alarms_agents_and_publisher_and_is_not_clean() {
    let mut world = World::with_reserved_port(&["n1", "n2"]).await;
    let key = Key::made(&world, "log.key").await;
    let mut service = key.publisher(&world, &contracts(world.directory())).await;
    let tag = announced(&world, 1).await[0].data()["tag"].as_str().expect("a tag").to_owned();
    let mut command = world.agent_command("n1");
    command.args(["--interval", "200ms", "--log-lag-tolerance", "300ms", "--log-key", &key.verifier]);
    let directories = acceptance::agent::AgentDirectories::below(world.directory(), "n1");
    let mut agent = acceptance::agent::Agent::start("n1", command, directories, world.directory());
    agent.switched_to(&tag).await;

    world.server.kill().await;
    let (store, backup) = (world.server.store(), world.directory().join("backup"));
    succeeded(copied(&store, &backup)).await;
    world.server.start_again().await;
    let mut writer = writer_of("n2");
    let mut late = 0;
    for number in 0..5 {
        late = reported(&world.log().await, &mut writer, loaded("v1", number), Utc::now()).await;
    }
    let newest = checkpointed(&world, late).await;
    let memory = agent.state().join("checkpoint.contracts.json");
    eventually("the agent to have seen the checkpoint", PATIENCE, async || {
        let seen = fs::read_to_string(&memory).map_err(|error| error.to_string())?;
        let seen: Value = serde_json::from_str(&seen).map_err(|error| error.to_string())?;
        satisfied(seen["size"].as_u64() >= newest["size"].as_u64(), || seen.to_string())
    })
    .await;
    let note = succeeded(demonctl(&world, &["log", "show"])).await;
    let outside = kept(world.directory(), "checkpoint.txt", &note.stdout);
    let kept_checkpoint = ["events", "verify", "--output", "json", "--checkpoint", text(&outside)];
    succeeded(demonctl(&world, &kept_checkpoint)).await;

    world.server.kill().await;
    fs::remove_dir_all(&store).expect("the store is the test's own");
    succeeded(copied(&backup, &store)).await;
    world.server.start_again().await;
    let alarms = |words: &'static str| move |line: &str| line.contains("alarm") && line.contains(words);
    agent.process.log_line("an alarm", PATIENCE, alarms("the log is shorter than what was signed")).await;
    let refuses = |line: &str| line.contains("no checkpoint is signed") && line.contains("it has fewer events now");
    service.process.log_line("its refusal to sign", PATIENCE, refuses).await;
    let cut_off = finished(demonctl(&world, &kept_checkpoint)).await;
    assert_eq!((cut_off.status.code(), problems(&cut_off)), (Some(1), vec!["outside_checkpoint".to_owned()]));

    // It grows again, differently, and somebody with the key signs that.
    let mut writer = writer_of("n2");
    for number in 0..40 {
        reported(&world.log().await, &mut writer, loaded("v2", number), Utc::now()).await;
    }
    succeeded(demonctl(&world, &["log", "checkpoint", "--key", text(&key.file)])).await;
    agent.process.log_line("an alarm", PATIENCE, alarms("the log is not the one that was signed")).await;
    let replaced = finished(demonctl(&world, &kept_checkpoint)).await;
    assert_eq!((replaced.status.code(), problems(&replaced)), (Some(1), vec!["outside_checkpoint".to_owned()]));
    let address = agent.http_address().await;
    eventually("a metric that tells", PATIENCE, async || {
        let page = acceptance::http_request::get(address, "/metrics", &[]).await.body;
        satisfied(page.contains("demon_agent_log_contradicted 1"), || page)
    })
    .await;
    assert_eq!(agent.active_tag(), Some(tag), "the release keeps running");

    // An operator who accepts the log as it is removes what was remembered.
    fs::remove_file(&memory).expect("the agent has written it");
    agent.process.log_line("the alarm's end", PATIENCE, |line| line.contains("over: the log is not the one")).await;
}

fn copied(from: &Path, to: &Path) -> Command {
    let mut command = Command::new("cp");
    command.arg("-r").arg(from).arg(to);
    command
}
