//! Holds code, stored events and JSON Schemas together: one stored event of every type must be read, written back to
//! the same bytes and fit its schemas, and schema and reader must refuse the same things.
//!
//! A reader change that breaks old history, or a schema that says something else than the code, fails here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};
use shared::event::BundleEvent;
use shared::event_envelope::EventEnvelope;
use shared::event_type::EventType;

fn workspace_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> Vec<u8> {
    let path = workspace_path(path);
    fs::read(&path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
}

fn schema(file: &str) -> Value {
    let schema: Value = serde_json::from_slice(&read(&format!("contracts/schemas/{file}"))).unwrap();
    assert_eq!(schema["$id"], format!("urn:demon:contracts:{file}"));
    schema
}

fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).unwrap()
}

fn schema_of(event_type: &EventType) -> Value {
    schema(&format!("{}.json", event_type.schema_name()))
}

fn envelope_validator() -> Validator {
    validator(&schema("events.bundle.envelope.v1.json"))
}

fn golden(event_type: &EventType) -> Vec<u8> {
    read(&format!("shared/testdata/events/{event_type}.v1.json"))
}

fn golden_value(event_type: &EventType) -> Value {
    serde_json::from_slice(&golden(event_type)).unwrap()
}

fn reader_accepts(envelope: &Value) -> bool {
    EventEnvelope::parse(envelope.to_string().as_bytes())
        .is_ok_and(|envelope| !matches!(envelope.event, BundleEvent::Unknown(_)))
}

#[test]
fn every_known_type_has_a_golden_event_that_reads_and_writes_the_same_bytes() {
    for event_type in EventType::KNOWN {
        let bytes = golden(event_type);
        let envelope = EventEnvelope::parse(&bytes).unwrap_or_else(|error| panic!("{event_type}: {error}"));
        assert_eq!(envelope.event.event_type(), *event_type);
        assert!(!matches!(envelope.event, BundleEvent::Unknown(_)), "{event_type}");
        assert!(envelope.event.stored_subject(&envelope.source).is_some(), "{event_type}: wrong kind of source");
        assert_eq!(String::from_utf8(envelope.to_bytes().unwrap()), String::from_utf8(bytes), "{event_type}");
    }
}

#[test]
fn every_golden_event_fits_its_schemas() {
    let envelope_validator = envelope_validator();
    for event_type in EventType::KNOWN {
        let envelope = golden_value(event_type);
        let schema = schema_of(event_type);
        assert_eq!(envelope["dataschema"], schema["$id"], "{event_type}");
        if let Err(error) = envelope_validator.validate(&envelope) {
            panic!("{event_type}: envelope: {error} at {}", error.instance_path());
        }
        if let Err(error) = validator(&schema).validate(&envelope["data"]) {
            panic!("{event_type}: data: {error} at {}", error.instance_path());
        }
    }
}

#[test]
fn the_golden_events_show_every_member_of_their_schema() {
    for event_type in EventType::KNOWN {
        let data = golden_value(event_type)["data"].clone();
        for (member, _) in schema_of(event_type)["properties"].as_object().unwrap() {
            assert!(data.get(member).is_some(), "{event_type}: golden event lacks `{member}`");
        }
        for (member, _) in data.as_object().unwrap() {
            assert!(
                schema_of(event_type)["properties"].get(member).is_some(),
                "{event_type}: `{member}` has no schema"
            );
        }
    }
}

#[test]
fn schema_and_reader_agree_on_what_is_required() {
    for event_type in EventType::KNOWN {
        let schema = schema_of(event_type);
        let validator = validator(&schema);
        let whole = golden_value(event_type);
        let required = schema["required"].as_array().unwrap();
        for member in schema["properties"].as_object().unwrap().keys() {
            let mut cut = whole.clone();
            cut["data"].as_object_mut().unwrap().remove(member);
            let optional = !required.contains(&json!(member));
            assert_eq!(validator.is_valid(&cut["data"]), optional, "{event_type}: schema without `{member}`");
            assert_eq!(reader_accepts(&cut), optional, "{event_type}: reader without `{member}`");
        }
    }
}

#[test]
fn schema_and_reader_refuse_values_of_another_kind() {
    for event_type in EventType::KNOWN {
        let validator = validator(&schema_of(event_type));
        let whole = golden_value(event_type);
        for member in whole["data"].as_object().unwrap().keys() {
            for wrong in [json!([]), json!(-1), json!({"x": 1})] {
                if wrong.is_array() && whole["data"][member].is_array() {
                    continue;
                }
                let mut altered = whole.clone();
                altered["data"][member] = wrong.clone();
                assert!(!validator.is_valid(&altered["data"]), "{event_type}: schema takes `{member}` = {wrong}");
                assert!(!reader_accepts(&altered), "{event_type}: reader takes `{member}` = {wrong}");
            }
        }
    }
}

#[test]
fn schemas_refuse_names_digests_and_words_outside_their_rule() {
    let cases = [
        (EventType::Published, "bundle", json!("log")),
        (EventType::Published, "bundle", json!("a.b")),
        (EventType::Published, "tag", json!("../etc")),
        (EventType::Published, "tree_digest", json!("BA7816BF")),
        (EventType::Published, "trigger", json!("cron")),
        (EventType::Promoted, "channel", json!("*")),
        (EventType::Promoted, "cause", json!("because")),
        (EventType::Promoted, "hold", json!("maybe")),
        (EventType::Loaded, "source", json!("usb")),
        (EventType::VerificationFailed, "check", json!("mood")),
        (EventType::FallbackActivated, "source", json!("tape")),
        (EventType::FallbackActivated, "cause", json!("mood")),
        (EventType::StaleDetected, "bundle_timestamp", json!("yesterday")),
        (EventType::UpdateDetected, "newer_tag", json!("../etc")),
        (EventType::TamperDetected, "mode", json!("ignore")),
        (EventType::TamperDetected, "paths", json!([{"path": "a", "damage": "burnt"}])),
        (EventType::Reverted, "restored", json!({"tag": "v1"})),
        (EventType::EpochStarted, "epoch", json!("0193b1c2-7e1f-4a55-8c11-0242ac120002")),
    ];
    for (event_type, member, wrong) in cases {
        let mut altered = golden_value(&event_type);
        altered["data"][member] = wrong.clone();
        assert!(!validator(&schema_of(&event_type)).is_valid(&altered["data"]), "{event_type}: `{member}` = {wrong}");
        assert!(!reader_accepts(&altered), "{event_type}: reader takes `{member}` = {wrong}");
    }
}

#[test]
fn schemas_and_reader_tolerate_members_of_a_later_version() {
    for event_type in EventType::KNOWN {
        let mut later = golden_value(event_type);
        later["traceparent"] = json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        later["data"]["a_later_member"] = json!({"x": [1, 2]});
        assert!(envelope_validator().is_valid(&later), "{event_type}");
        assert!(validator(&schema_of(event_type)).is_valid(&later["data"]), "{event_type}");
        assert!(reader_accepts(&later), "{event_type}");
    }
}

#[test]
fn the_envelope_schema_refuses_broken_envelopes() {
    let validator = envelope_validator();
    let whole = golden_value(&EventType::Promoted);
    for (member, wrong) in [
        ("specversion", json!("0.3")),
        ("id", json!("0193b1c2-7e1f-4a55-8c11-0242ac120002")),
        ("source", json!("/robots/r2")),
        ("type", json!("com.example")),
        ("subject", json!("a/b")),
        ("time", json!("yesterday")),
        ("time", json!("2025-13-45T06:00:01.300Z")),
        ("datacontenttype", json!("text/plain")),
        ("dataschema", json!("https://example.com/schema.json")),
        ("incarnation", json!("X")),
        ("sequence", json!("1")),
        ("sequence", json!("0000000000")),
        ("prevhash", json!("00")),
        ("data", json!("text")),
    ] {
        let mut altered = whole.clone();
        altered[member] = wrong.clone();
        assert!(!validator.is_valid(&altered), "`{member}` = {wrong}");
    }
    for member in ["specversion", "id", "source", "type", "time", "dataschema", "incarnation", "sequence", "data"] {
        let mut cut = whole.clone();
        cut.as_object_mut().unwrap().remove(member);
        assert!(!validator.is_valid(&cut), "without `{member}`");
        assert!(!reader_accepts(&cut), "reader without `{member}`");
    }
}

#[test]
fn the_golden_release_fits_its_schema_and_altered_ones_do_not() {
    let validator = validator(&schema("release.v1.json"));
    let release: Value = serde_json::from_slice(&read("shared/testdata/release.v1.json")).unwrap();
    assert!(validator.is_valid(&release));
    for (pointer, wrong) in [
        ("/format", json!(2)),
        ("/files", json!([])),
        ("/files/0/path", json!("../a")),
        ("/files/0/path", json!("/a")),
        ("/files/0/path", json!("a//b")),
        ("/files/0/path", json!("a/./b")),
        ("/files/0/path", json!("a\nb")),
        ("/files/0/mode", json!("0777")),
        ("/files/0/size", json!(-1)),
        ("/files/0/sha256", json!("00")),
    ] {
        let mut altered = release.clone();
        *altered.pointer_mut(pointer).unwrap() = wrong.clone();
        assert!(!validator.is_valid(&altered), "{pointer} = {wrong}");
        assert!(altered.to_string().parse::<shared::release::Release>().is_err(), "reader takes {pointer} = {wrong}");
    }
    let mut added = release.clone();
    added["note"] = json!("not covered by any digest");
    assert!(!validator.is_valid(&added));
}

#[test]
fn every_schema_is_one_and_describes_every_member() {
    let mut seen = 0;
    let folders = ["contracts/schemas", "contracts/envelopes"];
    for entry in folders.iter().flat_map(|folder| fs::read_dir(workspace_path(folder)).unwrap()) {
        let path = entry.unwrap().path();
        let schema: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{}", path.display());
        if let Err(error) = jsonschema::meta::validate(&schema) {
            panic!("{}: {error}", path.display());
        }
        validator(&schema);
        assert_described(&schema, &path, "");
        seen += 1;
    }
    assert!(seen > EventType::KNOWN.len(), "{seen} schemas");
}

fn assert_described(schema: &Value, path: &Path, at: &str) {
    let Some(members) = schema.as_object() else { return };
    if let Some(properties) = members.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            assert!(property["description"].is_string(), "{}: `{at}/{name}` is not described", path.display());
        }
    }
    for (name, member) in members {
        match member {
            Value::Object(_) => assert_described(member, path, &format!("{at}/{name}")),
            Value::Array(items) => items.iter().for_each(|item| assert_described(item, path, &format!("{at}/{name}"))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

#[test]
fn the_result_envelope_is_closed_and_either_success_or_failure() {
    let schema: Value = serde_json::from_slice(&read("contracts/envelopes/result.json")).unwrap();
    let validator = validator(&schema);
    for good in [
        json!({"result": {"success": true, "data": null}}),
        json!({"result": {"success": false, "error": {"message": "Seed mutations cannot be empty", "code": "EMPTY_SEED"}},
            "diagnostics": [{"level": "error", "message": "empty seed", "timestamp": "2026-02-03T08:00:00Z"}],
            "metrics": {"duration": {"total_ms": 0.2}, "counters": {"characterCount": 17}},
            "provenance": {"source": {"system": "graph-capsule", "version": "0.0.1"}, "timestamp": "2026-02-03T08:00:00Z"}}),
    ] {
        assert!(validator.is_valid(&good), "{good}");
    }
    for bad in [
        json!({}),
        json!({"result": {"success": true}}),
        json!({"result": {"success": false, "data": 1}}),
        json!({"result": {"success": true, "data": 1}, "extra": 1}),
        json!({"result": {"success": true, "data": 1}, "diagnostics": [{"level": "shout", "message": "x"}]}),
        json!({"result": {"success": true, "data": 1}, "provenance": {"timestamp": "soon"}}),
    ] {
        assert!(!validator.is_valid(&bad), "{bad}");
    }
}

#[test]
fn the_other_contracts_refuse_what_they_should() {
    let ritual = json!({"event": "ritual.started:v1", "ritualId": "echo-ritual", "runId": "run-7",
        "ts": "2026-02-03T10:00:00Z", "spec": {"id": "echo-ritual", "states": []}});
    let approval = json!({"event": "approval.requested:v1", "ts": "2026-02-03T08:59:00Z", "tenantId": "default",
        "runId": "run-7", "ritualId": "promote-bundle", "gateId": "prod", "requester": "dev@example.com",
        "reason": "new contracts"});
    let bootstrap = json!({
        "nats": {"url": "nats://127.0.0.1:4222"},
        "stream": {"name": "RITUAL_EVENTS", "subjects": ["demon.ritual.v1.>"], "duplicateWindowSeconds": 120},
        "operateUi": {"baseUrl": "http://localhost:3000", "approverAllowlist": ["ops@example.com"]},
        "seed": {"enabled": true, "runs": [{"runId": "run-b", "ritualId": "bootstrap",
            "gates": [{"gateId": "gate-b", "requester": "dev@example.com", "ttlSeconds": 0}]}]}
    });
    let cases = [
        ("events.ritual.started.v1.json", ritual, "/spec", json!("text")),
        ("approval.requested.v1.json", approval.clone(), "/reason", json!("")),
        ("bootstrap.bundle.v0.json", bootstrap, "/stream/subjects", json!([])),
    ];
    for (file, good, pointer, wrong) in cases {
        let validator = validator(&schema(file));
        assert!(validator.is_valid(&good), "{file}");
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = wrong;
        assert!(!validator.is_valid(&bad), "{file}: {pointer}");
    }
    let mut unknown_key = json!({"nats": {"url": "nats://127.0.0.1"}, "stream": {"name": "S", "subjects": ["s"]}});
    unknown_key["nats"]["urls"] = json!([]);
    assert!(!validator(&schema("bootstrap.bundle.v0.json")).is_valid(&unknown_key));
    let mut unknown_member = approval;
    unknown_member["approver"] = json!("ops@example.com");
    assert!(!validator(&schema("approval.requested.v1.json")).is_valid(&unknown_member));
}
