//! The doctor on a healthy node, and with one thing broken at a time: it names exactly that.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use acceptance::agent::Agent;
use acceptance::fake_github::{FakeGitHub, Fault};
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use serde_json::Value;
use shared::identifiers::BundleName;
use shared::subjects::archive_object;
use streams::release_store::{ReleaseStore, Tampering};

/// A node that runs a release.
async fn healthy() -> (World, Agent) {
    let world = World::start(&["n1"]).await;
    let mut publish = world.publisher();
    publish.args(["--tag", "good"]).arg("--source").arg(contracts(world.directory()));
    succeeded(publish).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("good").await;
    (world, agent)
}

async fn doctor(world: &World, agent: &mut Agent) -> Command {
    let mut command = world.demonctl();
    command.args(["doctor", "--node", "n1", "--output", "json"]);
    command.arg("--cache").arg(agent.cache());
    command.env("DEMON_AGENT_URL", format!("http://{}", agent.http_address().await));
    command
}

fn with_outcome(output: &Output, outcome: &str) -> BTreeSet<String> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", both_outputs(output)));
    let checks = report["checks"].as_array().expect("a list of checks");
    let found = checks.iter().filter(|check| check["outcome"] == outcome);
    found.map(|check| check["name"].as_str().expect("a check has a name").to_owned()).collect()
}

/// Asserts that this fails and nothing else.
fn names_only(output: &Output, name: &str) {
    assert_eq!(with_outcome(output, "no"), BTreeSet::from([name.to_owned()]), "{}", both_outputs(output));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"remedy\": \""));
}

#[tokio::test]
async fn a_healthy_node_passes_and_each_fault_is_named_alone() {
    let (world, mut agent) = healthy().await;
    // The head in the node's own log is settled a moment after the switch.
    eventually("the doctor to find nothing", PATIENCE, async || {
        let output = finished(doctor(&world, &mut agent).await).await;
        satisfied(output.status.success() && with_outcome(&output, "warning").is_empty(), || both_outputs(&output))
    })
    .await;

    let mut wrong_address = doctor(&world, &mut agent).await;
    wrong_address.env("DEMON_AGENT_URL", "http://127.0.0.1:1");
    names_only(&finished(wrong_address).await, "agent_reachable");

    let mut wrong_password = doctor(&world, &mut agent).await;
    wrong_password.env("NATS_PASSWORD", "not-the-password");
    names_only(&finished(wrong_password).await, "nats_login");

    let mut wrong_channel = doctor(&world, &mut agent).await;
    wrong_channel.env("DEMON_CHANNEL", "nowhere");
    names_only(&finished(wrong_channel).await, "channel_head");

    let mut switched = doctor(&world, &mut agent).await;
    switched.env("DEMON_SKIP_CONTRACT_BUNDLE", "yes");
    let output = finished(switched).await;
    assert!(output.status.success(), "a switch is a warning: {}", both_outputs(&output));
    assert_eq!(with_outcome(&output, "warning"), BTreeSet::from(["emergency_switches".to_owned()]));

    let file = fs::canonicalize(agent.cache().join("current/files/manifest.json")).expect("a release is active");
    let kept = fs::read(&file).expect("the file can be read");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its owner may change it");
    fs::write(&file, "altered").expect("it can be written now");
    names_only(&finished(doctor(&world, &mut agent).await).await, "cache_digest");
    fs::write(&file, kept).expect("it can be written still");

    let store = ReleaseStore::new(world.operator().await);
    let bundle: BundleName = "contracts".parse().expect("a valid name");
    let archive = archive_object(&bundle, &"good".parse().expect("a valid tag"));
    store.tamper(&archive, Tampering::RecomputeMeta).await.expect("the operator may alter the store");
    names_only(&finished(doctor(&world, &mut agent).await).await, "release_objects");
}

#[tokio::test]
async fn without_nats_the_rest_is_still_checked() {
    let (world, mut agent) = healthy().await;
    let mut command = doctor(&world, &mut agent).await;
    command.env("NATS_URL", "nats://127.0.0.1:1");
    let output = finished(command).await;
    names_only(&output, "nats_reachable");
    let passed = with_outcome(&output, "yes");
    for name in ["agent_reachable", "agent_strict_health", "cache_digest", "disk_space"] {
        assert!(passed.contains(name), "{name}: {passed:?}");
    }
    assert!(with_outcome(&output, "not_checked").contains("channel_head"));
}

#[tokio::test]
async fn missing_and_drifted_streams_are_named() {
    let (world, mut agent) = healthy().await;
    let operator = world.raw_operator().await;
    let info = operator.api("STREAM.INFO.BUNDLE_EVENTS", &Value::Null).await;
    let mut drifted = info["config"].clone();
    drifted["republish"] = Value::Null;
    let answer = operator.api("STREAM.UPDATE.BUNDLE_EVENTS", &drifted).await;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let output = finished(doctor(&world, &mut agent).await).await;
    names_only(&output, "streams");
    assert!(both_outputs(&output).contains("republish"), "{}", both_outputs(&output));

    let answer = operator.api("STREAM.UPDATE.BUNDLE_EVENTS", &info["config"]).await;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let answer = operator.api("STREAM.DELETE.KV_BUNDLE_NODES", &Value::Null).await;
    assert_eq!(answer["success"], true, "{answer}");
    let output = finished(doctor(&world, &mut agent).await).await;
    names_only(&output, "streams");
    assert!(both_outputs(&output).contains("missing: KV_BUNDLE_NODES"), "{}", both_outputs(&output));
}

#[tokio::test]
async fn the_answers_of_github_are_told_apart() {
    let (world, mut agent) = healthy().await;
    let github = FakeGitHub::start("o", "r");
    github.make_private("the-right-token");
    let asked = async |agent: &mut Agent, token: &str, repository: &str, url: &str| {
        let mut command = doctor(&world, agent).await;
        command.args(["--source", "github"]);
        command.env("GH_TOKEN", token).env("GH_REPO", repository).env("DEMONCTL_GITHUB_API_URL", url);
        finished(command).await
    };
    let good = asked(&mut agent, "the-right-token", "o/r", &github.url()).await;
    assert!(good.status.success(), "{}", both_outputs(&good));
    let unknown = asked(&mut agent, "another-token", "o/r", &github.url()).await;
    names_only(&unknown, "github_token");
    assert!(both_outputs(&unknown).contains("401: GitHub does not know the token"));
    let hidden = asked(&mut agent, "the-right-token", "o/other", &github.url()).await;
    names_only(&hidden, "github_token");
    assert!(both_outputs(&hidden).contains("404: no such repository"));
    let away = asked(&mut agent, "the-right-token", "o/r", "http://127.0.0.1:1/").await;
    names_only(&away, "github_reachable");
    github.fail("/releases", Fault::Status(403, Vec::new()));
    let forbidden = asked(&mut agent, "the-right-token", "o/r", &github.url()).await;
    names_only(&forbidden, "github_token");
    assert!(both_outputs(&forbidden).contains("403: GitHub knows the token"));
    let mut through_proxy = doctor(&world, &mut agent).await;
    through_proxy.args(["--source", "github"]).env("DEMONCTL_GITHUB_API_URL", github.url());
    through_proxy.env("HTTP_PROXY", "http://user:geheim@127.0.0.1:1").env_remove("NO_PROXY").env_remove("no_proxy");
    let proxy_away = finished(through_proxy).await;
    names_only(&proxy_away, "github_reachable");
    let said = both_outputs(&proxy_away);
    assert!(said.contains("through proxy http://127.0.0.1:1") && !said.contains("geheim"), "{said}");
    for output in [&good, &unknown, &hidden, &away, &forbidden] {
        assert!(
            !both_outputs(output).contains("-right-token") && !both_outputs(output).contains("another-token"),
            "{}",
            both_outputs(output)
        );
    }
}

#[tokio::test]
async fn the_archive_holds_everything_but_secrets() {
    let (world, mut agent) = healthy().await;
    let log = world.directory().join("some.log");
    fs::write(&log, "first line\nrequest with the-secret-token refused\n").expect("the directory is writable");
    let archive = world.directory().join("support.tar.gz");
    let mut command = doctor(&world, &mut agent).await;
    command.arg("--bundle-file").arg(&archive).arg("--log").arg(&log);
    command.args(["--note", "restarted twice, the-secret-token did not help"]);
    command.env("DEMON_TEST_TOKEN", "the-secret-token");
    succeeded(command).await;
    assert_eq!(fs::metadata(&archive).expect("it is written").permissions().mode() & 0o777, 0o600);

    let out = world.subdirectory("unpacked");
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(&archive).arg("-C").arg(&out);
    succeeded(unpack).await;
    let member = |name: &str| fs::read_to_string(out.join("demon-support").join(name)).expect("the member is there");
    let status: Value = serde_json::from_str(&member("status.json")).expect("the status is JSON");
    assert_eq!(status["contractBundle"]["status"], "loaded");
    assert!(member("events.jsonl").contains("bundle.loaded"));
    assert!(member("doctor.txt").contains("cache_digest") && member("doctor.json").contains("cache_digest"));
    assert!(member("environment.json").contains("\"DEMON_TEST_TOKEN\": \"***\""));
    assert_eq!(member("note.txt"), "restarted twice, *** did not help");
    assert!(member("log.txt").contains("request with *** refused"));
    let secret = world
        .demonctl()
        .get_envs()
        .find(|(name, _)| *name == "NATS_PASSWORD")
        .and_then(|(_, value)| Some(value?.to_string_lossy().into_owned()));
    let secret = secret.expect("the operator has a password");
    for name in ["status.json", "events.jsonl", "environment.json", "doctor.json", "doctor.txt", "log.txt", "note.txt"]
    {
        let text = member(name);
        assert!(!text.contains("the-secret-token") && !text.contains(&secret), "{name}: {text}");
    }
}
