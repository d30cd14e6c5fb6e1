//! Publishing with the operator's command line, and what it leaves behind.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::raw_client::RawClient;
use crate::stored_log::{EVENT_STREAM, NODE_TABLE_STREAM, RELEASE_STREAM, StoredMessage, event_log};
use crate::world::{World, both_outputs, finished};

/// The commit that published sources say they are made from.
pub const COMMIT: &str = "0658fb8b7c6a59483726150413f2e1d0c9b8a796";
/// When they are published, unless the test says otherwise.
pub const DAY: &str = "2025-09-21T06:00:00Z";

/// `demonctl contracts publish` of a directory, as operator `ada`, at a fixed time, with JSON as its output.
pub fn contracts_publish(world: &World, source: &Path, options: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.args(["contracts", "publish"]).arg(source);
    command.args(["--actor", "ada", "--git-sha", COMMIT]);
    for (option, value) in [("--timestamp", DAY), ("--output", "json")] {
        if !options.contains(&option) {
            command.args([option, value]);
        }
    }
    command.args(options);
    command
}

/// Runs it to success and returns its JSON.
pub async fn published(world: &World, source: &Path, options: &[&str]) -> Value {
    document(&finished(contracts_publish(world, source, options)).await)
}

/// Runs a command that must be refused, and returns its one line of complaint.
pub async fn refused(command: Command) -> String {
    let output = finished(command).await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(output.stdout.is_empty(), "{}", both_outputs(&output));
    let complaint = String::from_utf8(output.stderr).expect("text");
    assert_eq!(complaint.trim_end().lines().count(), 1, "{complaint}");
    complaint
}

/// The JSON document that a command printed.
///
/// # Panics
/// Where it failed, or printed anything else.
pub fn document(output: &Output) -> Value {
    assert!(output.status.success(), "it ended with {}: {}", output.status, both_outputs(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both_outputs(output)))
}

/// Everything that the server stores, so that two looks can be compared.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerContent {
    log: Vec<StoredMessage>,
    streams: Vec<Value>,
}

impl ServerContent {
    /// Looks.
    pub async fn of(operator: &RawClient) -> Self {
        let mut streams = Vec::new();
        for stream in [EVENT_STREAM, RELEASE_STREAM, NODE_TABLE_STREAM] {
            let info = operator.api(&format!("STREAM.INFO.{stream}"), &json!({})).await;
            // How many consumers there are is no content.
            let state = &info["state"];
            streams.push(json!([info["config"], state["messages"], state["bytes"], state["last_seq"]]));
        }
        let log = if streams[0][0].is_null() { Vec::new() } else { event_log(operator).await };
        Self { log, streams }
    }

    /// The events on a subject.
    pub fn on(&self, subject: &str) -> Vec<&StoredMessage> {
        self.log.iter().filter(|message| message.subject == subject).collect()
    }

    /// How many events of a type there are.
    pub fn count(&self, event_type: &str) -> usize {
        self.log.iter().filter(|message| message.event_type() == event_type).count()
    }
}
