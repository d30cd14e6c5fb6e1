//! What the agent says of itself over HTTP.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::check::Check;
use crate::agent_api::{AgentApi, remedy};

const REACHABLE: &str = "agent_reachable";
const STATUS: &str = "agent_status";
const STRICT: &str = "agent_strict_health";
/// Where a remedy would only repeat what the answer says.
const READ_LOG: &str = "read the agent's log (`journalctl -u demon-runtime`) and `demonctl events list`";

/// The checks, and the status document for whoever collects it.
pub(super) async fn check(agent: &AgentApi) -> (Vec<Check>, Value) {
    let url = &agent.url;
    let status = match agent.get("/api/contracts/status").await {
        Ok((StatusCode::OK, status)) => status,
        Ok((code, _)) => {
            return unreachable(Check::no(REACHABLE, format!("`{url}` answers HTTP {code}"), remedy(code)));
        }
        Err(reason) => {
            let remedy = "start the agent (`systemctl start demon-runtime`), or name its address with --agent-url";
            return unreachable(Check::no(REACHABLE, format!("`{url}`: {reason}"), remedy));
        }
    };
    let reachable = Check::yes(REACHABLE, format!("`{url}` answers"));
    let strict = match agent.get("/healthz/strict").await {
        Ok((StatusCode::OK, body)) => Check::yes(STRICT, loaded(&body)),
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
    let alerts = bundle["alerts"].as_array().into_iter().flatten();
    // The agent puts the worst first, and says what to do about it.
    let remedy = bundle["alerts"][0]["remediation"].as_str();
    let alerts: Vec<&str> = alerts.filter_map(|alert| alert["message"].as_str()).collect();
    let alerts = if alerts.is_empty() { String::new() } else { format!(": {}", alerts.join("; ")) };
    let status = bundle["status"].as_str().unwrap_or("unknown");
    let detail = match bundle["metadata"]["tag"].as_str() {
        Some(tag) => format!("{status}, release `{tag}`{alerts}"),
        None => format!("{status}{alerts}"),
    };
    match status {
        "loaded" if alerts.is_empty() => Check::yes(STATUS, detail),
        "loaded" => Check::warning(STATUS, detail, remedy.unwrap_or(READ_LOG)),
        "disabled" => {
            Check::warning(STATUS, detail, "DEMON_SKIP_CONTRACT_BUNDLE is on: unset it and restart the agent")
        }
        _ => Check::no(STATUS, detail, remedy.unwrap_or(READ_LOG)),
    }
}

/// What the answer says of each bundle's release.
fn loaded(body: &Value) -> String {
    let checks = body["checks"].as_object().into_iter().flatten();
    let of_release = checks.filter(|(name, _)| *name == "loaded" || name.ends_with(".loaded"));
    let details: Vec<&str> = of_release.filter_map(|(_, check)| check["detail"].as_str()).collect();
    if details.is_empty() { "every check passed".to_owned() } else { details.join("; ") }
}

fn reasons(body: &Value) -> String {
    let checks = body["checks"].as_object().into_iter().flatten();
    let failed = checks.filter(|(_, check)| check["ok"] == false);
    failed
        .map(|(name, check)| format!("{name}: {}", check["detail"].as_str().unwrap_or("-")))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn the_status_decides() {
        let outcome = |status: &str, alerts: Value| judge(&json!({ "status": status, "alerts": alerts })).outcome;
        assert_eq!(outcome("loaded", json!([])), Outcome::Yes);
        let alert = json!({ "severity": "warning", "message": "no connection", "remediation": "wait" });
        assert_eq!(outcome("loaded", json!([alert])), Outcome::Warning);
        assert_eq!(outcome("disabled", json!([])), Outcome::Warning);
        let tampered = json!({ "status": "stale", "alerts": [alert] });
        assert_eq!(judge(&tampered).remedy.as_deref(), Some("wait"), "the agent's own words");
        let body = json!({ "checks": { "loaded": { "ok": true, "detail": "loading is switched off" } } });
        assert_eq!(loaded(&body), "loading is switched off");
        for bad in ["verification_failed", "stale", "not_loaded", "something new"] {
            assert_eq!(outcome(bad, json!([])), Outcome::No, "{bad}");
        }
    }
}
