//! The served OpenAPI document against a live agent: every answer, in every state that matters, is one that it describes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::http_request::{HttpAnswer, get};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, succeeded};
use serde_json::{Value, json};
use shared::subjects::archive_object;
use streams::release_store::{ReleaseStore, Tampering};

const KEY: &str = "0123456789abcdef";
const SCHEMA: &str = "/api/schema/metadata";

/// The document, and which of its answers were seen.
struct Document {
    document: Value,
    seen: BTreeSet<(String, u16)>,
}

impl Document {
    async fn served_at(address: SocketAddr) -> Self {
        let answer = get(address, "/openapi.json", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let document = answer.json();
        assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{document}");
        Self { document, seen: BTreeSet::new() }
    }

    /// What a reference leads to; anything else as it is.
    fn resolved<'d>(&'d self, value: &'d Value) -> &'d Value {
        match value["$ref"].as_str() {
            Some(reference) => self.document.pointer(reference.trim_start_matches('#')).expect("it leads somewhere"),
            None => value,
        }
    }

    /// Every path, and every code it may answer with.
    fn answers(&self) -> BTreeSet<(String, u16)> {
        let paths = self.document["paths"].as_object().expect("paths");
        let answers = paths.iter().flat_map(|(path, operations)| {
            let codes = operations["get"]["responses"].as_object().expect("responses").keys();
            codes.map(|code| (path.clone(), code.parse().expect("a code")))
        });
        answers.collect()
    }

    /// Asserts that this is an answer that the document describes for the path.
    fn check(&mut self, path: &str, answer: &HttpAnswer) {
        let responses = &self.document["paths"][path]["get"]["responses"];
        let response = &responses[answer.status.to_string()];
        assert!(response.is_object(), "{path} answers {}, which is not described: {}", answer.status, answer.body);
        let response = self.resolved(response);
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let expected = self.resolved(header)["schema"]["const"].as_str().expect("a constant");
            let line = format!("{}: {expected}", name.to_lowercase());
            assert!(answer.head.lines().any(|given| given == line), "{path}: no `{line}` in {}", answer.head);
        }
        if let Some(content) = response["content"].as_object() {
            let (kind, body) = content.iter().next().expect("one kind of content");
            let line = format!("content-type: {kind}");
            assert!(answer.head.lines().any(|given| given == line), "{path}: no `{line}` in {}", answer.head);
            let instance = if kind == "application/json" { answer.json() } else { Value::from(answer.body.clone()) };
            self.validate(path, &body["schema"], &instance);
        }
        self.seen.insert((path.to_owned(), answer.status));
    }

    /// Validates, and takes a field that no schema mentions for an error: clients may meet one, we may not.
    fn validate(&self, path: &str, schema: &Value, instance: &Value) {
        let mut components = self.document["components"].clone();
        for schema in components["schemas"].as_object_mut().expect("schemas").values_mut() {
            if schema["properties"].is_object() {
                schema["additionalProperties"] = json!(false);
            }
        }
        let mut schema = schema.clone();
        schema["components"] = components;
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).expect("a usable schema");
        let faults: Vec<String> =
            validator.iter_errors(instance).map(|fault| format!("{fault} at {}", fault.instance_path())).collect();
        assert!(faults.is_empty(), "{path}: {faults:?}\n{instance:#}");
    }

    /// Asks every path once and checks each answer.
    async fn check_all(&mut self, address: SocketAddr, headers: &[&str]) {
        let paths: Vec<String> = self.document["paths"].as_object().expect("paths").keys().cloned().collect();
        for path in paths {
            let asked = path.replace("{name}", "contracts");
            self.check(&path, &get(address, &asked, headers).await);
        }
        for name in ["approval.requested.v1", "no.such.v1"] {
            let asked = format!("{SCHEMA}?schemaName={name}");
            self.check(SCHEMA, &get(address, &asked, headers).await);
        }
    }
}

async fn stands(address: SocketAddr, expected: &str) {
    eventually(&format!("status {expected}"), PATIENCE, async || {
        let status = get(address, "/api/contracts/status", &[]).await.json();
        satisfied(status["contractBundle"]["status"] == expected, || status.to_string())
    })
    .await;
}

fn publish(world: &World, tree: &Path, tag: &str) -> Command {
    let mut command = world.publisher();
    command.args(["--tag", tag]).arg("--source").arg(tree);
    command
}

fn with(world: &World, name: &str, variables: &[(&str, &str)]) -> Agent {
    let mut command = world.agent_command("n1");
    command.envs(variables.iter().copied());
    Agent::start(name, command, AgentDirectories::below(world.directory(), name), world.directory())
}

#[tokio::test]
async fn every_answer_of_a_live_agent_is_described_and_every_described_answer_is_given() {
    let world = World::start(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    let address = agent.http_address().await;
    let mut document = Document::served_at(address).await;
    stands(address, "not_loaded").await;
    document.check_all(address, &[]).await;

    let tree = contracts(world.directory());
    succeeded(publish(&world, &tree, "good")).await;
    stands(address, "loaded").await;
    document.check_all(address, &["X-Demon-API-Version: v1"]).await;
    document.check_all(address, &["X-Demon-API-Version: v9"]).await;
    let other = get(address, "/api/bundles/policies", &[]).await;
    document.check("/api/bundles/{name}", &other);

    // A release whose bytes are wrong, and no delta beside them: the last good one serves on.
    agent.process.kill();
    change_one_contract(&tree, "second");
    let mut bad = publish(&world, &tree, "bad");
    bad.args(["--deltas", "0"]);
    succeeded(bad).await;
    let store = ReleaseStore::new(world.operator().await);
    let archive = archive_object(&"contracts".parse().expect("a name"), &"bad".parse().expect("a tag"));
    store.tamper(&archive, Tampering::RecomputeMeta).await.expect("the operator may alter the store");
    let mut agent = world.start_agent_in("n1", "again", agent.directories());
    let address = agent.http_address().await;
    stands(address, "verification_failed").await;
    document.check_all(address, &[]).await;

    let mut disabled = with(&world, "disabled", &[("DEMON_SKIP_CONTRACT_BUNDLE", "1")]);
    document.check_all(disabled.http_address().await, &[]).await;
    let mut lost = with(&world, "lost", &[("NATS_URL", "nats://127.0.0.1:1")]);
    document.check_all(lost.http_address().await, &[]).await;
    let mut guarded = with(&world, "guarded", &[("AGENT_API_KEY", KEY)]);
    let address = guarded.http_address().await;
    document.check_all(address, &[]).await;
    document.check_all(address, &[&format!("x-api-key: {KEY}")]).await;

    // Our own agents serve their metrics; 404 is for programs that hold one.
    let unseen: Vec<_> = document.answers().difference(&document.seen).cloned().collect();
    assert_eq!(unseen, [("/metrics".to_owned(), 404)]);
}
