//! `demonctl bootstrap`: load this node's bundles once, as its agent would, or let the agent say that it did.
//!
//! Standard output is JSON Lines, each with a string `event`: `bootstrap.…` for what this command does, `bundle.…` for
//! what happened to the bundle, word for word as the agent logs it. So `jq 'select(.event | startswith("bundle."))'` works.

mod arguments;
mod lines;
mod running_agent;
mod verify;

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;
use shared::daemon::{ErrorChain, stop_signal};
use shared::identifiers::BundleName;
use subscriber::one_round::{RoundOutcome, run_once};
use subscriber::{AgentError, StateError};

pub(crate) use self::arguments::BootstrapArguments;
use self::lines::{DoneBy, print_event};
use crate::output::note;

/// Exit code of options that cannot be used.
const USAGE: u8 = 2;
/// Exit code of a command that a signal stopped.
const STOPPED: u8 = 130;

/// Loads or verifies. Exit code 0 where the node runs what it should or nothing is published yet, 1 otherwise.
pub(crate) async fn run(arguments: BootstrapArguments) -> anyhow::Result<ExitCode> {
    let config = match arguments.agent.check() {
        Ok(config) => config,
        Err(faults) => {
            note(&format!("demonctl: {faults}"));
            return Ok(ExitCode::from(USAGE));
        }
    };
    for warning in &config.warnings {
        note(&format!("warning: {warning}"));
    }
    let api = arguments.agent_api(&config)?;
    print_event("bootstrap.config", &json!({ "effective": config, "agent_url": arguments.shown_agent_url(&config)? }))?;
    if arguments.verify {
        return verify::run(&config, &api).await;
    }
    let stop = stop_signal().context("cannot listen for signals")?;
    let (by, outcomes) = match run_once(config.clone(), arguments.timeout, stop.clone()).await {
        Ok(outcomes) => (DoneBy::Bootstrap, outcomes),
        Err(AgentError::State(StateError::InUse { path })) => {
            note(&format!("an agent runs with state directory `{}`: asking it at `{}`", path.display(), api.url));
            (DoneBy::Agent, running_agent::ask(&config, &api, arguments.timeout, &stop).await)
        }
        Err(error) => anyhow::bail!(
            "{}; see that cache and state directory belong to you, and that DEMON_NODE_ID is the agent's",
            ErrorChain(&error)
        ),
    };
    if stop.is_cancelled() {
        note("demonctl: stopped before the bundle was loaded; what was begun is finished by the next start");
        return Ok(ExitCode::from(STOPPED));
    }
    finish(by, &outcomes)
}

/// Says how each bundle ended, to programs and to people.
fn finish(by: DoneBy, outcomes: &[(BundleName, RoundOutcome)]) -> anyhow::Result<ExitCode> {
    let mut ok = true;
    for (bundle, outcome) in outcomes {
        let done = lines::done(bundle, by, outcome);
        print_event("bootstrap.done", &done.fields)?;
        note(&done.text);
        ok &= done.ok;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
