//! `GET /api/contracts/status`: the document that the operators' playbook and dashboards read.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

use crate::agent_view::{AgentView, BundleState, Cause};
use crate::failures::FailureKind;

const CONNECT: &str = "check NATS_URL, the login and the network; the agent keeps trying";
const PUBLISH: &str = "publish a release (`demonctl contracts publish`), or point the channel at one that may run \
                       (`demonctl channel promote`)";
const ASK_DOCTOR: &str =
    "`demonctl doctor` names what is wrong around this node; the agent's log says what came before";

/// The whole document.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct StatusDocument {
    #[serde(rename = "contractBundle")]
    contract_bundle: ContractBundle,
}

/// How the bundle stands. Keys are camel case but those of `metadata`, as the playbook has them.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContractBundle {
    status: &'static str,
    metadata: Option<Metadata>,
    alerts: Vec<Alert>,
    last_check: String,
    using_fallback: bool,
    cache_dir: Option<String>,
    source: &'static str,
    /// The release that waits in the cache to be promoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    staged: Option<String>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Metadata {
    tag: String,
    sha256: String,
    timestamp: Option<String>,
    git_sha: Option<String>,
    cached_at: String,
}

#[derive(Debug, Serialize, PartialEq)]
struct Alert {
    severity: Severity,
    message: String,
    remediation: String,
    timestamp: String,
}

#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
    Info,
}

impl StatusDocument {
    /// The document for the view of bundle `contracts` at a time; `None` where the agent does not run it.
    pub(super) fn new(view: Option<&AgentView>, stale_after: TimeDelta, now: DateTime<Utc>) -> Self {
        let contract_bundle = match view {
            Some(view) => ContractBundle::new(view, stale_after, now),
            None => ContractBundle::not_run(now),
        };
        Self { contract_bundle }
    }
}

impl ContractBundle {
    /// Contracts are not this agent's: as where loading is switched off, but for the reason.
    fn not_run(now: DateTime<Utc>) -> Self {
        let alert = Alert {
            severity: Severity::Info,
            message: "This agent runs no bundle `contracts`".to_owned(),
            remediation: "see /api/bundles for what it runs; name contracts with --bundle (DEMON_BUNDLE) to run it"
                .to_owned(),
            timestamp: text(now),
        };
        Self {
            status: BundleState::Disabled.as_str(),
            metadata: None,
            alerts: vec![alert],
            last_check: text(now),
            using_fallback: false,
            cache_dir: None,
            source: "disabled",
            staged: None,
        }
    }

    /// The same without the frame.
    pub(super) fn new(view: &AgentView, stale_after: TimeDelta, now: DateTime<Utc>) -> Self {
        let using_fallback = view.uses_fallback();
        Self {
            status: view.state(stale_after, now).as_str(),
            metadata: if view.disabled { None } else { metadata(view) },
            alerts: if view.disabled { Vec::new() } else { alerts(view, stale_after, now) },
            last_check: text(view.changed_at),
            using_fallback,
            cache_dir: (!view.disabled).then(|| view.cache.display().to_string()),
            source: match (view.disabled, using_fallback) {
                (true, _) => "disabled",
                (false, true) => "fallback",
                (false, false) => "primary",
            },
            staged: view.report.staged.as_ref().map(ToString::to_string),
        }
    }
}

fn metadata(view: &AgentView) -> Option<Metadata> {
    let active = view.report.active.as_ref()?;
    let manifest = view.manifest.as_ref();
    Some(Metadata {
        tag: active.tag.to_string(),
        sha256: active.content_digest.to_string(),
        timestamp: manifest.map(|manifest| manifest.timestamp.to_rfc3339_opts(SecondsFormat::Secs, true)),
        git_sha: manifest.map(|manifest| manifest.git.sha.clone()).or_else(|| view.git_sha.clone()),
        cached_at: text(active.loaded_at),
    })
}

/// What is wrong, worst first.
fn alerts(view: &AgentView, stale_after: TimeDelta, now: DateTime<Utc>) -> Vec<Alert> {
    let mut alerts = Vec::new();
    if let Some(trouble) = &view.trouble {
        let (severity, message) = match trouble.cause {
            Cause::Failed(FailureKind::Verification) => {
                (Severity::Error, format!("Bundle verification failed: {}", trouble.text))
            }
            Cause::Failed(FailureKind::Download) => {
                (Severity::Error, format!("Failed to download bundle: {}", trouble.text))
            }
            Cause::Withdrawn => (Severity::Warning, format!("Using fallback: {}", trouble.text)),
            Cause::Rejected => (Severity::Error, format!("Health check failed: {}", trouble.text)),
        };
        let remediation = trouble.remediation.clone();
        alerts.push(Alert { severity, message, remediation, timestamp: text(trouble.since) });
    }
    if let Some(message) = view.integrity_problem() {
        alerts.push(Alert {
            severity: Severity::Error,
            message,
            remediation: "find out who writes into the cache; `rm -rf` it and the agent fills it again".to_owned(),
            timestamp: text(view.integrity.tampering.as_ref().map_or(view.changed_at, |tampering| tampering.since)),
        });
    }
    if view.integrity.verification_skipped {
        alerts.push(Alert {
            severity: Severity::Warning,
            message: "Bundle verification is disabled".to_owned(),
            remediation: "unset DEMON_SKIP_BUNDLE_VERIFICATION and restart the agent".to_owned(),
            timestamp: text(view.report.started_at),
        });
    }
    if view.is_embedded() && view.trouble.is_none() {
        let (reason, remediation) = match view.unreachable() {
            Some(_) => ("the log could not be asked what is desired", CONNECT),
            None => ("the log names no release that this node could run", PUBLISH),
        };
        alerts.push(Alert {
            severity: Severity::Warning,
            message: format!("Using fallback schemas due to bundle load failure: {reason}"),
            remediation: remediation.to_owned(),
            timestamp: text(view.changed_at),
        });
    }
    if let Some((pinned, newer)) = &view.update {
        alerts.push(Alert {
            severity: Severity::Info,
            message: format!("Newer contract bundle version detected: {newer} (pinned to {pinned})"),
            remediation: "pin the newer release, or unset DEMON_CONTRACTS_TAG to follow the channel".to_owned(),
            timestamp: text(view.changed_at),
        });
    }
    if let Some(fault) = view.unreachable() {
        // With a release that was fetched before, an outage takes nothing away.
        let without_release = view.report.active.is_none() || view.is_embedded();
        alerts.push(Alert {
            severity: if without_release { Severity::Error } else { Severity::Warning },
            message: format!("No connection to NATS: {fault}"),
            remediation: CONNECT.to_owned(),
            timestamp: text(view.changed_at),
        });
    }
    if view.is_stale(stale_after, now)
        && let Some(manifest) = &view.manifest
    {
        let timestamp = manifest.timestamp.to_rfc3339_opts(SecondsFormat::Secs, true);
        alerts.push(Alert {
            severity: Severity::Warning,
            message: format!("Bundle may be stale (timestamp: {timestamp})"),
            remediation: "publish a newer release, or raise DEMON_CONTRACTS_STALE_THRESHOLD_HOURS".to_owned(),
            timestamp: text(view.changed_at),
        });
    }
    let not_loaded = view.state(stale_after, now) == BundleState::NotLoaded;
    alerts.extend(view.other_alarms().map(|alarm| Alert {
        severity: Severity::Warning,
        message: alarm.clone(),
        remediation: if not_loaded { PUBLISH } else { ASK_DOCTOR }.to_owned(),
        timestamp: text(view.changed_at),
    }));
    if alerts.is_empty() && not_loaded {
        alerts.push(Alert {
            severity: Severity::Warning,
            message: "No bundle is loaded yet".to_owned(),
            remediation: PUBLISH.to_owned(),
            timestamp: text(view.changed_at),
        });
    }
    // Those of one severity stay in the order they were made.
    alerts.sort_by_key(|alert| alert.severity);
    alerts
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, false)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::agent_view::tests::{at, trouble, view};

    fn document(view: &AgentView, now: DateTime<Utc>) -> Value {
        serde_json::to_value(StatusDocument::new(Some(view), TimeDelta::hours(24), now)).unwrap()
    }

    #[test]
    fn the_form_of_the_document_is_fixed() {
        let sha256 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
        assert_eq!(
            document(&view(), at(2, 0)),
            json!({ "contractBundle": {
                "status": "loaded",
                "metadata": {
                    "tag": "v1", "sha256": sha256, "timestamp": "2026-02-02T02:40:00Z", "git_sha": "0".repeat(40),
                    "cached_at": "2026-02-02T03:40:00+00:00"
                },
                "alerts": [],
                "lastCheck": "2026-02-02T03:40:00+00:00",
                "usingFallback": false,
                "cacheDir": ".demon/contracts",
                "source": "primary"
            } })
        );
    }

    #[test]
    fn a_release_that_waits_to_be_promoted_is_named() {
        let mut view = view();
        view.report.staged = Some("v2".parse().unwrap());
        let bundle = &document(&view, at(2, 0))["contractBundle"];
        assert_eq!((&bundle["status"], &bundle["staged"]), (&json!("loaded"), &json!("v2")));
    }

    #[test]
    fn a_refused_release_shows_both_digests_and_what_to_do() {
        let mut view = view();
        view.trouble = Some(trouble(Cause::Failed(FailureKind::Verification)));
        let bundle = &document(&view, at(2, 0))["contractBundle"];
        assert_eq!((&bundle["status"], &bundle["source"]), (&json!("verification_failed"), &json!("fallback")));
        let alert = &bundle["alerts"][0];
        assert_eq!(alert["severity"], "error");
        assert_eq!(alert["message"], "Bundle verification failed: SHA-256 mismatch: expected a, got b");
        assert_eq!(bundle["metadata"]["tag"], "v1", "the last good release is shown");
    }

    #[test]
    fn a_lost_connection_is_said_once_and_is_an_error_only_where_no_fetched_release_runs() {
        let mut view = view();
        (view.connected, view.connection_fault) = (false, Some("refused".to_owned()));
        view.report.alarms = vec!["refused".to_owned(), "two agents".to_owned()];
        let said = |view: &AgentView| {
            let alerts = document(view, at(2, 0))["contractBundle"]["alerts"].clone();
            let of = |alert: &Value| {
                format!("{}: {}", alert["severity"].as_str().unwrap(), alert["message"].as_str().unwrap())
            };
            alerts.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(said(&view), ["warning: No connection to NATS: refused", "warning: two agents"]);
        view.integrity.provenance = Some(crate::node_state::Provenance::Embedded);
        assert_eq!(said(&view)[0], "error: No connection to NATS: refused");
        view.connected = true;
        assert!(said(&view)[0].ends_with("the log names no release that this node could run"), "{:?}", said(&view));
    }

    #[test]
    fn every_state_but_loaded_and_disabled_has_an_alert() {
        let mut stale = view();
        assert_eq!(document(&stale, at(48, 0))["contractBundle"]["alerts"][0]["severity"], "warning");
        stale.report.active = None;
        stale.manifest = None;
        assert_eq!(document(&stale, at(48, 0))["contractBundle"]["alerts"][0]["severity"], "warning");
        stale.disabled = true;
        let disabled = &document(&stale, at(48, 0))["contractBundle"];
        assert_eq!(disabled["alerts"], json!([]));
        assert_eq!((&disabled["metadata"], &disabled["cacheDir"]), (&Value::Null, &Value::Null));
        assert_eq!((&disabled["status"], &disabled["source"]), (&json!("disabled"), &json!("disabled")));
    }
}
