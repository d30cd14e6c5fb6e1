//! Whether the server keeps what it acknowledges: what publisher and doctor say of it, and what a restart costs.

use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::publisher_service::PublisherService;
use acceptance::reported::{loaded, reported, writer_of};
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use axum::Router;
use axum::routing::get;
use chrono::Utc;
use serde_json::{Value, json};
use streams::layout::{Layout, LayoutLimits, ensure};
use tokio::net::TcpListener;

use crate::publisher_service::{announced, ready, watching};

fn demonctl(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.args(arguments);
    command
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restart_takes_from_the_node_table_comes_back_by_itself() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    let source = contracts(world.directory());
    let mut service = PublisherService::start("publisher", watching(&world, &source), world.directory()).await;
    let tag = announced(&world, 1).await[0].data()["tag"].as_str().expect("a tag").to_owned();
    let mut command = world.agent_command("n1");
    command.args(["--interval", "500ms"]);
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    agent.switched_to(&tag).await;
    in_the_table(&world).await;

    // Without a publisher nobody creates the table again: the log still answers, and the answer says what is missing.
    service.process.kill();
    world.server.kill().await;
    world.server.start_again().await;
    let status = ["fleet", "status", "--output", "json"];
    let answered = succeeded(demonctl(&world, &status)).await;
    let rows: Value = serde_json::from_slice(&answered.stdout).expect("JSON");
    assert_eq!((&rows[0]["node"], &rows[0]["tag"]), (&json!("n1"), &json!(tag)), "{rows}");
    assert!(both_outputs(&answered).contains("the node table is missing"), "{}", both_outputs(&answered));

    // One that stays looks after it at each new connection.
    let mut service = PublisherService::start("publisher-2", watching(&world, &source), world.directory()).await;
    ready(&service).await;
    world.server.kill().await;
    world.server.start_again().await;
    let created = |line: &str| line.contains("stream created again") && line.contains("KV_BUNDLE_NODES");
    service.process.log_line("the table's return", PATIENCE, created).await;
    in_the_table(&world).await;
    assert!(agent.process.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_server_is_told_from_one_that_does_not_say() {
    let world = World::monitored(&["n1"]).await;
    let source = contracts(world.directory());
    let page = format!("http://{}", world.server.monitoring());

    // Required and not known is refused, before anything is published.
    let mut command = watching(&world, &source);
    command.arg("--require-durable");
    let refused = finished(command).await;
    assert_eq!(refused.status.code(), Some(1), "{}", both_outputs(&refused));
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(stderr.contains("--require-durable") && stderr.contains("--nats-monitor-url"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(crate::publisher_service::announcements(&world).await.is_empty());

    let mut command = watching(&world, &source);
    command.args(["--require-durable", "--nats-monitor-url", &page]);
    let service = PublisherService::start("publisher", command, world.directory()).await;
    announced(&world, 1).await;
    let status: Value = serde_json::from_str(&service.get("/api/publisher/status").await.body).expect("JSON");
    assert_eq!(status["durability"]["facts"]["sync"], json!({"policy": "always"}), "{status}");
    assert_eq!(status["durability"]["warnings"], json!([]), "{status}");
    let metrics = service.get("/metrics").await.body;
    for line in
        ["demon_publisher_durability_warning{warning=\"sync_interval\"} 0", "demon_publisher_stream_fill_ratio{"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    let known = finished(demonctl(&world, &["doctor", "--output", "json", "--nats-monitor-url", &page])).await;
    let known: Value = serde_json::from_slice(&known.stdout).expect("JSON");
    for name in ["server_durability", "stream_room", "server_clock"] {
        assert_eq!(check(&known, name)["outcome"], "yes", "{known}");
    }
    let unknown = finished(demonctl(&world, &["doctor", "--output", "json"])).await;
    let unknown: Value = serde_json::from_slice(&unknown.stdout).expect("JSON");
    assert_eq!(check(&unknown, "server_durability")["outcome"], "not_checked", "{unknown}");
    let required = finished(demonctl(&world, &["doctor", "--output", "json", "--require-durable"])).await;
    let required: Value = serde_json::from_slice(&required.stdout).expect("JSON");
    assert_eq!(check(&required, "server_durability")["outcome"], "no", "{required}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_flushes_later_and_a_log_that_fills_are_named_loudly() {
    let world = World::unprovisioned(&["n1"]).await;
    let connection = world.operator().await;
    let limits = LayoutLimits { event_bytes: 48 * 1024, ..LayoutLimits::default() };
    ensure(&connection, &Layout::declared(limits)).await.expect("the server has room");
    world.provision().await;
    let (log, mut writer) = (world.log().await, writer_of("n1"));
    let mut number = 0;
    while log.state().await.expect("the log answers").bytes < 40 * 1024 {
        number += 1;
        reported(&log, &mut writer, loaded("v1", number), Utc::now()).await;
    }
    // A page as a server with the default interval answers; the real one always flushes here.
    let page = monitoring_page(r#"{"jetstream":{"config":{"sync_interval":120000000000}}}"#).await;
    let mut command = watching(&world, &contracts(world.directory()));
    command.args(["--nats-monitor-url", &page]);
    let mut service = PublisherService::start("publisher", command, world.directory()).await;
    let warns = |words: &'static str| move |line: &str| line.contains("DURABILITY") && line.contains(words);
    service.process.log_line("a warning", PATIENCE, warns("only every 120 s")).await;
    service.process.log_line("a warning", PATIENCE, warns("`BUNDLE_EVENTS` is 8")).await;
    let metrics = service.get("/metrics").await.body;
    for warning in ["sync_interval", "nearly_full"] {
        let line = format!("demon_publisher_durability_warning{{warning=\"{warning}\"}} 1");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    let doctor = finished(demonctl(&world, &["doctor", "--output", "json", "--nats-monitor-url", &page])).await;
    let doctor: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    for name in ["server_durability", "stream_room"] {
        assert_eq!(check(&doctor, name)["outcome"], "warning", "{doctor}");
    }
}

/// Waits until the one node is up to date, by the log and by its own word.
async fn in_the_table(world: &World) {
    eventually("a node that is up to date", PATIENCE, async || {
        let answered = succeeded(demonctl(world, &["fleet", "status", "--output", "json"])).await;
        let rows: Value = serde_json::from_slice(&answered.stdout).map_err(|error| error.to_string())?;
        satisfied(rows[0]["state"] == "ok", || both_outputs(&answered))
    })
    .await;
}

/// The address of a server's monitoring page that says this.
async fn monitoring_page(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let address = listener.local_addr().expect("a listener has an address");
    let router = Router::new().route("/varz", get(async move || text));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serving goes on") });
    format!("http://{address}")
}
