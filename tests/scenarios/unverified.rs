//! The emergency flag: digests are not compared, everything else counts, and what runs unverified is shown as such.

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files, release_of};
use acceptance::http_request::get;
use acceptance::node_status::{status, status_when, told, told_times};
use acceptance::world::World;
use serde_json::json;
use shared::archive::write_archive;
use streams::release_store::ReleaseStore;

const FLAG: &str = "DEMON_SKIP_BUNDLE_VERIFICATION";

/// A release whose archive holds other bytes than its description says, of the same sizes.
async fn mismatching(world: &World, tag: &str) -> HandmadeRelease {
    let (announced, packed) = (contracts_files("one"), contracts_files("two"));
    let described = release_of("contracts", tag, &announced);
    let other = release_of("contracts", tag, &packed);
    let open = |file: &shared::release::ReleaseFile| {
        let found = packed.iter().find(|(path, _)| *path == file.path.as_str());
        Ok(found.map(|(_, content)| content.as_slice()).unwrap_or_default())
    };
    let archive = write_archive(&other, open, Vec::new()).expect("the archive is written to memory");
    let description = described.to_json().expect("a release has a JSON form");
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::of_objects(&store, described, &archive, &description).await
}

fn start(world: &World, flag: &str, log: &str) -> Agent {
    let mut command = world.agent_command("n1");
    command.env(FLAG, flag);
    Agent::start(log, command, AgentDirectories::below(world.directory(), "n1"), world.directory())
}

#[tokio::test]
async fn only_the_flag_lets_a_mismatching_release_through_and_it_is_shown_everywhere() {
    let world = World::start(&["n1"]).await;
    mismatching(&world, "odd").await.announced(&world.log().await).await;
    let mut agent = start(&world, "0", "careful");
    let address = agent.http_address().await;
    status_when(address, "the refusal", |status| status["status"] == "verification_failed").await;
    assert!(told(&world, "n1", "bundle.loaded").await.is_empty());
    agent.process.kill();

    let mut agent = start(&world, "1", "careless");
    agent.switched_to("odd").await;
    let loaded = told_times(&world, "n1", "bundle.loaded", 1).await;
    assert_eq!(loaded[0]["verified"], json!(false));
    let address = agent.http_address().await;
    let alerts = status(address).await["alerts"].to_string();
    assert!(alerts.contains("Bundle verification is disabled") && alerts.contains("is not verified"), "{alerts}");
    let metrics = get(address, "/metrics", &[]).await.body;
    assert!(metrics.contains("demon_bundle_unverified 1"), "{metrics}");
    assert!(agent.process.log().contains("UNVERIFIED"));
    agent.process.kill();

    // Without the flag it is not trusted again.
    let mut agent = start(&world, "no", "careful-again");
    let address = agent.http_address().await;
    let refused = |status: &serde_json::Value| {
        let tag = status["metadata"]["tag"].as_str();
        status["status"] == "verification_failed" && tag.is_some_and(|tag| tag.starts_with("contracts-embedded-"))
    };
    status_when(address, "the built-in schemas in its place", refused).await;
    assert_ne!(agent.active_tag().as_deref(), Some("odd"));
}

#[tokio::test]
async fn withdrawals_still_count_and_good_releases_are_still_verified() {
    let world = World::start(&["n1"]).await;
    let log = world.log().await;
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, "contracts", "good", &contracts_files("good")).await.announced(&log).await;
    let mut agent = start(&world, "1", "careless");
    agent.switched_to("good").await;
    assert_eq!(told_times(&world, "n1", "bundle.loaded", 1).await[0]["verified"], json!(true));
    let odd = mismatching(&world, "odd").await;
    odd.withdrawn(&log).await;
    odd.announced(&log).await;
    agent.process.log_line("the refusal", acceptance::waiting::PATIENCE, |line| line.contains("is withdrawn")).await;
    assert_eq!(agent.active_tag().as_deref(), Some("good"));
}
