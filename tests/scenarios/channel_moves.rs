//! What operators do to channels, with the real programs: each order says what it did, and the log shows it once.

use std::fs;
use std::path::PathBuf;

use acceptance::agent::Agent;
use acceptance::operations::{
    head_of, moves_of, operate, operated, operated_json, operator_command, publish_contracts, refused, text_of,
};
use acceptance::sample_trees::contracts;
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Publishes these releases one after another; channel `latest` follows.
async fn published(world: &World, tags: &[&str]) -> PathBuf {
    let source = contracts(world.directory());
    for tag in tags {
        publish_contracts(world, &source, tag).await;
    }
    source
}

#[tokio::test]
async fn a_channel_is_moved_in_one_command_and_its_history_tells_it() {
    let world = World::start(&[]).await;
    published(&world, &["a", "b", "c"]).await;
    let back = operated(&world, &["channel", "rollback", "latest", "--reason", "c is broken"]).await;
    assert_eq!(back, "latest: c → b (rollback, held)\n");
    let further = operated(&world, &["channel", "rollback", "latest"]).await;
    assert_eq!(further, "latest: b → a (rollback, held)\n", "and not to c again");
    let words = refused(&world, &["channel", "rollback", "latest"]).await;
    assert_eq!(words, "demonctl: channel `latest` has no earlier release to go back to");
    let forward = operated(&world, &["channel", "promote", "latest", "c"]).await;
    assert_eq!(forward, "latest: a → c (promote)\n");
    let named = operated(&world, &["channel", "rollback", "latest", "--to", "a"]).await;
    assert_eq!(named, "latest: c → a (rollback, held)\n");
    // Where it stands already: success, and not a word for the log.
    let same = operated(&world, &["channel", "rollback", "latest", "--to", "a"]).await;
    assert_eq!(same, "latest: stays at a, nothing to do, held\n");
    let first = operated(&world, &["channel", "promote", "production", "b"]).await;
    assert_eq!(first, "production: nothing → b (promote)\n");
    let same = operated_json(&world, &["channel", "promote", "production", "b"]).await;
    let head = moves_of(&world, "production").await;
    assert_eq!((same["moved"].clone(), same["sequence"].clone()), (json!(false), json!(head[0].sequence)));
    assert_eq!(head.len(), 1);

    let history = operated_json(&world, &["channel", "history", "latest"]).await;
    let told: Vec<Value> = history
        .as_array()
        .expect("a history is a list")
        .iter()
        .map(|step| json!([step["cause"], step["from"], step["to"], step["hold"], step["actor"], step["reason"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["publish", null, "a", "none", "main", null]),
            json!(["publish", "a", "b", "none", "main", null]),
            json!(["publish", "b", "c", "none", "main", null]),
            json!(["rollback", "c", "b", "held", "ada", "c is broken"]),
            json!(["rollback", "b", "a", "held", "ada", null]),
            json!(["promote", "a", "c", "none", "ada", null]),
            json!(["rollback", "c", "a", "held", "ada", null]),
        ]
    );
    let table = operated(&world, &["channel", "history", "latest"]).await;
    assert_eq!(table.lines().count(), 8, "{table}");
    assert!(table.trim_start().starts_with("SEQUENCE"), "{table}");
    let listed = operated_json(&world, &["channel", "list"]).await;
    let heads: Vec<_> =
        listed.as_array().expect("a list").iter().map(|row| json!([row["channel"], row["tag"]])).collect();
    assert_eq!(heads, [json!(["latest", "a"]), json!(["production", "b"])]);
    let shown = operated_json(&world, &["channel", "show", "latest"]).await;
    assert_eq!((&shown["tag"], &shown["hold"], &shown["moves"]), (&json!("a"), &json!("held"), &json!(7)));
    assert_eq!((&shown["release"]["files"], &shown["release"]["withdrawn"]), (&json!(3), &Value::Null));
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_in_one_line_and_nothing_is_written() {
    let world = World::start(&[]).await;
    published(&world, &["a"]).await;
    let operator = world.raw_operator().await;
    let before = operator.stream_state(EVENT_STREAM).await;
    for (arguments, expected) in [
        (&["channel", "promote", "latest", "z"][..], "demonctl: bundle `contracts` has no release `z`"),
        (&["channel", "rollback", "latest", "--to", "z"], "demonctl: bundle `contracts` has no release `z`"),
        (
            &["channel", "promote", "latest", "contracts-latest"],
            "demonctl: `contracts-latest` stands for channel `latest` and is no release: name one, as `demonctl channel \
             list` shows it",
        ),
        (
            &["channel", "promote", "latest", "a", "--bundle", "policies"],
            "demonctl: bundle `policies` has no release `a`",
        ),
        (&["channel", "freeze", "beta"], "demonctl: channel `beta` of bundle `contracts` points at no release yet"),
        (&["channel", "thaw", "beta"], "demonctl: channel `beta` of bundle `contracts` points at no release yet"),
        (&["channel", "show", "beta"], "demonctl: channel `beta` of bundle `contracts` points at no release yet"),
        (&["channel", "history", "beta"], "demonctl: channel `beta` of bundle `contracts` points at no release yet"),
    ] {
        assert_eq!(refused(&world, arguments).await, expected);
    }
    assert_eq!(operator.stream_state(EVENT_STREAM).await, before);
}

#[tokio::test]
async fn a_held_channel_stays_through_publishes_until_somebody_frees_it() {
    let world = World::start(&[]).await;
    let source = published(&world, &["a", "b"]).await;
    operated(&world, &["channel", "rollback", "latest"]).await;
    let said = publish_contracts(&world, &source, "c").await;
    let said = both_outputs(&said);
    assert!(said.contains("channel `latest` is held at `a` by `ada` and stays there"), "{said}");
    assert_eq!(head_of(&world, "latest").await, ("a".to_owned(), "held".to_owned()));

    // A promotion to where it stands says: this is meant to go on.
    let lifted = operated(&world, &["channel", "promote", "latest", "a"]).await;
    assert_eq!(lifted, "latest: a (promote)\n");
    publish_contracts(&world, &source, "d").await;
    assert_eq!(head_of(&world, "latest").await, ("d".to_owned(), "none".to_owned()));

    operated(&world, &["channel", "rollback", "latest"]).await;
    assert_eq!(operated(&world, &["channel", "thaw", "latest"]).await, "latest: a (thaw)\n");
    publish_contracts(&world, &source, "e").await;
    assert_eq!(head_of(&world, "latest").await, ("e".to_owned(), "none".to_owned()));
}

#[tokio::test]
async fn a_frozen_channel_moves_for_nobody_without_an_override_and_other_channels_do() {
    let world = World::start(&[]).await;
    let source = published(&world, &["a", "b"]).await;
    operated(&world, &["channel", "promote", "beta", "a"]).await;
    let frozen = operated(&world, &["channel", "freeze", "latest", "--reason", "release week"]).await;
    assert_eq!(frozen, "latest: b (freeze, frozen)\n");
    let head = moves_of(&world, "latest").await;
    let again = operated(&world, &["channel", "freeze", "latest"]).await;
    assert_eq!(again, "latest: stays at b, nothing to do, frozen\n");

    let shown = operated_json(&world, &["channel", "show", "latest"]).await;
    let since = shown["frozen_since"].as_str().expect("a frozen channel is frozen since some time");
    let since = since.split('.').next().expect("split gives a first part").trim_end_matches('Z');
    for arguments in [&["channel", "promote", "latest", "a"][..], &["channel", "rollback", "latest"]] {
        let words = refused(&world, arguments).await;
        let expected = format!("demonctl: channel `latest` is frozen at `b` by `ada` since {since}Z");
        assert!(words.starts_with(&expected), "{words} does not begin with {expected}");
    }
    publish_contracts(&world, &source, "c").await;
    assert_eq!(moves_of(&world, "latest").await, head, "neither people nor publishes moved it");
    assert_eq!(operated(&world, &["channel", "promote", "beta", "c"]).await, "beta: a → c (promote)\n");

    let words = operated(&world, &["channel", "promote", "latest", "c", "--override", "--reason", "urgent"]).await;
    assert_eq!(words, "latest: b → c (promote, frozen, override)\n");
    let history = operated_json(&world, &["channel", "history", "latest"]).await;
    let marks: Vec<_> = history.as_array().expect("a list").iter().map(|step| step["override"].clone()).collect();
    assert_eq!(marks, [false, false, false, true].map(Value::from));
    // Whoever froze it is still the one to ask.
    let words = refused(&world, &["channel", "promote", "latest", "a"]).await;
    assert!(words.contains("is frozen at `c` by `ada` since"), "{words}");
    assert_eq!(operated(&world, &["channel", "thaw", "latest"]).await, "latest: c (thaw)\n");
    assert_eq!(operated(&world, &["channel", "thaw", "latest"]).await, "latest: stays at c, nothing to do\n");
}

#[tokio::test]
async fn of_promotions_at_the_same_moment_one_wins_and_the_others_learn_who() {
    /// Started at once in each round; on any machine some of them meet.
    const OPERATORS: [(&str, &str); 4] = [("ada", "a"), ("bob", "b"), ("cleo", "c"), ("dan", "d")];
    const ROUNDS: usize = 25;
    let world = World::start(&[]).await;
    published(&world, &["a", "b", "c", "d"]).await;
    let (mut moved, mut lost) = (0, 0);
    for round in 0..ROUNDS {
        let running: Vec<_> = OPERATORS
            .iter()
            .map(|(actor, tag)| {
                let mut command = operator_command(&world, &["channel", "promote", "race", tag]);
                command.env("DEMON_ACTOR", actor);
                tokio::spawn(finished(command))
            })
            .collect();
        for command in running {
            let output = command.await.expect("running a command does not panic");
            let (said, words) = (text_of(&output.stdout), text_of(&output.stderr));
            if output.status.code() == Some(1) {
                let winner = OPERATORS.iter().find(|(actor, tag)| {
                    words == format!("demonctl: channel `race` was moved to `{tag}` by `{actor}` at the same moment\n")
                });
                assert!(winner.is_some(), "{words}");
                lost += 1;
            } else {
                assert!(output.status.success(), "{words}");
                moved += usize::from(!said.contains("nothing to do"));
            }
        }
        if lost > 0 && round > 0 {
            break;
        }
    }
    assert!(lost > 0, "in {ROUNDS} rounds nobody met anybody");
    let steps = moves_of(&world, "race").await;
    assert_eq!(steps.len(), moved, "one event for each that said it moved the channel");
    // Nobody wrote over what they had not seen.
    let mut before = Value::Null;
    for step in &steps {
        assert_eq!(step.data()["previous_tag"], before, "at {}", step.sequence);
        before = step.data()["tag"].clone();
    }
}

/// What the server says a stream holds, but for who reads it.
async fn content_of(world: &World, stream: &str) -> Value {
    let answer = world.raw_operator().await.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await;
    let mut state = answer["state"].clone();
    state.as_object_mut().expect("a stream has a state").remove("consumer_count");
    state
}

#[tokio::test]
async fn a_dry_run_foretells_the_move_and_leaves_no_trace() {
    let world = World::start(&["edge-1", "edge-2"]).await;
    published(&world, &["a", "b"]).await;
    let mut agents = ["edge-1", "edge-2"].map(|node| world.start_agent(node));
    for agent in &mut agents {
        agent.switched_to("b").await;
    }
    settled(&world, "b", &["edge-1", "edge-2"]).await;
    for arguments in [
        &["channel", "rollback", "latest", "--reason", "trial"][..],
        &["channel", "promote", "latest", "b"],
        &["channel", "freeze", "latest"],
        &["channel", "promote", "latest", "a", "--override"],
        &["channel", "thaw", "latest"],
    ] {
        let before = (content_of(&world, EVENT_STREAM).await, content_of(&world, RELEASE_STREAM).await);
        let foretold = operated_json(&world, &[arguments, &["--dry-run"]].concat()).await;
        let after = (content_of(&world, EVENT_STREAM).await, content_of(&world, RELEASE_STREAM).await);
        assert_eq!(before, after, "{arguments:?} --dry-run wrote");
        let done = operated_json(&world, &[arguments, &["--wait"]].concat()).await;
        for member in ["bundle", "channel", "from", "to", "tree_digest", "cause", "hold", "override", "moved"] {
            assert_eq!(foretold[member], done[member], "{member} of {arguments:?}");
        }
        assert_eq!((&foretold["dry_run"], &done["dry_run"]), (&json!(true), &json!(false)));
        let nodes = json!(["edge-1", "edge-2"]);
        let switches = foretold["from"] != foretold["to"];
        let (switching, there) = if switches { (nodes, json!([])) } else { (json!([]), nodes) };
        assert_eq!((&foretold["preview"]["nodes"], &foretold["preview"]["nodes_there"]), (&switching, &there));
        assert_eq!(foretold["preview"]["files"], json!(3));
    }
    let words = operated(&world, &["channel", "promote", "latest", "b", "--dry-run"]).await;
    assert!(words.starts_with("dry run: latest: a → b (promote); tree "), "{words}");
    assert!(words.ends_with(", compatible; 2 nodes would switch: edge-1, edge-2\n"), "{words}");
}

#[tokio::test]
async fn a_dry_run_names_what_the_move_would_break() {
    let world = World::start(&[]).await;
    let source = published(&world, &["a"]).await;
    operated(&world, &["channel", "freeze", "latest"]).await;
    fs::remove_file(source.join("schemas/events.ritual.started.v1.json")).expect("the file is ours");
    publish_contracts(&world, &source, "b").await;
    operated(&world, &["channel", "thaw", "latest"]).await;
    let words = operated(&world, &["channel", "promote", "latest", "b", "--dry-run"]).await;
    assert!(words.contains(", 1 breaking change; no live node would switch\n"), "{words}");
    assert!(words.ends_with("\nbreaks events.ritual.started.v1.json: the schema was removed\n"), "{words}");
    let report = operated_json(&world, &["channel", "promote", "latest", "b", "--dry-run"]).await;
    assert_eq!(report["preview"]["breaking"][0]["change"], json!("schema_removed"));
    // The way back takes nothing away.
    operated(&world, &["channel", "promote", "latest", "b"]).await;
    let report = operated_json(&world, &["channel", "rollback", "latest", "--dry-run"]).await;
    assert_eq!(report["preview"]["breaking"], json!([]));
}

/// Waits until each node's switch to a release is in the log and its entry in the node table.
async fn settled(world: &World, tag: &str, nodes: &[&str]) {
    eventually("every node to be known", PATIENCE, async || {
        let shown = operated_json(world, &["channel", "show", "latest"]).await;
        satisfied(shown["followed"] == json!(nodes) && shown["tag"] == tag, || shown.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_fleet_is_rolled_back_and_the_command_waits_until_every_live_node_follows() {
    const NODES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];
    let world = World::start(&NODES).await;
    published(&world, &["a", "b", "c"]).await;
    let mut agents: Vec<Agent> = NODES.iter().map(|node| world.start_agent(node)).collect();
    for agent in &mut agents {
        agent.switched_to("c").await;
    }
    settled(&world, "c", &NODES).await;

    let said = operated(&world, &["channel", "rollback", "latest", "--to", "a", "--wait"]).await;
    assert_eq!(said, "latest: c → a (rollback, held)\n3 of 3 nodes run a\n");
    for agent in &agents {
        assert_eq!(agent.active_tag().as_deref(), Some("a"));
    }
    let again = operated_json(&world, &["channel", "promote", "latest", "c", "--wait"]).await;
    assert_eq!(again["wait"], json!({ "followed": NODES, "stragglers": [] }));

    // One that is stopped is named, and the others are not.
    agents[1].process.signal(Signal::STOP);
    let arguments = ["channel", "rollback", "latest", "--wait", "--timeout", "3s", "--output", "json"];
    let output = operate(&world, &arguments, 3).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report is JSON");
    assert_eq!((&report["moved"], &report["to"]), (&json!(true), &json!("a")), "the move itself is done");
    assert_eq!(report["wait"]["followed"], json!(["edge-1", "edge-3"]));
    let stragglers = report["wait"]["stragglers"].as_array().expect("a list");
    let told: Vec<_> = stragglers.iter().map(|late| json!([late["node"], late["reason"], late["running"]])).collect();
    assert_eq!(told, [json!(["edge-2", "silent", "c"])]);
    let words = text_of(&output.stderr);
    assert!(words.starts_with("demonctl: node `edge-2` runs c: silent, last heard of at "), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");

    agents[1].process.signal(Signal::CONT);
    let said = operated(&world, &["channel", "rollback", "latest", "--to", "a", "--wait"]).await;
    assert_eq!(said, "latest: stays at a, nothing to do, held\n3 of 3 nodes run a\n");
    let log = event_log(&world.raw_operator().await).await;
    for node in NODES {
        let loads: Vec<_> =
            of_node(&log, "bundle.loaded", node).iter().map(|load| load.data()["tag"].clone()).collect();
        assert_eq!(loads, ["c", "a", "c", "a"], "{node}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_load_the_release_is_named_with_its_failure() {
    let world = World::start(&["edge-1"]).await;
    published(&world, &["a", "b"]).await;
    operated(&world, &["channel", "rollback", "latest"]).await;
    let mut agent = world.start_agent("edge-1");
    agent.switched_to("a").await;
    settled(&world, "a", &["edge-1"]).await;
    // What the archive of b consists of is gone from the bucket, as after a disk error.
    let operator = world.raw_operator().await;
    let purged = operator.api(&format!("STREAM.PURGE.{RELEASE_STREAM}"), &json!({ "filter": "$O.BUNDLES.C.>" })).await;
    assert_eq!(purged["success"], json!(true), "{purged}");
    let arguments = ["channel", "promote", "latest", "b", "--wait", "--timeout", "4s"];
    let output = operate(&world, &arguments, 3).await;
    assert_eq!(text_of(&output.stdout), "latest: a → b (promote)\n0 of 1 nodes run b\n");
    let words = text_of(&output.stderr);
    let failed = "demonctl: node `edge-1` runs a: its last attempt failed: bundle.verification_failed: contracts/b.";
    assert!(words.starts_with(failed), "{words}");
}
