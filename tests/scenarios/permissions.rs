//! What a node's credentials do not allow, shown by the server's own refusal and an unchanged log; and the detour over
//! reply subjects, shown by what the same requests do without the boundary between the accounts.

use acceptance::handmade_release::{HandmadeRelease, contracts_files, draft, promoted, release_of};
use acceptance::raw_client::{RawClient, StreamState};
use acceptance::stored_log::{EVENT_STREAM, NODE_TABLE_STREAM, RELEASE_STREAM, event_log};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use async_nats::HeaderMap;
use serde_json::{Value, json};
use shared::event::{BundleEvent, FetchStrategy, RefreshAttempt};
use shared::event_chain::EventChain;
use shared::identifiers::Incarnation;
use shared::source::Source;
use streams::release_store::ReleaseStore;

const HEAD: &str = "bundle.promoted.contracts.channel.latest";

/// A world in which release `good` is the head of channel `latest`.
async fn world() -> World {
    let world = World::start(&["n1", "n2"]).await;
    let store = ReleaseStore::new(world.operator().await);
    let good = HandmadeRelease::stored(&store, "contracts", "good", &contracts_files("good")).await;
    good.announced(&world.log().await).await;
    world
}

/// Everything an attack could change.
async fn states(operator: &RawClient) -> Vec<StreamState> {
    let mut states = Vec::new();
    for stream in [EVENT_STREAM, RELEASE_STREAM, NODE_TABLE_STREAM] {
        states.push(operator.stream_state(stream).await);
    }
    states
}

/// A valid event as this source would write it.
fn sealed(source: &str, event: BundleEvent) -> (String, Vec<u8>) {
    let source: Source = source.parse().expect("a source");
    let incarnation: Incarnation = "0193b1c27e1f4a558c110242ac120002".parse().expect("an incarnation");
    let sealed = EventChain::new(incarnation, None).seal(&source, &draft(event)).expect("a valid event");
    (sealed.subject.to_string(), sealed.bytes)
}

fn attempt(node: &str) -> (String, Vec<u8>) {
    let release = release_of("contracts", "good", &contracts_files("good"));
    let attempt = RefreshAttempt {
        bundle: release.bundle().clone(),
        tag: release.tag().clone(),
        tree_digest: release.tree_digest(),
        base_tag: None,
        strategy: FetchStrategy::Archive,
    };
    sealed(&format!("/nodes/{node}"), attempt.into())
}

fn promotion() -> (String, Vec<u8>) {
    let release = release_of("contracts", "good", &contracts_files("good"));
    sealed("/operators/mallory", promoted(&release, &"latest".parse().expect("a channel")).into())
}

#[tokio::test]
async fn a_node_cannot_write_anything_but_its_own_reports() {
    let world = world().await;
    let (operator, node) = (world.raw_operator().await, world.raw_node("n1").await);
    let before = states(&operator).await;
    let (head, promotion) = promotion();
    assert_eq!(head, HEAD);
    let (foreign, report) = attempt("n2");
    let meta = "$O.BUNDLES.M.Y29udHJhY3RzL2dvb2QudGFyLnpzdA==";
    for (subject, payload) in [
        (HEAD, promotion.clone()),
        ("bundle.published.contracts.release.evil", promotion.clone()),
        ("bundle.withdrawn.contracts.release.good", promotion.clone()),
        ("bundle.epoch_started.log.stream.BUNDLE_EVENTS", promotion.clone()),
        (&foreign, report),
        ("$KV.BUNDLE_NODES.n2", b"{}".to_vec()),
        ("$O.BUNDLES.C.evilchunk", b"evil".to_vec()),
        (meta, b"{}".to_vec()),
        ("live.bundle.promoted.contracts.channel.latest", promotion.clone()),
    ] {
        node.denied(subject, HeaderMap::new(), payload).await;
    }
    for operation in [
        "STREAM.PURGE.BUNDLE_EVENTS",
        "STREAM.DELETE.BUNDLE_EVENTS",
        "STREAM.UPDATE.BUNDLE_EVENTS",
        "STREAM.MSG.DELETE.OBJ_BUNDLES",
        "STREAM.PURGE.OBJ_BUNDLES",
        "STREAM.INFO.BUNDLE_EVENTS",
        "CONSUMER.CREATE.BUNDLE_EVENTS",
        "CONSUMER.CREATE.OBJ_BUNDLES.reader.$O.BUNDLES.C.>",
    ] {
        node.denied(&format!("$JS.API.{operation}"), HeaderMap::new(), "{}").await;
    }
    assert_eq!(states(&operator).await, before, "something changed");

    // The same acts succeed for whoever may do them, so the refusals above are about the credentials.
    let (own, report) = attempt("n1");
    assert_eq!(node.store(&own, HeaderMap::new(), report).await.error, None);
    assert_eq!(node.store("$KV.BUNDLE_NODES.n1", HeaderMap::new(), "{}").await.error, None);
    assert_eq!(operator.store(HEAD, HeaderMap::new(), promotion).await.error, None);
    assert_eq!(operator.store("$O.BUNDLES.C.chunk", HeaderMap::new(), "x").await.error, None);
    // Nothing else was stored meanwhile either: what was accepted before these would stand before them.
    let last = |states: &[StreamState]| states.iter().map(|state| state.last_sequence).collect::<Vec<_>>();
    let before = last(&before);
    assert_eq!(last(&states(&operator).await), [before[0] + 2, before[1] + 1, before[2] + 1]);
}

#[tokio::test]
async fn a_node_cannot_listen_to_others_replies_or_reports() {
    let world = world().await;
    let node = world.raw_node("n1").await;
    for subject in
        ["_INBOX_n2.>", "_INBOX.>", "live.>", "live.bundle.loaded.>", "bundle.>", "multicast.>", "$JS.>", ">"]
    {
        node.take_complaints();
        let _subscription = node.client().subscribe(subject.to_owned()).await.expect("the client library sends it");
        node.complaint(&format!("Permissions Violation for Subscription to \"{subject}\"")).await;
    }
    node.take_complaints();
    for subject in [
        "_INBOX_n1.mine",
        "live.bundle.promoted.>",
        "live.bundle.published.>",
        "live.bundle.withdrawn.>",
        "multicast.BUNDLES.>",
    ] {
        let _subscription = node.client().subscribe(subject).await.expect("the client library sends it");
    }
    node.client().flush().await.expect("the connection is open");
    assert_eq!(node.take_complaints(), Vec::<String>::new(), "what an agent needs is allowed");
}

/// Requests whose answer the server would store, if the reply subject meant anything where the streams live.
fn detours() -> Vec<(&'static str, Value)> {
    vec![
        ("$JS.API.DIRECT.GET.BUNDLE_EVENTS", json!({ "seq": 1 })),
        ("$JS.API.DIRECT.GET.BUNDLE_EVENTS", json!({ "seq": 1, "batch": 2 })),
        ("$JS.API.DIRECT.GET.BUNDLE_EVENTS", json!({ "multi_last": ["bundle.>"] })),
        ("$JS.API.DIRECT.GET.OBJ_BUNDLES", json!({ "next_by_subj": "$O.BUNDLES.C.>", "seq": 1 })),
    ]
}

#[tokio::test]
async fn no_reply_subject_carries_a_nodes_request_into_the_log() {
    let world = world().await;
    let (operator, node) = (world.raw_operator().await, world.raw_node("n1").await);
    let before = states(&operator).await;
    let targets =
        [HEAD, "bundle.published.contracts.release.evil", "bundle.loaded.contracts.node.n2", "$KV.BUNDLE_NODES.n2"];
    let mut own_events = 0;
    for target in targets {
        for (subject, request) in detours() {
            node.send(subject, Some(target), HeaderMap::new(), request.to_string()).await;
        }
        let by_subject = format!("$JS.API.DIRECT.GET.BUNDLE_EVENTS.{HEAD}");
        node.send(&by_subject, Some(target), HeaderMap::new(), "").await;
        // Its own event, the acknowledgement of which would be the forgery.
        let (own, report) = attempt("n1");
        node.send(&own, Some(target), HeaderMap::new(), report).await;
        own_events += 1;
    }
    // What was sent before an answered request on the same connection has been dealt with: both kinds are answered.
    for (subject, request) in detours() {
        node.request(subject, HeaderMap::new(), request.to_string()).await;
    }
    // Twice: what the first acknowledgement follows is on its way into the stream then, and stored before the second.
    let mut own = String::new();
    for _ in 0..2 {
        let (subject, report) = attempt("n1");
        assert_eq!(node.store(&subject, HeaderMap::new(), report).await.error, None);
        own = subject;
        own_events += 1;
    }

    let log = event_log(&operator).await;
    let new = &log[usize::try_from(before[0].last_sequence).expect("a small log")..];
    let foreign: Vec<_> = new.iter().filter(|message| message.subject != own).map(|message| &message.subject).collect();
    assert_eq!(foreign, Vec::<&String>::new(), "a detour led into the log");
    assert_eq!(new.len(), own_events);
    let now = states(&operator).await;
    assert_eq!(now[1..], before[1..], "bucket or node table changed");
}

#[tokio::test]
async fn without_the_boundary_between_the_accounts_the_same_detours_would_forge_events() {
    let world = world().await;
    // The operator lives where the streams live: there a reply subject is a subject like any other.
    let operator = world.raw_operator().await;
    let (own, report) = attempt("n1");
    let chunk = json!({ "next_by_subj": "$O.BUNDLES.C.>", "seq": 1 }).to_string();
    let requests = [
        (own.as_str(), report),
        ("$JS.API.DIRECT.GET.OBJ_BUNDLES", chunk.into_bytes()),
        ("$JS.API.STREAM.INFO.BUNDLE_EVENTS", Vec::new()),
    ];
    for (already, (subject, request)) in requests.into_iter().enumerate() {
        operator.send(subject, Some("bundle.promoted.contracts.channel.detour"), HeaderMap::new(), request).await;
        eventually("the forged event", PATIENCE, async || {
            let log = event_log(&operator).await;
            let forged = log.iter().filter(|message| message.subject.ends_with(".channel.detour")).count();
            satisfied(forged == already + 1, || format!("{forged} events are forged, none by way of `{subject}`"))
        })
        .await;
    }
}
