//! `demonctl store verify|repair|gc`: what was damaged is named and restored, what is nobody's is collected.

use std::fs;

use acceptance::operations::{operated, operated_json, publish_contracts, refused, text_of};
use acceptance::raw_client::RawClient;
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually};
use acceptance::world::{World, finished};
use async_nats::HeaderMap;
use serde_json::{Value, json};
use streams::release_store::{ReleaseStore, Tampering};

const BUCKET: &str = "OBJ_BUNDLES";

/// The rows of `store verify` and its exit code.
async fn verified(world: &World) -> (Option<i32>, Vec<Value>) {
    let mut command = world.demonctl();
    command.args(["store", "verify", "--output", "json"]);
    let output = finished(command).await;
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", text_of(&output.stderr));
    });
    (output.status.code(), rows)
}

fn conditions(rows: &[Value]) -> Vec<(&str, &str)> {
    let text = |value: &'_ Value| value.as_str().map(str::to_owned);
    assert!(rows.iter().all(|row| text(&row["condition"]).is_some()));
    rows.iter().map(|row| (row["object"].as_str().unwrap(), row["condition"].as_str().unwrap())).collect()
}

async fn purge_chunks(operator: &RawClient, object: &str, store: &ReleaseStore) {
    let nuid = store.info(object).await.unwrap().expect("it is there").nuid;
    let answer =
        operator.api(&format!("STREAM.PURGE.{BUCKET}"), &json!({ "filter": format!("$O.BUNDLES.C.{nuid}") })).await;
    assert_eq!(answer["success"], true, "{answer}");
}

#[tokio::test]
async fn what_the_bucket_lost_is_named_and_restored_from_a_node() {
    let world = World::start(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    publish_contracts(&world, &source, "v1").await;
    let mut agent = world.start_agent("n1");
    agent.switched_to("v1").await;
    let (code, rows) = verified(&world).await;
    let (archive, release) = ("contracts/v1.tar.zst", "contracts/v1.release.json");
    assert_eq!((code, conditions(&rows)), (Some(0), vec![(archive, "intact"), (release, "intact")]));

    let store = ReleaseStore::new(world.operator().await);
    let operator = world.raw_operator().await;
    store.tamper(archive, Tampering::RecomputeMeta).await.expect("the drill works");
    purge_chunks(&operator, release, &store).await;
    let (code, rows) = verified(&world).await;
    assert_eq!((code, conditions(&rows)), (Some(1), vec![(archive, "altered"), (release, "missing")]));

    // Another tree restores nothing.
    let messages = operator.stream_state(BUCKET).await.messages;
    let other = world.subdirectory("other");
    fs::write(other.join("bundle.json"), "{}").unwrap();
    let from = |directory: &std::path::Path| directory.to_str().expect("text").to_owned();
    let complaint = refused(&world, &["store", "repair", "v1", "--from", &from(&other)]).await;
    assert!(complaint.contains("is not the announced release"), "{complaint}");
    let cache = from(agent.cache());
    let rehearsed = operated(&world, &["store", "repair", "v1", "--from", &cache, "--dry-run"]).await;
    assert!(rehearsed.contains(&format!("would be restored: {archive}")), "{rehearsed}");
    assert_eq!(operator.stream_state(BUCKET).await.messages, messages, "nothing was written");

    let repaired = operated_json(&world, &["store", "repair", "v1", "--from", &cache]).await;
    assert_eq!((repaired["restored"].as_array().unwrap().len(), repaired["intact"].as_array().unwrap().len()), (2, 0));
    let (code, rows) = verified(&world).await;
    assert_eq!((code, conditions(&rows)), (Some(0), vec![(archive, "intact"), (release, "intact")]));
    let again = operated_json(&world, &["store", "repair", "v1", "--from", &cache]).await;
    assert_eq!(again["intact"].as_array().unwrap().len(), 2, "{again}");
    world.start_agent("n2").switched_to("v1").await;
    // What the repair replaced left nothing behind.
    assert_eq!(operated_json(&world, &["store", "gc", "--older-than", "1ms"]).await, json!([]));
}

#[tokio::test]
async fn chunks_of_nobody_are_collected_once_they_are_old() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    publish_contracts(&world, &source, "v1").await;
    let operator = world.raw_operator().await;
    let before = operator.stream_state(BUCKET).await.messages;
    for chunk in ["one", "two"] {
        let answer = operator.store("$O.BUNDLES.C.abandoned", HeaderMap::new(), chunk).await;
        assert!(answer.error.is_none(), "{answer:?}");
    }

    let young = operated_json(&world, &["store", "gc", "--apply"]).await;
    assert_eq!((&young[0]["write"], &young[0]["outcome"]), (&json!("abandoned"), &json!("kept")));
    let old = eventually("the chunks to be older than a millisecond", PATIENCE, async || {
        let rows = operated_json(&world, &["store", "gc", "--older-than", "1ms"]).await;
        (rows[0]["outcome"] == "collectable").then_some(rows.clone()).ok_or_else(|| rows.to_string())
    });
    let old = old.await;
    assert_eq!((old.as_array().unwrap().len(), &old[0]["chunks"]), (1, &json!(2)));
    assert_eq!(operator.stream_state(BUCKET).await.messages, before + 2, "a dry run removes nothing");

    let collected = operated_json(&world, &["store", "gc", "--older-than", "1ms", "--apply"]).await;
    assert_eq!(collected[0]["outcome"], "collected");
    assert_eq!(operator.stream_state(BUCKET).await.messages, before);
    assert_eq!(verified(&world).await.0, Some(0));
}
