//! The checks of `bootstrap --verify`. They change nothing.

use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use streams::connection::Connection;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutError, LayoutLimits, missing};
use subscriber::AgentConfig;
use subscriber::catalogue::{Wanted, resolve};
use subscriber::config::BundleConfig;
use tokio::time::timeout;

use super::lines::print_event;
use crate::agent_api::{AgentApi, remedy};
use crate::doctor::check::{Check, Outcome};
use crate::doctor::server;
use crate::output::{note, printable};

const AGENT: &str = "agent_reachable";
const STATUS: &str = "agent_status";
const RELEASE: &str = "published_release";
/// Time for one check.
const LIMIT: Duration = Duration::from_secs(10);

/// Prints a line for each check, and one for all of them. Exit code 1 where one failed.
pub(super) async fn run(config: &AgentConfig, api: &AgentApi) -> anyhow::Result<ExitCode> {
    let (nats, agent) = tokio::join!(of_nats(config), of_agent(api));
    let checks: Vec<Check> = nats.into_iter().chain(agent).collect();
    let mut failed = Vec::new();
    for check in &checks {
        print_event("bootstrap.verify", &serde_json::to_value(check)?)?;
        let remedy = check.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        note(&format!("{:<20} {:<8} {}{remedy}", check.name, check.outcome, printable(&check.detail)));
        if check.outcome == Outcome::No {
            failed.push(check.name);
        }
    }
    print_event("bootstrap.done", &json!({ "ok": failed.is_empty(), "outcome": "verified", "failed": failed }))?;
    if failed.is_empty() {
        note("all checks passed");
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!("demonctl: failing: {}", failed.join(", ")));
    Ok(ExitCode::FAILURE)
}

/// What NATS says: reachable, login, streams and buckets, the log's beginning, something to run.
async fn of_nats(config: &AgentConfig) -> Vec<Check> {
    let connected = timeout(LIMIT, server::connect(&config.connection)).await;
    let (mut checks, connection) = connected.unwrap_or_else(|_| {
        let late = Check::no("nats_reachable", format!("no answer within {LIMIT:?}"), "check NATS_URL and the network");
        (vec![late], None)
    });
    let Some(connection) = connection else { return checks };
    let log = EventLog::new(connection.clone());
    let layout = Layout::declared(LayoutLimits::default());
    let targets = &config.bundles.bundles;
    let late = |name| Check::no(name, format!("no answer within {LIMIT:?}"), "check the load on the server");
    let (streams, epoch, releases) = tokio::join!(
        timeout(LIMIT, missing(&connection, &layout)),
        timeout(LIMIT, server::epoch(&log)),
        join_all(targets.iter().map(|target| timeout(LIMIT, published(target, &connection)))),
    );
    let epoch = epoch.unwrap_or_else(|_| late("log_epoch"));
    checks.push(streams.map_or_else(|_| late("streams"), |compared| of_streams(compared, &epoch)));
    checks.push(epoch);
    checks.extend(releases.into_iter().map(|release| release.unwrap_or_else(|_| late(RELEASE))));
    connection.drain().await;
    checks
}

/// A node's login may read the log but not ask how the streams are made: where the log answers, that is no fault.
fn of_streams(compared: Result<Vec<String>, LayoutError>, epoch: &Check) -> Check {
    let may_not_ask = matches!(compared, Err(LayoutError::Api { .. })) && epoch.outcome == Outcome::Yes;
    let check = server::judge_streams(compared);
    if may_not_ask {
        let detail = format!("the log answers, but the streams cannot be compared: {}", check.detail);
        return Check::warning(check.name, detail, "log in as an operator to compare each with its declaration");
    }
    check
}

/// Whether there is something to run. A system that is still empty is not broken.
async fn published(target: &BundleConfig, connection: &Connection) -> Check {
    let wanted = match (target.follow.tag(), target.follow.channel()) {
        (Some(tag), _) => Wanted::Tag(tag.clone()),
        (None, Some(channel)) => Wanted::HeadOf(channel.clone()),
        (None, None) => return Check::not_checked(RELEASE, "nothing is followed"),
    };
    match resolve(&EventLog::new(connection.clone()), &target.bundle, &wanted).await {
        Ok(found) => Check::yes(RELEASE, format!("`{}` of {}", found.release.published.tag, target.bundle)),
        Err(error) => {
            let remedy = "publish a release: `demonctl contracts publish DIRECTORY`";
            Check::warning(RELEASE, ErrorChain(&error).to_string(), remedy)
        }
    }
}

/// What the agent says of itself.
async fn of_agent(api: &AgentApi) -> Vec<Check> {
    let not_asked = || Check::not_checked(STATUS, "the agent was not reached");
    match api.get("/api/contracts/status").await {
        Ok((StatusCode::OK, document)) => {
            vec![Check::yes(AGENT, format!("`{}` answers", api.url)), judge(&document["contractBundle"])]
        }
        Ok((code, _)) => {
            vec![Check::no(AGENT, format!("`{}` answers HTTP {code}", api.url), remedy(code)), not_asked()]
        }
        Err(reason) => {
            let remedy = "start the agent (`systemctl start demon-runtime`), or name its address with --agent-url";
            vec![Check::no(AGENT, format!("`{}`: {reason}", api.url), remedy), not_asked()]
        }
    }
}

/// Errors fail; what merely is not as it should be for long is a warning.
fn judge(bundle: &Value) -> Check {
    let status = bundle["status"].as_str().unwrap_or("unknown");
    let alert = &bundle["alerts"][0];
    let text = |field: &str| alert[field].as_str().map(str::to_owned);
    let detail = text("message").map_or_else(|| status.to_owned(), |message| format!("{status}: {message}"));
    let remedy = text("remediation").unwrap_or_else(|| "read the agent's log".to_owned());
    match status {
        "loaded" => match bundle["metadata"]["tag"].as_str() {
            Some(tag) => Check::yes(STATUS, format!("loaded, release `{tag}`")),
            None => Check::yes(STATUS, status),
        },
        "not_loaded" | "stale" | "using_fallback" | "disabled" => Check::warning(STATUS, detail, remedy),
        _ => Check::no(STATUS, detail, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fails_and_an_empty_system_does_not() {
        let outcome = |status: &str| judge(&json!({ "status": status, "alerts": [] })).outcome;
        assert_eq!(outcome("loaded"), Outcome::Yes);
        for status in ["not_loaded", "stale", "using_fallback", "disabled"] {
            assert_eq!(outcome(status), Outcome::Warning, "{status}");
        }
        for status in ["verification_failed", "download_error", "something new"] {
            assert_eq!(outcome(status), Outcome::No, "{status}");
        }
    }
}
