//! What the agent says of itself over HTTP.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use streams::secret::Secret;

use super::check::Check;

const REACHABLE: &str = "agent_reachable";
const STATUS: &str = "agent_status";
const STRICT: &str = "agent_strict_health";
/// Largest answer that is read.
const LARGEST_ANSWER: usize = 1 << 20;
/// Where a remedy would only repeat what the answer says.
const READ_LOG: &str = "read the agent's log (`journalctl -u demon-runtime`) and `demonctl events list`";

/// The checks, and the status document for whoever collects it.
pub(super) async fn check(url: &Url, key: Option<&Secret>, limit: Duration) -> (Vec<Check>, Value) {
    let status = match get(url, "/api/contracts/status", key, limit).await {
        Ok((StatusCode::OK, status)) => status,
        Ok((code, _)) => {
            let remedy = match code {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "set AGENT_API_KEY to the key the agent runs with",
                _ => "is this the agent's address? check --agent-url and PORT",
            };
            return unreachable(Check::no(REACHABLE, format!("`{url}` answers HTTP {code}"), remedy));
        }
        Err(reason) => {
            let remedy = "start the agent (`systemctl start demon-runtime`), or name its address with --agent-url";
            return unreachable(Check::no(REACHABLE, format!("`{url}`: {reason}"), remedy));
        }
    };
    let reachable = Check::yes(REACHABLE, format!("`{url}` answers"));
    let strict = match get(url, "/healthz/strict", key, limit).await {
        Ok((StatusCode::OK, _)) => Check::yes(STRICT, "a verified release runs"),
        Ok((code, body)) => Check::no(STRICT, format!("HTTP {code}: {}", reasons(&body)), READ_LOG),
        Err(reason) => Check::no(STRICT, reason, READ_LOG),
    };
    (vec![reachable, judge(&status["contractBundle"]), strict], status)
}

fn unreachable(failed: Check) -> (Vec<Check>, Value) {
    let status = json!({ "unavailable": failed.detail });
    let not = |name| Check::not_checked(name, "the agent was not reached");
    (vec![failed, not(STATUS), not(STRICT)], status)
}

/// Judges the status document.
fn judge(bundle: &Value) -> Check {
    let alerts: Vec<&str> = bundle["alerts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let alerts = if alerts.is_empty() { String::new() } else { format!(": {}", alerts.join("; ")) };
    let status = bundle["status"].as_str().unwrap_or("unknown");
    let detail = match bundle["metadata"]["tag"].as_str() {
        Some(tag) => format!("{status}, release `{tag}`{alerts}"),
        None => format!("{status}{alerts}"),
    };
    match status {
        "loaded" if alerts.is_empty() => Check::yes(STATUS, detail),
        "loaded" => Check::warning(STATUS, detail, READ_LOG),
        "disabled" => {
            Check::warning(STATUS, detail, "DEMON_SKIP_CONTRACT_BUNDLE is on: unset it and restart the agent")
        }
        "stale" => Check::no(STATUS, detail, "publish a release, or find out why the publisher does not"),
        "not_loaded" => Check::no(STATUS, detail, "publish a release and point the channel at it"),
        _ => Check::no(STATUS, detail, READ_LOG),
    }
}

fn reasons(body: &Value) -> String {
    let checks = body["checks"].as_object().into_iter().flatten();
    let failed = checks.filter(|(_, check)| check["ok"] == false);
    failed
        .map(|(name, check)| format!("{name}: {}", check["detail"].as_str().unwrap_or("-")))
        .collect::<Vec<_>>()
        .join("; ")
}

async fn get(url: &Url, path: &str, key: Option<&Secret>, limit: Duration) -> Result<(StatusCode, Value), String> {
    let url = url.join(path).map_err(|error| error.to_string())?;
    // The agent is on this host or near it: no proxy.
    let client = Client::builder().no_proxy().timeout(limit).redirect(reqwest::redirect::Policy::none()).build();
    let mut request = client.map_err(|error| ErrorChain(&error).to_string())?.get(url);
    if let Some(key) = key {
        // Of two keys, valid while one replaces the other, the first.
        request = request.header("x-api-key", key.expose().split(',').next().unwrap_or_default().trim());
    }
    let said = |error: reqwest::Error| ErrorChain(&error.without_url()).to_string();
    let mut response = request.send().await.map_err(said)?;
    let (code, mut body) = (response.status(), Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(said)? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_ANSWER {
            return Err(format!("the answer is larger than {LARGEST_ANSWER} bytes"));
        }
    }
    Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn the_status_decides() {
        let outcome = |status: &str, alerts: &[&str]| judge(&json!({ "status": status, "alerts": alerts })).outcome;
        assert_eq!(outcome("loaded", &[]), Outcome::Yes);
        assert_eq!(outcome("loaded", &["no connection"]), Outcome::Warning);
        assert_eq!(outcome("disabled", &[]), Outcome::Warning);
        for bad in ["verification_failed", "stale", "not_loaded", "something new"] {
            assert_eq!(outcome(bad, &[]), Outcome::No, "{bad}");
        }
    }
}
