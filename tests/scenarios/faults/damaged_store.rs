//! Bytes that change in the server's own files while it is stopped.

use std::path::PathBuf;
use std::time::Duration;

use acceptance::operations::{operated, operated_json, publish_contracts};
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::contracts;
use acceptance::server_store::{flip_bit_after, message_blocks, truncate_last};
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM};
use acceptance::waiting::PATIENCE;
use acceptance::world::{World, both_outputs, finished};
use serde_json::Value;
use streams::release_store::ReleaseStore;
use tokio::time::sleep;

use super::publish_until_done;

const ARCHIVE: &str = "contracts/second.tar.zst";

/// A server with two releases, of which one node runs the second.
async fn two_releases() -> (World, acceptance::agent::Agent, PathBuf) {
    let world = World::with_reserved_port(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    publish_contracts(&world, &source, "first").await;
    publish_contracts(&world, &source, "second").await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("second").await;
    acceptance::node_status::told_times(&world, "n1", "bundle.loaded", 1).await;
    (world, agent, source)
}

/// What `store verify` says is not intact: object and condition.
async fn named(world: &World) -> Vec<(String, String)> {
    let mut command = world.demonctl();
    command.args(["store", "verify", "--output", "json"]);
    let output = finished(command).await;
    let rows: Vec<Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both_outputs(&output)));
    let of = |row: &Value, member: &str| row[member].as_str().unwrap_or_default().to_owned();
    let damaged: Vec<_> = rows.iter().map(|row| (of(row, "object"), of(row, "condition"))).collect();
    let damaged: Vec<_> = damaged.into_iter().filter(|(_, condition)| condition != "intact").collect();
    assert_eq!(output.status.code(), Some(i32::from(!damaged.is_empty())), "{}", both_outputs(&output));
    damaged
}

/// A node that never had the release must not get the damaged one, and gets it once it is repaired.
async fn held_up_until_repaired(world: &World, agent: &acceptance::agent::Agent, source: &std::path::Path) {
    let damaged = named(world).await;
    assert!(damaged.iter().any(|(object, _)| object.starts_with("contracts/second.")), "{damaged:?}");
    let mut other = world.start_agent("n2");
    let refused = |line: &str| line.contains("bundle.verification_failed") || line.contains("bundle.download_failed");
    other.process.log_line("a refusal", Duration::from_mins(1), refused).await;
    assert_eq!(other.active_tag(), None, "a damaged release was activated");
    assert_eq!(agent.active_tag().as_deref(), Some("second"), "what runs keeps running");

    let cache = agent.cache().to_str().expect("text").to_owned();
    operated_json(world, &["store", "repair", "second", "--from", &cache]).await;
    // The first release is not what n1 has; it is repaired from where it came, if it was hit as well.
    if named(world).await.iter().any(|(object, _)| object.starts_with("contracts/first.")) {
        acceptance::sample_trees::change_one_contract(source, "first");
        operated(world, &["store", "repair", "first", "--from", source.to_str().expect("text")]).await;
    }
    assert_eq!(named(world).await, []);
    drop(other);
    world
        .start_agent_in("n2", "n2-again", acceptance::agent::AgentDirectories::below(world.directory(), "n2b"))
        .switched_to("second")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_over_in_a_stored_archive_is_named_and_never_activated() {
    let (mut world, agent, source) = two_releases().await;
    let store = ReleaseStore::new(world.operator().await);
    let nuid = store.info(ARCHIVE).await.expect("it can be asked").expect("it is there").nuid;
    world.server.kill().await;
    let subject = format!("$O.BUNDLES.C.{nuid}");
    flip_bit_after(&message_blocks(&world.server, RELEASE_STREAM), subject.as_bytes(), subject.len() + 40);
    world.server.start_again().await;
    held_up_until_repaired(&world, &agent, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_file_of_the_bucket_is_named_and_healed() {
    let (mut world, agent, source) = two_releases().await;
    world.server.kill().await;
    truncate_last(&message_blocks(&world.server, RELEASE_STREAM), 3, 5);
    world.server.start_again().await;
    held_up_until_repaired(&world, &agent, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_turns_over_in_the_log_is_named_and_moves_no_node() {
    let (mut world, agent, _) = two_releases().await;
    let (key, kept) = (world.directory().join("log.key"), world.directory().join("kept.txt"));
    let (key, kept_name) = (key.to_str().expect("text"), kept.to_str().expect("text"));
    operated(&world, &["log", "keygen", "--name", "example.com/fleet", key]).await;
    let note = operated(&world, &["log", "checkpoint", "--key", key]).await;
    std::fs::write(&kept, note).expect("the directory is the test's own");
    operated(&world, &["events", "verify", "--checkpoint", kept_name]).await;
    world.server.kill().await;
    // In the middle of the announcement of the first release.
    let subject = b"bundle.published.contracts.release.first";
    flip_bit_after(&message_blocks(&world.server, EVENT_STREAM), subject, subject.len() + 300);
    world.server.start_again().await;
    let mut command = world.demonctl();
    // The server drops what it cannot read and all behind it. What is left is a shorter log without a fault in itself;
    // a checkpoint that was kept elsewhere tells.
    command.args(["events", "verify", "--checkpoint", kept_name]);
    let output = finished(command).await;
    assert_eq!(output.status.code(), Some(1), "a damaged log passed: {}", both_outputs(&output));
    // The agent has seen more of the log than there is now, or all of it but one event; it stays where it is.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(agent.active_tag().as_deref(), Some("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_last_writes_takes_no_node_back() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut command = world.agent_command("n1");
    command.env("RUST_LOG", "info,subscriber=debug,async_nats=error").env("DEMON_INTERVAL", "500ms");
    let directories = acceptance::agent::AgentDirectories::below(world.directory(), "n1");
    let mut agent = acceptance::agent::Agent::start("n1", command, directories, world.directory());
    agent.switched_to("first").await;
    acceptance::node_status::told_times(&world, "n1", "bundle.loaded", 1).await;
    assert_kept(&world, &done, &["n1"]).await;
    // The state of the store as a backup would have it.
    world.server.kill().await;
    let backup = world.directory().join("backup");
    copy(&world.server.store(), &backup);
    world.server.start_again().await;
    publish_until_done(&world, &source, "second", &mut done).await;
    agent.switched_to("second").await;
    acceptance::node_status::told_times(&world, "n1", "bundle.loaded", 2).await;
    world.server.kill().await;
    std::fs::remove_dir_all(world.server.store()).expect("the store can be removed");
    copy(&backup, &world.server.store());
    world.server.start_again().await;
    for _ in 0..30 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(agent.active_tag().as_deref(), Some("second"), "a log that lost its end took the node back");
    }
    assert!(agent.process.runs());
    let stale = |line: &str| line.contains("an answer is older than what was seen");
    agent.process.log_line("that an older answer was read", PATIENCE, stale).await;
    // Once the log is as long as it was, its answers are believed again; the agent's own next event tells what is gone.
    for tag in ["third", "fourth", "fifth", "sixth"] {
        publish_until_done(&world, &source, tag, &mut done).await;
    }
    agent.switched_to("sixth").await;
    let lost = |line: &str| line.contains("does not hold any more what it had confirmed");
    agent.process.log_line("that its own events are gone", PATIENCE, lost).await;
    let alarm = |line: &str| line.contains("\"alarm\":\"LostEvents\"") && line.contains("begin-epoch");
    agent.process.log_line("the alarm", PATIENCE, alarm).await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("the directory can be made");
    for entry in std::fs::read_dir(from).expect("it can be read").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("the file can be copied");
        }
    }
}
