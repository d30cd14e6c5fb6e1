//! A log that was put back from a backup: what agents and publisher make of it, and how an operator lets them go on.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::publisher_service::PublisherService;
use acceptance::reported::{loaded, reported, writer_of};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use chrono::Utc;
use serde_json::{Value, json};

use crate::publisher_service::{announced, watching};

fn demonctl(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.args(arguments);
    command
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", both_outputs(output)))
}

async fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-r").arg(from).arg(to);
    succeeded(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_a_new_epoch_lets_everybody_go_on() {
    let mut world = World::with_reserved_port(&["n1", "n2"]).await;
    let key = world.directory().join("log.key");
    succeeded(demonctl(&world, &["log", "keygen", key.to_str().expect("text")])).await;
    let source = contracts(world.directory());
    let mut command = watching(&world, &source);
    command.arg("--checkpoint-key").arg(&key).args(["--checkpoint-interval", "100ms"]);
    let mut service = PublisherService::start("publisher", command, world.directory()).await;
    let first = announced(&world, 1).await[0].data()["tag"].as_str().expect("a tag").to_owned();
    let mut command = world.agent_command("n1");
    command.args(["--interval", "200ms"]);
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    agent.switched_to(&first).await;
    let mut writer = writer_of("n2");
    reported(&world.log().await, &mut writer, loaded("v1", 1), Utc::now()).await;

    // Nothing shows a restore yet.
    let begin = ["log", "begin-epoch", "--reason", "the disk of nats-1 was replaced", "--output", "json"];
    let too_early = finished(demonctl(&world, &begin)).await;
    assert_eq!(too_early.status.code(), Some(1), "{}", both_outputs(&too_early));
    assert!(
        both_outputs(&too_early).contains("nothing shows that the log was restored"),
        "{}",
        both_outputs(&too_early)
    );

    world.server.kill().await;
    let (store, backup) = (world.server.store(), world.directory().join("backup"));
    copy(&store, &backup).await;
    world.server.start_again().await;
    world.provision().await;
    change_one_contract(&source, "later");
    let second = announced(&world, 2).await[1].data()["tag"].as_str().expect("a tag").to_owned();
    agent.switched_to(&second).await;
    let mut lost_end = 0;
    for number in 2..40 {
        lost_end = reported(&world.log().await, &mut writer, loaded("v1", number), Utc::now()).await;
    }
    let memory = world.subdirectory("publisher").join("checkpoint.txt");
    eventually("a checkpoint of what will be lost", PATIENCE, async || {
        let note = fs::read_to_string(&memory).map_err(|error| error.to_string())?;
        let size: u64 = note.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0);
        satisfied(size >= lost_end, || note)
    })
    .await;

    let outside = world.directory().join("kept.txt");
    fs::copy(&memory, &outside).expect("the note can be copied");
    world.server.kill().await;
    fs::remove_dir_all(&store).expect("the store is the test's own");
    copy(&backup, &store).await;
    world.server.start_again().await;
    let refuses = |line: &str| line.contains("no checkpoint is signed") && line.contains("it has fewer events now");
    service.process.log_line("its refusal to sign", PATIENCE, refuses).await;
    // The publisher finds its newest release gone and announces it again.
    announced(&world, 2).await;

    let outside = outside.to_str().expect("text");
    let begin = [&begin[..], &["--checkpoint", outside]].concat();
    let planned = json_of(&succeeded(demonctl(&world, &[&begin[..], &["--dry-run"]].concat())).await);
    assert_eq!((&planned["epoch"], &planned["dry_run"]), (&Value::Null, &json!(true)), "{planned}");
    assert_eq!(planned["channels"][0]["channel"], "latest", "{planned}");
    let epoch = json_of(&succeeded(demonctl(&world, &begin)).await);
    assert!(epoch["known_up_to"].as_u64() >= Some(lost_end), "{epoch}");
    assert!(epoch["continues"]["stream_sequence"].as_u64() < Some(lost_end), "{epoch}");
    agent
        .process
        .log_line("the new epoch", PATIENCE, |line| line.contains("the log was restored: it is read anew"))
        .await;

    // Both go on: the publisher signs again, and the agent follows the next release.
    service
        .process
        .log_line("its warning", PATIENCE, |line| line.contains("lacks events that were signed before"))
        .await;
    change_one_contract(&source, "after the restore");
    let third = announced(&world, 3).await[2].data()["tag"].as_str().expect("a tag").to_owned();
    agent.switched_to(&third).await;
    reported(&world.log().await, &mut writer, loaded("v1", 40), Utc::now()).await;
    eventually("a fleet that is up to date", PATIENCE, async || {
        let rows =
            json_of(&succeeded(demonctl(&world, &["fleet", "status", "--node", "n1", "--output", "json"])).await);
        satisfied(rows[0]["tag"] == json!(third), || rows.to_string())
    })
    .await;
    let verified = json_of(&finished(demonctl(&world, &["events", "verify", "--output", "json"])).await);
    assert_eq!(verified["clean"], true, "{verified}");
    assert_eq!(verified["restores"][0]["epoch"], epoch["epoch"], "{verified}");
    assert!(verified["restores"][0]["events_lost"].as_u64() >= Some(38), "{verified}");

    let again = finished(demonctl(&world, &begin)).await;
    assert_eq!(again.status.code(), Some(1), "{}", both_outputs(&again));
    assert!(both_outputs(&again).contains("says already that the log was restored"), "{}", both_outputs(&again));
}
