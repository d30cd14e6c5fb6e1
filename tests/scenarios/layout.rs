//! The three streams: created once, drift refused field by field, operators' own settings left alone, nothing deleted.

use std::sync::Arc;

use acceptance::raw_client::RawClient;
use acceptance::stored_log::{EVENT_STREAM, NODE_TABLE_STREAM, RELEASE_STREAM, event_log, text};
use acceptance::world::World;
use serde_json::{Value, json};
use streams::epoch::ensure_epoch;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutError, LayoutLimits, Provisioned, ensure};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const STREAMS: [&str; 3] = [EVENT_STREAM, RELEASE_STREAM, NODE_TABLE_STREAM];

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_a_second_time_changes_nothing() {
    let world = World::unprovisioned(&[]).await;
    let connection = world.operator().await;
    let operator = world.raw_operator().await;
    let layout = Layout::declared(LayoutLimits::default());

    assert_eq!(ensure(&connection, &layout).await.unwrap().created, STREAMS);
    let before = configs(&operator).await;
    assert_eq!(ensure(&connection, &layout).await.unwrap(), Provisioned::default());
    assert_eq!(configs(&operator).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_provisioners_at_once_make_one_layout_and_one_epoch() {
    let world = World::unprovisioned(&[]).await;
    let together = Arc::new(Barrier::new(8));
    let mut provisioners = JoinSet::new();
    for number in 0..8 {
        let connection = world.operator().await;
        let together = Arc::clone(&together);
        provisioners.spawn(async move {
            together.wait().await;
            ensure(&connection, &Layout::declared(LayoutLimits::default())).await.unwrap();
            let source = format!("/operators/provisioner-{number}").parse().unwrap();
            ensure_epoch(&EventLog::new(connection), source).await.unwrap()
        });
    }
    let started = provisioners.join_all().await;
    assert_eq!(started.iter().filter(|&&started| started).count(), 1, "who started the epoch: {started:?}");

    let operator = world.raw_operator().await;
    let log = event_log(&operator).await;
    let subjects: Vec<&str> = log.iter().map(|message| message.subject.as_str()).collect();
    assert_eq!(subjects, ["bundle.epoch_started.log.stream.BUNDLE_EVENTS"]);
    assert_eq!(text(&log[0].event(), "subject"), EVENT_STREAM);
}

/// A stream, how it was made otherwise than declared, and the fields that must be named for it.
struct DriftCase {
    stream: &'static str,
    made: Value,
    named: &'static [&'static str],
}

fn drift_cases() -> Vec<DriftCase> {
    let case = |stream, made, named| DriftCase { stream, made, named };
    let events = |made, named| case(EVENT_STREAM, made, named);
    let releases = |made, named| case(RELEASE_STREAM, made, named);
    let nodes = |made, named| case(NODE_TABLE_STREAM, made, named);
    vec![
        events(json!({"subjects": ["bundle.>", "other.>"]}), &["subjects"]),
        events(json!({"retention": "interest"}), &["retention"]),
        events(json!({"storage": "memory", "max_bytes": 1 << 20}), &["storage"]),
        events(json!({"discard": "old"}), &["discard"]),
        events(json!({"max_age": 3_600_000_000_000_u64}), &["max_age"]),
        events(json!({"allow_direct": false}), &["allow_direct"]),
        events(json!({"no_ack": true}), &["no_ack"]),
        events(json!({"max_msgs_per_subject": 1}), &["max_msgs_per_subject"]),
        events(json!({"subject_transform": {"src": "bundle.a.>", "dest": "bundle.b.>"}}), &["subject_transform"]),
        events(json!({"republish": null}), &["republish"]),
        events(json!({"republish": {"src": "bundle.>", "dest": "elsewhere.bundle.>"}}), &["republish"]),
        events(json!({"deny_delete": false}), &["deny_delete"]),
        events(json!({"deny_purge": false}), &["deny_purge"]),
        // The server takes no stream that refuses purges and lets messages replace earlier ones.
        events(json!({"allow_rollup_hdrs": true, "deny_purge": false}), &["deny_purge", "allow_rollup_hdrs"]),
        events(json!({"allow_msg_ttl": true}), &["allow_msg_ttl"]),
        events(json!({"duplicate_window": 120_000_000_000_u64}), &["duplicate_window"]),
        events(json!({"max_msg_size": 32_768}), &["max_msg_size"]),
        releases(json!({"subjects": ["$O.BUNDLES.M.>"]}), &["subjects"]),
        releases(json!({"storage": "memory", "max_bytes": 1 << 20}), &["storage"]),
        releases(json!({"discard": "old"}), &["discard"]),
        releases(json!({"max_age": 3_600_000_000_000_u64}), &["max_age"]),
        releases(json!({"allow_direct": false}), &["allow_direct"]),
        releases(json!({"allow_rollup_hdrs": false}), &["allow_rollup_hdrs"]),
        releases(json!({"allow_msg_ttl": true}), &["allow_msg_ttl"]),
        releases(json!({"max_msg_size": 1024}), &["max_msg_size"]),
        releases(json!({"max_msgs_per_subject": 1}), &["max_msgs_per_subject"]),
        nodes(json!({"storage": "file"}), &["storage"]),
        nodes(json!({"allow_direct": false}), &["allow_direct"]),
        nodes(json!({"max_msgs_per_subject": 2}), &["max_msgs_per_subject"]),
        nodes(json!({"allow_msg_ttl": false}), &["allow_msg_ttl"]),
        nodes(json!({"allow_rollup_hdrs": false}), &["allow_rollup_hdrs"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_in_each_promised_field_is_refused_by_the_fields_name_and_left_alone() {
    let world = World::unprovisioned(&[]).await;
    let connection = world.operator().await;
    let operator = world.raw_operator().await;
    let layout = Layout::declared(LayoutLimits::default());
    ensure(&connection, &layout).await.unwrap();

    for DriftCase { stream, made, named } in drift_cases() {
        let declared = config(&operator, stream).await;
        let drifted = remade(&operator, stream, &declared, &made).await;

        let error = ensure(&connection, &layout).await.expect_err("drift is refused");
        let LayoutError::Drift { stream: refused, drift } = &error else { panic!("{made}: {error}") };
        assert_eq!(refused, stream, "{made}");
        let fields: Vec<&str> = drift.iter().map(|drift| drift.field).collect();
        assert_eq!(fields, named, "{stream} made with {made}");
        for field in named {
            assert!(error.to_string().contains(&format!("`{field}` is declared ")), "{error}");
        }
        assert_eq!(config(&operator, stream).await, drifted, "{made}: refused, but changed");

        remade(&operator, stream, &declared, &json!({})).await;
    }
    // The refusals were about the cases and nothing else.
    assert_eq!(ensure(&connection, &layout).await.unwrap(), Provisioned::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_keeps_everything_it_holds() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    operator.store("bundle.other.kept.node.n", async_nats::HeaderMap::new(), "kept").await;
    let mut drifted = config(&operator, EVENT_STREAM).await;
    drifted["republish"] = Value::Null;
    let answer = operator.api(&format!("STREAM.UPDATE.{EVENT_STREAM}"), &drifted).await;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let before = event_log(&operator).await;
    assert_eq!(before.len(), 2);

    let error = ensure(&world.operator().await, &Layout::declared(LayoutLimits::default())).await.unwrap_err();
    assert!(matches!(&error, LayoutError::Drift { drift, .. } if drift[0].field == "republish"), "{error}");
    assert_eq!(event_log(&operator).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_operators_may_differ_and_stays_as_they_set_it() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let theirs = json!({
        "max_bytes": 50 << 20, "max_msg_size": 200_000, "max_consumers": 17, "max_msgs": 5_000_000,
        "description": "ours now", "metadata": {"team": "edge"}, "compression": "none",
        "duplicate_window": 7_200_000_000_000_u64,
    });
    for stream in STREAMS {
        let mut changed = theirs.clone();
        if stream == RELEASE_STREAM {
            changed["max_msg_size"] = (2 << 20).into();
        }
        let declared = config(&operator, stream).await;
        remade(&operator, stream, &declared, &changed).await;
    }
    let before = configs(&operator).await;
    assert_eq!(before[0]["max_consumers"], 17);

    let provisioned = ensure(&world.operator().await, &Layout::declared(LayoutLimits::default())).await.unwrap();
    assert_eq!(provisioned, Provisioned::default());
    assert_eq!(configs(&operator).await, before);
}

/// Replaces a stream by one with this configuration and these fields changed, as an operator with a tool could have
/// made it.
async fn remade(operator: &RawClient, stream: &str, config_before: &Value, changes: &Value) -> Value {
    let mut wanted = config_before.clone();
    for (field, value) in changes.as_object().expect("changes are fields") {
        wanted[field] = value.clone();
    }
    recreated(operator, stream, &wanted).await;
    config(operator, stream).await
}

async fn recreated(operator: &RawClient, stream: &str, wanted: &Value) {
    let answer = operator.api(&format!("STREAM.DELETE.{stream}"), &Value::Null).await;
    assert_eq!(answer["success"], true, "{answer}");
    let answer = operator.api(&format!("STREAM.CREATE.{stream}"), wanted).await;
    assert_eq!(answer["error"], Value::Null, "{wanted}: {answer}");
}

async fn configs(operator: &RawClient) -> Vec<Value> {
    let mut all = Vec::new();
    for stream in STREAMS {
        all.push(config(operator, stream).await);
    }
    all
}

async fn config(operator: &RawClient, stream: &str) -> Value {
    let mut answer = operator.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await;
    assert!(answer["config"].is_object(), "{stream} has no configuration: {answer}");
    answer["config"].take()
}
