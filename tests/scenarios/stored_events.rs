//! Every event that a whole run leaves in the log, failures included, against its published JSON Schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::sample_trees::{change_one_contract, contracts, repository_contracts};
use acceptance::stored_log::{StoredMessage, checked_chains, event_log, of_node, text};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, succeeded};
use jsonschema::Validator;
use serde_json::Value;
use shared::event_type::EventType;
use streams::release_store::{ReleaseStore, Tampering};

/// Schema files by the `$id` that events name.
fn schemas() -> BTreeMap<String, Validator> {
    let directory = repository_contracts().join("schemas");
    let mut schemas = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("the schemas") {
        let path = entry.expect("an entry").path();
        let schema: Value = serde_json::from_slice(&fs::read(&path).expect("a schema")).expect("JSON");
        if let Some(id) = schema["$id"].as_str() {
            let validator = jsonschema::options().should_validate_formats(true).build(&schema);
            schemas.insert(id.to_owned(), validator.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
    schemas
}

fn valid(validator: &Validator, value: &Value, message: &StoredMessage) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "message {} on `{}`: {errors:?}", message.sequence, message.subject);
}

async fn publish(world: &World, source: &Path) {
    let mut command = world.publisher();
    command.arg("--source").arg(source);
    succeeded(command).await;
}

/// A run in which everything happens that this version writes about.
async fn eventful_run() -> (World, Vec<StoredMessage>) {
    let world = World::start(&["n1"]).await;
    let store = ReleaseStore::new(world.operator().await);
    let source = contracts(world.directory());
    let mut agent = world.start_agent("n1");
    publish(&world, &source).await;
    change_one_contract(&source, "second");
    publish(&world, &source).await;

    let altered = HandmadeRelease::stored(&store, "contracts", "altered", &contracts_files("altered")).await;
    for object in altered.objects() {
        store.tamper(&object.name, Tampering::KeepMeta).await.expect("altered");
    }
    altered.announced(&world.log().await).await;
    let operator = world.raw_operator().await;
    said(&world, "bundle.verification_failed").await;

    let missing = HandmadeRelease::stored(&store, "contracts", "missing", &contracts_files("missing")).await;
    let purge = format!("STREAM.PURGE.{}", acceptance::stored_log::RELEASE_STREAM);
    assert_eq!(operator.api(&purge, &serde_json::json!({})).await["success"], true);
    missing.announced(&world.log().await).await;
    said(&world, "bundle.download_failed").await;
    agent.process.signal(rustix::process::Signal::TERM);
    agent.process.ended(PATIENCE).await;
    let log = event_log(&operator).await;
    (world, log)
}

async fn said(world: &World, event_type: &str) {
    let operator = world.raw_operator().await;
    eventually(event_type, PATIENCE, async || {
        let log = event_log(&operator).await;
        satisfied(!of_node(&log, event_type, "n1").is_empty(), || format!("not among {} events", log.len()))
    })
    .await;
}

#[tokio::test]
async fn every_stored_event_fits_its_schema_its_subject_and_its_writers_chain() {
    let (_world, log) = eventful_run().await;
    let schemas = schemas();
    let envelope = &schemas["urn:demon:contracts:events.bundle.envelope.v1.json"];
    let mut seen = BTreeSet::new();
    for message in &log {
        let event = message.event();
        valid(envelope, &event, message);
        let named = text(&event, "dataschema");
        let data = schemas.get(&named).unwrap_or_else(|| panic!("`{named}` names no schema of ours"));
        valid(data, &event["data"], message);
        shared::fleet_history::read(&message.subject, &message.payload).expect("it belongs under its subject");
        assert_eq!(message.header("Nats-Msg-Id"), event["id"].as_str(), "message {}", message.sequence);
        assert_eq!(message.header("Content-Type"), Some("application/cloudevents+json"));
        seen.insert(message.event_type());
    }
    let writers = checked_chains(&log);
    assert!(writers.keys().any(|(source, _)| source == "/nodes/n1"), "{writers:?}");
    assert!(writers.keys().any(|(source, _)| source == "/publishers/main"), "{writers:?}");
    // Each of these has a story of its own.
    let elsewhere = [
        EventType::Checkpointed,
        EventType::Withdrawn,
        EventType::StaleDetected,
        EventType::UpdateDetected,
        EventType::TamperDetected,
        EventType::Reverted,
    ];
    let written = EventType::KNOWN.iter().filter(|event_type| !elsewhere.contains(event_type));
    assert_eq!(seen, written.map(ToString::to_string).collect());
}
