//! Deltas from publisher to node: used where they are cheapest, left aside where anything about them is wrong.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::operations::operated;
use acceptance::process::Process;
use acceptance::publishing::{ServerContent, contracts_publish, document, published};
use acceptance::raw_client::RawClient;
use acceptance::sample_trees::{change_one_contract, contracts, noise};
use acceptance::stored_log::{event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually};
use acceptance::world::{World, finished, succeeded};
use serde_json::Value;
use streams::release_store::{ReleaseStore, Tampering};

/// Contracts of which a large part never changes and does not compress to nothing.
fn large_contracts(world: &World) -> PathBuf {
    let root = contracts(world.directory());
    let mut text = String::new();
    for byte in noise(200_000, 1) {
        write!(text, "{byte:02x}").expect("a string takes text");
    }
    let schema = format!("{{\"type\":\"object\",\"description\":\"{text}\"}}\n");
    fs::write(root.join("schemas/large.v1.json"), schema).expect("the directory is writable");
    root
}

/// Publishes the next release of the source.
async fn next_release(world: &World, source: &Path, tag: &str, options: &[&str]) -> Value {
    change_one_contract(source, tag);
    published(world, source, &[&["--tag", tag], options].concat()).await
}

/// What a node said when it switched to a release.
async fn loaded(operator: &RawClient, node: &str, tag: &str) -> Value {
    said(operator, "bundle.loaded", node, tag).await
}

async fn said(operator: &RawClient, event_type: &str, node: &str, tag: &str) -> Value {
    let what = format!("{event_type} of {tag} by {node}");
    eventually(&what, PATIENCE, async || {
        let log = event_log(operator).await;
        let said = of_node(&log, event_type, node);
        let of_tag = said.iter().map(|message| message.data()).find(|data| data["tag"] == tag);
        of_tag.ok_or_else(|| format!("it said so {} times of others", said.len()))
    })
    .await
}

fn size(object: &Value) -> u64 {
    object["size"].as_u64().expect("an object has a size")
}

/// What the whole of a release costs.
async fn archive_bytes(operator: &RawClient, tag: &str) -> u64 {
    let content = ServerContent::of(operator).await;
    let said = content.on(&format!("bundle.published.contracts.release.{tag}"));
    let data = said.last().expect("it is announced").data();
    size(&data["archive"]) + size(&data["release"])
}

/// An agent that runs `v1` of the source, and fetches nothing before it is promoted: what a switch costs is compared.
async fn running_v1(world: &World, source: &Path, node: &str) -> Agent {
    running_v1_with(world, source, node, "off").await
}

async fn running_v1_with(world: &World, source: &Path, node: &str, prefetch: &str) -> Agent {
    next_release(world, source, "v1", &[]).await;
    let mut command = world.agent_command(node);
    command.env("DEMON_PREFETCH", prefetch);
    let directories = AgentDirectories::below(world.directory(), node);
    let mut agent = Agent::start(node, command, directories, world.directory());
    agent.switched_to("v1").await;
    agent
}

#[tokio::test]
async fn a_node_that_has_the_release_before_reads_only_what_changed() {
    let world = World::start(&["n1", "n2"]).await;
    let operator = world.raw_operator().await;
    let source = large_contracts(&world);
    let mut agent = running_v1(&world, &source, "n1").await;
    assert_eq!(loaded(&operator, "n1", "v1").await["source"], "download");

    let row = next_release(&world, &source, "v2", &[]).await;
    let deltas = row["deltas"].as_array().expect("the report names deltas");
    assert_eq!(deltas.len(), 1, "{row}");
    assert_eq!((&deltas[0]["base_tag"], &deltas[0]["name"]), (&"v1".into(), &"contracts/v2.from.v1.delta".into()));
    agent.switched_to("v2").await;
    let switched = loaded(&operator, "n1", "v2").await;
    assert_eq!((&switched["source"], &switched["wire_bytes"]), (&"delta".into(), &deltas[0]["size"]));
    let staged = said(&operator, "bundle.staged", "n1", "v2").await;
    assert_eq!((&staged["strategy"], &staged["wire_bytes"]), (&"delta".into(), &deltas[0]["size"]));
    assert_eq!(said(&operator, "bundle.refresh_attempt", "n1", "v2").await["strategy"], "delta");
    assert!(size(&deltas[0]) * 20 < archive_bytes(&operator, "v2").await, "{row}");

    // Who has nothing fetches all, and both serve the same; no file is shared with the release before.
    let mut other = world.start_agent("n2");
    other.switched_to("v2").await;
    let whole = loaded(&operator, "n2", "v2").await;
    assert_eq!(
        (whole["source"].clone(), whole["wire_bytes"].as_u64()),
        ("download".into(), Some(archive_bytes(&operator, "v2").await))
    );
    assert_eq!(agent.files(), other.files());
    for name in agent.files().keys() {
        let file = fs::metadata(agent.cache().join("current/files").join(name)).expect("the file is there");
        assert_eq!((file.nlink(), file.permissions().mode() & 0o777), (1, 0o444), "{name}");
    }

    let mut show = world.demonctl();
    show.args(["bundle", "show", "v2", "--output", "json"]);
    let shown = document(&finished(show).await);
    assert_eq!(shown["deltas"][0]["object"]["size"], deltas[0]["size"]);
}

#[tokio::test]
async fn a_release_is_staged_ahead_by_its_delta() {
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    let source = large_contracts(&world);
    let mut agent = running_v1_with(&world, &source, "n1", "on").await;
    let row = next_release(&world, &source, "v2", &["--no-promote"]).await;
    let staged = said(&operator, "bundle.staged", "n1", "v2").await;
    assert_eq!((&staged["strategy"], &staged["wire_bytes"]), (&"delta".into(), &row["deltas"][0]["size"]), "{row}");
    assert_eq!(agent.active_tag().as_deref(), Some("v1"));
    operated(&world, &["channel", "promote", "latest", "v2"]).await;
    agent.switched_to("v2").await;
    let switched = loaded(&operator, "n1", "v2").await;
    assert_eq!((&switched["source"], &switched["wire_bytes"]), (&"cache".into(), &0.into()));
}

#[tokio::test]
async fn a_node_several_releases_behind_follows_a_chain() {
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    let source = large_contracts(&world);
    let mut agent = running_v1(&world, &source, "n1").await;
    agent.process.kill();
    let mut chain = 0;
    for tag in ["v2", "v3", "v4"] {
        let row = next_release(&world, &source, tag, &["--deltas", "1"]).await;
        chain += size(&row["deltas"][0]);
    }
    let mut agent = world.start_agent_in("n1", "n1-again", agent.directories());
    agent.switched_to("v4").await;
    let switched = loaded(&operator, "n1", "v4").await;
    assert_eq!((switched["source"].clone(), switched["wire_bytes"].as_u64()), ("delta".into(), Some(chain)));
    let mut whole = world.demonctl();
    let plain = world.directory().join("plain-v4");
    whole.args(["bundle", "fetch", "--bundle", "contracts", "--tag", "v4", "--dest"]).arg(&plain);
    succeeded(whole).await;
    for (name, content) in agent.files() {
        assert_eq!(fs::read(plain.join(&name)).expect("the file was fetched"), content, "{name}");
    }
}

#[tokio::test]
async fn an_altered_delta_costs_its_bytes_and_nothing_else() {
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    let store = ReleaseStore::new(world.operator().await);
    let source = large_contracts(&world);
    let mut agent = running_v1(&world, &source, "n1").await;
    for (tag, tampering) in [("v2", Tampering::KeepMeta), ("v3", Tampering::RecomputeMeta)] {
        let row = next_release(&world, &source, tag, &["--no-promote", "--deltas", "1"]).await;
        let delta = &row["deltas"][0];
        store.tamper(delta["name"].as_str().expect("a name"), tampering).await.expect("altered");
        operated(&world, &["channel", "promote", "latest", tag]).await;
        agent.switched_to(tag).await;
        let switched = loaded(&operator, "n1", tag).await;
        assert_eq!(switched["source"], "download", "{switched}");
        let expected = size(delta) + archive_bytes(&operator, tag).await;
        assert_eq!(switched["wire_bytes"].as_u64(), Some(expected), "every byte that was read counts");
        assert_eq!(said(&operator, "bundle.staged", "n1", tag).await["strategy"], "archive");
    }
    assert!(agent.process.log().contains("patches do not give the release"));
}

#[tokio::test]
async fn a_base_that_was_altered_on_disk_is_no_base() {
    let world = World::start(&[]).await;
    let source = large_contracts(&world);
    let cache = world.directory().join("cache");
    // A directory of releases makes it a cache.
    fs::create_dir_all(cache.join("releases")).expect("the directory is writable");
    let fetch = async |tag: &str| {
        let mut command = world.demonctl();
        command
            .args(["bundle", "fetch", "--bundle", "contracts", "--tag", tag, "--output", "json", "--dest"])
            .arg(&cache);
        document(&finished(command).await)
    };
    next_release(&world, &source, "v1", &[]).await;
    assert_eq!(fetch("v1").await["strategy"], "archive");
    next_release(&world, &source, "v2", &[]).await;
    assert_eq!(fetch("v2").await["strategy"], "delta", "else nothing below is tested");

    let file = cache.join("releases/v2/files/bundle.json");
    let content = fs::read(&file).expect("the file is there");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    let altered: Vec<u8> = content.iter().map(|byte| if *byte == b'7' { b'8' } else { *byte }).collect();
    fs::write(&file, altered).expect("the file is ours");
    next_release(&world, &source, "v3", &["--deltas", "1"]).await;
    let row = fetch("v3").await;
    assert_eq!(row["strategy"], "archive", "{row}");
    let served = fs::read_to_string(cache.join("current/files/bundle.json")).expect("a release is active");
    assert!(served.contains("v3") && !served.contains("v2"));
}

#[tokio::test]
async fn hostile_deltas_end_at_the_archive() {
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    let (store, log) = (ReleaseStore::new(world.operator().await), world.log().await);
    let base = HandmadeRelease::stored(&store, "contracts", "base", &contracts_files("base")).await;
    base.announced(&log).await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("base").await;
    let hostile: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("noise", noise(300, 7)),
        ("beginning", b"DELTA\x01\x1a".to_vec()),
        ("later", b"DELTA\x02\x1a\x00".to_vec()),
        ("length", b"DELTA\x01\x1a\xff\xff\xff\xff\x7f".to_vec()),
    ];
    for (tag, delta) in hostile {
        let release = HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await;
        release.with_delta(&store, "base", &delta).await.announced(&log).await;
        agent.switched_to(tag).await;
        assert_eq!(loaded(&operator, "n1", tag).await["source"], "download", "{tag}");
    }
    let log = event_log(&operator).await;
    assert!(of_node(&log, "bundle.verification_failed", "n1").is_empty(), "the release itself is good");
}

#[tokio::test]
async fn a_publish_killed_while_it_makes_deltas_is_finished_with_them() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = large_contracts(&world);
    let begun = Instant::now();
    next_release(&world, &source, "v0", &[]).await;
    next_release(&world, &source, "v1", &[]).await;
    let whole = begun.elapsed() / 2;
    let mut cut_off = 0;
    for round in 2..=9_u32 {
        let tag = format!("v{round}");
        change_one_contract(&source, &tag);
        let options = ["--tag", tag.as_str(), "--deltas", "2"];
        let publish = || contracts_publish(&world, &source, &options);
        let mut process = Process::start(&format!("publish-{round}"), publish(), world.directory());
        // Not a wait for anything: the moment of the kill is what varies.
        tokio::time::sleep(whole.mul_f64(0.3 + f64::from(round) / 12.0)).await;
        cut_off += usize::from(process.runs());
        process.kill();
        let row = document(&succeeded(publish()).await);
        assert_eq!(row["deltas"][0]["base_tag"], format!("v{}", round - 1), "{row}");
        let content = ServerContent::of(&operator).await;
        assert_eq!(content.on(&format!("bundle.published.contracts.release.{tag}")).len(), 1, "round {round}");
    }
    assert!(cut_off >= 2, "only {cut_off} of 8 runs were cut off: a whole one takes {whole:?}");
}

#[tokio::test]
async fn a_daily_release_costs_a_node_its_manifest_and_a_dry_run_says_so() {
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    let source = large_contracts(&world);
    let mut agent = running_v1(&world, &source, "n1").await;
    let daily = ["--trigger", "schedule", "--timestamp", "2025-09-22T06:00:00Z", "--tag", "daily"];
    let before = ServerContent::of(&operator).await.count("bundle.published");
    let preview = published(&world, &source, &[&daily[..], &["--dry-run"]].concat()).await;
    let store = ReleaseStore::new(world.operator().await);
    assert!(store.info("contracts/daily.from.v1.delta").await.expect("the bucket answers").is_none());
    assert_eq!(ServerContent::of(&operator).await.count("bundle.published"), before);
    let row = published(&world, &source, &daily).await;
    assert_eq!(row["deltas"], preview["deltas"], "the preview gives the same bytes");
    assert!(size(&row["deltas"][0]) < 1000, "{row}");
    agent.switched_to("daily").await;
    assert_eq!(loaded(&operator, "n1", "daily").await["wire_bytes"], row["deltas"][0]["size"]);

    // Forced again: what is stored is announced as it stands, deltas too.
    let again = published(&world, &source, &[&daily[..], &["--force"]].concat()).await;
    assert_eq!((&again["novelty"], &again["deltas"]), (&"announced_again".into(), &row["deltas"]));
    let none = next_release(&world, &source, "v3", &["--deltas", "0"]).await;
    assert_eq!(none["deltas"], serde_json::json!([]));
}
