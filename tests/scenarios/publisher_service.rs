//! The publisher as a service: what it publishes by itself, what it says about itself, and how it ends.

use std::fs;
use std::path::Path;
use std::process::Command;

use acceptance::process::Process;
use acceptance::publisher_service::PublisherService;
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::stored_log::{StoredMessage, event_log};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::World;
use rustix::process::Signal;

/// The announcements so far.
pub(crate) async fn announcements(world: &World) -> Vec<StoredMessage> {
    let log = event_log(&world.raw_operator().await).await;
    log.into_iter().filter(|message| message.event_type() == "bundle.published").collect()
}

/// Waits for this many announcements, and returns them.
pub(crate) async fn announced(world: &World, count: usize) -> Vec<StoredMessage> {
    eventually(&format!("{count} announcements"), PATIENCE, async || {
        let found = announcements(world).await;
        if found.len() >= count { Ok(found) } else { Err(format!("there are {}", found.len())) }
    })
    .await
}

/// A service that looks at a directory often and has no schedule.
pub(crate) fn watching(world: &World, source: &Path) -> Command {
    let mut command = world.publisher_service();
    command.args(["--interval", "200ms", "--schedule", "off"]).arg("--source").arg(source);
    command
}

/// Waits until it says that it is ready.
pub(crate) async fn ready(service: &PublisherService) {
    eventually("a publisher that is ready", PATIENCE, async || {
        let answer = service.get("/readyz").await;
        satisfied(answer.status == 200, || answer.body)
    })
    .await;
}

#[tokio::test]
async fn a_change_of_the_directory_is_published_and_a_stop_ends_well() {
    let world = World::unprovisioned(&[]).await;
    let source = contracts(world.directory());
    let mut service = PublisherService::start("service", watching(&world, &source), world.directory()).await;
    ready(&service).await;
    assert_eq!(announced(&world, 1).await[0].data()["trigger"], "local");
    change_one_contract(&source, "second");
    let second = announced(&world, 2).await[1].data();
    let status = eventually("a status that names the second release", PATIENCE, async || {
        let status = service.get("/api/publisher/status").await.json();
        let tag = &status["last_release"]["releases"][0]["tag"];
        if *tag == second["tag"] { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(status["connection"]["state"], "connected");
    assert_eq!(status["schedule"], serde_json::Value::Null);
    service.process.signal(Signal::TERM);
    assert_eq!(service.process.ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test]
async fn a_hangup_looks_at_once() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let mut command = world.publisher_service();
    command.args(["--interval", "60m", "--schedule", "off"]).arg("--source").arg(&source);
    let mut service = PublisherService::start("service", command, world.directory()).await;
    announced(&world, 1).await;
    ready(&service).await;
    change_one_contract(&source, "second");
    service.process.signal(Signal::HUP);
    assert_eq!(announced(&world, 2).await[1].data()["trigger"], "local");
}

#[tokio::test]
async fn health_tells_the_process_from_its_work() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    // A server that is not there.
    let mut command = WorkspaceBinary::Publisher.command();
    command.args(["serve", "--nats-url", "nats://127.0.0.1:1", "--listen", "127.0.0.1:0"]);
    command.arg("--source").arg(&source).arg("--state-dir").arg(world.subdirectory("alone"));
    let alone = PublisherService::start("alone", command, world.directory()).await;
    for path in ["/healthz", "/health"] {
        let answer = alone.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "OK"), "{path}");
    }
    for path in ["/readyz", "/ready"] {
        let answer = alone.get(path).await;
        assert_eq!((answer.status, &answer.json()["ready"]), (503, &false.into()), "{path}");
        assert_eq!(answer.json()["reason"], "the server is not connected");
    }
    drop(alone);

    let service = PublisherService::start("service", watching(&world, &source), world.directory()).await;
    ready(&service).await;
    fs::remove_dir_all(&source).expect("the source is ours");
    eventually("a publisher that is not ready", PATIENCE, async || {
        let answer = service.get("/readyz").await;
        satisfied(answer.status == 503 && answer.body.contains("the last run failed"), || answer.body)
    })
    .await;
    contracts(world.directory());
    ready(&service).await;
}

#[tokio::test]
async fn metrics_have_names_help_and_values() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let service = PublisherService::start("service", watching(&world, &source), world.directory()).await;
    ready(&service).await;
    let answer = service.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    for name in [
        "demon_publisher_runs_total",
        "demon_publisher_run_duration_seconds",
        "demon_publisher_last_success_timestamp_seconds",
        "demon_publisher_last_scheduled_run_timestamp_seconds",
        "demon_publisher_next_schedule_timestamp_seconds",
        "demon_publisher_missed_schedules_total",
        "demon_publisher_source_polls_total",
        "demon_publisher_connected",
        "demon_publisher_ready",
        "demon_publisher_trigger_requests_refused_total",
    ] {
        assert!(answer.body.contains(&format!("# HELP {name} ")), "{name}: {}", answer.body);
        assert!(answer.body.contains(&format!("# TYPE {name} ")), "{name}");
    }
    let value = |series: &str| -> f64 {
        let line = answer.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series}: {}", answer.body)).parse().expect("a number")
    };
    assert!((value(r#"demon_publisher_runs_total{trigger="local",result="published"}"#) - 1.0).abs() < 0.1);
    assert!(value("demon_publisher_connected") > 0.5 && value("demon_publisher_ready") > 0.5);
    assert!(value("demon_publisher_last_success_timestamp_seconds") > 1.7e9);
    assert!(value("demon_publisher_missed_schedules_total").abs() < 0.1);
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_in_one_line() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let mut command = watching(&world, &source);
    command.args(["--listen", &address]);
    let mut process = Process::start("refused", command, world.directory());
    assert_eq!(process.ended(PATIENCE).await.code(), Some(1));
    let log = process.log();
    assert!(log.lines().last().is_some_and(|line| line.contains(&address) && line.contains("--listen")), "{log}");
}
