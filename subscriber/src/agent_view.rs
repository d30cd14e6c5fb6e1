//! What an agent shows of one of its bundles, as of one instant: plain data, made by the reconcile loop and judged here.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use shared::identifiers::Tag;

use crate::conditions::Tampering;
use crate::config::{AgentConfig, BundleConfig};
use crate::failures::FailureKind;
use crate::node_report::NodeReport;
use crate::node_state::Provenance;

/// Everything that is shown of one bundle.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and any may hold beside any other")]
pub(crate) struct AgentView {
    /// What the node table says of it.
    pub report: NodeReport,
    /// Loading of bundles is switched off.
    pub disabled: bool,
    /// The cache directory.
    pub cache: PathBuf,
    /// Whether the log has said, since the start, what this node should run.
    pub looked: bool,
    /// Whether a connection stands, the log can be read over it, and news arrives.
    pub connected: bool,
    /// The running release was found in place at the start, and its files are being compared.
    pub verifying: bool,
    /// What the server or the network said last where none stands.
    pub connection_fault: Option<String>,
    /// Commit of the running release, where known.
    pub git_sha: Option<String>,
    /// What the running release's manifest says, where it has one.
    pub manifest: Option<ManifestFacts>,
    /// Why the desired release does not run.
    pub trouble: Option<Trouble>,
    /// The trial of the running release, while it lasts.
    pub trial: Option<TrialView>,
    /// The pinned release and a newer one.
    pub update: Option<(Tag, Tag)>,
    /// Whether the running release's bytes can be relied on.
    pub integrity: Integrity,
    /// When any of this last changed.
    pub changed_at: DateTime<Utc>,
}

/// A release that runs and has not yet proved itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrialView {
    /// The release.
    pub tag: Tag,
    /// Number of the switch to it.
    pub activation_epoch: u64,
    /// Since when, by this node's clock.
    pub since: DateTime<Utc>,
    /// What the last check found wrong, where that does not count yet.
    pub complaint: Option<String>,
}

/// Whether the running release's bytes can be relied on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Integrity {
    /// What is known of them; `None` where nothing runs.
    pub provenance: Option<Provenance>,
    /// What is wrong with the running release's files, as long as it is.
    pub tampering: Option<Tampering>,
    /// The files may have changed and have not been compared since; told only where that counts (`DEMON_TAMPER=strict`).
    pub tamper_suspected: bool,
    /// Verification is switched off by the emergency flag.
    pub verification_skipped: bool,
}

/// What the agent reads from a contracts release's `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ManifestFacts {
    /// When the release was made.
    pub timestamp: DateTime<Utc>,
    /// The commit it was made from.
    pub git: ManifestGit,
}

/// The manifest's part about git.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ManifestGit {
    /// The commit, 40 hex digits.
    pub sha: String,
}

/// A desired release that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// What kind.
    pub cause: Cause,
    /// The release that is wanted.
    pub tag: Tag,
    /// In words.
    pub text: String,
    /// What an operator can do.
    pub remediation: String,
    /// Since when, by this node's clock.
    pub since: DateTime<Utc>,
}

/// Why a desired release does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An attempt failed.
    Failed(FailureKind),
    /// It is withdrawn; another one runs instead.
    Withdrawn,
    /// It ran and failed its health check; another one runs instead, where there is one.
    Rejected,
}

/// The one word for how a bundle stands. The words of the API and the metric; the latter calls one of them otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BundleState {
    /// The desired release runs.
    Loaded,
    /// Nothing runs, and nothing failed.
    NotLoaded,
    /// Loading is switched off.
    Disabled,
    /// The running release is older than it should be.
    Stale,
    /// Another release than the desired one runs, and nothing failed.
    UsingFallback,
    /// The desired release's bytes are wrong.
    VerificationFailed,
    /// The desired release cannot be had.
    DownloadError,
}

impl BundleState {
    /// Every state: what the metric has a series for.
    pub(crate) const ALL: [Self; 7] = [
        Self::Loaded,
        Self::NotLoaded,
        Self::Disabled,
        Self::Stale,
        Self::UsingFallback,
        Self::VerificationFailed,
        Self::DownloadError,
    ];

    /// The word in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::NotLoaded => "not_loaded",
            Self::Disabled => "disabled",
            Self::Stale => "stale",
            Self::UsingFallback => "using_fallback",
            Self::VerificationFailed => "verification_failed",
            Self::DownloadError => "download_error",
        }
    }

    /// The word in the metric's label, which alert rules rely on.
    pub(crate) fn metric_label(self) -> &'static str {
        match self {
            Self::UsingFallback => "fallback",
            Self::Loaded
            | Self::NotLoaded
            | Self::Disabled
            | Self::Stale
            | Self::VerificationFailed
            | Self::DownloadError => self.as_str(),
        }
    }
}

impl AgentView {
    /// What is shown before anything is known but the node's own words.
    pub(crate) fn at_start(report: NodeReport, config: &AgentConfig, target: &BundleConfig) -> Self {
        Self {
            changed_at: report.started_at,
            report,
            disabled: config.emergency.skip_contract_bundle,
            cache: target.cache.clone(),
            looked: false,
            connected: false,
            verifying: false,
            connection_fault: None,
            git_sha: None,
            manifest: None,
            trouble: None,
            trial: None,
            update: None,
            integrity: Integrity {
                verification_skipped: config.integrity.skip_bundle_verification,
                ..Integrity::default()
            },
        }
    }

    /// How the bundle stands. A cause comes before what follows from it, so that alerts on the cause fire.
    pub(crate) fn state(&self, stale_after: TimeDelta, now: DateTime<Utc>) -> BundleState {
        if self.disabled {
            return BundleState::Disabled;
        }
        match self.trouble.as_ref().map(|trouble| trouble.cause) {
            Some(Cause::Failed(FailureKind::Verification)) => return BundleState::VerificationFailed,
            Some(Cause::Failed(FailureKind::Download)) => return BundleState::DownloadError,
            Some(Cause::Withdrawn | Cause::Rejected) if self.uses_fallback() => return BundleState::UsingFallback,
            Some(Cause::Withdrawn | Cause::Rejected) | None => {}
        }
        match &self.report.active {
            None if self.unreachable().is_some() => BundleState::DownloadError,
            None => BundleState::NotLoaded,
            Some(_) if self.is_embedded() && self.unreachable().is_some() => BundleState::DownloadError,
            Some(_) if self.is_embedded() => BundleState::UsingFallback,
            Some(_) if self.is_stale(stale_after, now) => BundleState::Stale,
            Some(_) => BundleState::Loaded,
        }
    }

    /// What the network or the server said, where no connection stands and something was said.
    pub(crate) fn unreachable(&self) -> Option<&str> {
        self.connection_fault.as_deref().filter(|_| !self.connected)
    }

    /// The alarms that are not said already by the connection's fault or by what is wrong with the running files.
    pub(crate) fn other_alarms(&self) -> impl Iterator<Item = &String> {
        let integrity = self.integrity_problem();
        let said =
            move |alarm: &&String| integrity.as_ref() != Some(*alarm) && self.unreachable() != Some(alarm.as_str());
        self.report.alarms.iter().filter(said)
    }

    /// Whether another release than the desired one serves.
    pub(crate) fn uses_fallback(&self) -> bool {
        let Some(active) = &self.report.active else { return false };
        let is_other = |trouble: &Trouble| trouble.cause != Cause::Rejected || trouble.tag != active.tag;
        !self.disabled && (self.is_embedded() || self.trouble.as_ref().is_some_and(is_other))
    }

    /// Whether the running release failed its health check, and there is no other.
    pub(crate) fn runs_rejected(&self) -> bool {
        let rejected = self.trouble.as_ref().filter(|trouble| trouble.cause == Cause::Rejected);
        rejected.zip(self.report.active.as_ref()).is_some_and(|(rejected, active)| rejected.tag == active.tag)
    }

    /// Why the running release's bytes cannot be relied on, for the strict health check; `None` where they can.
    pub(crate) fn integrity_problem(&self) -> Option<String> {
        self.report.active.as_ref()?;
        if self.integrity.provenance == Some(Provenance::Unverified) {
            return Some(
                "the running release is not verified: DEMON_SKIP_BUNDLE_VERIFICATION let it through".to_owned(),
            );
        }
        if let Some(tampering) = &self.integrity.tampering {
            return Some(tampering.describe());
        }
        self.integrity.tamper_suspected.then(|| "files of the running release may have been changed on disk".to_owned())
    }

    /// Whether the schemas that are compiled into the agent serve.
    pub(crate) fn is_embedded(&self) -> bool {
        self.integrity.provenance == Some(Provenance::Embedded)
    }

    /// Age of the running release, by its manifest. A time that lies ahead counts as no age.
    pub(crate) fn age(&self, now: DateTime<Utc>) -> Option<TimeDelta> {
        // Nobody knows how old the embedded schemas are.
        let manifest = self.manifest.as_ref().filter(|_| self.report.active.is_some() && !self.is_embedded())?;
        Some((now - manifest.timestamp).max(TimeDelta::zero()))
    }

    /// Whether the running release is older than the limit, in whole hours: 24 hours and 59 minutes are not over 24.
    pub(crate) fn is_stale(&self, stale_after: TimeDelta, now: DateTime<Utc>) -> bool {
        self.age(now).is_some_and(|age| age.num_hours() > stale_after.num_hours())
    }
}

/// Age in whole hours; a time that lies ahead counts as none.
pub(crate) fn age_in_hours(made_at: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (now - made_at).max(TimeDelta::zero()).num_hours()
}

#[cfg(test)]
pub(crate) mod tests {
    use shared::digest::Sha256Digest;
    use shared::identifiers::Incarnation;
    use uuid::Uuid;

    use super::*;
    use crate::node_report::ActiveReport;

    pub(crate) fn at(hours: i64, minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_770_000_000 + hours * 3600 + minutes * 60, 0).unwrap()
    }

    /// A node that runs `v1`, made at hour 0, and wants it.
    pub(crate) fn view() -> AgentView {
        let digest = Sha256Digest::of(b"1");
        AgentView {
            report: NodeReport {
                node: "edge-17".parse().unwrap(),
                bundle: "contracts".parse().unwrap(),
                channel: Some("latest".parse().unwrap()),
                pinned: None,
                active: Some(ActiveReport {
                    tag: "v1".parse().unwrap(),
                    tree_digest: digest,
                    content_digest: digest,
                    loaded_at: at(1, 0),
                }),
                previous: None,
                desired: Some("v1".parse().unwrap()),
                staged: None,
                last_sequence: 7,
                logged: None,
                waiting_events: 0,
                incarnation: Incarnation::from_uuid(Uuid::from_u128(1)),
                version: "0.1.0".to_owned(),
                alarms: Vec::new(),
                started_at: at(1, 0),
            },
            disabled: false,
            cache: PathBuf::from(".demon/contracts"),
            looked: true,
            connected: true,
            verifying: false,
            connection_fault: None,
            git_sha: None,
            manifest: Some(ManifestFacts { timestamp: at(0, 0), git: ManifestGit { sha: "0".repeat(40) } }),
            trouble: None,
            trial: None,
            update: None,
            integrity: Integrity { provenance: Some(Provenance::Verified), ..Integrity::default() },
            changed_at: at(1, 0),
        }
    }

    pub(crate) fn trouble(cause: Cause) -> Trouble {
        Trouble {
            cause,
            tag: "v2".parse().unwrap(),
            text: "SHA-256 mismatch: expected a, got b".to_owned(),
            remediation: "publish it again".to_owned(),
            since: at(2, 0),
        }
    }

    fn state(view: &AgentView, now: DateTime<Utc>) -> &'static str {
        view.state(TimeDelta::hours(24), now).as_str()
    }

    #[test]
    fn age_is_counted_in_whole_hours_over_the_limit() {
        let view = view();
        for (now, expected) in
            [(at(23, 59), "loaded"), (at(24, 0), "loaded"), (at(24, 59), "loaded"), (at(25, 0), "stale")]
        {
            assert_eq!(state(&view, now), expected, "{now}");
        }
        assert_eq!(view.age(at(-5, 0)), Some(TimeDelta::zero()), "a manifest from the future has no age");
    }

    #[test]
    fn the_cause_comes_first() {
        let mut view = view();
        for (cause, expected) in [
            (Cause::Failed(FailureKind::Verification), "verification_failed"),
            (Cause::Failed(FailureKind::Download), "download_error"),
            (Cause::Withdrawn, "using_fallback"),
        ] {
            view.trouble = Some(trouble(cause));
            assert_eq!(state(&view, at(100, 0)), expected);
            assert!(view.uses_fallback());
        }
        view.disabled = true;
        assert_eq!((state(&view, at(100, 0)), view.uses_fallback()), ("disabled", false));
    }

    #[test]
    fn the_embedded_schemas_are_a_fallback_whatever_the_cause_and_have_no_age() {
        let mut view = view();
        view.integrity.provenance = Some(Provenance::Embedded);
        assert_eq!((state(&view, at(100, 0)), view.uses_fallback()), ("using_fallback", true));
        view.trouble = Some(trouble(Cause::Failed(FailureKind::Download)));
        assert_eq!((state(&view, at(100, 0)), view.uses_fallback()), ("download_error", true));
        view.trouble = None;
        (view.connected, view.connection_fault) = (false, Some("connection refused".to_owned()));
        assert_eq!((state(&view, at(100, 0)), view.uses_fallback()), ("download_error", true));
        assert_eq!(view.age(at(100, 0)), None);
    }

    #[test]
    fn a_lost_connection_matters_only_where_nothing_runs() {
        let mut view = view();
        view.connected = false;
        view.connection_fault = Some("connection refused".to_owned());
        assert_eq!(state(&view, at(2, 0)), "loaded");
        view.report.active = None;
        assert_eq!(state(&view, at(2, 0)), "download_error");
        view.connection_fault = None;
        assert_eq!(state(&view, at(2, 0)), "not_loaded");
    }
}
