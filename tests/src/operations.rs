//! What publishers and operators do in many scenarios, with the real programs.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::sample_trees::change_one_contract;
use crate::stored_log::{StoredMessage, event_log};
use crate::world::{World, both_outputs, finished, succeeded};

/// Who the operator is.
pub const OPERATOR_NAME: &str = "ada";

/// The publisher's program, to publish a directory once under a tag.
pub fn publish_command(world: &World, source: &Path, tag: &str) -> Command {
    let mut command = world.publisher();
    command.args(["--tag", tag]).arg("--source").arg(source);
    command
}

/// Publishes the contracts with the tag as text in them, and moves channel `latest` unless somebody decided otherwise.
pub async fn publish_contracts(world: &World, source: &Path, tag: &str) -> Output {
    change_one_contract(source, tag);
    succeeded(publish_command(world, source, tag)).await
}

/// The operator's command line with these arguments, as [`OPERATOR_NAME`].
pub fn operator_command(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.args(arguments).env("DEMON_ACTOR", OPERATOR_NAME);
    command
}

/// Runs it to an exit code.
///
/// # Panics
/// Where it ends with another, with both its outputs.
pub async fn operate(world: &World, arguments: &[&str], code: i32) -> Output {
    let output = finished(operator_command(world, arguments)).await;
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", both_outputs(&output));
    output
}

/// Runs it to success and returns what it printed on standard output.
pub async fn operated(world: &World, arguments: &[&str]) -> String {
    text_of(&operate(world, arguments, 0).await.stdout)
}

/// Runs it to success and returns its JSON document.
pub async fn operated_json(world: &World, arguments: &[&str]) -> Value {
    let text = operated(world, &[arguments, &["--output", "json"]].concat()).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?} prints no JSON: {error}: {text}"))
}

/// Runs it, expects a refusal (exit code 1) and returns the words on standard error.
///
/// # Panics
/// Where those are not exactly one line.
pub async fn refused(world: &World, arguments: &[&str]) -> String {
    let output = operate(world, arguments, 1).await;
    let words = text_of(&output.stderr);
    assert_eq!(words.lines().count(), 1, "one line: {words}");
    assert!(output.stdout.is_empty(), "data was printed: {}", both_outputs(&output));
    words.trim_end().to_owned()
}

/// The moves of a channel of the contracts, oldest first.
pub async fn moves_of(world: &World, channel: &str) -> Vec<StoredMessage> {
    let subject = format!("bundle.promoted.contracts.channel.{channel}");
    let log = event_log(&world.raw_operator().await).await;
    log.into_iter().filter(|message| message.subject == subject).collect()
}

/// The release that a channel of the contracts points at, and its hold.
pub async fn head_of(world: &World, channel: &str) -> (String, String) {
    let moves = moves_of(world, channel).await;
    let head = moves.last().unwrap_or_else(|| panic!("channel `{channel}` has no head")).data();
    let member = |name: &str| head[name].as_str().unwrap_or_default().to_owned();
    (member("tag"), member("hold"))
}

/// An output as text.
pub fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
