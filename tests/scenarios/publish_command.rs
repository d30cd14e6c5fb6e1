//! `demonctl contracts publish` and `bundle publish`: what they add to the log, and what
//! they say about it.

use std::path::Path;
use std::process::Command;

use acceptance::publishing::{COMMIT, ServerContent, contracts_publish, document, published};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::stored_log::{checked_chains, event_log};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use serde_json::{Value, json};

const TAG: &str = "contracts-20250921-0658fb8b";
const ANNOUNCEMENTS: &str = "bundle.published.contracts.release.contracts-20250921-0658fb8b";
const HEAD: &str = "bundle.promoted.contracts.channel.latest";

#[tokio::test]
async fn a_publish_says_what_it_did_and_the_same_again_adds_nothing() {
    let world = World::unprovisioned(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    let first = published(&world, &source, &["--reason", "the first", "--trigger", "workflow_run"]).await;
    assert_eq!((&first["tag"], &first["novelty"]), (&json!(TAG), &json!("announced")));
    assert_eq!((&first["bundle"], &first["files"]), (&json!("contracts"), &json!(3)));
    assert_eq!((&first["trigger"], &first["git"]["sha"]), (&json!("workflow_run"), &json!(COMMIT)));
    let channel = json!({ "name": "latest", "effect": "moved", "from": null, "to": TAG, "hold": "none" });
    assert_eq!(first["channel"], channel);

    let content = ServerContent::of(&operator).await;
    let announced = &content.on(ANNOUNCEMENTS)[0];
    assert_eq!(announced.event()["source"], "/operators/ada");
    assert_eq!((&announced.data()["tree_digest"], announced.sequence), (&first["tree_digest"], number(&first)));
    for member in ["name", "size", "sha256"] {
        assert_eq!(announced.data()["archive"][member], first["archive"][member]);
    }
    assert_eq!(content.on(HEAD)[0].data()["reason"], "the first");

    let again = published(&world, &source, &[]).await;
    assert_eq!((&again["tag"], &again["novelty"]), (&json!(TAG), &json!("unchanged")));
    assert_eq!((&again["tree_digest"], &again["sequence"]), (&first["tree_digest"], &first["sequence"]));
    assert_eq!(again["channel"]["effect"], "already_there");
    assert_eq!(ServerContent::of(&operator).await, content);
    // And in words.
    let output = succeeded(contracts_publish(&world, &source, &["--output", "table"])).await;
    assert!(both_outputs(&output).contains(&format!("unchanged: {TAG}")), "{}", both_outputs(&output));
}

#[tokio::test]
async fn a_forced_publish_announces_the_same_release_again() {
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    let first = published(&world, &source, &[]).await;
    for no in ["--force=false", "--force=0", "--force="] {
        assert_eq!(published(&world, &source, &[no]).await["novelty"], "unchanged", "{no}");
    }
    let mut by_variable = contracts_publish(&world, &source, &[]);
    by_variable.env("DEMON_FORCE", "false");
    assert_eq!(document(&finished(by_variable).await)["novelty"], "unchanged");

    let objects = async || ServerContent::of(&operator).await;
    let before = objects().await;
    let forced = published(&world, &source, &["--force", "--trigger", "workflow_dispatch"]).await;
    assert_eq!((&forced["tag"], &forced["novelty"]), (&json!(TAG), &json!("announced_again")));
    for same in ["tree_digest", "content_digest", "archive"] {
        assert_eq!(forced[same], first[same], "{same}");
    }
    let after = objects().await;
    let announcements = after.on(ANNOUNCEMENTS);
    assert_eq!((before.on(ANNOUNCEMENTS).len(), announcements.len()), (1, 2));
    assert_eq!(announcements[1].data()["trigger"], "workflow_dispatch");
    assert_eq!(number(&forced), announcements[1].sequence);
    assert_eq!(after.on(HEAD).len(), 1, "the channel points there already");

    let mut by_variable = contracts_publish(&world, &source, &[]);
    by_variable.env("DEMON_FORCE", "true");
    assert_eq!(document(&finished(by_variable).await)["novelty"], "announced_again");
    // A node is none the worse for it.
    let mut agent = world.start_agent("n1");
    agent.switched_to(TAG).await;
}

#[tokio::test]
async fn the_schedule_cuts_one_release_a_day() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    let first = published(&world, &source, &[]).await;
    let unchanged = published(&world, &source, &["--trigger", "schedule"]).await;
    assert_eq!(unchanged["novelty"], "unchanged", "the day has its release");

    let next_day = ["--trigger", "schedule", "--timestamp", "2025-09-22T06:00:00Z"];
    let daily = published(&world, &source, &next_day).await;
    assert_eq!((&daily["tag"], &daily["novelty"]), (&json!("contracts-20250922-0658fb8b"), &json!("announced")));
    assert_eq!((&daily["content_digest"], &daily["trigger"]), (&first["content_digest"], &json!("schedule")));
    assert_eq!((&daily["channel"]["from"], &daily["channel"]["effect"]), (&json!(TAG), &json!("moved")));
    let before = ServerContent::of(&operator).await;
    // Hours later the same day, as by a scheduler that starts again.
    let later = published(&world, &source, &["--trigger", "schedule", "--timestamp", "2025-09-22T18:30:00Z"]).await;
    assert_eq!((&later["tag"], &later["novelty"]), (&daily["tag"], &json!("unchanged")));
    assert_eq!(ServerContent::of(&operator).await, before);
}

#[tokio::test]
async fn a_dry_run_foretells_the_publish_and_writes_nothing() {
    let world = World::unprovisioned(&["n1"]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    let nothing = ServerContent::of(&operator).await;
    let foretold = published(&world, &source, &["--dry-run"]).await;
    assert_eq!(ServerContent::of(&operator).await, nothing, "not even the streams are made");
    assert_same(&foretold, &published(&world, &source, &[]).await);
    let mut agent = world.start_agent("n1");
    agent.switched_to(TAG).await;
    let connection = world.operator().await;
    eventually("the node's entry", PATIENCE, async || {
        let entries = streams::node_table::NodeTable::new(connection.clone()).list().await.expect("a table");
        satisfied(!entries.is_empty(), || "no entry".to_owned())
    })
    .await;

    change_one_contract(&source, "second");
    let next_day = ["--timestamp", "2025-09-22T06:00:00Z"];
    for options in
        [&next_day[..], &[&next_day[..], &["--force"]].concat(), &[&next_day[..], &["--no-promote"]].concat()]
    {
        // What the node has to say about the last release is said before it is stopped.
        eventually("the node's report", PATIENCE, async || {
            let log = event_log(&operator).await;
            let head = log.iter().rev().find(|message| message.event_type() == "bundle.promoted").expect("a head");
            let last = log.iter().rev().find(|message| message.event_type() == "bundle.loaded");
            let reported = last.is_some_and(|last| last.data()["tag"] == head.data()["tag"]);
            satisfied(reported, || format!("the log has {} events", log.len()))
        })
        .await;
        agent.process.signal(rustix::process::Signal::STOP);
        // Its last words may still be on their way.
        let mut before = ServerContent::of(&operator).await;
        eventually("the server to rest", PATIENCE, async || {
            let now = ServerContent::of(&operator).await;
            let rests = now == before;
            before = now;
            satisfied(rests, || "its content changes".to_owned())
        })
        .await;
        let foretold = published(&world, &source, &[options, &["--dry-run"]].concat()).await;
        assert_eq!(ServerContent::of(&operator).await, before, "{options:?}");
        agent.process.signal(rustix::process::Signal::CONT);
        let nodes = if options.contains(&"--no-promote") { json!([]) } else { json!(["n1"]) };
        assert_eq!(foretold["nodes"], nodes, "{options:?}");
        assert_same(&foretold, &published(&world, &source, options).await);
    }
}

/// A preview and what came of it, but for what only one of them can know.
fn assert_same(foretold: &Value, done: &Value) {
    let mut foretold = foretold.clone();
    assert_eq!(foretold["dry_run"], true);
    let sequence = foretold["sequence"].take();
    assert!(sequence.is_null() || number(done) >= sequence.as_u64().expect("a number"), "{sequence}");
    for (member, _) in done.as_object().expect("an object") {
        let only_one = ["dry_run", "sequence", "base", "compared", "breaking"].contains(&member.as_str());
        assert!(only_one || foretold[member] == done[member], "{member}: {foretold} {done}");
    }
}

#[tokio::test]
async fn a_publish_waits_for_the_nodes_where_it_is_told_to() {
    let world = World::start(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    let first = published(&world, &source, &["--wait"]).await;
    assert_eq!(first["wait"], json!({ "followed": [], "stragglers": [] }), "nobody is there");
    let mut agents = [world.start_agent("n1"), world.start_agent("n2")];
    for agent in &mut agents {
        agent.switched_to(TAG).await;
    }
    change_one_contract(&source, "second");
    let second = published(&world, &source, &["--tag", "v2", "--wait", "--timeout", "30s"]).await;
    assert_eq!(second["wait"]["followed"], json!(["n1", "n2"]));

    agents[0].process.signal(rustix::process::Signal::STOP);
    change_one_contract(&source, "third");
    let late = finished(contracts_publish(&world, &source, &["--tag", "v3", "--wait", "--timeout", "2s"])).await;
    agents[0].process.signal(rustix::process::Signal::CONT);
    assert_eq!(late.status.code(), Some(3), "{}", both_outputs(&late));
    let row: Value = serde_json::from_slice(&late.stdout).expect("JSON");
    assert_eq!((&row["novelty"], &row["wait"]["stragglers"][0]["node"]), (&json!("announced"), &json!("n1")));
}

#[tokio::test]
async fn a_changed_working_tree_is_tagged_by_its_content_and_said_so() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let git = async |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&source).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(arguments);
        String::from_utf8(succeeded(command).await.stdout).expect("text").trim().to_owned()
    };
    git(&["init", "--quiet", "--initial-branch=main"]).await;
    git(&["add", "."]).await;
    git(&["-c", "commit.gpgsign=false", "commit", "--quiet", "--message", "first"]).await;
    let commit = git(&["rev-parse", "HEAD"]).await;
    let publish = async || {
        let mut command = world.demonctl();
        command.args(["contracts", "publish", "--actor", "ada", "--output", "json"]).arg(&source);
        succeeded(command).await
    };
    let clean = publish().await;
    assert!(clean.stderr.is_empty(), "{}", both_outputs(&clean));
    let clean = document(&clean);
    assert_eq!((&clean["git"]["sha"], &clean["git"]["ref"]), (&json!(commit), &json!("refs/heads/main")));
    assert!(clean["tag"].as_str().expect("a tag").ends_with(&commit[..8]), "{clean}");

    change_one_contract(&source, "not committed");
    let dirty = publish().await;
    assert!(String::from_utf8_lossy(&dirty.stderr).contains("is not exactly what its commit holds"));
    let dirty = document(&dirty);
    let content = dirty["content_digest"].as_str().expect("a digest");
    assert!(dirty["tag"].as_str().expect("a tag").ends_with(&content[..8]), "{dirty}");
}

#[tokio::test]
async fn the_history_is_newest_first_and_filtered() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    for round in 0..7 {
        change_one_contract(&source, &format!("round {round}"));
        let trigger = if round % 3 == 0 { "schedule" } else { "workflow_run" };
        published(&world, &source, &["--tag", &format!("v{round}"), "--trigger", trigger]).await;
    }
    let history = async |options: &[&str]| -> Vec<String> {
        let mut command = world.demonctl();
        command.args(["contracts", "history", "--output", "jsonl"]).args(options);
        let output = succeeded(command).await;
        let rows = String::from_utf8(output.stdout).expect("text");
        let row = |line: &str| -> Value { serde_json::from_str(line).expect("JSON") };
        rows.lines().map(|line| row(line)["tag"].as_str().expect("a tag").to_owned()).collect()
    };
    assert_eq!(history(&["--limit", "5"]).await, ["v6", "v5", "v4", "v3", "v2"]);
    assert_eq!(history(&["--limit", "2", "--trigger", "schedule"]).await, ["v6", "v3"]);
    assert_eq!(history(&["--trigger", "schedule"]).await, ["v6", "v3", "v0"]);
    // A test may run across midnight, so the day before and the day after are asked for.
    assert_eq!(history(&["--created", "2025-09-21"]).await, [""; 0], "what counts is when it was stored");
    assert_eq!(history(&["--since", "2025-09-21"]).await.len(), 7);
    assert_eq!(history(&["--until", "2025-09-21"]).await.len(), 0);
    assert_eq!(history(&["--bundle", "policies"]).await.len(), 0);

    published(&world, &source, &["--tag", "v6", "--force"]).await;
    assert_eq!(history(&["--limit", "2"]).await, ["v6", "v6"], "each announcement is a row");
    let mut command = world.demonctl();
    command.args(["contracts", "history", "--trigger", "schedule", "--limit", "1"]);
    let table = both_outputs(&succeeded(command).await);
    assert!(table.contains("schedule") && table.contains(&COMMIT[..8]) && !table.contains("workflow_run"), "{table}");
}

#[tokio::test]
async fn the_same_source_commit_and_time_give_the_same_bytes_wherever_they_are_published() {
    let world = World::unprovisioned(&[]).await;
    let mut previews = Vec::new();
    for (number, (zone, locale, mask)) in
        [("UTC", "C", "022"), ("Pacific/Kiritimati", "de_DE.UTF-8", "077")].into_iter().enumerate()
    {
        let source = contracts(&world.subdirectory(&format!("copy-{number}")));
        let mut publish = world.demonctl();
        publish.args(["contracts", "publish", "--dry-run", "--actor", "ada", "--git-sha", COMMIT, "--output", "json"]);
        publish.arg(&source);
        // The mask is a shell's to set.
        let mut command = Command::new("sh");
        command.args(["-c", "umask $0; exec \"$@\"", mask]).arg(publish.get_program()).args(publish.get_args());
        command.envs(publish.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("SOURCE_DATE_EPOCH", "1758434400").env("TZ", zone).env("LC_ALL", locale);
        let preview = document(&succeeded(command).await);
        assert!(preview["archive"]["sha256"].is_string() && preview["tag"] == TAG, "{preview}");
        previews.push(preview);
    }
    assert_eq!(previews[0], previews[1]);
}

#[tokio::test]
async fn a_publisher_with_a_state_directory_goes_on_with_its_numbers() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let state = world.subdirectory("ci");
    for round in 0..3 {
        change_one_contract(&source, &format!("round {round}"));
        let mut command = contracts_publish(&world, &source, &["--tag", &format!("v{round}"), "--name", "ci"]);
        command.arg("--publisher-state").arg(&state);
        assert_eq!(document(&succeeded(command).await)["novelty"], "announced");
    }
    let log = event_log(&world.raw_operator().await).await;
    let written: Vec<u64> = checked_chains(&log)
        .into_iter()
        .filter(|((source, _), _)| source == "/publishers/ci")
        .map(|(_, number)| number)
        .collect();
    assert_eq!(written, [6], "one writer: three announcements, three moves");
}

#[tokio::test]
async fn the_settings_are_shown_without_secrets() {
    let world = World::unprovisioned(&[]).await;
    let mut command = contracts_publish(&world, Path::new("contracts"), &["--print-config", "--force=true"]);
    command.env("NATS_PASSWORD", "pa55word").env("NATS_URL", "nats://user:pa55word@127.0.0.1:9");
    let output = succeeded(command).await;
    assert!(!both_outputs(&output).contains("pa55word"), "{}", both_outputs(&output));
    let settings = document(&output);
    assert_eq!((&settings["force"], &settings["bundle"]), (&json!(true), &json!("contracts")));
    assert_eq!((&settings["channel"], &settings["git_sha"]), (&json!("latest"), &json!(COMMIT)));
}

fn number(row: &Value) -> u64 {
    row["sequence"].as_u64().expect("a number")
}
