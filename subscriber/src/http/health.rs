//! Health for probes: the process, readiness, and the strict check that says whether the running release can be trusted.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::agent_view::AgentView;

/// Answer of the strict check.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct StrictHealth {
    /// `ok` or `failing`.
    status: &'static str,
    checks: BTreeMap<Cow<'static, str>, Check>,
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
        checks.insert("loaded".into(), loaded);
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

    /// Judges every bundle: each must pass. Of several, each check and warning names its bundle.
    pub(super) fn of_all(views: &[AgentView], stale_after: TimeDelta, now: DateTime<Utc>) -> Self {
        if let [view] = views {
            return Self::new(view, stale_after, now);
        }
        let mut all = Self { status: "ok", checks: BTreeMap::new(), warnings: Vec::new() };
        for view in views {
            let (bundle, health) = (&view.report.bundle, Self::new(view, stale_after, now));
            if !health.passed() {
                all.status = health.status;
            }
            all.checks
                .extend(health.checks.into_iter().map(|(name, check)| (format!("{bundle}.{name}").into(), check)));
            all.warnings.extend(health.warnings.into_iter().map(|warning| format!("{bundle}: {warning}")));
        }
        all
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

    #[test]
    fn only_the_running_release_decides() {
        let strict = |view: &AgentView| StrictHealth::new(view, TimeDelta::hours(24), at(100, 0));
        let mut view = view();
        view.trouble = Some(trouble(Cause::Failed(FailureKind::Verification)));
        view.connected = false;
        view.connection_fault = Some("refused".to_owned());
        assert!(strict(&view).passed());
        assert_eq!(strict(&view).warnings.len(), 3);
        let runs = view.clone();
        view.report.active = None;
        view.report.bundle = "policies".parse().unwrap();
        assert!(!strict(&view).passed() && !is_ready(&view));
        let both = StrictHealth::of_all(&[runs, view.clone()], TimeDelta::hours(24), at(100, 0));
        assert!(!both.passed());
        assert_eq!(both.checks.keys().collect::<Vec<_>>(), ["contracts.loaded", "policies.loaded"]);
        view.disabled = true;
        assert!(strict(&view).passed() && is_ready(&view));
    }
}
