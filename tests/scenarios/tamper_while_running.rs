//! Somebody changes the files of the release that runs: the node says so once, puts back what is missing, and heals the
//! rest where it is told to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::node_status::{status_when, told, told_times};
use acceptance::operations::publish_contracts;
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use serde_json::json;

const TAMPERED: &str = "bundle.tamper_detected";

/// An agent that runs `v1`, with `v0` beside it in its cache.
async fn running(world: &World, mode: &str) -> Agent {
    let source = contracts(world.directory());
    publish_contracts(world, &source, "v0").await;
    let mut command = world.agent_command("n1");
    command.env("DEMON_TAMPER", mode);
    let mut agent = Agent::start("n1", command, AgentDirectories::below(world.directory(), "n1"), world.directory());
    agent.switched_to("v0").await;
    change_one_contract(&source, "v1");
    publish_contracts(world, &source, "v1").await;
    agent.switched_to("v1").await;
    agent.flat_view_leads_to("v1").await;
    told_times(world, "n1", "bundle.loaded", 2).await;
    agent
}

fn overwrite(path: &Path, content: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    fs::write(path, content).expect("the file is ours");
}

#[tokio::test]
async fn a_changed_file_is_reported_once_and_left_as_it_is() {
    let world = World::start(&["n1"]).await;
    let mut agent = running(&world, "report").await;
    let bundle = agent.cache().join("releases/v1/files/bundle.json");
    let good = fs::read(&bundle).expect("the bundle is there");
    overwrite(&bundle, "{}");
    let said = told_times(&world, "n1", TAMPERED, 1).await;
    assert_eq!(
        (&said[0]["tag"], &said[0]["healed"], &said[0]["changed"], &said[0]["paths"][0]["path"]),
        (&json!("v1"), &json!(false), &json!(1), &json!("files/bundle.json"))
    );
    let address = agent.http_address().await;
    let changed = |status: &serde_json::Value| status["alerts"].to_string().contains("changed on disk");
    status_when(address, "an alert", changed).await;
    assert_eq!(fs::read(&bundle).expect("the bundle is there"), b"{}");

    // What is missing is put back all the same, from here or from the store.
    fs::remove_file(agent.cache().join("releases/v1/files/manifest.json")).expect("the file is ours");
    eventually("the manifest to be back", PATIENCE, async || {
        satisfied(agent.cache().join("releases/v1/files/manifest.json").is_file(), || "it is missing".to_owned())
    })
    .await;
    agent.process.kill();
    // A restart does not run what was changed, and does not say the same again.
    let mut agent = world.start_agent_in("n1", "again", agent.directories());
    let address = agent.http_address().await;
    status_when(address, "v1 to be whole", |status| {
        status["status"] == "loaded" && !status["alerts"].to_string().contains("changed on disk")
    })
    .await;
    assert_eq!(fs::read(&bundle).expect("the bundle is there"), good);
    let unhealed = told(&world, "n1", TAMPERED).await.into_iter().filter(|said| said["healed"] == false).count();
    assert_eq!(unhealed, 1);
}

#[tokio::test]
async fn a_changed_release_is_healed_from_the_store_and_the_changed_one_kept_aside() {
    let world = World::start(&["n1"]).await;
    let agent = running(&world, "heal").await;
    let files = agent.cache().join("releases/v1/files");
    let good = agent.files();
    overwrite(&files.join("bundle.json"), "{}");
    fs::write(files.join("added"), "x").expect("the directory is ours");
    let said = told_times(&world, "n1", TAMPERED, 1).await;
    assert_eq!((&said[0]["healed"], &said[0]["mode"]), (&json!(true), &json!("heal")));
    assert_eq!(agent.files(), good);
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));
    assert_eq!(told(&world, "n1", "bundle.loaded").await.len(), 2, "healing is no switch");
    assert!(fs::read_dir(agent.cache().join("staging")).expect("it is there").count() > 0);
}

#[tokio::test]
async fn somebody_who_edits_in_a_loop_makes_no_storm_and_loses() {
    let world = World::start(&["n1"]).await;
    let agent = running(&world, "strict").await;
    let good = agent.files();
    for round in 0..20 {
        // A rename that comes between makes the path new; the next round meets it.
        let bundle = agent.cache().join("releases/v1/files/bundle.json");
        if fs::set_permissions(&bundle, fs::Permissions::from_mode(0o644)).is_ok() {
            let _ = fs::write(&bundle, format!("{round}"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    eventually("the release to be whole", PATIENCE, async || {
        satisfied(agent.files() == good, || "files differ".to_owned())
    })
    .await;
    let said = eventually("it to be told", PATIENCE, async || {
        let said = told(&world, "n1", TAMPERED).await.len();
        satisfied(said > 0, || "it is not".to_owned())?;
        Ok(said)
    })
    .await;
    assert!(said <= 2, "{said} events");
}

#[tokio::test]
async fn a_deleted_cache_comes_back_while_the_agent_runs_and_no_event_is_lost() {
    let world = World::start(&["n1"]).await;
    let agent = running(&world, "report").await;
    let good = agent.files();
    fs::remove_dir_all(agent.cache()).expect("the cache may be deleted at any time");
    eventually("the release to be back", PATIENCE, async || {
        let back = agent.active_tag().as_deref() == Some("v1") && agent.cache().join("current/files").is_dir();
        satisfied(back && agent.files() == good, || "it is not".to_owned())
    })
    .await;
    agent.flat_view_leads_to("v1").await;
    told_times(&world, "n1", "bundle.loaded", 3).await;
    let verdict = acceptance::operations::operated(&world, &["events", "verify"]).await;
    assert!(!verdict.contains("gap"), "{verdict}");
}
