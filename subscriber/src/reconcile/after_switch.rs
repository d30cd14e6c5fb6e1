//! What follows a switch while the agent goes on: the application is told, then asked until its trial is over.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::activation_facts::ActivationFacts;
use crate::config::AfterSwitchConfig;
use crate::health_check::HealthCheck;
use crate::switch_hook::{RETRY_PAUSES, SwitchHook, SwitchNews};
use crate::trial::{Finding, TrialProgress, TrialRules, TrialStep};

/// How far it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Aftermath {
    /// What came of telling the application, as far as it was tried.
    pub(super) hook: Option<HookState>,
    /// What the last check found wrong, where that does not count yet.
    pub(super) complaint: Option<String>,
    /// How the trial ended.
    pub(super) trial: Option<TrialEnd>,
}

/// What came of telling the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HookState {
    /// It was told.
    Told,
    /// That failed and is tried again.
    Failing(String),
    /// That failed too often: it is told of the next switch.
    GivenUp(String),
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TrialEnd {
    /// Well.
    Kept,
    /// Badly, for this reason.
    Rejected(String),
}

/// The work that one switch caused. Dropped, it ends at once, with every process it started.
#[derive(Debug)]
pub(super) struct AfterSwitch {
    facts: ActivationFacts,
    aftermath: watch::Receiver<Aftermath>,
    _task: AbortOnDropHandle<()>,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct AfterSwitchWork {
    /// Tell the application.
    pub(super) tell: Option<(SwitchHook, Duration)>,
    /// Put the release on trial.
    pub(super) check: Option<(HealthCheck, Duration, TrialRules)>,
}

impl AfterSwitchWork {
    /// Everything that the settings name.
    pub(super) fn of(config: &AfterSwitchConfig) -> Self {
        let tell = config.on_switch.clone().map(|hook| (hook, config.on_switch_timeout));
        let check = config.health_check.clone();
        Self { tell, check: check.map(|check| (check, config.health_timeout, config.trial_rules())) }
    }

    async fn run(self, news: SwitchNews, shown: watch::Sender<Aftermath>) {
        let Some((hook, limit)) = self.tell else {
            return check(self.check, &news.facts, &shown).await;
        };
        // The application cannot be well with a release that it has not heard of.
        let told = tell_once(&hook, &news, limit, &shown).await;
        let again = async {
            if !told {
                tell_again(&hook, &news, limit, &shown).await;
            }
        };
        tokio::join!(again, check(self.check, &news.facts, &shown));
    }
}

impl AfterSwitch {
    /// Starts the work; `None` where there is none.
    pub(super) fn start(work: AfterSwitchWork, news: SwitchNews) -> Option<Self> {
        if work.tell.is_none() && work.check.is_none() {
            return None;
        }
        let (shown, aftermath) = watch::channel(Aftermath::default());
        let facts = news.facts.clone();
        let task = tokio::spawn(work.run(news, shown));
        Some(Self { facts, aftermath, _task: AbortOnDropHandle::new(task) })
    }

    /// The switch it is about.
    pub(super) fn facts(&self) -> &ActivationFacts {
        &self.facts
    }

    /// How far it has come; noted as seen.
    pub(super) fn seen(&mut self) -> Aftermath {
        self.aftermath.borrow_and_update().clone()
    }

    /// How far it has come.
    pub(super) fn aftermath(&self) -> Aftermath {
        self.aftermath.borrow().clone()
    }

    /// Waits until it has come further than what was seen; for ever once it is over. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.aftermath.changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Waits until the trial has ended badly; for ever where it does not. Cancel safe.
    pub(super) fn failed(&self) -> impl Future<Output = ()> + use<> {
        let mut aftermath = self.aftermath.clone();
        async move {
            let failed = |aftermath: &Aftermath| matches!(aftermath.trial, Some(TrialEnd::Rejected(_)));
            if aftermath.wait_for(failed).await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

async fn tell_once(hook: &SwitchHook, news: &SwitchNews, limit: Duration, shown: &watch::Sender<Aftermath>) -> bool {
    let told = hook.tell(news, limit).await;
    let is_told = told.is_ok();
    shown.send_modify(|shown| {
        shown.hook = Some(match told {
            Ok(()) => HookState::Told,
            Err(reason) => HookState::Failing(reason),
        });
    });
    is_told
}

async fn tell_again(hook: &SwitchHook, news: &SwitchNews, limit: Duration, shown: &watch::Sender<Aftermath>) {
    for pause in RETRY_PAUSES {
        sleep(pause).await;
        if tell_once(hook, news, limit, shown).await {
            return;
        }
    }
    shown.send_modify(|shown| {
        if let Some(HookState::Failing(reason)) = shown.hook.take() {
            shown.hook = Some(HookState::GivenUp(reason));
        }
    });
}

async fn check(
    check: Option<(HealthCheck, Duration, TrialRules)>,
    facts: &ActivationFacts,
    shown: &watch::Sender<Aftermath>,
) {
    let Some((check, limit, rules)) = check else { return };
    let (mut progress, begun) = (TrialProgress::default(), Instant::now());
    let end = loop {
        let started = begun.elapsed();
        let finding = check.ask(facts, limit).await;
        let complaint = match &finding {
            Finding::Passed => None,
            Finding::Failed(reason) => Some(reason.clone()),
        };
        match progress.judge(&rules, finding, started, begun.elapsed()) {
            TrialStep::CheckAfter(pause) => {
                shown.send_if_modified(|shown| {
                    let changed = shown.complaint != complaint;
                    shown.complaint = complaint;
                    changed
                });
                sleep(pause).await;
            }
            TrialStep::Keep => break TrialEnd::Kept,
            TrialStep::Reject(reason) => break TrialEnd::Rejected(reason),
        }
    };
    shown.send_modify(|shown| {
        shown.complaint = None;
        shown.trial = Some(end);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation_facts::tests::facts;

    const RULES: TrialRules = TrialRules {
        window: Duration::from_millis(200),
        grace: Duration::ZERO,
        interval: Duration::from_millis(20),
        failures: 1,
    };

    fn words(script: &str) -> String {
        serde_json::to_string(&["sh", "-c", script]).unwrap()
    }

    fn work(tell: Option<&str>, check: Option<&str>) -> AfterSwitchWork {
        let limit = Duration::from_secs(20);
        AfterSwitchWork {
            tell: tell.map(|script| (SwitchHook::parse(&words(script)).unwrap(), limit)),
            check: check.map(|script| (HealthCheck::parse(&words(script)).unwrap(), limit, RULES)),
        }
    }

    async fn outcome(work: AfterSwitchWork) -> Aftermath {
        let news = SwitchNews { facts: facts(), previous_tag: None, is_revert: false, files: "/x".into() };
        let mut after = AfterSwitch::start(work, news).unwrap();
        while after.aftermath.changed().await.is_ok() {}
        after.seen()
    }

    #[tokio::test]
    async fn a_release_is_kept_or_rejected_by_its_checks() {
        assert_eq!(outcome(work(None, Some("true"))).await.trial, Some(TrialEnd::Kept));
        let rejected = outcome(work(None, Some("echo broken; exit 1"))).await.trial;
        assert!(matches!(rejected, Some(TrialEnd::Rejected(why)) if why.contains("broken")));
    }

    #[tokio::test]
    async fn the_application_is_told_before_it_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told").display().to_string();
        let after = outcome(work(Some(&format!("sleep 0.2; touch {told}")), Some(&format!("test -e {told}")))).await;
        assert_eq!((after.hook, after.trial), (Some(HookState::Told), Some(TrialEnd::Kept)));
    }

    #[tokio::test]
    async fn telling_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark").display().to_string();
        let script = format!("test -e {mark} || {{ touch {mark}; exit 1; }}");
        assert_eq!(outcome(work(Some(&script), None)).await.hook, Some(HookState::Told));
    }
}
