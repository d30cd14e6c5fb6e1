//! A release on trial: it runs already, and has to prove itself before the node calls it good. Pure decisions.
//!
//! ```text
//! switched ─► on trial ─► every check passes until the window is over ─► good
//!                 └────► a check fails (after the grace, or after one had passed) ─► rejected, the last good one returns
//! ```
//!
//! What is decided here from the findings of checks is carried out in `reconcile`, and remembered by [`TrialBook`].

mod book;

use std::time::Duration;

pub(crate) use self::book::{Rejected, Rejection, TrialBook, TrialStart};

/// What a release has to do to be called good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TrialRules {
    /// It is checked for so long.
    pub window: Duration,
    /// Failures in the beginning do not count for so long, until a check has passed: the application needs time to load it.
    pub grace: Duration,
    /// Time from the end of one check to the beginning of the next.
    pub interval: Duration,
    /// Failures in a row that end the trial.
    pub failures: u32,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The application is well, with this release.
    Passed,
    /// It is not, for this reason.
    Failed(String),
}

/// What follows from a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TrialStep {
    /// Check again after this time.
    CheckAfter(Duration),
    /// The release is good.
    Keep,
    /// The release is rejected, for this reason.
    Reject(String),
}

/// How far a trial has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TrialProgress {
    passed_once: bool,
    failures_in_a_row: u32,
}

impl TrialProgress {
    /// Judges a check. `started` and `ended` are counted from the beginning of the trial.
    ///
    /// A release is good only after a check that passed and had begun when the window was over: one that was asked earlier
    /// says nothing about the end.
    pub(crate) fn judge(
        &mut self,
        rules: &TrialRules,
        finding: Finding,
        started: Duration,
        ended: Duration,
    ) -> TrialStep {
        match finding {
            Finding::Passed => {
                self.passed_once = true;
                self.failures_in_a_row = 0;
                if started >= rules.window {
                    return TrialStep::Keep;
                }
            }
            Finding::Failed(_) if !self.passed_once && started < rules.grace => {}
            Finding::Failed(reason) => {
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                if self.failures_in_a_row >= rules.failures {
                    return TrialStep::Reject(reason);
                }
            }
        }
        // The end of the grace and of the window are not slept over.
        let until = [rules.grace, rules.window].into_iter().filter_map(|end| end.checked_sub(ended));
        let pause = until.filter(|left| !left.is_zero()).fold(rules.interval, Duration::min);
        TrialStep::CheckAfter(pause)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const RULES: TrialRules = TrialRules {
        window: Duration::from_secs(30),
        grace: Duration::from_secs(5),
        interval: Duration::from_secs(2),
        failures: 1,
    };

    fn failed() -> Finding {
        Finding::Failed("503".to_owned())
    }

    /// Judges a finding at a second; checks take no time.
    fn at(progress: &mut TrialProgress, finding: Finding, second: u64) -> TrialStep {
        let time = Duration::from_secs(second);
        progress.judge(&RULES, finding, time, time)
    }

    fn after(seconds: u64) -> TrialStep {
        TrialStep::CheckAfter(Duration::from_secs(seconds))
    }

    #[test]
    fn it_must_pass_to_the_end_of_the_window() {
        let mut progress = TrialProgress::default();
        assert_eq!(at(&mut progress, Finding::Passed, 0), after(2));
        assert_eq!(at(&mut progress, Finding::Passed, 29), after(1));
        assert_eq!(at(&mut progress, Finding::Passed, 30), TrialStep::Keep);
    }

    #[test]
    fn a_check_that_began_before_the_end_does_not_decide_it() {
        let mut progress = TrialProgress::default();
        let step = progress.judge(&RULES, Finding::Passed, Duration::from_secs(29), Duration::from_secs(33));
        assert_eq!(step, after(2));
    }

    #[test]
    fn the_application_has_time_to_load_the_release_but_only_once() {
        let mut progress = TrialProgress::default();
        assert_eq!(at(&mut progress, failed(), 0), after(2));
        assert_eq!(at(&mut progress, failed(), 4), after(1));
        assert_eq!(at(&mut progress.clone(), failed(), 5), TrialStep::Reject("503".to_owned()));
        assert_eq!(at(&mut progress, Finding::Passed, 4), after(1));
        assert_eq!(at(&mut progress, failed(), 4), TrialStep::Reject("503".to_owned()));
    }

    #[test]
    fn several_failures_in_a_row_may_be_asked_for() {
        let rules = TrialRules { failures: 2, grace: Duration::ZERO, ..RULES };
        let mut progress = TrialProgress::default();
        let mut judge = |finding, second| {
            let time = Duration::from_secs(second);
            progress.judge(&rules, finding, time, time)
        };
        assert_eq!(judge(failed(), 0), after(2));
        assert_eq!(judge(Finding::Passed, 2), after(2));
        assert_eq!(judge(failed(), 30), after(2));
        assert_eq!(judge(failed(), 32), TrialStep::Reject("503".to_owned()));
    }

    proptest! {
        /// Whatever the checks find and however long they take, a trial ends, and never with a release called good whose
        /// last check failed or began before the window was over.
        #[test]
        fn a_trial_ends_and_only_proof_at_the_end_makes_a_release_good(
            window in 1_u64..120, grace in 0_u64..60, interval in 1_u64..10, failures in 1_u32..4,
            checks in vec((any::<bool>(), 0_u64..8), 1..200),
        ) {
            let rules = TrialRules {
                window: Duration::from_secs(window),
                grace: Duration::from_secs(grace.min(window)),
                interval: Duration::from_secs(interval),
                failures,
            };
            let (mut progress, mut now, mut in_a_row) = (TrialProgress::default(), Duration::ZERO, 0);
            let mut passed_once = false;
            for (passes, takes) in checks {
                let started = now;
                now += Duration::from_secs(takes);
                let finding = if passes { Finding::Passed } else { failed() };
                let counts = passed_once || started >= rules.grace;
                in_a_row = if passes { 0 } else { in_a_row + u32::from(counts) };
                passed_once |= passes;
                match progress.judge(&rules, finding, started, now) {
                    TrialStep::Keep => {
                        prop_assert!(passes && started >= rules.window);
                        return Ok(());
                    }
                    TrialStep::Reject(_) => {
                        prop_assert!(!passes && in_a_row >= failures);
                        return Ok(());
                    }
                    TrialStep::CheckAfter(pause) => {
                        prop_assert!(!pause.is_zero() && pause <= rules.interval);
                        prop_assert!(!(passes && started >= rules.window), "it had proved itself");
                        prop_assert!(in_a_row < failures, "it had failed");
                        now += pause;
                    }
                }
            }
        }
    }
}
