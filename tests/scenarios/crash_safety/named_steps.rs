//! A kill at every named place, each followed by a start that is left alone.

use acceptance::audit_trail::AuditTrail;
use acceptance::crashing_node::{CrashingNode, Preparation};
use acceptance::world::{World, succeeded};
use shared::daemon::crash_point::CrashPoint;

/// Places that are passed more than once on the way, and how often at least: a kill at each of these passes.
/// Not among them: `TreeEntrySynced`, passed once where a file system is synced whole, and once per entry elsewhere.
const PASSED_AGAIN: [(CrashPoint, u32); 8] = [
    (CrashPoint::FileRenamed, 2),
    (CrashPoint::StateSaved, 2),
    (CrashPoint::OutboxFileSynced, 5),
    (CrashPoint::OutboxFileRenamed, 4),
    (CrashPoint::EventRecorded, 2),
    (CrashPoint::EventAnswered, 3),
    (CrashPoint::EventStored, 3),
    (CrashPoint::EntryRemoved, 3),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_named_step_leaves_one_whole_release_and_the_next_start_finishes() {
    let world = World::start(&["n1"]).await;
    let mut node = CrashingNode::new(&world, "n1").await;
    // Two earlier releases, so that one can be pinned.
    for _ in 0..3 {
        node.publish().await;
        node.settle().await;
    }
    let again = PASSED_AGAIN.iter().flat_map(|(place, times)| (2..=*times).map(|time| (*place, time)));
    for (place, time) in CrashPoint::ALL.iter().map(|place| (*place, 1)).chain(again) {
        // The others are another scenario's.
        let Some(preparation) = Preparation::for_reaching(place) else { continue };
        let order = format!("{}#{time}", place.name());
        node.prepare(preparation).await;
        node.start(Some(&order));
        node.killed_at(&order).await;
        node.settle().await;
    }

    let operator = world.raw_operator().await;
    let mut trail = AuditTrail::default();
    trail.read_on(&operator).await;
    trail.assert_chains_unbroken();
    node.assert_told(&trail);
    let mut verify = world.demonctl();
    verify.args(["events", "verify"]);
    succeeded(verify).await;
}
