//! Health for probes: the process, readiness, and the strict check that says whether the running release can be trusted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::agent_view::AgentView;
use crate::config::Requirement;

/// What the strict check judges by.
#[derive(Debug, Clone)]
pub(super) struct StrictRules {
    /// Age above which a release is stale.
    pub(super) stale_after: TimeDelta,
    /// What is demanded, and not only warned of.
    pub(super) requires: BTreeSet<Requirement>,
}

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

impl Check {
    fn of(fault: Option<String>, otherwise: &str) -> Self {
        Self { ok: fault.is_none(), detail: fault.unwrap_or_else(|| otherwise.to_owned()) }
    }
}

impl StrictHealth {
    /// Judges the running release. A new release that was refused, a lost connection, a trial and staleness are warnings
    /// unless they are demanded: traffic hangs on this check, and an outage elsewhere must not take every node out of
    /// service.
    pub(super) fn new(view: &AgentView, rules: &StrictRules, now: DateTime<Utc>) -> Self {
        let mut checks = BTreeMap::new();
        let loaded = match &view.report.active {
            Some(active) => Check { ok: true, detail: format!("release `{}` runs", active.tag) },
            None if view.disabled => Check { ok: true, detail: "loading is switched off".to_owned() },
            None => Check { ok: false, detail: "no verified release runs".to_owned() },
        };
        checks.insert("loaded".into(), loaded);
        let verifying = view.verifying.then(|| "its files are being compared since the start".to_owned());
        checks.insert("verified".into(), Check::of(verifying, "its files are what was announced"));
        let unwell = view.trouble.as_ref().filter(|_| view.runs_rejected()).map(|trouble| trouble.text.clone());
        checks.insert("healthy".into(), Check::of(unwell, "it did not fail its health check"));

        checks.insert("intact".into(), Check::of(view.integrity_problem(), "its bytes are what was announced"));
        let mut warnings: Vec<String> = view.trouble.iter().map(|trouble| trouble.text.clone()).collect();
        for requirement in Requirement::ALL {
            let fault = missing(requirement, view, rules.stale_after, now);
            if rules.requires.contains(&requirement) {
                checks.insert(requirement.as_str().into(), Check::of(fault, "demanded by DEMON_STRICT_REQUIRES"));
            } else if requirement != Requirement::Converged || view.trouble.is_none() {
                // Trouble is why the desired release does not run, and was said already.
                warnings.extend(fault);
            }
        }
        if view.disabled {
            warnings.push("loading of bundles is switched off".to_owned());
        }
        warnings.extend(view.other_alarms().cloned());
        let status = if checks.values().all(|check| check.ok) { "ok" } else { "failing" };
        Self { status, checks, warnings }
    }

    /// Judges every bundle: each must pass. Of several, each check and warning names its bundle.
    pub(super) fn of_all(views: &[AgentView], rules: &StrictRules, now: DateTime<Utc>) -> Self {
        if let [view] = views {
            return Self::new(view, rules, now);
        }
        let mut all = Self { status: "ok", checks: BTreeMap::new(), warnings: Vec::new() };
        for view in views {
            let (bundle, health) = (&view.report.bundle, Self::new(view, rules, now));
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

/// What is missing for a requirement to be met. A node that is told to load nothing needs nothing.
fn missing(requirement: Requirement, view: &AgentView, stale_after: TimeDelta, now: DateTime<Utc>) -> Option<String> {
    if view.disabled {
        return None;
    }
    match requirement {
        Requirement::Connected => {
            let fault = || {
                view.connection_fault
                    .as_deref()
                    .unwrap_or("not yet, or the log cannot be read, or news does not arrive")
            };
            (!view.connected).then(|| format!("no connection to NATS: {}", fault()))
        }
        Requirement::Fresh => view.is_stale(stale_after, now).then(|| "the running release is stale".to_owned()),
        Requirement::Converged => {
            let active = view.report.active.as_ref().map(|active| &active.tag);
            let desired = view.report.desired.as_ref();
            match (desired, &view.trouble) {
                (_, Some(trouble)) => Some(trouble.text.clone()),
                (None, None) => Some("which release is desired is not known".to_owned()),
                (Some(desired), None) if Some(desired) != active => {
                    Some(format!("release `{desired}` does not run yet"))
                }
                (Some(_), None) => None,
            }
        }
        Requirement::Proven => view.trial.as_ref().map(|trial| {
            let complaint = trial.complaint.as_ref().map(|complaint| format!(" ({complaint})")).unwrap_or_default();
            format!("release `{}` is on trial{complaint}", trial.tag)
        }),
    }
}

/// Whether the node can serve: a release runs, or loading is switched off.
pub(super) fn is_ready(view: &AgentView) -> bool {
    view.disabled || view.report.active.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_view::tests::{at, trouble, view};
    use crate::agent_view::{Cause, TrialView};
    use crate::failures::FailureKind;
    use crate::node_state::Provenance;

    fn strict(view: &AgentView, requires: &[Requirement]) -> StrictHealth {
        let rules = StrictRules { stale_after: TimeDelta::hours(24), requires: requires.iter().copied().collect() };
        StrictHealth::new(view, &rules, at(100, 0))
    }

    fn failing(health: &StrictHealth) -> Vec<&str> {
        health.checks.iter().filter(|(_, check)| !check.ok).map(|(name, _)| name.as_ref()).collect()
    }

    #[test]
    fn only_the_running_release_decides() {
        let mut view = view();
        view.trouble = Some(trouble(Cause::Failed(FailureKind::Verification)));
        view.connected = false;
        view.connection_fault = Some("refused".to_owned());
        assert!(strict(&view, &[]).passed());
        assert_eq!(strict(&view, &[]).warnings.len(), 3);
        let runs = view.clone();
        view.report.active = None;
        view.report.bundle = "policies".parse().unwrap();
        assert!(!strict(&view, &[]).passed() && !is_ready(&view));
        let rules = StrictRules { stale_after: TimeDelta::hours(24), requires: BTreeSet::new() };
        let both = StrictHealth::of_all(&[runs, view.clone()], &rules, at(100, 0));
        assert!(!both.passed());
        assert_eq!(failing(&both), ["policies.loaded"]);
        view.disabled = true;
        assert!(strict(&view, &Requirement::ALL).passed() && is_ready(&view));
    }

    type Break = fn(&mut AgentView);

    #[test]
    fn each_check_fails_alone() {
        let healthy = || {
            let mut view = view();
            view.manifest = None;
            view
        };
        assert!(strict(&healthy(), &Requirement::ALL).passed());
        let cases: [(&str, Break); 6] = [
            ("verified", |view| view.verifying = true),
            ("healthy", |view| {
                view.trouble =
                    Some(crate::agent_view::Trouble { tag: "v1".parse().unwrap(), ..trouble(Cause::Rejected) });
            }),
            ("connected", |view| view.connected = false),
            ("converged", |view| view.report.desired = Some("v2".parse().unwrap())),
            ("fresh", |view| view.manifest = crate::agent_view::tests::view().manifest),
            ("proven", |view| {
                let (tag, since) = ("v1".parse().unwrap(), at(1, 0));
                view.trial = Some(TrialView { tag, activation_epoch: 1, since, complaint: None });
            }),
        ];
        for (check, break_it) in cases {
            let mut broken = healthy();
            break_it(&mut broken);
            let demanded: Vec<Requirement> =
                Requirement::ALL.into_iter().filter(|requirement| requirement.as_str() == check).collect();
            assert_eq!(failing(&strict(&broken, &demanded)), [check]);
            let without = strict(&broken, &[]);
            assert_eq!(without.passed(), !demanded.is_empty(), "{check}");
            assert!(demanded.is_empty() || !without.warnings.is_empty(), "{check} is shown as a warning");
        }
    }

    #[test]
    fn bytes_that_cannot_be_relied_on_fail_the_strict_check() {
        let passed = |view: &AgentView| strict(view, &[]).passed();
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
