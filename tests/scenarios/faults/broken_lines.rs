//! Connections that break, fall silent or lose what is answered, at any byte of a publish or a switch.

use std::time::Duration;

use acceptance::fault_proxy::{Breakage, Fault, FaultProxy};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::node_status::told_times;
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::raw_client::RawClient;
use acceptance::sample_trees::contracts;
use acceptance::seeded_choice::SeededChoice;
use acceptance::stored_log::EVENT_STREAM;
use acceptance::world::World;
use serde_json::{Value, json};
use streams::release_store::ReleaseStore;
use tokio::time::{Instant, sleep};

use super::{publish_until_done, seed, try_promote, try_publish};

/// Places of a publish at which its connection breaks.
const CUTS: u64 = 6;
/// Shorter than the pause before anybody sends again, so that the server has forgotten what it saw.
const SHORT_WINDOW: Duration = Duration::from_millis(100);

/// A world whose server is reached through a proxy by what is made from now on.
async fn behind_proxy(nodes: &[&str]) -> (World, FaultProxy) {
    let mut world = World::start(nodes).await;
    let proxy = FaultProxy::start(world.server.port());
    world.reached_by(Some(proxy.url()));
    (world, proxy)
}

/// The server remembers the ids of messages for a moment only.
async fn forgetful(operator: &RawClient) {
    let mut config = operator.api(&format!("STREAM.INFO.{EVENT_STREAM}"), &Value::Null).await["config"].take();
    config["duplicate_window"] = json!(SHORT_WINDOW.as_nanos());
    let answer = operator.api(&format!("STREAM.UPDATE.{EVENT_STREAM}"), &config).await;
    assert_eq!(answer["error"], Value::Null, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_cut_off_at_any_byte_is_finished_by_itself_or_by_the_same_publish_again() {
    let (mut world, proxy) = behind_proxy(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    let before = proxy.sent();
    publish_until_done(&world, &source, "whole", &mut done).await;
    let length = proxy.sent() - before;
    let mut choice = SeededChoice::of(&[seed()]);
    for cut in 0..CUTS {
        let tag = format!("cut-{cut}");
        proxy.break_after(choice.below(length), Breakage::CutOnce);
        try_publish(&world, &source, &tag, &mut done).await;
        proxy.heal();
        publish_until_done(&world, &source, &tag, &mut done).await;
    }
    agent.switched_to(&format!("cut-{}", CUTS - 1)).await;
    world.reached_by(None);
    assert_kept(&world, &done, &["n1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_whose_answers_are_lost_is_announced_once() {
    let (mut world, proxy) = behind_proxy(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    let before = proxy.sent();
    publish_until_done(&world, &source, "whole", &mut done).await;
    let length = proxy.sent() - before;
    // The last kilobytes that a publisher sends are the announcement and the move of the channel.
    for (number, from_end) in [200, 1200, 2000].into_iter().enumerate() {
        let tag = format!("unanswered-{number}");
        proxy.break_after(length.saturating_sub(from_end), Breakage::Becomes(Fault::HalfOpen));
        let healed = async {
            sleep(SHORT_WINDOW * 20).await;
            proxy.heal();
        };
        let (_, ()) = tokio::join!(try_publish(&world, &source, &tag, &mut done), healed);
        publish_until_done(&world, &source, &tag, &mut done).await;
    }
    world.reached_by(None);
    assert_kept(&world, &done, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_sent_and_the_server_has_forgotten_is_not_stored_again() {
    let (mut world, proxy) = behind_proxy(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    world.reached_by(None);
    let (log, store) = (world.log().await, ReleaseStore::new(world.operator().await));
    let published = async |tag: &str| {
        HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await.announced(&log).await;
    };
    published("first").await;
    agent.switched_to("first").await;
    told_times(&world, "n1", "bundle.loaded", 1).await;
    let operator = world.raw_operator().await;
    forgetful(&operator).await;
    // At different places of what the agent sends for a switch: its requests and its three events.
    for (number, bytes) in [300, 900, 1500, 2100, 2700].into_iter().enumerate() {
        let tag = format!("untold-{number}");
        proxy.break_after(bytes, Breakage::Becomes(Fault::HalfOpen));
        published(&tag).await;
        sleep(SHORT_WINDOW * 20).await;
        proxy.heal();
        agent.switched_to(&tag).await;
        told_times(&world, "n1", "bundle.loaded", number + 2).await;
    }
    assert_kept(&world, &Acknowledged::default(), &["n1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_gone_silent_stops_nobody_longer_than_the_timeout_and_all_is_made_up_for() {
    let (mut world, proxy) = behind_proxy(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "before", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("before").await;

    proxy.set(Fault::Blackhole);
    let begun = Instant::now();
    let (published, promoted) = {
        let mut other = Acknowledged::default();
        tokio::join!(
            try_publish(&world, &source, "silent", &mut done),
            try_promote(&world, "before", "into the void", &mut other)
        )
    };
    assert!(!published && !promoted, "nothing can have been acknowledged");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "they gave up after {took:?}");
    // What runs keeps running, and nobody who asks the node has to wait for the server.
    assert!(agent.process.runs());
    assert_eq!(agent.active_tag().as_deref(), Some("before"));

    // Somebody else publishes meanwhile.
    world.reached_by(None);
    publish_until_done(&world, &source, "meanwhile", &mut done).await;
    proxy.heal();
    agent.switched_to("meanwhile").await;
    assert_kept(&world, &done, &["n1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_and_a_narrow_line_are_slow_and_nothing_else() {
    let (mut world, proxy) = behind_proxy(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    let mut agent = world.start_agent("n1");
    for (tag, fault) in [("late", Fault::Delay(Duration::from_millis(30))), ("narrow", Fault::Limit(64 << 10))] {
        proxy.set(fault);
        publish_until_done(&world, &source, tag, &mut done).await;
        agent.switched_to(tag).await;
    }
    for tag in ["cut-1", "cut-2"] {
        proxy.cut_once();
        publish_until_done(&world, &source, tag, &mut done).await;
        agent.switched_to(tag).await;
    }
    world.reached_by(None);
    assert_kept(&world, &done, &["n1"]).await;
}
