//! The publisher with the releases of a GitHub repository as its source.

use std::process::Command;

use acceptance::fake_github::{FakeGitHub, FakeRelease, Fault};
use acceptance::operations::operated;
use acceptance::publisher_service::PublisherService;
use acceptance::stored_log::event_log;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, finished};
use rustix::process::Signal;
use serde_json::Value;

use crate::publisher_service::{announced, announcements, ready};

const OLD: &str = "contracts-20260201-aaaaaaaa";
const MIDDLE: &str = "contracts-20260202-bbbbbbbb";
const NEW: &str = "contracts-20260203-cccccccc";

fn content(text: &str) -> String {
    format!("{{\"schemas\":{{\"{text}.json\":\"{{}}\"}},\"wit\":{{}}}}\n")
}

fn release(tag: &str) -> FakeRelease {
    FakeRelease::contracts(tag, content(tag))
}

fn from(mut command: Command, github: &FakeGitHub) -> Command {
    command.args(["--source-kind", "github", "--github-owner", "acme", "--github-repository", "contracts"]);
    command.args(["--github-api-url", &github.url(), "--github-download-url", &github.url()]);
    command
}

fn following(world: &World, github: &FakeGitHub) -> Command {
    let mut command = from(world.publisher_service(), github);
    command.args(["--interval", "200ms", "--schedule", "off"]);
    command
}

/// The tags that channel `latest` was moved to, in order.
async fn heads(world: &World) -> Vec<String> {
    let log = event_log(&world.raw_operator().await).await;
    let heads = log.iter().filter(|message| message.subject == "bundle.promoted.contracts.channel.latest");
    heads.map(|message| message.data()["tag"].as_str().expect("a tag").to_owned()).collect()
}

fn tags(events: &[acceptance::stored_log::StoredMessage]) -> Vec<Value> {
    events.iter().map(|event| event.data()["tag"].clone()).collect()
}

#[tokio::test]
async fn releases_are_taken_over_oldest_first_and_nothing_new_costs_nothing() {
    let world = World::start(&[]).await;
    let github = FakeGitHub::start("acme", "contracts");
    github.publish(release(OLD));
    github.publish(release(MIDDLE));
    // The alias is a copy, and no release of its own, wherever it stands.
    github.publish(FakeRelease::contracts("contracts-latest", content(OLD)));
    let service = PublisherService::start("service", following(&world, &github), world.directory()).await;
    ready(&service).await;
    let all = announced(&world, 2).await;
    assert_eq!(tags(&all), [OLD, MIDDLE]);
    let data = all[0].data();
    assert_eq!(data["git"]["sha"], "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796");
    assert_eq!(data["trigger"], "schedule", "what made the release, by its manifest");
    assert_eq!(heads(&world).await, [MIDDLE], "the channel moves to the newest only");

    github.forget_requests();
    github.requested("/releases", 6).await;
    let requests = github.requests();
    let answered: Vec<u16> = requests.iter().filter_map(|request| request.status).collect();
    assert!(answered.iter().all(|status| *status == 304), "{requests:?}");

    // The same content under a tag of its own is a release of its own.
    github.publish(FakeRelease::contracts(NEW, content(MIDDLE)));
    assert_eq!(tags(&announced(&world, 3).await), [OLD, MIDDLE, NEW]);
    eventually("the channel at the newest", PATIENCE, async || {
        let heads = heads(&world).await;
        satisfied(heads == [MIDDLE, NEW], || format!("{heads:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_release_that_came_while_the_channel_was_held_is_promoted_once_it_is_thawed() {
    let world = World::start(&[]).await;
    let github = FakeGitHub::start("acme", "contracts");
    github.publish(release(OLD));
    github.publish(release(MIDDLE));
    let _service = PublisherService::start("service", following(&world, &github), world.directory()).await;
    moved_to(&world, MIDDLE).await;
    operated(&world, &["channel", "rollback", "latest", "--to", OLD]).await;
    github.publish(release(NEW));
    assert_eq!(tags(&announced(&world, 3).await), [OLD, MIDDLE, NEW]);
    github.forget_requests();
    github.requested("/releases", 3).await;
    assert_eq!(heads(&world).await, [MIDDLE, OLD], "the channel is held");
    operated(&world, &["channel", "thaw", "latest"]).await;
    moved_to(&world, NEW).await;
}

async fn moved_to(world: &World, tag: &str) {
    eventually("the channel at its release", PATIENCE, async || {
        let heads = heads(world).await;
        satisfied(heads.last().is_some_and(|last| last == tag), || format!("{heads:?} instead of {tag}"))
    })
    .await;
}

#[tokio::test]
async fn a_release_that_is_altered_holds_up_no_other_and_is_taken_over_when_repaired() {
    let world = World::start(&[]).await;
    let github = FakeGitHub::start("acme", "contracts");
    github.publish(release(OLD));
    github.publish(release(MIDDLE));
    github.fail(&format!("{OLD}/bundle.json"), Fault::Altered);
    let service = PublisherService::start("service", following(&world, &github), world.directory()).await;
    assert_eq!(tags(&announced(&world, 1).await), [MIDDLE]);
    eventually("a publisher that complains", PATIENCE, async || {
        let answer = service.get("/readyz").await;
        satisfied(answer.status == 503 && answer.body.contains(OLD), || answer.body)
    })
    .await;
    github.recover();
    ready(&service).await;
    assert_eq!(tags(&announced(&world, 2).await), [MIDDLE, OLD]);
    assert_eq!(heads(&world).await, [MIDDLE], "an older release moves nothing");
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_run_ends_well_and_the_next_run_finishes() {
    let world = World::start(&[]).await;
    let github = FakeGitHub::start("acme", "contracts");
    github.publish(release(OLD));
    github.publish(release(NEW));
    github.fail(&format!("{NEW}/bundle.json"), Fault::Stall);
    let mut service = PublisherService::start("service", following(&world, &github), world.directory()).await;
    github.requested(&format!("{NEW}/bundle.json"), 1).await;
    let health = service.get("/api/publisher/status").await.json();
    assert!(health["running"].is_object(), "{health}");
    service.process.signal(Signal::TERM);
    assert_eq!(service.process.ended(PATIENCE).await.code(), Some(0));
    assert_eq!(tags(&announcements(&world).await), [OLD]);
    github.recover();
    let again = PublisherService::start("again", following(&world, &github), world.directory()).await;
    ready(&again).await;
    assert_eq!(tags(&announcements(&world).await), [OLD, NEW]);
    assert_eq!(heads(&world).await.last().map(String::as_str), Some(NEW));
}

#[tokio::test]
async fn orders_during_a_run_are_taken_at_once_and_share_the_next_one() {
    let world = World::start(&[]).await;
    let github = FakeGitHub::start("acme", "contracts");
    github.publish(release(NEW));
    github.fail(&format!("{NEW}/bundle.json"), Fault::Stall);
    let mut command = from(world.publisher_service(), &github);
    command.args(["--interval", "60m", "--schedule", "off", "--github-timeout", "3s", "--github-attempts", "1"]);
    command.env("DEMON_PUBLISHER_TRIGGER_KEY", "0123456789abcdef");
    let service = PublisherService::start("service", command, world.directory()).await;
    github.requested(&format!("{NEW}/bundle.json"), 1).await;
    let order = async || service.post("/api/publish", &["Authorization: token 0123456789abcdef"], "{}").await.status;
    for _ in 0..3 {
        assert_eq!(order().await, 202);
    }
    let status = service.get("/api/publisher/status").await.json();
    assert_eq!(status["running"]["trigger"], "local", "the orders did not wait for the run: {status}");
    github.recover();
    announced(&world, 1).await;
    ready(&service).await;
    let metrics = service.get("/metrics").await.body;
    let published = r#"demon_publisher_runs_total{trigger="workflow_dispatch",result="published"} 1"#;
    assert!(metrics.contains(published), "{metrics}");
    let more = r#"demon_publisher_runs_total{trigger="workflow_dispatch",result="unchanged"} 0"#;
    assert!(metrics.contains(more), "{metrics}");
}

#[tokio::test]
async fn publishing_once_takes_over_what_is_missing_and_then_nothing() {
    let world = World::start(&[]).await;
    let github = FakeGitHub::start("acme", "contracts");
    github.publish(release(OLD));
    for _ in 0..2 {
        let output = finished(from(world.publisher(), &github)).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(tags(&announcements(&world).await), [OLD]);
    }
    github.fail("/releases", Fault::status(404));
    let output = finished(from(world.publisher(), &github)).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{output:?}");
}
