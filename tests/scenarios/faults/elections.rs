//! What publishers and operators meet while a cluster elects a leader, and while it cannot.

use acceptance::cluster::{SERVERS, elected, in_step};
use acceptance::operations::{operator_command, publish_command, text_of};
use acceptance::process::kill_process_and_wait;
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM};
use acceptance::world::{World, finished};
use futures_util::future::join_all;

use super::{REQUEST_TIMEOUT, publish_until_done, try_promote, try_publish};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_while_a_cluster_elects_is_done_in_one_run() {
    let mut world = World::cluster(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    for (number, stream) in [EVENT_STREAM, RELEASE_STREAM].into_iter().enumerate() {
        let leader = elected(&world.raw_operator().await, stream).await;
        kill_process_and_wait(world.server_at(leader).id());
        let tag = format!("elected-{number}");
        assert!(try_publish(&world, &source, &tag, &mut done).await, "{tag} has to be published by one run");
        world.server_at(leader).kill().await;
        world.server_at(leader).start_again().await;
        in_step(&world, stream).await;
    }
    let leader = elected(&world.raw_operator().await, EVENT_STREAM).await;
    kill_process_and_wait(world.server_at(leader).id());
    assert!(try_promote(&world, "first", "while they elect", &mut done).await, "one run has to move the channel");
    world.server_at(leader).kill().await;
    world.server_at(leader).start_again().await;
    in_step(&world, EVENT_STREAM).await;
    in_step(&world, RELEASE_STREAM).await;
    assert_kept(&world, &done, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_one_line_says_what_is_missing_and_what_to_do() {
    let mut world = World::cluster(&["n1"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    publish_until_done(&world, &source, "second", &mut done).await;
    in_step(&world, EVENT_STREAM).await;
    let everybody = world.url();
    let left = world.server_at(0).url();
    for place in 1..SERVERS {
        world.server_at(place).kill().await;
    }
    world.reached_by(Some(left));
    change_one_contract(&source, "third");
    let commands = [
        publish_command(&world, &source, "third"),
        operator_command(&world, &["channel", "promote", "latest", "first", "--reason", "without a majority"]),
        operator_command(&world, &["channel", "rollback", "latest", "--reason", "without a majority"]),
        operator_command(&world, &["release", "withdraw", "first", "--reason", "without a majority", "--yes"]),
    ];
    let ended = commands.map(|mut command| {
        command.env("NATS_TIMEOUT", REQUEST_TIMEOUT);
        finished(command)
    });
    for output in join_all(ended).await {
        let words = text_of(&output.stderr);
        assert_eq!((output.status.code(), words.lines().count()), (Some(1), 1), "{words}");
        assert!(words.contains("a majority of its servers") && words.contains("run this again"), "{words}");
    }
    world.reached_by(Some(everybody));
    for place in 1..SERVERS {
        world.server_at(place).start_again().await;
    }
    in_step(&world, EVENT_STREAM).await;
    in_step(&world, RELEASE_STREAM).await;
    assert!(try_publish(&world, &source, "third", &mut done).await, "what was refused is done by the same run again");
    assert_kept(&world, &done, &[]).await;
}
