//! A node agent that lives for one reconcile only: until it runs what the log says it should, or knows why not.
//!
//! It is the agent itself, watched and stopped: whatever an agent does to get there, this does. What it did is in the log
//! lines under [`shared::daemon::AUDIT_TARGET`] and, as every node's events, in the event log.

use std::time::Duration;

use futures_util::future::join_all;
use shared::identifiers::{BundleName, Tag};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::agent_view::{AgentView, Cause};
use crate::config::AgentConfig;
use crate::reconcile::{self, AgentError};

/// How the reconcile ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoundOutcome {
    /// The node runs what it should.
    Runs {
        /// The release.
        tag: Tag,
        /// Why it is another one than its channel names, where it is.
        instead: Option<String>,
    },
    /// The channel points at nothing yet: nothing is wrong, and nothing runs.
    Empty {
        /// What is missing.
        reason: String,
    },
    /// Loading of bundles is switched off by the settings; nothing was asked for.
    Disabled,
    /// The release that should run does not, and the reason is known.
    Failed {
        /// What went wrong.
        reason: String,
        /// What to do about it.
        remediation: String,
    },
    /// The time was up, or somebody stopped it.
    Unfinished {
        /// What was still missing.
        reason: String,
    },
}

impl RoundOutcome {
    fn severity(&self) -> u8 {
        match self {
            Self::Disabled => 0,
            Self::Runs { .. } => 1,
            Self::Empty { .. } => 2,
            Self::Unfinished { .. } => 3,
            Self::Failed { .. } => 4,
        }
    }
}

/// Runs an agent without HTTP until it runs what it should, until it is known why it cannot, or until `limit` is over.
/// With several bundles: until that holds for each; the outcome is the worst of theirs.
/// Returns after its events are in the log, where there is a connection; else they wait in the outbox for the next start.
///
/// Fails with [`crate::StateError::InUse`] at once where another agent lives in the state directory.
pub async fn run_once(
    mut config: AgentConfig,
    limit: Duration,
    stop: CancellationToken,
) -> Result<RoundOutcome, AgentError> {
    if config.emergency.skip_contract_bundle {
        return Ok(RoundOutcome::Disabled);
    }
    config.http.enabled = false;
    let (sender, started) = oneshot::channel();
    // Nobody waits for the view any more where this is dropped.
    let observe = |views: Vec<watch::Receiver<AgentView>>| drop(sender.send(views));
    let agent_stop = stop.child_token();
    let watching = async {
        let Ok(views) = started.await else { return None };
        let outcomes = join_all(views.into_iter().map(async |view| {
            let settled = timeout(limit, stop.run_until_cancelled(settled(view.clone()))).await;
            let outcome = settled.ok().flatten().unwrap_or_else(|| unfinished(&view.borrow()));
            (view.borrow().report.bundle.clone(), outcome)
        }));
        let outcomes = outcomes.await;
        agent_stop.cancel();
        together(outcomes)
    };
    // A large future, kept off the stacks of the callers.
    let agent = Box::pin(reconcile::run(config, agent_stop.clone(), observe));
    let (ended, outcome) = tokio::join!(agent, watching);
    ended?;
    Ok(outcome.unwrap_or_else(|| RoundOutcome::Unfinished { reason: "the agent ended by itself".to_owned() }))
}

/// The outcome for all bundles: the worst of them, and of several equally bad ones the first. Of several bundles the words
/// name the one they are about.
pub fn together(outcomes: Vec<(BundleName, RoundOutcome)>) -> Option<RoundOutcome> {
    let several = outcomes.len() > 1;
    let about = |bundle: &BundleName, reason: String| if several { format!("{bundle}: {reason}") } else { reason };
    // Of equals the last one counts as the greatest.
    let (bundle, worst) = outcomes.into_iter().rev().max_by_key(|(_, outcome)| outcome.severity())?;
    Some(match worst {
        RoundOutcome::Failed { reason, remediation } => {
            RoundOutcome::Failed { reason: about(&bundle, reason), remediation }
        }
        RoundOutcome::Unfinished { reason } => RoundOutcome::Unfinished { reason: about(&bundle, reason) },
        RoundOutcome::Empty { reason } => RoundOutcome::Empty { reason: about(&bundle, reason) },
        RoundOutcome::Runs { .. } | RoundOutcome::Disabled => worst,
    })
}

/// Waits until the view says how it ended. For ever, where the agent is gone.
async fn settled(mut view: watch::Receiver<AgentView>) -> RoundOutcome {
    loop {
        if let Some(outcome) = judge(&view.borrow_and_update()) {
            return outcome;
        }
        if view.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// How it ended, as soon as that can be said. What is shown before the log has answered is memory.
fn judge(view: &AgentView) -> Option<RoundOutcome> {
    if !view.looked {
        return None;
    }
    let (active, desired) = (view.report.active.as_ref().map(|active| &active.tag), view.report.desired.as_ref());
    match (&view.trouble, active, desired) {
        (Some(trouble), Some(tag), _) if trouble.cause == Cause::Withdrawn => {
            Some(RoundOutcome::Runs { tag: tag.clone(), instead: Some(trouble.text.clone()) })
        }
        (Some(trouble), _, _) => {
            Some(RoundOutcome::Failed { reason: trouble.text.clone(), remediation: trouble.remediation.clone() })
        }
        (None, Some(active), Some(desired)) if active == desired => {
            Some(RoundOutcome::Runs { tag: active.clone(), instead: None })
        }
        (None, None, None) => Some(RoundOutcome::Empty { reason: what_is_wrong(view) }),
        (None, Some(_) | None, Some(_) | None) => None,
    }
}

fn unfinished(view: &AgentView) -> RoundOutcome {
    RoundOutcome::Unfinished { reason: what_is_wrong(view) }
}

fn what_is_wrong(view: &AgentView) -> String {
    let mut said = view.report.alarms.clone();
    // The alarm about the log often repeats it.
    let fault = view.unreachable().filter(|fault| !said.iter().any(|alarm| alarm.contains(fault)));
    said.extend(fault.map(|fault| format!("no connection to NATS: {fault}")));
    if said.is_empty() { "the log has not answered".to_owned() } else { said.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_view::tests::{trouble, view};
    use crate::failures::FailureKind;

    #[test]
    fn memory_is_no_answer_and_the_answer_decides() {
        let mut view = view();
        view.looked = false;
        assert_eq!(judge(&view), None, "the log was not asked yet");
        view.looked = true;
        let active = view.report.active.clone().unwrap().tag;
        view.report.desired = Some(active.clone());
        assert_eq!(judge(&view), Some(RoundOutcome::Runs { tag: active.clone(), instead: None }));
        view.report.desired = Some("v2".parse().unwrap());
        assert_eq!(judge(&view), None, "it is on its way");
        view.trouble = Some(trouble(Cause::Failed(FailureKind::Download)));
        assert!(matches!(judge(&view), Some(RoundOutcome::Failed { .. })));
        view.trouble = Some(trouble(Cause::Withdrawn));
        assert!(matches!(judge(&view), Some(RoundOutcome::Runs { instead: Some(_), tag }) if tag == active));
        view.report.active = None;
        assert!(matches!(judge(&view), Some(RoundOutcome::Failed { .. })));
    }

    #[test]
    fn of_several_bundles_the_worst_outcome_counts_and_names_its_bundle() {
        let runs = |tag: &str| RoundOutcome::Runs { tag: tag.parse().unwrap(), instead: None };
        let failed = RoundOutcome::Failed { reason: "no room".to_owned(), remediation: "make some".to_owned() };
        let empty = RoundOutcome::Empty { reason: "nothing there".to_owned() };
        let of = |outcomes: &[(&str, &RoundOutcome)]| {
            together(outcomes.iter().map(|(name, outcome)| (name.parse().unwrap(), (*outcome).clone())).collect())
        };
        assert_eq!(of(&[("a", &failed)]), Some(failed.clone()));
        assert_eq!(of(&[("a", &runs("v1")), ("b", &runs("v2"))]), Some(runs("v1")));
        let Some(RoundOutcome::Failed { reason, .. }) = of(&[("a", &empty), ("b", &failed), ("c", &runs("v1"))]) else {
            panic!()
        };
        assert_eq!(reason, "b: no room");
    }

    #[test]
    fn an_empty_system_is_no_failure_and_what_is_missing_is_named() {
        let mut view = view();
        (view.looked, view.report.active, view.report.desired) = (true, None, None);
        view.report.alarms = vec!["channel `latest` points at no release yet".to_owned()];
        assert_eq!(
            judge(&view),
            Some(RoundOutcome::Empty { reason: "channel `latest` points at no release yet".to_owned() })
        );
        view.connected = false;
        view.connection_fault = Some("refused".to_owned());
        let RoundOutcome::Unfinished { reason } = unfinished(&view) else { panic!() };
        assert_eq!(reason, "channel `latest` points at no release yet; no connection to NATS: refused");
    }
}
