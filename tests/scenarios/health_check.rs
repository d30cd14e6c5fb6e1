//! Releases on trial: a health check decides whether a new release stays, whatever happens to server and agent meanwhile.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::http_request::get;
use acceptance::loopback_server::{LoopbackThread, free_listener, serve};
use acceptance::operations::{operate, publish_contracts};
use acceptance::sample_trees::contracts;
use acceptance::stored_log::{StoredMessage, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get as route;
use rustix::process::Signal;
use serde_json::{Value, json};

/// An application that is well with a release unless a file says otherwise, and notes each time that it is asked.
struct Application {
    directory: PathBuf,
}

impl Application {
    fn new(world: &World) -> Self {
        let directory = world.subdirectory("application");
        let script = "echo \"$DEMON_TAG $DEMON_ACTIVATION_EPOCH\" >> \"$1/asked\"\n\
                      if test -e \"$1/broken-$DEMON_TAG\"; then echo \"cannot load $DEMON_TAG\" >&2; exit 1; fi\n";
        fs::write(directory.join("check.sh"), script).expect("the directory is writable");
        Self { directory }
    }

    fn breaks_with(&self, tag: &str) {
        fs::write(self.directory.join(format!("broken-{tag}")), "").expect("the directory is writable");
    }

    fn is_repaired_for(&self, tag: &str) {
        fs::remove_file(self.directory.join(format!("broken-{tag}"))).expect("it was broken");
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.directory.join("asked")).unwrap_or_default()
    }

    async fn asked_about(&self, tag: &str) {
        eventually(&format!("a check of {tag}"), PATIENCE, async || {
            satisfied(self.asked().lines().any(|line| line.starts_with(&format!("{tag} "))), || self.asked())
        })
        .await;
    }

    /// The agent's program with this application's check and a window.
    fn agent_command(&self, world: &World, window: &str) -> Command {
        let mut command = world.agent_command("n1");
        let check = format!("sh {} {}", self.directory.join("check.sh").display(), self.directory.display());
        command.env("DEMON_HEALTH_CHECK", check).env("DEMON_HEALTH_WINDOW", window);
        command.env("DEMON_HEALTH_GRACE", "0s").env("DEMON_HEALTH_INTERVAL", "50ms");
        // A loaded machine may take long to start a process.
        command.env("DEMON_HEALTH_TIMEOUT", "60s");
        command
    }
}

fn start(world: &World, command: Command, name: &str) -> Agent {
    Agent::start(name, command, AgentDirectories::below(world.directory(), "n1"), world.directory())
}

async fn standing(address: SocketAddr) -> Value {
    get(address, "/api/contracts/status", &[]).await.json()["contractBundle"].clone()
}

async fn is_proven(agent: &mut Agent, tag: &str) {
    agent
        .process
        .log_line("a proven release", PATIENCE, |line| {
            line.contains("has proved itself") && line.contains(&format!("\"{tag}\""))
        })
        .await;
}

/// The node's reverts, once there are so many.
async fn reverts(world: &World, count: usize) -> Vec<Value> {
    let operator = world.raw_operator().await;
    eventually("the revert in the log", PATIENCE, async || {
        let log = event_log(&operator).await;
        let found: Vec<Value> = of_node(&log, "bundle.reverted", "n1").into_iter().map(StoredMessage::data).collect();
        satisfied(found.len() >= count, || format!("{} reverts", found.len()))?;
        Ok(found)
    })
    .await
}

async fn loads_of(world: &World, tag: &str) -> usize {
    let log = event_log(&world.raw_operator().await).await;
    of_node(&log, "bundle.loaded", "n1").into_iter().filter(|loaded| loaded.data()["tag"] == tag).count()
}

async fn published(world: &World, tag: &str) {
    publish_contracts(world, &contracts(world.directory()), tag).await;
}

#[tokio::test]
async fn a_release_that_breaks_the_application_gives_way_and_is_not_tried_again_until_told() {
    let world = World::start(&["n1"]).await;
    let application = Application::new(&world);
    let mut agent = start(&world, application.agent_command(&world, "300ms"), "n1");
    let address = agent.http_address().await;
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    is_proven(&mut agent, "v1").await;

    application.breaks_with("v2");
    published(&world, "v2").await;
    let revert = reverts(&world, 1).await.remove(0);
    agent.switched_to("v1").await;
    assert_eq!((&revert["tag"], &revert["restored"]["tag"]), (&json!("v2"), &json!("v1")));
    assert!(revert["check"].as_str().is_some_and(|said| said.contains("cannot load v2")), "{revert}");
    assert_eq!((&revert["failed_epoch"], &revert["activation_epoch"]), (&json!(2), &json!(3)));
    let status = standing(address).await;
    assert_eq!((&status["status"], &status["usingFallback"]), (&json!("using_fallback"), &json!(true)));
    let alert = &status["alerts"][0];
    assert!(alert["message"].as_str().is_some_and(|text| text.starts_with("Health check failed: ")), "{alert}");
    // The good release is not asked about again: it had proved itself, and the switch is the node's, not the log's.
    assert_eq!(loads_of(&world, "v1").await, 1, "the switch back is told by the revert alone");
    assert_eq!(get(address, "/healthz/strict", &[]).await.status, 200);

    // Whatever else happens in the log, and after a restart, the release is left alone.
    operate(&world, &["channel", "freeze", "latest", "--reason", "looking into it"], 0).await;
    operate(&world, &["channel", "thaw", "latest"], 0).await;
    agent.process.kill();
    let mut agent = start(&world, application.agent_command(&world, "300ms"), "again");
    let address = agent.http_address().await;
    eventually("the trouble to be shown again", PATIENCE, async || {
        let status = standing(address).await;
        satisfied(status["status"] == "using_fallback", || status.to_string())
    })
    .await;
    assert_eq!((agent.active_tag().as_deref(), loads_of(&world, "v2").await), (Some("v1"), 1));

    // An operator's word.
    application.is_repaired_for("v2");
    agent.process.signal(Signal::HUP);
    agent.switched_to("v2").await;
    is_proven(&mut agent, "v2").await;
    assert_eq!(standing(address).await["status"], "loaded");
}

#[tokio::test]
async fn a_release_that_is_promoted_anew_is_tried_anew() {
    let world = World::start(&["n1"]).await;
    let application = Application::new(&world);
    let mut agent = start(&world, application.agent_command(&world, "200ms"), "n1");
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    is_proven(&mut agent, "v1").await;
    application.breaks_with("v2");
    published(&world, "v2").await;
    reverts(&world, 1).await;
    application.is_repaired_for("v2");
    operate(&world, &["channel", "rollback", "latest", "--reason", "v2 is broken"], 0).await;
    operate(&world, &["channel", "promote", "latest", "v2"], 0).await;
    agent.switched_to("v2").await;
    is_proven(&mut agent, "v2").await;
}

#[tokio::test]
async fn a_trial_outlives_the_agent() {
    let world = World::start(&["n1"]).await;
    let application = Application::new(&world);
    let mut agent = start(&world, application.agent_command(&world, "200ms"), "n1");
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    is_proven(&mut agent, "v1").await;
    agent.process.kill();

    let mut agent = start(&world, application.agent_command(&world, "60m"), "second");
    published(&world, "v2").await;
    application.asked_about("v2").await;
    // Killed in the middle of the window, with all checks passed so far.
    agent.process.kill();
    application.breaks_with("v2");
    let mut agent = start(&world, application.agent_command(&world, "60m"), "third");
    agent.process.log_line("the trial", PATIENCE, |line| line.contains("still on trial")).await;
    agent.switched_to("v1").await;
    assert_eq!(reverts(&world, 1).await[0]["restored"]["tag"], "v1");
}

#[tokio::test]
async fn without_a_server_a_bad_release_gives_way_all_the_same() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    let application = Application::new(&world);
    let mut agent = start(&world, application.agent_command(&world, "200ms"), "n1");
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    is_proven(&mut agent, "v1").await;
    agent.process.kill();

    let mut agent = start(&world, application.agent_command(&world, "60m"), "second");
    published(&world, "v2").await;
    application.asked_about("v2").await;
    // Connections stay open and nothing is answered: whoever waits for an answer waits for long.
    let paused = world.server.pause();
    application.breaks_with("v2");
    agent.switched_to("v1").await;
    drop(paused);
    let command = application.agent_command(&world, "60m");
    world.server.kill().await;
    agent.process.kill();
    let mut agent = start(&world, command, "third");
    let address = agent.http_address().await;
    eventually("the release", PATIENCE, async || {
        let status = standing(address).await;
        satisfied(status["metadata"]["tag"] == "v1", || status.to_string())
    })
    .await;
    world.server.start_again().await;
    assert_eq!(reverts(&world, 1).await.len(), 1, "recorded once, when there is a server again");
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));
}

#[tokio::test]
async fn with_nothing_to_return_to_the_release_stays_and_everybody_is_told() {
    let world = World::start(&["n1"]).await;
    let application = Application::new(&world);
    application.breaks_with("v1");
    let mut agent = start(&world, application.agent_command(&world, "300ms"), "n1");
    let address = agent.http_address().await;
    published(&world, "v1").await;
    let revert = reverts(&world, 1).await.remove(0);
    assert_eq!((&revert["tag"], &revert["restored"]), (&json!("v1"), &Value::Null));
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));
    eventually("the strict check to tell of it", PATIENCE, async || {
        let strict = get(address, "/healthz/strict", &[]).await;
        let told = (strict.status, &strict.json()["checks"]["healthy"]["ok"]) == (503, &json!(false));
        satisfied(told, || strict.body.clone())
    })
    .await;
    // Another release takes its place as soon as there is one.
    published(&world, "v2").await;
    agent.switched_to("v2").await;
    is_proven(&mut agent, "v2").await;
    assert_eq!(get(address, "/healthz/strict", &[]).await.status, 200);
}

/// An application that says what it runs: the switch it was first asked about, for ever.
fn stuck_application() -> (SocketAddr, LoopbackThread) {
    let (listener, address) = free_listener();
    let first = std::sync::Arc::new(std::sync::Mutex::new(None::<String>));
    let answer = move |headers: HeaderMap| async move {
        let epoch = headers["x-demon-activation-epoch"].to_str().expect("it is text").to_owned();
        let runs = first.lock().expect("nobody panics holding it").get_or_insert(epoch).clone();
        format!("{{\"status\":\"ok\",\"activation_epoch\":{runs}}}")
    };
    (address, serve("application", listener, None, Router::new().route("/ready", route(answer))))
}

#[tokio::test]
async fn an_application_that_is_well_with_the_release_before_proves_nothing() {
    let world = World::start(&["n1"]).await;
    let (application, _serving) = stuck_application();
    let mut command = world.agent_command("n1");
    command.env("DEMON_HEALTH_CHECK", format!("http://{application}/ready")).env("DEMON_HEALTH_WINDOW", "200ms");
    let mut agent = start(&world, command, "n1");
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    is_proven(&mut agent, "v1").await;
    published(&world, "v2").await;
    let revert = reverts(&world, 1).await.remove(0);
    assert!(revert["check"].as_str().is_some_and(|said| said.contains("activation epoch 1, not 2")), "{revert}");
    agent.switched_to("v1").await;
}

#[tokio::test]
async fn what_is_demanded_decides_and_the_rest_is_a_warning() {
    let world = World::start(&["n1"]).await;
    let application = Application::new(&world);
    let mut command = application.agent_command(&world, "60m");
    command.env("DEMON_STRICT_REQUIRES", "proven,converged");
    let mut agent = start(&world, command, "n1");
    let address = agent.http_address().await;
    published(&world, "v1").await;
    application.asked_about("v1").await;
    let strict = eventually("the release to be shown", PATIENCE, async || {
        let strict = get(address, "/healthz/strict", &[]).await;
        satisfied(strict.json()["checks"]["loaded"]["ok"] == true, || strict.body.clone())?;
        Ok(strict)
    })
    .await;
    assert_eq!((strict.status, &strict.json()["checks"]["proven"]["ok"]), (503, &json!(false)));
    assert_eq!(strict.json()["checks"]["converged"]["ok"], true);
    assert_eq!(get(address, "/ready", &[]).await.status, 200, "it serves while it proves itself");
    assert!(Path::new(agent.state()).join("state.contracts.json").exists());
}
