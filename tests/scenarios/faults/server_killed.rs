//! A server that is killed (`kill -9`) while it is being written to, and comes back.

use std::time::Duration;

use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::contracts;
use acceptance::seeded_choice::SeededChoice;
use acceptance::world::World;
use tokio::time::sleep;

use super::{publish_until_done, seed, try_promote, try_publish};

const KILLS: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_is_written_to_loses_nothing_that_was_acknowledged() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("first").await;
    let mut choice = SeededChoice::of(&[seed()]);
    let url = world.url();
    for kill in 0..KILLS {
        let tag = format!("killed-{kill}");
        let reason = format!("before kill {kill}");
        let after = choice.time_below(Duration::from_millis(400));
        // The address stays the same; what is written needs the world, and so does the kill.
        let mut writing = done.clone();
        let server_id = world.server.id();
        let killer = async {
            sleep(after).await;
            acceptance::process::kill_process_and_wait(server_id);
        };
        let writer = async {
            if kill % 2 == 0 {
                try_publish(&world, &source, &tag, &mut writing).await;
            } else {
                try_promote(&world, "first", &reason, &mut writing).await;
            }
        };
        tokio::join!(writer, killer);
        done = writing;
        world.server.kill().await;
        world.server.start_again().await;
        assert_eq!(world.url(), url, "it keeps its port");
        let last = format!("after-{kill}");
        publish_until_done(&world, &source, &last, &mut done).await;
        try_promote(&world, &last, &format!("after kill {kill}"), &mut done).await;
        agent.switched_to(&last).await;
    }
    assert_kept(&world, &done, &["n1"]).await;
}
