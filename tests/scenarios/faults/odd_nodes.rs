//! Nodes that are not what they were: cloned, without memory, with a clock that is hours off.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use acceptance::agent::AgentDirectories;
use acceptance::node_status::{told, told_times};
use acceptance::operations::{operated, operated_json};
use acceptance::promises::{Acknowledged, assert_acknowledged, assert_kept, assert_never_back};
use acceptance::reported::{loaded, reported, writer_of};
use acceptance::sample_trees::contracts;
use acceptance::stored_log::{checked_chains, event_log, text};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use chrono::{TimeDelta, Utc};

use super::{publish_until_done, told_last};

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_node_loses_nothing_doubles_nothing_and_is_named() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;
    told_times(&world, "n1", "bundle.loaded", 1).await;
    agent.process.kill();

    // The disk of the machine, twice: memory, outbox and cache.
    let twin = AgentDirectories::below(world.directory(), "twin");
    for (from, to) in [(agent.state(), &twin.state), (agent.cache(), &twin.cache)] {
        copy(from, to);
    }
    let mut agents =
        [world.start_agent_in("n1", "original", agent.directories()), world.start_agent_in("n1", "clone", twin)];
    for tag in ["second", "third"] {
        publish_until_done(&world, &source, tag, &mut done).await;
        for agent in &mut agents {
            agent.switched_to(tag).await;
        }
        eventually("both switches in the log", PATIENCE, async || {
            let all = told(&world, "n1", "bundle.loaded").await;
            let told = all.iter().filter(|data| data["tag"] == tag).count();
            satisfied(told == 2, || format!("{told} of 2: {all:?}"))
        })
        .await;
    }
    let log = event_log(&world.raw_operator().await).await;
    let ids: BTreeSet<String> = log.iter().map(|message| text(&message.event(), "id")).collect();
    assert_eq!(ids.len(), log.len(), "an event stands in the log twice");
    assert_acknowledged(&log, &done);
    assert_never_back(&log, "n1");
    // Both would write on from the same event. Who comes second sees it, and begins a chain of its own: no fork.
    let of_node = checked_chains(&log).into_keys().filter(|(source, _)| source == "/nodes/n1").count();
    assert_eq!(of_node, 2, "one of the two goes on under a new incarnation, and only one");
    operated(&world, &["events", "verify"]).await;
    let mut copies = 0;
    for agent in &mut agents {
        let warned = |line: &str| {
            line.contains("\"alarm\":\"Rival\"")
                && (line.contains("a copy of this agent's state directory is in use")
                    || line.contains("another agent (incarnation"))
        };
        let line = agent.process.log_line("that there is another", PATIENCE, warned).await;
        copies += usize::from(line.contains("a copy of this agent's state directory is in use"));
    }
    assert_eq!(copies, 1, "who gave its incarnation up says that there is a copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_put_back_to_an_earlier_state_begins_a_new_chain() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;
    told_times(&world, "n1", "bundle.loaded", 1).await;
    agent.process.kill();
    let kept = world.directory().join("snapshot");
    copy(agent.state(), &kept);

    let mut agent = world.start_agent_in("n1", "before", agent.directories());
    publish_until_done(&world, &source, "second", &mut done).await;
    agent.switched_to("second").await;
    told_times(&world, "n1", "bundle.loaded", 2).await;
    agent.process.kill();
    fs::remove_dir_all(agent.state()).expect("it can be put back");
    copy(&kept, agent.state());

    let mut agent = world.start_agent_in("n1", "after", agent.directories());
    publish_until_done(&world, &source, "third", &mut done).await;
    agent.switched_to("third").await;
    let named = |line: &str| line.contains("it was put back to an earlier state");
    agent.process.log_line("that its state is an earlier one", PATIENCE, named).await;
    told_last(&world, "n1", "third").await;
    let log = event_log(&world.raw_operator().await).await;
    checked_chains(&log);
    assert_acknowledged(&log, &done);
    assert_never_back(&log, "n1");
    operated(&world, &["events", "verify"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_memory_tells_a_whole_story_again() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;
    told_times(&world, "n1", "bundle.loaded", 1).await;
    agent.process.kill();
    fs::remove_dir_all(agent.state()).expect("the disk is gone");

    let mut agent = world.start_agent_in("n1", "without-memory", agent.directories());
    publish_until_done(&world, &source, "second", &mut done).await;
    agent.switched_to("second").await;
    told_last(&world, "n1", "second").await;
    let log = event_log(&world.raw_operator().await).await;
    checked_chains(&log);
    assert_acknowledged(&log, &done);
    assert_never_back(&log, "n1");
    operated(&world, &["events", "verify"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_hours_off_change_no_order() {
    let world = World::start(&["ahead", "behind"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    publish_until_done(&world, &source, "second", &mut done).await;
    let log = world.log().await;
    for (node, hours) in [("ahead", 7), ("behind", -7)] {
        let mut writer = writer_of(node);
        // Each switch is told with a time that lies before that of the switch before.
        for (epoch, tag) in [(1_u64, "first"), (2, "second")] {
            let wrong =
                Utc::now() + TimeDelta::hours(hours) - TimeDelta::hours(i64::try_from(epoch).expect("a small number"));
            reported(&log, &mut writer, loaded(tag, epoch), wrong).await;
        }
    }
    for node in ["ahead", "behind"] {
        let shown = operated_json(&world, &["node", "show", node]).await.to_string();
        assert!(shown.contains("\"second\""), "{shown}");
    }
    assert_kept(&world, &done, &["ahead", "behind"]).await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("it lies in a directory")).expect("the directory can be made");
    // With its links, as a disk is cloned.
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp can be run");
    assert!(copied.success());
}
