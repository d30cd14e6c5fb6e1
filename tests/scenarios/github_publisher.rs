//! From a release on GitHub to the nodes: the publisher takes it over, the agents switch to it.

use std::process::Command;

use acceptance::fake_github::{FakeGitHub, FakeRelease, Fault};
use acceptance::stored_log::{StoredMessage, event_log, text};
use acceptance::world::{World, both_outputs, finished, succeeded};

const TOKEN: &str = "ghp_0123456789hunter2";
const FIRST: &str = "contracts-20260203-1f0e9d8c";
const SECOND: &str = "contracts-20260204-77aa01bc";
const THIRD: &str = "contracts-20260205-99ff11aa";

fn bundle(title: &str) -> String {
    let schemas = format!(r#"{{"a.json": "{{\"title\":\"{title}\",\"type\":\"object\"}}"}}"#);
    format!(r#"{{"apiContracts": {{}}, "schemas": {schemas}, "version": "1.0.0", "wit": {{}}}}"#)
}

/// A private repository with two releases and the alias of the second.
fn github() -> FakeGitHub {
    let github = FakeGitHub::start("acme", "other");
    github.make_private(TOKEN);
    github.publish(FakeRelease::new("v1.0.0"));
    github.publish(FakeRelease::contracts(FIRST, bundle("first")));
    github.publish(FakeRelease::contracts(SECOND, bundle("second")));
    github.publish(FakeRelease::contracts("contracts-latest", bundle("second")));
    github
}

/// The publisher, told to look at a repository once.
fn publisher(world: &World, github: &FakeGitHub) -> Command {
    let mut command = world.publisher();
    for name in ["HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"] {
        command.env_remove(name);
    }
    command.args(["--source-kind", "github"]);
    command.env("DEMONCTL_GITHUB_API_URL", github.url()).env("DEMON_GITHUB_ATTEMPTS", "1");
    command.env("GH_OWNER", "acme").env("GH_REPO", "other").env("GH_TOKEN", TOKEN).env("RUST_LOG", "trace");
    command
}

fn tags(log: &[StoredMessage], event_type: &str) -> Vec<String> {
    let events = log.iter().filter(|message| message.event_type() == event_type);
    events.map(|message| text(&message.data(), "tag")).collect()
}

#[tokio::test]
async fn releases_are_taken_over_in_order_under_their_own_tags_and_reach_the_nodes() {
    let (world, github) = (World::start(&["n1"]).await, github());
    let output = succeeded(publisher(&world, &github)).await;
    assert!(!both_outputs(&output).contains("hunter2"), "the token is in the log");
    let operator = world.raw_operator().await;
    let log = event_log(&operator).await;
    assert_eq!(tags(&log, "bundle.published"), [FIRST, SECOND]);
    let promoted = tags(&log, "bundle.promoted");
    assert_eq!(promoted.last().map(String::as_str), Some(SECOND));
    assert!(!format!("{log:?}").contains("hunter2"));

    let mut agent = world.start_agent("n1");
    agent.switched_to(SECOND).await;
    assert_eq!(agent.files()["bundle.json"], bundle("second").into_bytes());

    // Nothing new: nothing is downloaded, nothing is written.
    github.forget_requests();
    let published = tags(&event_log(&operator).await, "bundle.published").len();
    succeeded(publisher(&world, &github)).await;
    assert!(github.paths().iter().all(|path| !path.contains("/assets/")), "{:?}", github.paths());
    assert_eq!(tags(&event_log(&operator).await, "bundle.published").len(), published);

    github.publish(FakeRelease::contracts(THIRD, bundle("third")));
    succeeded(publisher(&world, &github)).await;
    agent.switched_to(THIRD).await;
    assert_eq!(agent.files()["bundle.json"], bundle("third").into_bytes());
}

#[tokio::test]
async fn a_release_that_is_not_what_it_says_is_told_and_never_announced() {
    let (world, github) = (World::start(&[]).await, github());
    let altered = FakeRelease::contracts(THIRD, bundle("third")).asset("bundle.json", bundle("other"));
    github.publish(altered);
    let output = finished(publisher(&world, &github)).await;
    let said = both_outputs(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("SHA-256 mismatch: expected ") && said.contains(THIRD), "{said}");
    assert!(!said.contains("hunter2"));
    let operator = world.raw_operator().await;
    assert_eq!(tags(&event_log(&operator).await, "bundle.published"), [FIRST, SECOND], "it holds nobody else up");

    github.publish(FakeRelease::contracts(THIRD, bundle("third")));
    succeeded(publisher(&world, &github)).await;
    assert_eq!(tags(&event_log(&operator).await, "bundle.published"), [FIRST, SECOND, THIRD]);
}

#[tokio::test]
async fn a_github_that_refuses_or_fails_is_named_and_changes_nothing() {
    let (world, github) = (World::start(&[]).await, github());
    for (fault, expected) in [
        (Fault::status(401), "GH_TOKEN"),
        (Fault::status(503), "HTTP 503"),
        (Fault::rate_limited(429, 4_102_444_800), "until 2100-01-01T00:00:00Z"),
    ] {
        github.recover();
        github.fail("/releases", fault);
        let output = finished(publisher(&world, &github)).await;
        let said = both_outputs(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
    }
    let log = event_log(&world.raw_operator().await).await;
    assert_eq!(tags(&log, "bundle.published"), Vec::<String>::new());
}
