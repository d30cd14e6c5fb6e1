//! A cluster of three with three copies of every stream: the loss of one is not noticed, the loss of two stops writing
//! and loses nothing, and a copy that lags takes no agent back.

use std::time::Duration;

use acceptance::agent::Agent;
use acceptance::cluster::{SERVERS, elected, in_step};
use acceptance::fault_proxy::Fault;
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::contracts;
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM};
use acceptance::waiting::{PATIENCE, eventually};
use acceptance::world::World;
use tokio::time::sleep;

use super::{publish_until_done, try_promote, try_publish};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_and_a_rolling_restart_lose_nothing() {
    let mut world = World::cluster(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;

    for (number, stream) in [EVENT_STREAM, RELEASE_STREAM].into_iter().enumerate() {
        let leader = elected(&world.raw_operator().await, stream).await;
        let id = world.server_at(leader).id();
        let tag = format!("leader-killed-{number}");
        let killer = async {
            sleep(Duration::from_millis(150)).await;
            acceptance::process::kill_process_and_wait(id);
        };
        let (_, ()) = tokio::join!(try_publish(&world, &source, &tag, &mut done), killer);
        // With two of three, before the third is back.
        publish_until_done(&world, &source, &tag, &mut done).await;
        agent.switched_to(&tag).await;
        world.server_at(leader).kill().await;
        world.server_at(leader).start_again().await;
        in_step(&world, EVENT_STREAM).await;
    }

    for place in 0..SERVERS {
        world.server_at(place).kill().await;
        world.server_at(place).start_again().await;
        in_step(&world, EVENT_STREAM).await;
        in_step(&world, RELEASE_STREAM).await;
        let tag = format!("restarted-{place}");
        publish_until_done(&world, &source, &tag, &mut done).await;
        agent.switched_to(&tag).await;
    }
    assert_kept(&world, &done, &["n1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_stopped_stops_nobody_and_two_stop_writing_until_they_go_on() {
    let mut world = World::cluster(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    // A follower: who leads is not what this is about.
    let leader = elected(&world.raw_operator().await, EVENT_STREAM).await;
    let (follower, other) = ((leader + 1) % SERVERS, (leader + 2) % SERVERS);
    let leader_url = world.server_at(leader).url();
    world.reached_by(Some(leader_url));
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;

    let paused = world.server_at(follower).pause();
    publish_until_done(&world, &source, "two-of-three", &mut done).await;
    agent.switched_to("two-of-three").await;

    let paused_too = world.server_at(other).pause();
    let mut void = Acknowledged::default();
    // What the one that is left takes cannot be confirmed by a majority; nobody may be told otherwise.
    let said = try_publish(&world, &source, "one-of-three", &mut done).await;
    assert!(!said, "a write was acknowledged without a majority");
    assert!(!try_promote(&world, "first", "without a majority", &mut void).await);
    assert_eq!(agent.active_tag().as_deref(), Some("two-of-three"), "what runs keeps running");

    drop((paused, paused_too));
    in_step(&world, EVENT_STREAM).await;
    publish_until_done(&world, &source, "three-again", &mut done).await;
    agent.switched_to("three-again").await;
    assert_kept(&world, &done, &["n1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_lags_and_answers_alone_takes_no_agent_back() {
    let mut world = World::cluster(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "older", &mut done).await;
    in_step(&world, EVENT_STREAM).await;
    let leader = elected(&world.raw_operator().await, EVENT_STREAM).await;
    let lagging = (leader + 1) % SERVERS;
    let lagging_url = world.server_at(lagging).url();
    let everybody = world.url();
    let leader_url = world.server_at(leader).url();
    world.reached_by(Some(leader_url));

    // Cut off from the others, not stopped: it answers whoever asks it, with what it had.
    world.routes().isolate(lagging, Fault::Cut);
    publish_until_done(&world, &source, "newer", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("newer").await;
    acceptance::node_status::told_times(&world, "n1", "bundle.loaded", 1).await;
    agent.process.kill();

    world.reached_by(Some(lagging_url));
    let mut command = world.agent_command("n1");
    command.env("DEMON_INTERVAL", "100ms").env("DEMON_RETRY_FIRST", "50ms").env("NATS_TIMEOUT", "500ms");
    command.env("RUST_LOG", "info,subscriber=debug,async_nats=error");
    let mut agent = Agent::start("alone", command, agent.directories(), world.directory());
    let stale = |line: &str| line.contains("an answer is older than what was seen");
    agent.process.log_line("an answer of the copy that lags", PATIENCE, stale).await;
    // It looks several times a second for a head, alone with the old copy and then while the others come back.
    stays(&mut agent, "newer", 30).await;
    let answers = agent.process.log().lines().filter(|line| stale(line)).count();
    assert!(answers > 3, "the copy that lags has to be asked all the time: {answers} answers");
    world.routes().heal();
    stays(&mut agent, "newer", 20).await;
    world.reached_by(Some(everybody));
    in_step(&world, EVENT_STREAM).await;
    publish_until_done(&world, &source, "newest", &mut done).await;
    agent.switched_to("newest").await;
    eventually("the switch in the log", PATIENCE, async || {
        let told = acceptance::node_status::told(&world, "n1", "bundle.loaded").await;
        let newest = told.last().is_some_and(|last| last["tag"] == "newest");
        if newest { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    assert_kept(&world, &done, &["n1"]).await;
}

/// Looks so often, ten times a second, whether the agent still runs this release.
async fn stays(agent: &mut Agent, tag: &str, looks: usize) {
    for _ in 0..looks {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(agent.active_tag().as_deref(), Some(tag), "an old copy took the agent back");
        assert!(agent.process.runs());
    }
}
