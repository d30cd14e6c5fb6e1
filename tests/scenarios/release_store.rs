//! The release bucket: written once, read back whole, and never a hang when something is missing.

use std::time::Duration;

use acceptance::raw_client::RawClient;
use acceptance::sample_trees::noise;
use acceptance::stored_log::RELEASE_STREAM;
use acceptance::world::World;
use async_nats::HeaderMap;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use streams::release_store::{FetchError, NewObject, PutError, ReleaseStore, StoredObject, Tampering};
use tokio::time::timeout;

/// Longer than any single wait of a reader, and far from for ever.
const NO_HANG: Duration = Duration::from_secs(30);
const NAME: &str = "policies/v1.tar.zst";

async fn store_of(world: &World) -> ReleaseStore {
    ReleaseStore::new(world.operator().await)
}

async fn put(store: &ReleaseStore, name: &str, content: &[u8]) -> Result<StoredObject, PutError> {
    store.put(NewObject::named(name), content, &()).await
}

/// Reads an object as an agent does; the error where it cannot be read whole.
async fn read(store: &ReleaseStore, object: &StoredObject) -> Result<Vec<u8>, FetchError> {
    let reading = async {
        let mut content = Vec::new();
        let mut stream = store.open(&object.reference()).await?;
        while let Some(chunk) = stream.next_chunk().await? {
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    };
    timeout(NO_HANG, reading).await.expect("a reader ends")
}

/// Stream sequences of an object's chunks, by the first and last of the bucket.
async fn chunk_sequences(operator: &RawClient) -> Vec<u64> {
    let last = operator.stream_state(RELEASE_STREAM).await.last_sequence;
    let mut sequences = Vec::new();
    for sequence in 1..=last {
        let answer = operator.api(&format!("STREAM.MSG.GET.{RELEASE_STREAM}"), &json!({ "seq": sequence })).await;
        if answer["message"]["subject"].as_str().is_some_and(|subject| subject.starts_with("$O.BUNDLES.C.")) {
            sequences.push(sequence);
        }
    }
    sequences
}

async fn delete(operator: &RawClient, sequence: u64) {
    let answer = operator.api(&format!("STREAM.MSG.DELETE.{RELEASE_STREAM}"), &json!({ "seq": sequence })).await;
    assert_eq!(answer["success"], true, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_comes_back_as_it_went_in_to_several_readers_without_a_consumer() {
    let world = World::start(&["n1", "n2"]).await;
    let store = store_of(&world).await;
    let content = noise(30_000_000, 7);
    let object = put(&store, NAME, &content).await.expect("stored");
    assert_eq!((object.size, object.sha256), (content.len() as u64, Sha256Digest::of(&content)));
    let readers = [world.node("n1").await, world.node("n1").await, world.node("n2").await].map(ReleaseStore::new);
    let (one, two, three) =
        tokio::join!(read(&readers[0], &object), read(&readers[1], &object), read(&readers[2], &object));
    for read in [one, two, three] {
        assert!(read.expect("read with a node's credentials") == content, "the content differs");
    }
    assert_eq!(world.raw_operator().await.stream_state(RELEASE_STREAM).await.consumers, 0);
}

#[tokio::test]
async fn a_name_is_written_once() {
    let world = World::start(&[]).await;
    let store = store_of(&world).await;
    let first = put(&store, NAME, b"first").await.expect("stored");
    for content in [&b"second"[..], b"first"] {
        let error = put(&store, NAME, content).await.expect_err("the name is taken");
        let PutError::NameTaken { existing } = error else { panic!("{error}") };
        assert_eq!(existing.sha256, first.sha256);
    }
    assert_eq!(read(&store, &first).await.expect("readable"), b"first");
    let chunks = chunk_sequences(&world.raw_operator().await).await;
    assert_eq!(chunks.len(), 1, "what was put in vain is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_of_one_name_one_wins_and_its_object_is_whole() {
    let world = World::start(&[]).await;
    for round in 0..5 {
        let (one, two) = (store_of(&world).await, store_of(&world).await);
        let name = format!("policies/race-{round}");
        let (first, second) = (noise(700_000, 1), noise(700_000, 2));
        let (ada, bob) = tokio::join!(put(&one, &name, &first), put(&two, &name, &second));
        let (object, expected) = match (ada, bob) {
            (Ok(object), Err(PutError::NameTaken { .. })) => (object, &first),
            (Err(PutError::NameTaken { .. }), Ok(object)) => (object, &second),
            (ada, bob) => panic!("{ada:?} and {bob:?}"),
        };
        assert!(&read(&one, &object).await.expect("whole") == expected);
    }
}

#[tokio::test]
async fn missing_chunks_end_a_reader_with_an_error() {
    let world = World::start(&[]).await;
    let (store, operator) = (store_of(&world).await, world.raw_operator().await);
    let content = noise(5_500_000, 3);
    for (name, missing) in [("first", 0), ("middle", 3), ("last", 5)] {
        let object = put(&store, name, &content).await.expect("stored");
        let chunks = chunk_sequences(&operator).await;
        let of_object = &chunks[chunks.len() - 6..];
        delete(&operator, of_object[missing]).await;
        let error = read(&store, &object).await.expect_err("a chunk is missing");
        assert!(error.is_wrong_content() || matches!(error, FetchError::Read { .. }), "{name}: {error}");
    }
    let object = put(&store, "all", &content).await.expect("stored");
    let purged = operator.api(&format!("STREAM.PURGE.{RELEASE_STREAM}"), &json!({ "filter": "$O.BUNDLES.C.>" })).await;
    assert_eq!(purged["success"], true, "{purged}");
    read(&store, &object).await.expect_err("every chunk is missing");
}

#[tokio::test]
async fn altered_content_is_named_with_both_digests() {
    let world = World::start(&[]).await;
    let store = store_of(&world).await;
    for (name, tampering) in [("kept", Tampering::KeepMeta), ("recomputed", Tampering::RecomputeMeta)] {
        let object = put(&store, name, &noise(600_000, 4)).await.expect("stored");
        let altered = store.tamper(name, tampering).await.expect("altered");
        let error = read(&store, &object).await.expect_err("it is altered");
        let FetchError::DigestMismatch { expected, actual, .. } = error else { panic!("{error}") };
        assert_eq!((expected, actual), (object.sha256, altered));
    }
}

#[tokio::test]
async fn a_meta_that_lies_or_is_nonsense_is_an_error() {
    let world = World::start(&[]).await;
    let (store, operator) = (store_of(&world).await, world.raw_operator().await);
    let object = put(&store, "v1", b"content").await.expect("stored");
    let subject = "$O.BUNDLES.M.djE=";
    let answer = operator.api(&format!("STREAM.MSG.GET.{RELEASE_STREAM}"), &json!({ "last_by_subj": subject })).await;
    assert_eq!(answer["message"]["subject"], subject, "{answer}");
    for (change, value) in
        [("size", json!(1_u64 << 40)), ("chunks", json!(9)), ("nuid", json!("../x")), ("deleted", json!(true))]
    {
        let mut meta = json!({
            "name": "v1", "bucket": "BUNDLES", "nuid": object.nuid, "size": object.size, "chunks": object.chunks,
            "digest": "SHA-256=AAAA", "options": { "max_chunk_size": 262_144 },
        });
        meta[change] = value;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        assert_eq!(operator.store(subject, headers, meta.to_string()).await.error, None);
        read(&store, &object).await.expect_err(change);
    }
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "sub");
    assert_eq!(operator.store(subject, headers, Value::from("nonsense").to_string()).await.error, None);
    read(&store, &object).await.expect_err("nonsense");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_a_dying_server_interrupts_leaves_nothing_visible_and_can_be_repeated() {
    let mut world = World::with_reserved_port(&[]).await;
    let store = store_of(&world).await;
    let content = noise(60_000_000, 5);
    let putting = tokio::spawn({
        let (store, content) = (store.clone(), content.clone());
        async move { put(&store, NAME, &content).await.err() }
    });
    let operator = world.raw_operator().await;
    acceptance::waiting::eventually("the first chunks", acceptance::waiting::PATIENCE, async || {
        let messages = operator.stream_state(RELEASE_STREAM).await.messages;
        acceptance::waiting::satisfied(messages > 3, || format!("{messages} messages"))
    })
    .await;
    world.server.kill().await;
    let failed = timeout(NO_HANG * 2, putting).await.expect("a writer ends").expect("it does not panic");
    assert!(failed.is_some(), "the server died in the middle");
    world.server.start_again().await;
    let store = store_of(&world).await;
    assert_eq!(store.list("").await.expect("readable"), Vec::new(), "half an object is visible");
    let object = put(&store, NAME, &content).await.expect("stored at the second attempt");
    assert!(read(&store, &object).await.expect("whole") == content);
}
