//! Everything at once, at random: releases, moves, kills, cuts and silence; the promises are held against the log after
//! each round.
//!
//! `DEMON_FAULT_SEED` repeats the choices of an earlier run; `DEMON_FAULT_SECONDS` sets how long the long form runs.

use std::time::Duration;

use acceptance::agent::Agent;
use acceptance::fault_proxy::{Breakage, Fault, FaultProxy};
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::contracts;
use acceptance::seeded_choice::SeededChoice;
use acceptance::world::World;
use tokio::time::{Instant, sleep};

use super::{publish_until_done, say, seed, told_last, try_promote, try_publish, trying_again_soon};

const SHORT: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_hours(1);
/// What the agents may grow by from the first rounds to the end.
const GROWTH_KILOBYTES: u64 = 24 << 10;
const GROWTH_FILES: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_random_faults_breaks_no_promise() {
    run(SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes an hour, or DEMON_FAULT_SECONDS; run with --ignored --nocapture"]
async fn an_hour_of_random_faults_breaks_no_promise() {
    let seconds = std::env::var("DEMON_FAULT_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    run(seconds.map_or(LONG, Duration::from_secs)).await;
}

async fn run(length: Duration) {
    let seed = seed();
    let begun = Instant::now();
    let mut world = World::with_reserved_port(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "start", &mut done).await;
    let proxy = FaultProxy::start(world.server.port());
    let mut agents = [started(&mut world, "n1", None), started(&mut world, "n2", Some(&proxy))];
    let mut used = None;
    let mut samples = Samples::default();
    let mut round = 0;
    while begun.elapsed() < length {
        let mut choice = SeededChoice::of(&[seed, round]);
        let fault = choice.below(7);
        let tag = format!("round-{round}");
        let after = choice.time_below(Duration::from_millis(300));
        let server = world.server.id();
        let breaking = async {
            sleep(after).await;
            match fault {
                0 => acceptance::process::kill_process_and_wait(server),
                1 => proxy.cut_once(),
                2 => proxy.set(Fault::Cut),
                3 => proxy.set(Fault::Blackhole),
                4 => proxy.break_after(1000, Breakage::Becomes(Fault::HalfOpen)),
                5 => proxy.set(Fault::Delay(Duration::from_millis(20))),
                _ => {
                    let paused = world.server.pause();
                    sleep(Duration::from_millis(700)).await;
                    drop(paused);
                }
            }
        };
        let (_, ()) = tokio::join!(try_publish(&world, &source, &tag, &mut done), breaking);
        if choice.once_in(3) {
            try_promote(&world, "start", &format!("back in round {round}"), &mut done).await;
        }
        if choice.once_in(4) {
            let agent = choice.below(2);
            let name = if agent == 0 { "n1" } else { "n2" };
            let agent = &mut agents[usize::try_from(agent).unwrap_or_default()];
            agent.process.kill();
            *agent = started(&mut world, name, (name == "n2").then_some(&proxy));
            used = None;
        }
        if fault == 0 {
            world.server.kill().await;
            world.server.start_again().await;
        }
        proxy.heal();
        publish_until_done(&world, &source, &tag, &mut done).await;
        let last = format!("last of round {round}");
        assert!(try_promote(&world, &tag, &last, &mut done).await, "nothing is broken any more");
        for agent in &mut agents {
            agent.switched_to(&tag).await;
        }
        let now = agents.each_ref().map(|agent| usage(agent.process.id()));
        samples.take(begun.elapsed(), round, &now);
        let before = *used.get_or_insert(now);
        for (now, before) in now.iter().zip(before) {
            assert!(now.0 <= before.0 + GROWTH_KILOBYTES, "memory grew from {} to {} KiB", before.0, now.0);
            assert!(now.1 <= before.1 + GROWTH_FILES, "open files grew from {} to {}", before.1, now.1);
        }
        round += 1;
    }
    for agent in &agents {
        let name = if agent.cache().starts_with(world.directory().join("n1")) { "n1" } else { "n2" };
        told_last(&world, name, &format!("round-{}", round - 1)).await;
    }
    let trail = assert_kept(&world, &done, &["n1", "n2"]).await;
    samples.say_all();
    say(&format!(
        "seed {seed}: {round} rounds in {} s, {} releases and {} moves acknowledged, {} events, every promise kept",
        begun.elapsed().as_secs(),
        done.published.len(),
        done.moved.len(),
        trail.log().len()
    ));
    assert!(round > 2, "only {round} rounds in {length:?}");
}

/// An agent that tries again soon, directly or through the proxy.
fn started(world: &mut World, node: &str, proxy: Option<&FaultProxy>) -> Agent {
    world.reached_by(proxy.map(FaultProxy::url));
    let agent = trying_again_soon(world, node);
    world.reached_by(None);
    agent
}

/// What the agents used, over time.
#[derive(Default)]
pub(super) struct Samples(Vec<Sample>);

struct Sample {
    after: Duration,
    round: u64,
    /// Of each agent, resident kilobytes and open files.
    used: Vec<(u64, usize)>,
}

impl Samples {
    pub(super) fn take(&mut self, after: Duration, round: u64, now: &[(u64, usize)]) {
        self.0.push(Sample { after, round, used: now.to_vec() });
    }

    /// Prints at most twenty, evenly spread, and the last.
    pub(super) fn say_all(&self) {
        let step = self.0.len().div_ceil(20).max(1);
        let last = self.0.len().saturating_sub(1);
        for (_, Sample { after, round, used }) in
            self.0.iter().enumerate().filter(|(at, _)| at % step == 0 || *at == last)
        {
            let used: Vec<String> = used.iter().map(|(memory, files)| format!("{memory} KiB, {files} files")).collect();
            say(&format!("after {:>4} s, round {round:>4}: {}", after.as_secs(), used.join("; ")));
        }
    }
}

/// Resident kilobytes and open files of a process.
pub(super) fn usage(id: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).map(Iterator::count).unwrap_or_default();
    (resident.unwrap_or_default(), files)
}
