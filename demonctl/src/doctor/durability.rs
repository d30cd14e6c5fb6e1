//! Whether the server keeps what it acknowledges, has room, and knows the time.

use std::time::Duration;

use publisher::server_monitoring::read_sync_policy;
use reqwest::Url;
use shared::daemon::ErrorChain;
use streams::connection::Connection;
use streams::durability::{DurabilityFacts, StreamFacts, SyncPolicy, WarningKind, judge, survey};

use super::check::Check;

const DURABLE: &str = "server_durability";
const ROOM: &str = "stream_room";
const CLOCK: &str = "server_clock";
/// Names of the checks, in order.
pub(super) const NAMES: [&str; 3] = [DURABLE, ROOM, CLOCK];
const REMEDY: &str = "see docs/durability.md";

/// Asks the server, and its monitoring page where that is known.
pub(super) async fn check(
    connection: &Connection,
    monitoring: Option<&Url>,
    required: bool,
    limit: Duration,
) -> Vec<Check> {
    let sync = read_sync_policy(monitoring, limit).await;
    match survey(connection, sync).await {
        Ok(facts) => checks(&facts, required),
        Err(error) => {
            let remedy = "check the streams first; where access is denied, log in as an operator";
            let failed = Check::no(DURABLE, ErrorChain(&error).to_string(), remedy);
            vec![failed, Check::not_checked(ROOM, "no answer"), Check::not_checked(CLOCK, "no answer")]
        }
    }
}

fn checks(facts: &DurabilityFacts, required: bool) -> Vec<Check> {
    let warnings = judge(facts);
    let about = |wanted: &dyn Fn(WarningKind) -> bool| {
        let texts = warnings.iter().filter(|warning| wanted(warning.kind)).map(|warning| warning.text.as_str());
        let texts: Vec<&str> = texts.collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    };
    let unknown = warnings.iter().all(|warning| !warning.kind.refuses() || warning.kind == WarningKind::SyncUnknown);
    let durable = match about(&WarningKind::refuses) {
        None => Check::yes(DURABLE, durable(facts)),
        Some(text) if required => Check::no(DURABLE, text, REMEDY),
        Some(text) if unknown => Check::not_checked(DURABLE, text),
        Some(text) => Check::warning(DURABLE, text, REMEDY),
    };
    let room = match about(&|kind| kind == WarningKind::NearlyFull) {
        None => Check::yes(ROOM, filling(&facts.streams)),
        Some(text) => Check::warning(ROOM, text, REMEDY),
    };
    let clock = match (about(&|kind| kind == WarningKind::ClockSkew), facts.clock) {
        (Some(text), _) => Check::warning(CLOCK, text, REMEDY),
        (None, Some(clock)) => {
            Check::yes(CLOCK, format!("{} ms from ours, give or take {} ms", clock.milliseconds, clock.uncertainty))
        }
        (None, None) => Check::not_checked(CLOCK, "the server's answers bear no time"),
    };
    vec![durable, room, clock]
}

fn durable(facts: &DurabilityFacts) -> String {
    let copies = facts.streams.iter().map(|stream| stream.replicas).min().unwrap_or(1);
    let flushes = if facts.sync == SyncPolicy::Always { ", flushes before it acknowledges" } else { "" };
    format!("nats-server {}{flushes}, {copies} copies of each stream", facts.server_version)
}

fn filling(streams: &[StreamFacts]) -> String {
    let one = |stream: &StreamFacts| match stream.fill_ratio() {
        Some(ratio) => format!("{} {:.1} % full", stream.stream, ratio * 100.0),
        None => format!("{} without limit", stream.stream),
    };
    streams.iter().map(one).collect::<Vec<_>>().join(", ")
}
