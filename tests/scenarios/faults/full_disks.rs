//! Disks and streams without room.

use std::path::Path;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::operations::publish_command;
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::{change_one_contract, contracts, noise};
use acceptance::small_disk::SmallDisk;
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM};
use acceptance::waiting::PATIENCE;
use acceptance::world::{World, both_outputs, finished};
use serde_json::{Value, json};

use super::publish_until_done;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_disk_is_full_keeps_what_it_runs_and_goes_on_when_there_is_room() {
    let world = World::start(&["n1"]).await;
    let Some(disk) = SmallDisk::mount(&world.directory().join("small-disk"), 40 << 20) else { return };
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut command = world.agent_command("n1");
    command.env("DEMON_RETRY_FIRST", "100ms").env("DEMON_RETRY_LONGEST", "500ms").env("DEMON_INTERVAL", "200ms");
    // Memory and releases on the same small disk.
    let mut agent = Agent::start("n1", command, AgentDirectories::below(disk.path(), "n1"), world.directory());
    agent.switched_to("first").await;
    acceptance::node_status::told_times(&world, "n1", "bundle.loaded", 1).await;

    let files = agent.files();
    disk.fill();
    publish_until_done(&world, &source, "second", &mut done).await;
    let full = |line: &str| line.contains("bytes of disk") || line.contains("No space left on device");
    agent.process.log_line("that the disk is full", PATIENCE, full).await;
    assert!(agent.process.runs(), "a full disk ended the agent");
    assert_eq!(agent.active_tag().as_deref(), Some("first"));
    assert_eq!(agent.files(), files, "what runs is whole");

    disk.make_room();
    agent.switched_to("second").await;
    acceptance::node_status::told_times(&world, "n1", "bundle.loaded", 2).await;
    assert_kept(&world, &done, &["n1"]).await;
    drop(agent);
}

/// Changes how many bytes a stream may hold.
async fn limited(world: &World, stream: &str, bytes: i64) {
    let operator = world.raw_operator().await;
    let mut config = operator.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await["config"].take();
    config["max_bytes"] = json!(bytes);
    let answer = operator.api(&format!("STREAM.UPDATE.{stream}"), &config).await;
    assert_eq!(answer["error"], Value::Null, "{answer}");
}

async fn refused_for_want_of_room(world: &World, source: &Path, tag: &str) -> String {
    change_one_contract(source, tag);
    let output = finished(publish_command(world, source, tag)).await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaint: Vec<&str> = words.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(complaint.len(), 1, "one line: {words}");
    complaint[0].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_a_publisher_in_one_line_and_takes_the_same_publish_later() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;
    acceptance::node_status::told_times(&world, "n1", "bundle.loaded", 1).await;
    std::fs::write(source.join("noise.txt"), noise(200 << 10, 7)).expect("the source can be written");
    for (stream, tag, room) in [(RELEASE_STREAM, "second", 8 << 30), (EVENT_STREAM, "third", 1 << 30)] {
        let held = world.raw_operator().await.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await;
        let held = held["state"]["bytes"].as_i64().expect("a number");
        limited(&world, stream, held + 100).await;
        let complaint = refused_for_want_of_room(&world, &source, tag).await;
        assert!(complaint.contains("maximum bytes"), "it says why: {complaint}");
        assert_eq!(agent.active_tag().as_deref(), Some(if tag == "second" { "first" } else { "second" }));
        limited(&world, stream, room).await;
        publish_until_done(&world, &source, tag, &mut done).await;
        agent.switched_to(tag).await;
    }
    assert_kept(&world, &done, &["n1"]).await;
}
