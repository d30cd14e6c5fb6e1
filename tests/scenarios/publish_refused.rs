//! What `demonctl contracts publish` refuses, and what it leaves alone: frozen and held channels, taken tags, withdrawn
//! content, contracts that break their readers.

use std::fs;
use std::path::Path;

use acceptance::publishing::{ServerContent, contracts_publish, document, published, refused};
use acceptance::sample_trees::{change_one_contract, contracts, plain};
use acceptance::world::{World, both_outputs, finished, succeeded};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use serde_json::{Value, json};

const TAG: &str = "contracts-20250921-0658fb8b";
const HEAD: &str = "bundle.promoted.contracts.channel.latest";

#[tokio::test]
async fn a_tag_holds_one_content_for_ever() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    published(&world, &source, &["--tag", "v1"]).await;
    change_one_contract(&source, "other");
    let before = ServerContent::of(&operator).await;
    for options in [&["--tag", "v1"][..], &["--tag", "v1", "--force"], &["--tag", "v1", "--trigger", "schedule"]] {
        let complaint = refused(contracts_publish(&world, &source, options)).await;
        assert!(complaint.contains("`v1` is taken") && complaint.contains("give another tag"), "{complaint}");
    }
    assert_eq!(ServerContent::of(&operator).await, before);
}

/// A schema whose readers may rely on property `name` being a text.
const RELIED_ON: &str = r#"{"type":"object","properties":{"name":{"type":"string"},"size":{"type":"integer"}}}"#;
const BROKEN: &str = r#"{"type":"object","properties":{"name":{"type":"integer"}}}"#;
const EXTENDED: &str =
    r#"{"type":"object","properties":{"name":{"type":"string"},"size":{"type":"integer"},"new":{}}}"#;

#[tokio::test]
async fn contracts_that_break_their_readers_are_refused_with_schema_and_path() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    let schema = source.join("schemas/order.v1.json");
    write(&schema, RELIED_ON.as_bytes());
    let first = published(&world, &source, &["--tag", "v1", "--require-compatible"]).await;
    assert_eq!((&first["base"], &first["compared"]), (&Value::Null, &json!(true)), "nothing to compare with");

    write(&schema, BROKEN.as_bytes());
    let before = ServerContent::of(&operator).await;
    let complaint = refused(contracts_publish(&world, &source, &["--tag", "v2", "--require-compatible"])).await;
    for word in ["`v1`", "order.v1.json#/properties/name", "order.v1.json#/properties/size"] {
        assert!(complaint.contains(word), "{word}: {complaint}");
    }
    let foretold = published(&world, &source, &["--tag", "v2", "--dry-run"]).await;
    assert_eq!((&foretold["base"], &foretold["compared"]), (&json!("v1"), &json!(true)));
    let paths: Vec<&Value> = foretold["breaking"].as_array().expect("a list").iter().map(|row| &row["path"]).collect();
    assert_eq!(paths.len(), 2, "{foretold}");
    assert_eq!(foretold["breaking"][0]["schema"], "order.v1.json");
    let refused_too = finished(contracts_publish(&world, &source, &["--dry-run", "--require-compatible"])).await;
    assert_eq!(refused_too.status.code(), Some(1));
    assert_eq!(ServerContent::of(&operator).await, before);

    // What adds only is compatible; and what is not asked for is not refused.
    write(&schema, EXTENDED.as_bytes());
    let second = published(&world, &source, &["--tag", "v2", "--require-compatible"]).await;
    assert_eq!(
        (&second["novelty"], &second["base"], &second["breaking"]),
        (&json!("announced"), &json!("v1"), &json!([]))
    );
    write(&schema, BROKEN.as_bytes());
    published(&world, &source, &["--tag", "v3", "--no-promote"]).await;

    // Compared with what the channel's readers have, not with the newest; or with whatever is named.
    let promoted = contracts_publish(&world, &source, &["--tag", "v3", "--require-compatible"]);
    assert!(refused(promoted).await.contains("`v2`"), "not promoted by the way either");
    write(&schema, RELIED_ON.as_bytes());
    let against = |base: &'static str| ["--tag", "v4", "--require-compatible", "--base", base];
    assert!(
        refused(contracts_publish(&world, &source, &against("v2"))).await.contains("order.v1.json#/properties/new")
    );
    assert!(refused(contracts_publish(&world, &source, &against("v9"))).await.contains("no release `v9`"));
    let unchanged_since = published(&world, &source, &against("v1")).await;
    assert_eq!((&unchanged_since["novelty"], &unchanged_since["base"]), (&json!("announced"), &json!("v1")));

    let mut other = world.demonctl();
    other.args(["bundle", "publish", "--bundle", "policies", "--actor", "ada", "--require-compatible"]).arg(&source);
    let output = finished(other).await;
    assert_eq!(output.status.code(), Some(2), "{}", both_outputs(&output));
}

#[tokio::test]
async fn contracts_that_no_reader_could_use_are_refused() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    write(&source.join("schemas/odd.json"), br#"{"type":"no such type"}"#);
    write(&source.join("schemas/lost.json"), br##"{"$ref":"#/$defs/nowhere"}"##);
    let before = ServerContent::of(&operator).await;
    for options in [&[][..], &["--dry-run"]] {
        let complaint = refused(contracts_publish(&world, &source, options)).await;
        for word in ["odd.json", "lost.json", "nowhere"] {
            assert!(complaint.contains(word), "{word}: {complaint}");
        }
    }
    assert_eq!(ServerContent::of(&operator).await, before);
}

#[tokio::test]
async fn to_a_frozen_channel_nothing_is_published_and_others_are_not_concerned() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    published(&world, &source, &[]).await;
    order(&world, &["channel", "freeze", "latest"]).await;
    change_one_contract(&source, "second");
    let before = ServerContent::of(&operator).await;
    let complaint = refused(contracts_publish(&world, &source, &["--tag", "v2"])).await;
    for word in ["channel `latest` is frozen by `eve` since 20", TAG, "--no-promote"] {
        assert!(complaint.contains(word), "{word}: {complaint}");
    }
    let foretold = finished(contracts_publish(&world, &source, &["--tag", "v2", "--dry-run"])).await;
    assert_eq!(foretold.status.code(), Some(1));
    assert!(both_outputs(&foretold).contains("would be refused: channel `latest` is frozen by `eve`"));
    assert_eq!(ServerContent::of(&operator).await, before);

    let elsewhere = published(&world, &source, &["--tag", "v2", "--channel", "canary"]).await;
    assert_eq!((&elsewhere["novelty"], &elsewhere["channel"]["effect"]), (&json!("announced"), &json!("moved")));
    change_one_contract(&source, "third");
    let nowhere = published(&world, &source, &["--tag", "v3", "--no-promote"]).await;
    assert_eq!((&nowhere["novelty"], &nowhere["channel"]), (&json!("announced"), &Value::Null));
    // A publisher by itself goes on publishing and leaves the channel.
    let mut publisher = world.publisher();
    change_one_contract(&source, "fourth");
    publisher.args(["--tag", "v4"]).arg("--source").arg(&source);
    succeeded(publisher).await;
    assert_eq!(ServerContent::of(&operator).await.on(HEAD).len(), 2, "moved once, frozen once");
}

#[tokio::test]
async fn a_held_channel_stays_and_the_release_waits() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    for tag in ["v1", "v2"] {
        change_one_contract(&source, tag);
        published(&world, &source, &["--tag", tag]).await;
    }
    order(&world, &["channel", "rollback", "latest"]).await;
    // The same content moves nothing back, nor does its next release.
    let unchanged = published(&world, &source, &["--tag", "v2"]).await;
    assert_eq!(
        (&unchanged["novelty"], &unchanged["channel"]["effect"]),
        (&json!("unchanged"), &json!("moved_away_since"))
    );
    let forced = published(&world, &source, &["--tag", "v2", "--force"]).await;
    assert_eq!(forced["channel"]["effect"], "moved_away_since", "announced again is not promoted again");
    change_one_contract(&source, "v3");
    let third = published(&world, &source, &["--tag", "v3"]).await;
    let held = json!({ "name": "latest", "effect": "held", "from": "v1", "to": "v1", "hold": "held" });
    assert_eq!((&third["novelty"], &third["channel"]), (&json!("announced"), &held));
    order(&world, &["channel", "thaw", "latest"]).await;
    let finished = published(&world, &source, &["--tag", "v3"]).await;
    assert_eq!((&finished["novelty"], &finished["channel"]["effect"]), (&json!("unchanged"), &json!("moved")));
}

/// Gives an order about channel or releases as operator `eve`.
async fn order(world: &World, arguments: &[&str]) {
    let mut command = world.demonctl();
    command.args(arguments).args(["--bundle", "contracts", "--actor", "eve", "--reason", "an incident"]);
    succeeded(command).await;
}

#[tokio::test]
async fn what_was_withdrawn_is_published_by_nobody_again() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    published(&world, &source, &["--tag", "v1"]).await;
    order(&world, &["release", "withdraw", "v1", "--yes"]).await;
    let before = ServerContent::of(&operator).await;
    for options in [&["--tag", "v2"][..], &["--tag", "v1", "--force"], &["--trigger", "schedule"], &["--dry-run"]] {
        let complaint = refused(contracts_publish(&world, &source, options)).await;
        for word in ["was withdrawn with release `v1` by `eve`", "an incident"] {
            assert!(complaint.contains(word), "{options:?}: {complaint}");
        }
    }
    assert_eq!(ServerContent::of(&operator).await, before);
    let mut history = world.demonctl();
    history.args(["contracts", "history", "--output", "json"]);
    let rows = document(&succeeded(history).await);
    assert_eq!((&rows[0]["tag"], &rows[0]["withdrawn"]), (&json!("v1"), &json!(true)));
}

#[tokio::test]
async fn contracts_need_a_commit_and_other_bundles_do_not() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    let before = ServerContent::of(&operator).await;
    let mut command = world.demonctl();
    command.args(["contracts", "publish", "--actor", "ada"]).arg(&source);
    let complaint = refused(command).await;
    assert!(complaint.contains("no git repository") && complaint.contains("--git-sha"), "{complaint}");
    assert_eq!(ServerContent::of(&operator).await, before);

    let mut command = world.demonctl();
    command.args(["bundle", "publish", "--bundle", "policies", "--actor", "ada", "--output", "jsonl"]);
    command.args(["--timestamp", "1758434400"]).arg(plain(world.directory()));
    let row = document(&succeeded(command).await);
    assert_eq!((&row["bundle"], &row["git"], &row["files"]), (&json!("policies"), &Value::Null, &json!(6)));
    assert_eq!(row["content_digest"], row["tree_digest"]);
    let tag = row["tag"].as_str().expect("a tag");
    assert_eq!(tag, format!("policies-20250921-{}", &row["content_digest"].as_str().expect("a digest")[..8]));
}

#[tokio::test]
async fn what_the_bucket_has_lost_is_not_announced_again() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    published(&world, &source, &["--tag", "v1"]).await;
    let meta_of = |object: &str| format!("$O.BUNDLES.M.{}", BASE64_URL_SAFE.encode(object));
    let lose = async |object: &str| {
        let answer = operator.api("STREAM.PURGE.OBJ_BUNDLES", &json!({ "filter": meta_of(object) })).await;
        assert_eq!(answer["purged"], 1, "{answer}");
    };
    let archive = "contracts/v1.tar.zst";
    lose(archive).await;
    let repaired = published(&world, &source, &["--tag", "v1", "--force"]).await;
    assert_eq!(repaired["novelty"], "announced_again", "made again from what the rest says");
    for object in [archive, "contracts/v1.release.json"] {
        lose(object).await;
    }
    let before = ServerContent::of(&operator).await;
    let complaint = refused(contracts_publish(&world, &source, &["--tag", "v1", "--force"])).await;
    assert!(complaint.contains("`v1`") && complaint.contains("give another tag"), "{complaint}");
    assert_eq!(ServerContent::of(&operator).await, before);
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("the directory is writable");
}
