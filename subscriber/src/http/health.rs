//! Health for probes: the process, readiness, and the strict check that says whether the running release can be trusted.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::agent_view::AgentView;

/// Answer of the strict check.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct StrictHealth {
    /// `ok` or `failing`.
    status: &'static str,
    checks: BTreeMap<&'static str, Check>,
    /// What is wrong but no reason to take the node out of service.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Check {
    ok: bool,
    detail: String,
}

impl StrictHealth {
    /// Judges the running release. A new release that was refused, a lost connection and staleness are warnings: traffic
    /// hangs on this check, and an outage elsewhere must not take every node out of service.
    pub(super) fn new(view: &AgentView, stale_after: TimeDelta, now: DateTime<Utc>) -> Self {
        let mut checks = BTreeMap::new();
        let loaded = match &view.report.active {
            Some(active) => Check { ok: true, detail: format!("release `{}` runs", active.tag) },
            None if view.disabled => Check { ok: true, detail: "loading is switched off".to_owned() },
            None => Check { ok: false, detail: "no verified release runs".to_owned() },
        };
        checks.insert("loaded", loaded);
        let intact = match view.integrity_problem() {
            Some(problem) => Check { ok: false, detail: problem },
            None => Check { ok: true, detail: "its bytes are what was announced".to_owned() },
        };
        checks.insert("intact", intact);
        let mut warnings: Vec<String> = view.trouble.iter().map(|trouble| trouble.text.clone()).collect();
        warnings.extend(view.unreachable().map(|fault| format!("no connection to NATS: {fault}")));
        if view.is_stale(stale_after, now) {
            warnings.push("the running release is stale".to_owned());
        }
        if view.disabled {
            warnings.push("loading of bundles is switched off".to_owned());
        }
        warnings.extend(view.report.alarms.iter().cloned());
        let status = if checks.values().all(|check| check.ok) { "ok" } else { "failing" };
        Self { status, checks, warnings }
    }

    /// Whether every check passed.
    pub(super) fn passed(&self) -> bool {
        self.checks.values().all(|check| check.ok)
    }
}

/// Whether the node can serve: a release runs, or loading is switched off.
pub(super) fn is_ready(view: &AgentView) -> bool {
    view.disabled || view.report.active.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_view::Cause;
    use crate::agent_view::tests::{at, trouble, view};
    use crate::failures::FailureKind;
    use crate::node_state::Provenance;

    #[test]
    fn only_the_running_release_decides() {
        let strict = |view: &AgentView| StrictHealth::new(view, TimeDelta::hours(24), at(100, 0));
        let mut view = view();
        view.trouble = Some(trouble(Cause::Failed(FailureKind::Verification)));
        view.connected = false;
        view.connection_fault = Some("refused".to_owned());
        assert!(strict(&view).passed());
        assert_eq!(strict(&view).warnings.len(), 3);
        view.report.active = None;
        assert!(!strict(&view).passed() && !is_ready(&view));
        view.disabled = true;
        assert!(strict(&view).passed() && is_ready(&view));
    }

    #[test]
    fn bytes_that_cannot_be_relied_on_fail_the_strict_check() {
        let passed = |view: &AgentView| StrictHealth::new(view, TimeDelta::hours(24), at(2, 0)).passed();
        assert!(passed(&view()));
        let mut unverified = view();
        unverified.integrity.provenance = Some(Provenance::Unverified);
        assert!(!passed(&unverified));
        let mut suspected = view();
        suspected.integrity.tamper_suspected = true;
        assert!(!passed(&suspected));
        let mut skipping = view();
        skipping.integrity.verification_skipped = true;
        assert!(passed(&skipping), "what runs was verified all the same");
    }
}
