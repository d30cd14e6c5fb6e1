//! Kills at random times and random places, several nodes side by side.
//!
//! `DEMON_CRASH_SEED` repeats the choices of an earlier run (what the kernel's scheduler adds is its own);
//! `DEMON_CRASH_KILLS` and `DEMON_CRASH_SECONDS` set how long the long form runs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use acceptance::audit_trail::AuditTrail;
use acceptance::crashing_node::{CrashingNode, Ended};
use acceptance::seeded_choice::SeededChoice;
use acceptance::world::{World, succeeded};
use futures_util::future::join_all;
use shared::daemon::crash_point::CrashPoint;
use tokio::time::{Instant, sleep};

/// Nodes that are killed side by side: most of a run is waiting for the disk.
const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const KILLS: u64 = 200;
const KILLS_LONG: u64 = 10_000;
/// How far apart the looks at the whole log are.
const ROUNDS_BETWEEN_LOOKS: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_times_tear_nothing_and_lose_nothing() {
    kill_at_random(KILLS, Duration::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes from half an hour to hours; run with --ignored --nocapture"]
async fn ten_thousand_kills_at_random_times_tear_nothing_and_lose_nothing() {
    let limit = number("DEMON_CRASH_SECONDS").map_or(Duration::MAX, Duration::from_secs);
    kill_at_random(number("DEMON_CRASH_KILLS").unwrap_or(KILLS_LONG), limit).await;
}

async fn kill_at_random(kills: u64, limit: Duration) {
    let seed = number("DEMON_CRASH_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs() % 1_000_000
    });
    say(&format!("DEMON_CRASH_SEED={seed} repeats these choices"));
    let begun = Instant::now();
    let world = World::start(&NODES).await;
    let each = kills.div_ceil(NODES.len() as u64);
    let mut nodes = Vec::new();
    for name in NODES {
        nodes.push(CrashingNode::new(&world, name).await);
    }
    let ways = nodes.iter_mut().zip(0_u64..).map(|(node, number)| async move {
        node.publish().await;
        let mut usual = node.settle().await;
        let mut round = 0;
        while node.kills() < each && begun.elapsed() < limit {
            let _replay = Replay { seed, node: number, round };
            let mut choice = SeededChoice::of(&[seed, number, round]);
            usual = one_round(node, &mut choice, usual).await;
            round += 1;
            if number == 0 && round % ROUNDS_BETWEEN_LOOKS == 0 {
                say(&format!("{} kills of this node, {} reads, {:?}", node.kills(), node.reads(), begun.elapsed()));
            }
        }
    });
    join_all(ways).await;

    let operator = world.raw_operator().await;
    let mut trail = AuditTrail::default();
    trail.read_on(&operator).await;
    trail.assert_chains_unbroken();
    for node in &nodes {
        node.assert_told(&trail);
        assert!(node.reads() > node.kills() / 4, "the readers hardly read: {} times", node.reads());
    }
    let mut verify = world.demonctl();
    verify.args(["events", "verify"]);
    succeeded(verify).await;
    let (kills, reads): (u64, u64) =
        nodes.iter().fold((0, 0), |(kills, reads), node| (kills + node.kills(), reads + node.reads()));
    say(&format!(
        "{kills} kills, {reads} whole releases read, 0 failed, 0 torn; {} events in the log, each once; {:?}",
        trail.log().len(),
        begun.elapsed()
    ));
}

/// One to three kills in a row, then a start that is left alone. Returns how long the latter usually takes.
async fn one_round(node: &mut CrashingNode<'_>, choice: &mut SeededChoice, usual: Duration) -> Duration {
    if choice.once_in(4) {
        node.hold_current();
    }
    match choice.below(16) {
        0 => node.empty_cache(),
        1..4 => node.age_releases(),
        4 => node.leave_leftovers(),
        _ => {}
    }
    for _ in 0..=choice.below(3) {
        let published_first = choice.once_in(2);
        if published_first {
            node.publish().await;
        }
        let place = choice.one_of(CrashPoint::ALL);
        let order = choice.once_in(2).then(|| format!("{}#{}", place.name(), choice.below(4) + 1));
        let lifetime = choice.time_below(usual.mul_f64(1.3));
        node.start(order.as_deref());
        if !published_first && choice.once_in(2) {
            node.publish().await;
        }
        if order.is_some() {
            if node.killed_or_settled().await == Ended::Settled {
                node.kill();
            }
        } else {
            sleep(lifetime).await;
            node.kill();
        }
    }
    let took = node.settle().await;
    if choice.once_in(2) {
        node.read_held();
    }
    (usual * 7 + took) / 8
}

/// Says how to repeat what failed.
struct Replay {
    seed: u64,
    node: u64,
    round: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("failed with DEMON_CRASH_SEED={}, node {}, round {}", self.seed, self.node, self.round));
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[expect(clippy::print_stderr, reason = "who reads a failed or long run needs its seed and numbers")]
fn say(text: &str) {
    eprintln!("crash safety: {text}");
}
