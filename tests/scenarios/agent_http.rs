//! What a node says about itself over HTTP, asked of the real agent in each of its states.

use std::net::SocketAddr;
use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::http_request::{HttpAnswer, get};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, succeeded};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use streams::release_store::{ReleaseStore, Tampering};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

async fn status(address: SocketAddr) -> Value {
    let answer = get(address, "/api/contracts/status", &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["contractBundle"].clone()
}

/// Waits until the node says so.
async fn stands(address: SocketAddr, expected: &str) -> Value {
    eventually(&format!("status {expected}"), PATIENCE, async || {
        let status = status(address).await;
        satisfied(status["status"] == expected, || status.to_string())?;
        Ok(status)
    })
    .await
}

fn publish(world: &World, tag: &str, timestamp: Option<String>) -> Command {
    let mut command = world.publisher();
    command.args(["--tag", tag]).arg("--source").arg(contracts(world.directory()));
    if let Some(timestamp) = timestamp {
        command.args(["--timestamp", &timestamp]);
    }
    command
}

fn hours_ago(hours: i64) -> String {
    (Utc::now() - TimeDelta::hours(hours)).to_rfc3339()
}

/// The value of one series, and that exactly one state is on.
async fn scraped(address: SocketAddr, series: &str) -> Option<String> {
    let page = get(address, "/metrics", &[]).await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("text/plain; version=0.0.4"), "{}", page.head);
    let states = page.body.lines().filter(|line| line.starts_with("demon_bundle_status{"));
    let on = states.filter(|line| line.ends_with(" 1")).count();
    assert_eq!(on, 1, "{}", page.body);
    let line = page.body.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next().map(str::to_owned)
}

#[tokio::test]
async fn a_node_tells_when_it_runs_a_release_and_when_it_refuses_one() {
    let world = World::start(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    let address = agent.http_address().await;
    let empty = stands(address, "not_loaded").await;
    assert_eq!((&empty["metadata"], &empty["source"]), (&Value::Null, &json!("primary")));
    assert_eq!(get(address, "/healthz", &[]).await.status, 200);
    assert_eq!(get(address, "/ready", &[]).await.status, 503);
    assert_eq!(get(address, "/healthz/strict", &[]).await.status, 503);

    succeeded(publish(&world, "good", None)).await;
    let loaded = stands(address, "loaded").await;
    assert_eq!(loaded["metadata"]["tag"], "good");
    assert_eq!(loaded["cacheDir"], agent.cache().display().to_string());
    let manifest: Value = serde_json::from_slice(&agent.files()["manifest.json"]).expect("a manifest is JSON");
    assert_eq!(loaded["metadata"]["timestamp"], manifest["timestamp"]);
    assert_eq!(loaded["metadata"]["sha256"], manifest["bundle_sha256"]);
    assert_eq!((loaded["alerts"].clone(), loaded["usingFallback"].clone()), (json!([]), json!(false)));
    assert_eq!(get(address, "/ready", &[]).await.status, 200);
    assert_eq!(scraped(address, "demon_bundle_status{state=\"loaded\"}").await.as_deref(), Some("1"));
    let loads = "demon_bundle_operations_total{operation=\"load\",result=\"success\"}";
    assert_eq!(scraped(address, loads).await.as_deref(), Some("1"));

    // A release whose archive is altered in the store is refused; the good one serves on.
    let store = ReleaseStore::new(world.operator().await);
    let bad = HandmadeRelease::stored(&store, "contracts", "bad", &contracts_files("bad")).await;
    store.tamper(&bad.objects()[0].name, Tampering::KeepMeta).await.expect("the operator may alter the store");
    bad.announced(&world.log().await).await;
    let refused = stands(address, "verification_failed").await;
    assert_eq!((&refused["usingFallback"], &refused["source"]), (&json!(true), &json!("fallback")));
    assert_eq!(refused["metadata"]["tag"], "good");
    let alert = &refused["alerts"][0];
    assert_eq!(alert["severity"], "error");
    assert!(alert["message"].as_str().is_some_and(|text| text.starts_with("Bundle verification failed: ")), "{alert}");
    assert!(alert["remediation"].as_str().is_some_and(|text| !text.is_empty()));
    let failures = "demon_bundle_verification_failures_total{error_type=\"sha256_mismatch\"}";
    assert_eq!(scraped(address, failures).await.as_deref(), Some("1"));
    assert_eq!(scraped(address, "demon_bundle_fallback_active").await.as_deref(), Some("1"));
    let strict = get(address, "/healthz/strict", &[]).await;
    assert_eq!((strict.status, &strict.json()["status"]), (200, &json!("ok")));
    assert!(!strict.json()["warnings"].as_array().expect("warnings are a list").is_empty());
}

#[tokio::test]
async fn a_release_is_stale_above_the_threshold_only() {
    let world = World::start(&["n1", "n2"]).await;
    succeeded(publish(&world, "old", Some(hours_ago(48)))).await;
    let mut patient = world.agent_command("n2");
    patient.env("DEMON_CONTRACTS_STALE_THRESHOLD_HOURS", "72");
    let directories = AgentDirectories::below(world.directory(), "n2");
    let mut patient = Agent::start("n2", patient, directories, world.directory());
    let mut agent = world.start_agent("n1");
    let address = agent.http_address().await;
    let stale = stands(address, "stale").await;
    let message = stale["alerts"][0]["message"].as_str().expect("an alert has a message");
    assert!(message.starts_with("Bundle may be stale (timestamp: "), "{message}");
    let age: f64 = scraped(address, "demon_bundle_age_hours").await.and_then(|age| age.parse().ok()).expect("a number");
    assert!((47.9..49.0).contains(&age), "{age}");
    stands(patient.http_address().await, "loaded").await;
    let fresh = publish(&world, "fresh", None);
    change_one_contract(&world.directory().join("contracts"), "fresh");
    succeeded(fresh).await;
    assert_eq!(stands(address, "loaded").await["metadata"]["tag"], "fresh");
}

#[tokio::test]
async fn the_emergency_switch_needs_no_server() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let mut command = acceptance::workspace_binary::WorkspaceBinary::Runtime.command();
    // Nothing listens on port 1.
    command.args(["--node", "n1", "--nats-url", "nats://127.0.0.1:1"]);
    command.env("PORT", "0").env("DEMON_SKIP_CONTRACT_BUNDLE", "1");
    let directories = AgentDirectories::below(directory.path(), "n1");
    let mut agent = Agent::start("n1", command, directories, directory.path());
    let address = agent.http_address().await;
    let disabled = status(address).await;
    assert_eq!((&disabled["status"], &disabled["source"]), (&json!("disabled"), &json!("disabled")));
    assert_eq!((&disabled["metadata"], &disabled["cacheDir"]), (&Value::Null, &Value::Null));
    assert_eq!((&disabled["alerts"], &disabled["usingFallback"]), (&json!([]), &json!(false)));
    assert_eq!(get(address, "/health", &[]).await.body, "OK");
    assert_eq!(scraped(address, "demon_bundle_status{state=\"disabled\"}").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named() {
    let world = World::start(&["n1"]).await;
    let mut command = world.agent_command("n1");
    command.env("NATS_PASSWORD", "wrong");
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    let address = agent.http_address().await;
    let refused = stands(address, "download_error").await;
    let alert = &refused["alerts"][0];
    assert_eq!(alert["severity"], "error");
    assert!(alert["message"].as_str().is_some_and(|text| text.starts_with("No connection to NATS: ")), "{alert}");
    assert!(!agent.process.log().contains("wrong\""));
}

#[tokio::test]
async fn keys_are_asked_for_and_never_logged() {
    let world = World::start(&["n1"]).await;
    let (old, new) = ("old-0123456789abcdef", "new-0123456789abcdef");
    let mut command = world.agent_command("n1");
    command.env("AGENT_API_KEY", format!("{old},{new}"));
    let directories = AgentDirectories::below(world.directory(), "n1");
    let mut agent = Agent::start("n1", command, directories, world.directory());
    let address = agent.http_address().await;
    let ask = async |key: Option<&str>| -> HttpAnswer {
        let line = key.map(|key| format!("x-api-key: {key}"));
        let headers: Vec<&str> = line.as_deref().into_iter().collect();
        get(address, "/api/contracts/status", &headers).await
    };
    for (key, expected) in [(None, 401), (Some("wrong-0123456789abcdef"), 401), (Some(old), 200), (Some(new), 200)] {
        assert_eq!(ask(key).await.status, expected, "{key:?}");
    }
    for _ in 0..50 {
        assert_eq!(ask(Some("wrong-0123456789abcdef")).await.status, 401);
    }
    let metrics = get(address, "/metrics", &[]).await.body;
    assert!(metrics.contains("demon_agent_refused_requests_total{reason=\"missing\"} 1\n"), "{metrics}");
    assert!(metrics.contains("demon_agent_refused_requests_total{reason=\"wrong\"} 51\n"), "{metrics}");
    let log = agent.process.log();
    assert!(!log.contains("0123456789abcdef"), "{log}");
    let lines = log.lines().filter(|line| line.contains("HTTP requests refused")).count();
    // A second one only where this took more than a minute.
    assert!((1..=2).contains(&lines), "{lines} lines: {log}");
}

#[tokio::test]
async fn slow_clients_and_a_taken_port_do_not_hold_up_distribution() {
    let world = World::start(&["n1", "n2"]).await;
    let mut agent = world.start_agent("n1");
    let address = agent.http_address().await;
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(address).await.expect("the agent accepts");
        stream.write_all(b"GET /api/con").await.expect("the agent reads");
        slow.push(stream);
    }
    // The port is the other agent's.
    let mut command = world.agent_command("n2");
    command.env("PORT", address.port().to_string());
    let directories = AgentDirectories::below(world.directory(), "n2");
    let mut other = Agent::start("n2", command, directories, world.directory());
    other.process.log_line("the taken port", PATIENCE, |line| line.contains("the address is in use")).await;
    succeeded(publish(&world, "v1", None)).await;
    agent.switched_to("v1").await;
    other.switched_to("v1").await;
    assert_eq!(stands(address, "loaded").await["metadata"]["tag"], "v1");
}
