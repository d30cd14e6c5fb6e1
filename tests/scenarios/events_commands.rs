//! `demonctl events list|show|tail|replay` against a real log.

use std::path::Path;
use std::process::Command;

use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::process::Process;
use acceptance::reported::{download_failed, loaded, reported, writer_of};
use acceptance::stored_log::{event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use chrono::Utc;
use serde_json::Value;
use streams::release_store::ReleaseStore;

async fn released(world: &World, tag: &str) {
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await.announced(&world.log().await).await;
}

fn events(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.arg("events").args(arguments);
    command
}

async fn json(command: Command) -> Value {
    let output = succeeded(command).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both_outputs(&output)))
}

/// Stream sequences of what `list` shows with these filters.
async fn listed(world: &World, filters: &[&str]) -> Vec<u64> {
    let rows = json(events(world, &[&["list", "--output", "json"], filters].concat())).await;
    rows.as_array().expect("rows").iter().map(|row| row["stream_sequence"].as_u64().expect("a sequence")).collect()
}

/// A log with two releases, two nodes and everything the filters tell apart.
async fn eventful(world: &World) {
    released(world, "v1").await;
    let log = world.log().await;
    let (mut n1, mut n2) = (writer_of("n1"), writer_of("n2"));
    reported(&log, &mut n1, loaded("v1", 1), Utc::now()).await;
    reported(&log, &mut n2, download_failed("v1"), Utc::now()).await;
    released(world, "v2").await;
    reported(&log, &mut n1, loaded("v2", 2), Utc::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn list_shows_exactly_what_the_filters_ask_for() {
    let world = World::start(&["n1", "n2"]).await;
    eventful(&world).await;
    // 1 epoch, 2 published v1, 3 promoted v1, 4 n1 loaded, 5 n2 failed, 6 published v2, 7 promoted v2, 8 n1 loaded
    for (filters, expected) in [
        (&[] as &[&str], vec![1, 2, 3, 4, 5, 6, 7, 8]),
        (&["--from", "3", "--to", "5"], vec![3, 4, 5]),
        (&["--limit", "2"], vec![1, 2]),
        (&["--node", "n1"], vec![4, 8]),
        (&["--node", "n1", "--limit", "1"], vec![4]),
        (&["--type", "loaded", "--tag", "v2"], vec![8]),
        (&["--type", "bundle.promoted,download_failed"], vec![3, 5, 7]),
        (&["--channel", "latest"], vec![3, 7]),
        (&["--channel", "production"], vec![]),
        (&["--tag", "v1"], vec![2, 3, 4, 5]),
        (&["--bundle", "contracts", "--from", "7"], vec![7, 8]),
        (&["--bundle", "policies"], vec![]),
        (&["--since", "1h"], vec![1, 2, 3, 4, 5, 6, 7, 8]),
        (&["--since", "2099-01-01"], vec![]),
        (&["--until", "1h"], vec![]),
        (&["--until", "2099-01-01T00:00", "--from", "8"], vec![8]),
    ] {
        assert_eq!(listed(&world, filters).await, expected, "{filters:?}");
    }
    let rows = json(events(&world, &["list", "--output", "json"])).await;
    let stored_at = |row: usize| rows[row]["stored_at"].as_str().expect("a time").to_owned();
    assert_eq!(listed(&world, &["--since", &stored_at(5)]).await, [6, 7, 8]);
    assert_eq!(listed(&world, &["--until", &stored_at(1)]).await, [1, 2]);
    assert_eq!(listed(&world, &["--since", &stored_at(3), "--until", &stored_at(4), "--node", "n2"]).await, [5]);

    let table = succeeded(events(&world, &["list", "--node", "n2"])).await;
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("bundle.download_failed") && text.contains("object is missing"), "{text}");
    let lines = succeeded(events(&world, &["list", "--output", "jsonl"])).await;
    assert_eq!(String::from_utf8_lossy(&lines.stdout).lines().count(), 8);

    let wrong = finished(events(&world, &["list", "--since", "yesterday"])).await;
    assert_eq!(wrong.status.code(), Some(2), "{}", both_outputs(&wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn show_finds_an_event_by_number_and_by_id() {
    let world = World::start(&["n1"]).await;
    eventful(&world).await;
    let log = event_log(&world.raw_operator().await).await;
    let fourth = &log[3];
    let id = fourth.header("Nats-Msg-Id").expect("an id").to_owned();
    for name in ["4", id.as_str()] {
        let shown = json(events(&world, &["show", name, "--output", "json"])).await;
        assert_eq!(shown["stream_sequence"], 4);
        assert_eq!(shown["event"], fourth.event());
        assert_eq!(shown["sha256"], shared::digest::Sha256Digest::of(&fourth.payload).to_string());
    }
    let text = succeeded(events(&world, &["show", "4"])).await;
    assert!(String::from_utf8_lossy(&text.stdout).contains("/nodes/n1"), "{}", both_outputs(&text));
    for missing in ["99", "0193b1c2-7e1f-7a55-8c11-0242ac120002"] {
        let output = finished(events(&world, &["show", missing])).await;
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.lines().count() == 1 && said.contains("the log has no event"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_misses_nothing_and_repeats_nothing_when_the_server_is_killed() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    let log = world.log().await;
    let mut writer = writer_of("n1");
    reported(&log, &mut writer, loaded("v0", 1), Utc::now()).await;
    let start = |name: &str, from: &[&str]| {
        let command = events(&world, &[&["tail", "--output", "jsonl", "--nats-timeout", "1s"], from].concat());
        Process::start(name, command, world.directory())
    };
    let mut tail = start("tail", &["--from", "1"]);
    let mut from_now = start("tail-now", &[]);
    tail.log_line("what was there before", PATIENCE, |line| line.contains("\"stream_sequence\":2,")).await;
    // It prints nothing old: its first event shows that it listens.
    eventually("an event that the second tail sees", PATIENCE, async || {
        reported(&log, &mut writer, loaded("v1", 2), Utc::now()).await;
        satisfied(!from_now.log().is_empty(), || "it has seen nothing yet".to_owned())
    })
    .await;

    for round in 0..2 {
        world.server.kill().await;
        // Each has tried in vain to read, and goes on where it was.
        for tail in [&mut tail, &mut from_now] {
            lines_with(tail, "trying again", round + 1).await;
        }
        world.server.start_again().await;
        let log = world.log().await;
        for number in 0..20 {
            reported(&log, &mut writer, loaded(&format!("v{round}-{number}"), number), Utc::now()).await;
        }
        for tail in [&mut tail, &mut from_now] {
            lines_with(tail, "can be read again", round + 1).await;
        }
    }
    // The last ones come by a connection that has been whole for a while.
    for number in 0..3 {
        reported(&world.log().await, &mut writer, loaded("last", number), Utc::now()).await;
    }
    let last = world.raw_operator().await.stream_state("BUNDLE_EVENTS").await.last_sequence;
    for (tail, first) in [(&mut tail, Some(1)), (&mut from_now, None)] {
        tail.log_line("the last event", PATIENCE, |line| line.contains(&format!("\"stream_sequence\":{last},"))).await;
        let seen: Vec<u64> = tail
            .log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|row| row["stream_sequence"].as_u64().expect("a sequence"))
            .collect();
        let first = first.unwrap_or(seen[0]);
        assert_eq!(seen, (first..=last).collect::<Vec<_>>());
    }
}

/// Waits until a process has said so many lines with these words.
async fn lines_with(process: &mut Process, words: &str, count: usize) {
    eventually(&format!("{count} lines of `{}` with `{words}`", process.name()), PATIENCE, async || {
        let said = process.log().lines().filter(|line| line.contains(words)).count();
        satisfied(said >= count, || format!("{said} so far"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_ends_after_its_limit_and_filters() {
    let world = World::start(&["n1", "n2"]).await;
    eventful(&world).await;
    let seen =
        succeeded(events(&world, &["tail", "--from", "1", "--node", "n1", "--limit", "2", "--output", "jsonl"])).await;
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    let sequences: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["stream_sequence"].clone())
        .collect();
    assert_eq!(sequences, [4, 8]);
    let seen = succeeded(events(&world, &["tail", "--since", "1h", "--limit", "3"])).await;
    assert_eq!(String::from_utf8_lossy(&seen.stdout).lines().count(), 4, "{}", both_outputs(&seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_refuses_to_go_on_in_a_log_restored_from_an_old_backup() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    world.server.kill().await;
    let store = world.server.store();
    let backup = world.directory().join("backup");
    succeeded(copied(&store, &backup)).await;
    world.server.start_again().await;
    let mut writer = writer_of("n1");
    for number in 0..3 {
        reported(&world.log().await, &mut writer, loaded("v1", number), Utc::now()).await;
    }
    let tail = events(&world, &["tail", "--from", "1", "--output", "jsonl"]);
    let mut tail = Process::start("tail", tail, world.directory());
    tail.log_line("the last event", PATIENCE, |line| line.contains("\"stream_sequence\":4,")).await;

    world.server.kill().await;
    std::fs::remove_dir_all(&store).expect("the store is the test's own");
    succeeded(copied(&backup, &store)).await;
    world.server.start_again().await;
    let status = tail.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    let log = tail.log();
    assert!(log.contains("was replaced by another one"), "{log}");
}

fn copied(from: &Path, to: &Path) -> Command {
    let mut command = Command::new("cp");
    command.arg("-r").arg(from).arg(to);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_folds_a_prefix_and_tells_each_step() {
    let world = World::start(&["n1", "n2"]).await;
    let mut agent = world.start_agent("n1");
    released(&world, "v1").await;
    agent.switched_to("v1").await;
    let operator = world.raw_operator().await;
    let loaded_at = eventually("the switch in the log", PATIENCE, async || {
        let log = event_log(&operator).await;
        of_node(&log, "bundle.loaded", "n1").first().map(|event| event.sequence).ok_or_else(|| "not there".to_owned())
    })
    .await;
    released(&world, "v2").await;
    agent.switched_to("v2").await;

    let to = loaded_at.to_string();
    let state = json(events(&world, &["replay", "--to", &to, "--output", "json"])).await;
    assert_eq!(state["as_of"]["stream_sequence"], loaded_at);
    assert_eq!(state["channels"][0]["head"]["tag"], "v1");
    assert_eq!(state["nodes"][0]["active"]["tag"], "v1");
    assert_eq!(state["nodes"][0]["activations"].as_array().expect("switches").len(), 1);
    let steps = succeeded(events(&world, &["replay", "--to", &to, "--steps", "--output", "jsonl"])).await;
    let text = String::from_utf8_lossy(&steps.stdout).into_owned();
    assert_eq!(text.lines().count() as u64, loaded_at);
    assert!(text.lines().last().expect("a step").contains("node n1 of contracts: nothing → v1"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_every_command_says_so_in_one_line() {
    let world = World::unprovisioned(&[]).await;
    let export = world.directory().join("none.jsonl.zst");
    let export = export.to_str().expect("a path in UTF-8");
    for arguments in [
        &["events", "list"] as &[&str],
        &["events", "tail"],
        &["events", "show", "1"],
        &["events", "replay"],
        &["events", "verify"],
        &["events", "export", export],
        &["state"],
        &["node", "show", "n1"],
        &["diff", "--from", "1"],
        &["blame", "n1", "bundle.json"],
    ] {
        let mut command = world.demonctl();
        command.args(arguments);
        let output = finished(command).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", both_outputs(&output));
        assert!(said.lines().count() == 1 && said.contains("log"), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", both_outputs(&output));
    }
}
