//! An agent runs on the state directory: it loads the bundle, and is asked what became of it.

use std::time::Duration;

use chrono::Utc;
use reqwest::StatusCode;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::identifiers::{BundleName, Tag};
use shared::subjects::node_filter;
use streams::connection::Connection;
use streams::event_log::EventLog;
use subscriber::AgentConfig;
use subscriber::agent_presence::AgentPresence;
use subscriber::node_report::NodeReport;
use subscriber::one_round::RoundOutcome;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::lines::{line, of_stored};
use crate::agent_api::{AgentApi, remedy};
use crate::output::{note, print_line};

/// Between two questions to an agent that is still on its way.
const PAUSE: Duration = Duration::from_millis(200);
/// Time for reading the node's last events.
const LOG_LIMIT: Duration = Duration::from_secs(5);

/// Asks about each bundle until the agent runs what it should, says why it does not, or the time is over; prints the lines
/// of its last events for the release it runs.
pub(super) async fn ask(
    config: &AgentConfig,
    api: &AgentApi,
    limit: Duration,
    stop: &CancellationToken,
) -> Vec<(BundleName, RoundOutcome)> {
    let until = Instant::now() + limit;
    let mut outcomes = Vec::new();
    for target in &config.bundles.bundles {
        let (outcome, report) = until_settled(config, api, &target.bundle, until, stop).await;
        if let (RoundOutcome::Runs { tag, .. }, Some((report, answer))) = (&outcome, &report) {
            print_events(config, tag, report, answer).await;
        }
        outcomes.push((target.bundle.clone(), outcome));
    }
    outcomes
}

/// What became of one bundle, and the answer that says so.
async fn until_settled(
    config: &AgentConfig,
    api: &AgentApi,
    bundle: &BundleName,
    until: Instant,
    stop: &CancellationToken,
) -> (RoundOutcome, Option<(NodeReport, Value)>) {
    let mut last = "the agent has not answered".to_owned();
    while Instant::now() < until && !stop.is_cancelled() {
        match api.get(&format!("/api/bundles/{bundle}")).await {
            Ok((StatusCode::OK, answer)) => match judge(config, &answer) {
                Answer::Settled(outcome, report) => return (outcome, report.map(|report| (*report, answer))),
                Answer::OnItsWay(why) => last = why,
            },
            Ok((code, answer)) => {
                let said = answer["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
                let reason = format!("`{}` answers HTTP {code}{said}", api.url);
                return (RoundOutcome::Failed { reason, remediation: remedy(code).to_owned() }, None);
            }
            Err(reason) => last = format!("`{}`: {reason}; name the agent's address with --agent-url", api.url),
        }
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }
    (RoundOutcome::Unfinished { reason: last }, None)
}

/// What an answer says.
#[derive(Debug, PartialEq)]
enum Answer {
    Settled(RoundOutcome, Option<Box<NodeReport>>),
    OnItsWay(String),
}

fn judge(config: &AgentConfig, answer: &Value) -> Answer {
    let failed = |reason: String, remediation: &str| {
        Answer::Settled(RoundOutcome::Failed { reason, remediation: remediation.to_owned() }, None)
    };
    let Ok(report) = serde_json::from_value::<NodeReport>(answer["node"].clone()) else {
        return failed("the answer is not that of an agent".to_owned(), "check --agent-url and PORT");
    };
    // Another agent may have the port: this one's lock file says its name.
    let here = AgentPresence::find(&config.bundles.state_dir).and_then(|presence| presence.facts);
    if let Some(facts) = here.filter(|facts| facts.node != report.node) {
        let reason = format!("node `{}` answers, but node `{}` runs here", report.node, facts.node);
        return failed(reason, "name this agent's address with --agent-url");
    }
    standing(&answer["standing"], report)
}

/// Judges how the bundle stands.
fn standing(standing: &Value, report: NodeReport) -> Answer {
    let status = standing["status"].as_str().unwrap_or("unknown");
    let alert = standing["alerts"].as_array().and_then(|alerts| alerts.first()).cloned().unwrap_or_default();
    let said = |field: &str| alert[field].as_str().unwrap_or(status).to_owned();
    let active = report.active.as_ref().map(|active| active.tag.clone());
    match (status, active) {
        ("disabled", _) => Answer::Settled(RoundOutcome::Disabled, None),
        ("loaded" | "stale", Some(tag)) if report.desired.as_ref() == Some(&tag) => {
            Answer::Settled(RoundOutcome::Runs { tag, instead: None }, Some(Box::new(report)))
        }
        ("using_fallback", Some(tag)) => {
            let instead = Some(said("message"));
            Answer::Settled(RoundOutcome::Runs { tag, instead }, Some(Box::new(report)))
        }
        ("not_loaded", None) if report.desired.is_none() => {
            Answer::Settled(RoundOutcome::Empty { reason: said("message") }, None)
        }
        ("verification_failed" | "download_error", _) => {
            let outcome = RoundOutcome::Failed { reason: said("message"), remediation: said("remediation") };
            Answer::Settled(outcome, None)
        }
        _ => Answer::OnItsWay(format!("the agent says `{status}`: {}", said("message"))),
    }
}

/// The node's last events for the release it runs, from the fleet's log; where that cannot be read, what the agent says.
async fn print_events(config: &AgentConfig, tag: &Tag, report: &NodeReport, answer: &Value) {
    let read = async {
        let connection = Connection::open(&config.connection).await.map_err(|error| ErrorChain(&error).to_string())?;
        let snapshot = EventLog::new(connection.clone()).last_of(&[node_filter(&report.node)]).await;
        connection.drain().await;
        let events = snapshot.map_err(|error| ErrorChain(&error).to_string())?.events;
        Ok::<_, String>(
            events.iter().filter_map(|event| of_stored(&event.payload, &report.bundle, tag)).collect::<Vec<_>>(),
        )
    };
    let lines = match timeout(LOG_LIMIT, read).await.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
        Ok(lines) => lines,
        Err(reason) => {
            note(&format!("warning: the node's events cannot be read: {reason}"));
            Vec::new()
        }
    };
    let git_sha = &answer["standing"]["metadata"]["git_sha"];
    let lines: Vec<Value> = lines.into_iter().map(|line| with_commit(line, git_sha)).collect();
    let says_loaded = lines.iter().any(|line| line["event"] == "bundle.loaded");
    let said = (!says_loaded).then(|| as_the_agent_says(report, answer));
    for line in lines.into_iter().chain(said) {
        // A reader that went away wants no more.
        let _ = print_line(&line.to_string());
    }
}

/// The commit is in the agent's log line and its answer, not in the fleet's log, where the release's announcement has it.
fn with_commit(mut line: Value, git_sha: &Value) -> Value {
    if line["event"] == "bundle.loaded" && line["git_sha"].is_null() {
        line["git_sha"] = git_sha.clone();
    }
    line
}

/// The line of a release that the agent has loaded, by its own answer.
fn as_the_agent_says(report: &NodeReport, answer: &Value) -> Value {
    let active = report.active.as_ref();
    let time = active.map_or_else(Utc::now, |active| active.loaded_at);
    let metadata = &answer["standing"]["metadata"];
    let fields = json!({
        "bundle": answer["name"], "tag": active.map(|active| &active.tag), "source": "Cache",
        "sha256": active.map(|active| active.content_digest), "tree_digest": active.map(|active| active.tree_digest),
        "git_sha": metadata["git_sha"], "by": "agent",
    });
    line("bundle.loaded", time, &fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_line_names_the_commit() {
        let loaded = with_commit(json!({ "event": "bundle.loaded" }), &json!("1f0e"));
        assert_eq!(loaded["git_sha"], "1f0e");
        let staged = with_commit(json!({ "event": "bundle.staged" }), &json!("1f0e"));
        assert_eq!(staged.get("git_sha"), None);
    }

    fn report(active: Option<&str>, desired: Option<&str>) -> NodeReport {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let active = active.map(|tag| {
            json!({ "tag": tag, "tree_digest": digest, "content_digest": digest, "loaded_at": "2025-09-21T06:00:00Z" })
        });
        serde_json::from_value(json!({
            "node": "edge-17", "bundle": "contracts", "active": active, "desired": desired, "last_sequence": 7,
            "waiting_events": 0, "incarnation": "0193b1c27e1f4a558c110242ac120002", "version": "0.1.0",
            "started_at": "2025-09-21T06:00:00Z"
        }))
        .unwrap()
    }

    fn outcome(status: &str, active: Option<&str>, desired: Option<&str>) -> Option<RoundOutcome> {
        let alerts = json!([{ "message": "why", "remediation": "what to do" }]);
        match standing(&json!({ "status": status, "alerts": alerts }), report(active, desired)) {
            Answer::Settled(outcome, _) => Some(outcome),
            Answer::OnItsWay(_) => None,
        }
    }

    #[test]
    fn an_agent_on_its_way_is_waited_for_and_an_error_is_not() {
        let runs = RoundOutcome::Runs { tag: "v1".parse().unwrap(), instead: None };
        assert_eq!(outcome("loaded", Some("v1"), Some("v1")), Some(runs.clone()));
        assert_eq!(outcome("stale", Some("v1"), Some("v1")), Some(runs));
        assert_eq!(outcome("loaded", Some("v1"), Some("v2")), None);
        assert_eq!(outcome("not_loaded", None, Some("v1")), None);
        assert_eq!(outcome("not_loaded", None, None), Some(RoundOutcome::Empty { reason: "why".to_owned() }));
        for status in ["verification_failed", "download_error"] {
            let outcome = outcome(status, Some("v1"), Some("v2"));
            assert!(
                matches!(&outcome, Some(RoundOutcome::Failed { remediation, .. }) if remediation == "what to do"),
                "{status}: {outcome:?}"
            );
        }
        assert_eq!(outcome("something new", Some("v1"), Some("v1")), None);
    }
}
