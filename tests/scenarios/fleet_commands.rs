//! `demonctl fleet status|watch|wait` and `demonctl bisect`, with real agents and with nodes that only reported.

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::operations::{operate, operated_json, operator_command, refused, text_of};
use acceptance::process::Process;
use acceptance::reported::{any_report, download_failed, loaded, reported, writer_of};
use acceptance::stored_log::NODE_TABLE_STREAM;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, succeeded};
use async_nats::HeaderMap;
use chrono::Utc;
use futures_util::future::try_join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use streams::release_store::ReleaseStore;

const ENTRIES: usize = 10_000;

async fn released(world: &World, tag: &str) -> HandmadeRelease {
    let store = ReleaseStore::new(world.operator().await);
    let release = HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await;
    release.announced(&world.log().await).await;
    release
}

async fn status(world: &World) -> Value {
    let heads = operated_json(world, &["fleet", "status"]).await;
    let full = operated_json(world, &["fleet", "status", "--full"]).await;
    assert_eq!(without_moving(&heads), without_moving(&full), "the heads tell what the whole log tells");
    heads
}

/// Heartbeats go on between two looks.
fn without_moving(rows: &Value) -> Value {
    let mut rows = rows.clone();
    for row in rows.as_array_mut().expect("rows") {
        row["waiting_events"] = Value::Null;
        row["contradiction"] = Value::Null;
    }
    rows
}

fn row<'a>(rows: &'a Value, node: &str) -> &'a Value {
    let mut found = rows.as_array().expect("rows").iter();
    found.find(|row| row["node"] == node).unwrap_or_else(|| panic!("no row of `{node}`: {rows}"))
}

async fn comes_to(world: &World, node: &str, state: &str) -> Value {
    eventually(&format!("`{node}` to be {state}"), PATIENCE, async || {
        let rows = operated_json(world, &["fleet", "status"]).await;
        let found = rows.as_array().expect("rows").iter().find(|row| row["node"] == node).cloned();
        let found = found.ok_or_else(|| format!("no row: {rows}"))?;
        satisfied(found["state"] == state, || format!("{found}")).map(|()| found.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_has_a_row_that_says_how_it_stands_and_why() {
    let world = World::start(&["follower", "pinned"]).await;
    released(&world, "v1").await;
    let mut follower = world.start_agent("follower");
    let mut command = world.agent_command("pinned");
    command.env("DEMON_CONTRACTS_TAG", "v1");
    let directories = AgentDirectories::below(world.directory(), "pinned");
    let mut pinned = Agent::start("pinned", command, directories, world.directory());
    follower.switched_to("v1").await;
    pinned.switched_to("v1").await;
    operate(&world, &["fleet", "wait", "--channel", "latest"], 0).await;
    let log = world.log().await;
    reported(&log, &mut writer_of("lost"), loaded("v1", 1), Utc::now()).await;

    let ok = comes_to(&world, "follower", "ok").await;
    assert_eq!((&ok["tag"], &ok["desired"], &ok["channel"]), (&json!("v1"), &json!("v1"), &json!("latest")));
    comes_to(&world, "pinned", "pinned").await;
    let rows = status(&world).await;
    let lost = row(&rows, "lost");
    assert_eq!((&lost["state"], &lost["tag"]), (&json!("silent"), &json!("v1")));
    assert!(lost["silent_since"].is_string(), "{lost}");

    // A head that names other bytes than were announced: nobody may switch to it.
    let store = ReleaseStore::new(world.operator().await);
    let bad = HandmadeRelease::stored(&store, "contracts", "v2", &contracts_files("v2")).await;
    bad.announced_and_promoted_as(&log, Sha256Digest::of(b"other")).await;
    let failed = comes_to(&world, "follower", "failed").await;
    assert_eq!((&failed["tag"], &failed["desired"]), (&json!("v1"), &json!("v2")));
    assert!(failed["reason"].as_str().is_some_and(|why| why.contains("v2: bundle.verification_failed")), "{failed}");
    assert_eq!(row(&status(&world).await, "pinned")["state"], "pinned");
    let only = operated_json(&world, &["fleet", "status", "--node", "pinned"]).await;
    assert_eq!(only.as_array().expect("rows").len(), 1);
    let nobody = operated_json(&world, &["fleet", "status", "--channel", "staging"]).await;
    assert_eq!(nobody, json!([]));
    let late = operate(&world, &["fleet", "wait", "--channel", "latest", "--timeout", "2s"], 3).await;
    assert!(text_of(&late.stderr).contains("node `follower` runs v1: its last attempt failed"), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_every_node_has_switched_and_names_those_that_have_not() {
    let world = World::start(&["n1", "n2"]).await;
    assert!(refused(&world, &["fleet", "wait", "--channel", "latest"]).await.contains("latest"));
    released(&world, "v1").await;
    // Nobody is there: that is not everybody.
    let nobody = operate(&world, &["fleet", "wait", "--channel", "latest", "--timeout", "500ms"], 3).await;
    assert!(text_of(&nobody.stderr).contains("at least 1 must"), "{}", both_outputs(&nobody));
    operate(&world, &["fleet", "wait", "--channel", "latest", "--min-nodes", "0"], 0).await;
    let (mut n1, mut n2) = (world.start_agent("n1"), world.start_agent("n2"));
    let both = ["fleet", "wait", "--channel", "latest", "--min-nodes", "2"];
    let waited = operated_json(&world, &both).await;
    assert_eq!((&waited["followed"], &waited["complete"]), (&json!(["n1", "n2"]), &json!(true)));
    n1.switched_to("v1").await;
    n2.switched_to("v1").await;
    n2.process.signal(Signal::STOP);
    released(&world, "v2").await;
    let late = operate(&world, &["fleet", "wait", "--channel", "latest", "--timeout", "5s"], 3).await;
    let words = text_of(&late.stderr);
    assert!(words.contains("node `n2` runs v1") && !words.contains("node `n1`"), "{words}");
    comes_to(&world, "n2", "behind").await;
    // The entry lapses by itself after a while; here at once.
    n2.process.kill();
    let purge = json!({ "filter": "$KV.BUNDLE_NODES.n2" });
    world.raw_operator().await.api(&format!("STREAM.PURGE.{NODE_TABLE_STREAM}"), &purge).await;
    let silent = comes_to(&world, "n2", "silent").await;
    assert_eq!((&silent["tag"], &silent["desired"]), (&json!("v1"), &json!("v2")));
    let wait = ["fleet", "wait", "--channel", "latest", "--release", "v2", "--timeout", "500ms"];
    let words = text_of(&operate(&world, &wait, 3).await.stderr);
    assert!(words.contains("node `n2` runs v1: silent, last heard of at"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_prints_each_change_until_ctrl_c() {
    let world = World::start(&["n1"]).await;
    let mut command = operator_command(&world, &["fleet", "watch", "--output", "jsonl"]);
    command.env("RUST_LOG", "warn");
    let mut watch = Process::start("watch", command, world.directory());
    let mut agent = world.start_agent("n1");
    let one = released(&world, "v1").await;
    agent.switched_to("v1").await;
    let line =
        watch.log_line("the switch", PATIENCE, |line| line.contains(r#""state":"ok""#) && line.contains("v1")).await;
    let change: Value = serde_json::from_str(&line).expect("a line is JSON");
    assert_eq!(change["after"]["tree_digest"], one.tree_digest().to_string());
    watch.signal(Signal::INT);
    assert_eq!(watch.ended(PATIENCE).await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_entries_are_answered_without_replaying_the_log() {
    let world = World::start(&[]).await;
    let release = released(&world, "v1").await;
    let (log, mut writer) = (world.log().await, writer_of("node-0"));
    for epoch in 1..=500 {
        reported(&log, &mut writer, loaded("v0", epoch), Utc::now()).await;
    }
    let last = reported(&log, &mut writer, download_failed("v1"), Utc::now()).await;
    let jetstream = world.raw_operator().await.jetstream();
    let digest = release.tree_digest();
    let entry = |number: usize| {
        json!({
            "node": format!("node-{number}"), "bundle": "contracts", "channel": "latest",
            "active": { "tag": "v1", "tree_digest": digest, "content_digest": digest, "loaded_at": "2025-09-21T06:00:00Z" },
            "last_sequence": 0, "waiting_events": 0, "incarnation": "0193b1c27e1f4a558c110242ac120002",
            "version": "0.1.0", "started_at": "2025-09-21T06:00:00Z"
        })
    };
    let numbers: Vec<usize> = (0..ENTRIES).collect();
    for part in numbers.chunks(500) {
        let put = async |number: usize| {
            let key = format!("$KV.BUNDLE_NODES.node-{number}");
            jetstream.publish(key, entry(number).to_string().into()).await?.await
        };
        let stored = tokio::time::timeout(PATIENCE, try_join_all(part.iter().map(|number| put(*number))));
        stored.await.expect("the server takes 500 entries in time").expect("the table takes the entries");
    }
    let mut command = operator_command(&world, &["fleet", "status", "--output", "json"]);
    command.env("RUST_LOG", "demonctl=debug");
    let output = succeeded(command).await;
    let errors = text_of(&output.stderr);
    let read = errors.split("events_read=").nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    let read: usize = read.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count: {errors}"));
    assert!(read < 10, "{read} events of {last} were read");
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(rows.as_array().expect("rows").len(), ENTRIES);
    // The table says v1 everywhere; of this node the log knows better.
    let wrong = row(&rows, "node-0");
    assert_eq!(
        (&wrong["state"], &wrong["tag"], &wrong["last_sequence"]),
        (&json!("failed"), &json!("v0"), &json!(last))
    );
    assert!(errors.contains("is behind and says it runs v1; the log says v0"), "{errors}");
    assert!(rows == operated_json(&world, &["fleet", "status", "--full"]).await, "the whole log tells another story");
}

/// What a node's entry says of its bundles, and how wrong it is.
fn entry_of(rows: &Value, node: &str, log_end: u64, kind: usize) -> Value {
    let of_node = rows.as_array().expect("rows").iter().filter(|row| row["node"] == node);
    let bundles: Vec<Value> = of_node
        .map(|row| {
            let (last, digest) = (row["last_sequence"].as_u64().unwrap_or(0), &row["tree_digest"]);
            let (tag, last, up_to) = match kind {
                // Right; of a while ago; of another release; ahead of the log; of an agent that does not tell.
                0 | 4 => (&row["tag"], last, log_end),
                1 => (&row["tag"], last, last),
                2 => (&row["desired"], last, log_end),
                _ => (&row["tag"], last + 3, log_end + 9),
            };
            let mut bundle = json!({ "bundle": row["bundle"], "channel": "latest" });
            if digest.is_string() {
                bundle["active"] =
                    json!({ "tag": tag, "tree_digest": digest, "content_digest": digest, "loaded_at": "2025-09-21T06:00:00Z" });
            }
            if kind != 4 {
                bundle["logged"] = json!({ "up_to_sequence": up_to, "last_sequence": last });
            }
            bundle
        })
        .collect();
    json!({
        "node": node, "bundles": bundles, "last_sequence": log_end, "waiting_events": 0, "version": "0.1.0",
        "incarnation": "0193b1c27e1f4a558c110242ac120002", "started_at": "2025-09-21T06:00:00Z"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heads_tell_what_the_whole_log_tells_whatever_nodes_and_table_say() {
    let world = World::start(&[]).await;
    released(&world, "v1").await;
    let (log, operator) = (world.log().await, world.raw_operator().await);
    let names: Vec<String> = (0..12).map(|number| format!("node-{number}")).collect();
    let mut writers: Vec<_> = names.iter().map(|name| writer_of(name)).collect();
    let mut random: u64 = 20_250_921;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    for round in 0..6 {
        for _ in 0..40 {
            // The last two report only now and then: they never switch, or are unknown for a while.
            let node = usize::try_from(below(12)).expect("small");
            let bundle = if node.is_multiple_of(3) && below(2) == 0 { "policies" } else { "contracts" };
            let tag = format!("v{}", below(3));
            let kind = if node >= 10 { 4 + below(6) } else { below(10) };
            let event = any_report(kind, bundle, &tag, round);
            reported(&log, &mut writers[node], event, Utc::now()).await;
        }
        // A last event that is none hides the one before it.
        for subject in ["bundle.loaded.contracts.node.node-3", "bundle.staged.contracts.node.node-12"] {
            operator.store(subject, HeaderMap::new(), "no event").await;
        }
        let full = operated_json(&world, &["fleet", "status", "--full"]).await;
        assert_eq!(operated_json(&world, &["fleet", "status"]).await, full, "round {round}: without the table");
        let log_end = log.state().await.expect("the log says how long it is").last_sequence;
        for (number, name) in names.iter().enumerate().filter(|(number, _)| number % 7 != 6) {
            let entry = entry_of(&full, name, log_end, number % 5);
            operator.store(&format!("$KV.BUNDLE_NODES.{name}"), HeaderMap::new(), entry.to_string()).await;
        }
        let full = operated_json(&world, &["fleet", "status", "--full"]).await;
        assert_eq!(operated_json(&world, &["fleet", "status"]).await, full, "round {round}: with the table");
        for options in [["--node", "node-3"], ["--bundle", "policies"]] {
            let some = |more: &[&'static str]| [&["fleet", "status"], &options[..], more].concat();
            let (heads, full) = (some(&[]), some(&["--full"]));
            assert_eq!(operated_json(&world, &heads).await, operated_json(&world, &full).await, "{options:?}");
        }
    }
    let rows = operated_json(&world, &["fleet", "status"]).await;
    let wrong = rows.as_array().expect("rows").iter().filter(|row| row["contradiction"].is_string()).count();
    assert!(wrong > 0, "no entry was wrong: {rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bisecting_finds_the_promotion_that_broke_something() {
    let world = World::start(&[]).await;
    for number in 1..=9 {
        released(&world, &format!("v{number}")).await;
    }
    let script = r#"test "$PWD" = "$(cd "$DEMON_BISECT_DIRECTORY" && pwd)" && test -f bundle.json || exit 255
        case $DEMON_BISECT_TAG in v1|v2|v3|v4|v5) exit 0;; *) exit 1;; esac"#;
    let search = ["bisect", "latest", "--good", "v1", "--bad", "v9", "--output", "json", "--", "sh", "-c"];
    let found = operate(&world, &[&search[..], &[script]].concat(), 0).await;
    let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    assert_eq!((&found["first_bad"]["tag"], &found["last_good"]["tag"]), (&json!("v6"), &json!("v5")));
    assert_eq!((&found["first_bad"]["actor"], found["tried"].as_array().map(Vec::len)), (&json!("tests"), Some(3)));
    let open = operate(&world, &[&search[..], &["exit 125"]].concat(), 1).await;
    let open: Value = serde_json::from_slice(&open.stdout).expect("JSON");
    assert_eq!(open["candidates"].as_array().map(Vec::len), Some(8));
    let aborted = operate(&world, &[&search[..], &["no-such-program-here"]].concat(), 1).await;
    assert!(text_of(&aborted.stderr).contains("ended the search at release"), "{}", both_outputs(&aborted));
    let backwards = refused(&world, &["bisect", "latest", "--good", "v9", "--bad", "v1", "--", "true"]).await;
    assert!(backwards.contains("lies before"), "{backwards}");
}
