//! The random run on a cluster of three with three copies: kills, pauses, and partitions between the servers, whole ones
//! and such that let one direction pass. A minority is alone at most; the promises are the same.

use std::time::Duration;

use acceptance::cluster::{SERVERS, elected, in_step};
use acceptance::fault_proxy::Fault;
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::contracts;
use acceptance::seeded_choice::SeededChoice;
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM};
use acceptance::waiting::PATIENCE;
use acceptance::world::World;
use tokio::time::{Instant, sleep};

use super::random_run::{Samples, usage};
use super::{publish_until_done, say, seed, told_last, try_promote, try_publish, trying_again_soon};

/// So many rounds, each with another kind of fault.
const SHORT_ROUNDS: u64 = 2;
const LONG: Duration = Duration::from_hours(1);
const KINDS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_and_partitions_of_a_cluster_break_no_promise() {
    run(|_, round| round < SHORT_ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes an hour, or DEMON_FAULT_SECONDS; run with --ignored --nocapture"]
async fn an_hour_of_random_faults_on_a_cluster_breaks_no_promise() {
    let seconds = std::env::var("DEMON_FAULT_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let length = seconds.map_or(LONG, Duration::from_secs);
    run(|elapsed, _| elapsed < length).await;
}

async fn run(goes_on: impl Fn(Duration, u64) -> bool) {
    let seed = seed();
    let begun = Instant::now();
    let mut world = World::cluster(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "start", &mut done).await;
    in_step(&world, EVENT_STREAM).await;
    in_step(&world, RELEASE_STREAM).await;
    let mut agents = ["n1", "n2"].map(|node| trying_again_soon(&world, node));
    let (mut samples, mut round) = (Samples::default(), 0);
    // Every kind comes once before one comes again; where they begin is the seed's choice.
    let first = SeededChoice::of(&[seed]).below(KINDS);
    while goes_on(begun.elapsed(), round) {
        let mut choice = SeededChoice::of(&[seed, round]);
        let kind = (first + round) % KINDS;
        let leader = elected(&world.raw_operator().await, EVENT_STREAM).await;
        let victim = if choice.once_in(2) { leader } else { usize::try_from(choice.below(3)).unwrap_or_default() };
        let tag = format!("round-{round}");
        let after = choice.time_below(Duration::from_millis(300));
        say(&format!("round {round}: kind {kind} on server {victim}, the leader is {leader}"));
        let id = world.server_at(victim).id();
        let mut paused = None;
        {
            let breaking = async {
                sleep(after).await;
                match kind {
                    0 => acceptance::process::kill_process_and_wait(id),
                    1 => paused = Some(world.server_ref(victim).pause()),
                    2 => world.routes().isolate(victim, Fault::Cut),
                    3 => world.routes().mute(victim),
                    4 => world.routes().deafen(victim),
                    _ => world.routes().isolate(victim, Fault::Blackhole),
                }
            };
            let (_, ()) = tokio::join!(try_publish(&world, &source, &tag, &mut done), breaking);
        }
        try_promote(&world, "start", &format!("back in round {round}"), &mut done).await;
        drop(paused);
        world.routes().heal();
        if kind == 0 {
            world.server_at(victim).kill().await;
            world.server_at(victim).start_again().await;
        }
        in_step(&world, EVENT_STREAM).await;
        in_step(&world, RELEASE_STREAM).await;
        publish_until_done(&world, &source, &tag, &mut done).await;
        let deadline = Instant::now() + PATIENCE;
        while !try_promote(&world, &tag, &format!("last of round {round}"), &mut done).await {
            assert!(Instant::now() < deadline, "nothing is broken any more and {tag} cannot be promoted");
        }
        for agent in &mut agents {
            agent.switched_to(&tag).await;
        }
        samples.take(begun.elapsed(), round, &agents.each_ref().map(|agent| usage(agent.process.id())));
        round += 1;
    }
    for name in ["n1", "n2"] {
        told_last(&world, name, &format!("round-{}", round - 1)).await;
    }
    let trail = assert_kept(&world, &done, &["n1", "n2"]).await;
    samples.say_all();
    say(&format!(
        "seed {seed}: {SERVERS} servers, {round} rounds in {} s, {} releases and {} moves acknowledged, {} events, every \
         promise kept",
        begun.elapsed().as_secs(),
        done.published.len(),
        done.moved.len(),
        trail.log().len()
    ));
}
