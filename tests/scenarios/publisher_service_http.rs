//! Orders to publish over HTTP: the operators' curl command, keys, and requests that mean no good.

use std::time::Duration;

use acceptance::http_request::HttpAnswer;
use acceptance::publisher_service::PublisherService;
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use tokio::io::AsyncWriteExt as _;

use crate::publisher_service::{announced, announcements, ready, watching};

const KEY: &str = "0123456789abcdef-first";
const NEXT_KEY: &str = "0123456789abcdef-second";
const DISPATCHES: &str = "/repos/afewell-hh/demon/actions/workflows/contracts-release.yml/dispatches";
const ACCEPT: &str = "Accept: application/vnd.github.v3+json";

fn authorization(key: &str) -> String {
    format!("Authorization: token {key}")
}

/// A service that does nothing by itself after its first look, and takes orders with two keys.
async fn ordered(world: &World) -> PublisherService {
    let source = contracts(world.directory());
    let mut command = world.publisher_service();
    command.args(["--interval", "60m", "--schedule", "off"]).arg("--source").arg(source);
    command.env("DEMON_PUBLISHER_TRIGGER_KEY", format!("{KEY} {NEXT_KEY}"));
    let service = PublisherService::start("service", command, world.directory()).await;
    ready(&service).await;
    service
}

/// Waits until this many runs by order have ended.
async fn runs_by_order(service: &PublisherService, count: f64) {
    eventually("runs by order", PATIENCE, async || {
        let metrics = service.get("/metrics").await.body;
        let runs: f64 = metrics
            .lines()
            .filter(|line| line.starts_with("demon_publisher_runs_total{trigger=\"workflow_dispatch\""))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        satisfied(runs >= count, || format!("{runs} have ended"))
    })
    .await;
}

#[tokio::test]
async fn the_operators_curl_command_publishes_and_its_texts_are_not_taken_for_truth() {
    let world = World::start(&[]).await;
    let service = ordered(&world).await;
    let authorization = authorization(KEY);
    let send = async |body: &str| service.post(DISPATCHES, &[&authorization, ACCEPT], body).await;

    let answer = send(r#"{"ref":"main","inputs":{"force_release":"false"}}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    runs_by_order(&service, 1.0).await;
    assert_eq!(announcements(&world).await.len(), 1, "unchanged content, and the text \"false\" is false");

    assert_eq!(send(r#"{"ref":"main","inputs":{"force_release":"true"}}"#).await.status, 204);
    let forced = announced(&world, 2).await[1].data();
    assert_eq!(forced["trigger"], "workflow_dispatch");
    assert_eq!(forced["content_digest"], announcements(&world).await[0].data()["content_digest"]);

    change_one_contract(&world.directory().join("contracts"), "second");
    assert_eq!(send(r#"{"ref":"main"}"#).await.status, 204);
    assert_eq!(announced(&world, 3).await[2].data()["trigger"], "workflow_dispatch");

    for (body, status) in [
        (r#"{"ref":"main","inputs":{"force_release":"maybe"}}"#, 422),
        (r#"{"ref":"main","inputs":{"other":"true"}}"#, 422),
        (r#"{"inputs":{}}"#, 422),
        (r#"{"ref":7}"#, 422),
        ("{", 400),
    ] {
        let answer = send(body).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.json()["message"].is_string());
    }
    let elsewhere = DISPATCHES.replace("contracts-release.yml", "ci.yml");
    assert_eq!(service.post(&elsewhere, &[&authorization], r#"{"ref":"main"}"#).await.status, 404);
}

#[tokio::test]
async fn an_order_that_waits_is_answered_with_what_was_done() {
    let world = World::start(&[]).await;
    let service = ordered(&world).await;
    let authorization = format!("Authorization: Bearer {NEXT_KEY}");
    let publish = async |body: &str| service.post("/api/publish", &[&authorization], body).await;

    let unchanged = publish(r#"{"wait": true}"#).await;
    assert_eq!((unchanged.status, &unchanged.json()["result"]), (200, &"unchanged".into()));
    let forced = publish(r#"{"force": true, "wait": true}"#).await;
    assert_eq!((forced.status, &forced.json()["result"]), (200, &"published".into()), "{forced:?}");
    assert_eq!(forced.json()["releases"][0]["announced"], true);
    let queued = publish("").await;
    assert_eq!((queued.status, &queued.json()["queued"]), (202, &true.into()));
    assert_eq!(publish(r#"{"forced": true}"#).await.status, 422);

    std::fs::remove_dir_all(world.directory().join("contracts")).expect("the source is ours");
    let failed = publish(r#"{"wait": true}"#).await;
    assert_eq!(failed.status, 500);
    assert!(failed.json()["message"].as_str().is_some_and(|message| message.contains("source")), "{failed:?}");
}

#[tokio::test]
async fn without_the_right_key_nothing_is_published() {
    let world = World::start(&[]).await;
    let mut service = ordered(&world).await;
    let body = r#"{"ref":"main","inputs":{"force_release":"true"}}"#;
    for headers in [vec![], vec!["Authorization: token 0123456789abcdef"], vec!["Authorization: Basic eDp5"]] {
        for path in [DISPATCHES, "/api/publish"] {
            let answer = service.post(path, &headers, body).await;
            assert_eq!(answer.status, 401, "{headers:?}: {answer:?}");
            assert!(answer.json()["message"].is_string());
        }
    }
    // Whoever guesses has to wait, even with the right key.
    eventually("an answer that says to wait", PATIENCE, async || {
        let answer = service.post(DISPATCHES, &["Authorization: token wrong"], body).await;
        satisfied(answer.status == 429, || format!("{answer:?}"))
    })
    .await;
    assert_eq!(service.post(DISPATCHES, &[&authorization(KEY)], body).await.status, 429);
    assert_eq!(service.get("/healthz").await.status, 200);
    assert_eq!(announcements(&world).await.len(), 1);
    let log = service.process.log();
    assert!(!log.contains(KEY) && !log.contains(NEXT_KEY));
    service.process.kill();
}

#[tokio::test]
async fn without_a_key_triggers_are_off_and_say_how_to_switch_them_on() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let service = PublisherService::start("service", watching(&world, &source), world.directory()).await;
    for path in [DISPATCHES, "/api/publish"] {
        let answer = service.post(path, &[&authorization(KEY)], r#"{"ref":"main"}"#).await;
        assert_eq!(answer.status, 403);
        assert!(answer.body.contains("--trigger-key-file"), "{answer:?}");
    }
    assert_eq!(service.get("/nothing").await.status, 404);
    assert_eq!(service.get(DISPATCHES).await.status, 405);
}

#[tokio::test]
async fn huge_and_slow_requests_are_ended_and_hold_nothing_up() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let mut command = watching(&world, &source);
    command.env("DEMON_PUBLISHER_TRIGGER_KEY", KEY);
    let service = PublisherService::start("service", command, world.directory()).await;
    ready(&service).await;

    let huge = "x".repeat(65 * 1024);
    let answer = service.post("/api/publish", &[&authorization(KEY)], &huge).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    // Without a length it is counted while it comes.
    let chunk = format!("{:x}\r\n{huge}\r\n0\r\n\r\n", huge.len());
    let request = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}",
        authorization(KEY)
    );
    assert_eq!(service.exchange(&request).await.status, 413);
    let header = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert_eq!(service.exchange(&header).await.status, 431);

    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = service.connect().await;
        stream.write_all(b"POST /api/publish HTTP/1.1\r\nHost: ").await.expect("it is connected");
        slow.push(stream);
    }
    let mut half = service.connect().await;
    let begun = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\nContent-Length: 100\r\n\r\n{{",
        authorization(KEY)
    );
    half.write_all(begun.as_bytes()).await.expect("it is connected");

    change_one_contract(&source, "second");
    announced(&world, 2).await;
    assert_eq!(service.get("/healthz").await.status, 200);
    let answer = HttpAnswer::read(&mut half, Duration::from_mins(1)).await;
    assert_eq!(answer.status, 408, "{answer:?}");
    for stream in &mut slow {
        let mut part = [0; 1];
        let ended = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read(stream, &mut part)).await;
        ended.expect("a header that never ends is ended").ok();
    }
}
