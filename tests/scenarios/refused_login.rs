//! A wrong password and a denied permission are told as what they are, soon; and a restart without a server serves on.

use std::fs::File;
use std::time::Duration;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::http_request::get;
use acceptance::operations::publish_contracts;
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;

/// Far below the time between two looks at the log, which is 30 seconds: nothing else would show it so soon.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_wrong_password_is_named_in_status_and_log() {
    let world = World::start(&["n1"]).await;
    let mut command = world.agent_command("n1");
    command.env("NATS_PASSWORD", "wrong-password");
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    let address = agent.http_address().await;
    eventually("the refusal in the status", SOON, async || {
        let status = get(address, "/api/contracts/status", &[]).await;
        satisfied(status.body.contains("refuses the credentials"), || status.body.clone())
    })
    .await;
    let log = agent.process.log();
    assert!(log.contains("refuses the credentials") && !log.contains("wrong-password"), "{log}");
}

#[tokio::test]
async fn a_denied_permission_is_named_in_status_and_log() {
    let world = World::start(&["n1", "n2"]).await;
    // The login of one node under the name of another: it may neither report nor listen for answers.
    let mut command = world.agent_command("n1");
    command.env("NATS_USER", "n2").env("NATS_PASSWORD", world.password("n2").expose());
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    let address = agent.http_address().await;
    eventually("the denial in the status", SOON, async || {
        let status = get(address, "/api/contracts/status", &[]).await;
        satisfied(status.body.contains("Permissions Violation for "), || status.body.clone())
    })
    .await;
    assert!(agent.process.log().contains("_INBOX_n1"), "the log names the subject: {}", agent.process.log());
}

#[tokio::test]
async fn without_a_server_the_release_is_served_before_it_is_verified_again() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    publish_contracts(&world, &contracts(world.directory()), "v1").await;
    agent.switched_to("v1").await;
    eventually("the switch to be remembered", PATIENCE, async || {
        let state = std::fs::read_to_string(agent.state().join("state.contracts.json")).unwrap_or_default();
        satisfied(state.contains("\"activation_epoch\": 1"), || state.clone())
    })
    .await;
    agent.process.kill();
    let (command, directories) = (world.agent_command("n1"), agent.directories());
    world.server.kill().await;

    // Whoever holds the cache's lock holds up the start: verification comes after it.
    let path = agent.cache().with_extension("lock");
    let lock = File::options().write(true).open(path).expect("the lock file is there");
    lock.lock().expect("nobody holds it any more");
    let mut agent = Agent::start("again", command, directories, world.directory());
    let address = agent.http_address().await;
    eventually("the release, not yet verified", PATIENCE, async || {
        let strict = get(address, "/healthz/strict", &[]).await;
        let checks = &strict.json()["checks"];
        let shown = checks["loaded"]["ok"] == true && checks["verified"]["ok"] == false && strict.status == 503;
        satisfied(shown, || strict.body.clone())
    })
    .await;
    let status = get(address, "/api/contracts/status", &[]).await.json();
    assert_eq!(status["contractBundle"]["metadata"]["tag"], "v1");
    assert_eq!(get(address, "/ready", &[]).await.status, 200);
    drop(lock);
    eventually("the verified release", PATIENCE, async || {
        let strict = get(address, "/healthz/strict", &[]).await;
        satisfied(strict.status == 200, || strict.body.clone())
    })
    .await;
}
