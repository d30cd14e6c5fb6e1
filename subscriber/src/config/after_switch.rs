//! What happens after each switch: the application is told, and asked whether it is well.

use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};

use super::ConfigFaults;
use super::values::{as_text, duration};
use crate::health_check::HealthCheck;
use crate::switch_hook::SwitchHook;
use crate::trial::TrialRules;

const WINDOW_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(24));
const PART_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(1));
/// The grace, where none is set: this part of the window, at most so long.
const GRACE_PART: u32 = 3;
const LONGEST_DEFAULT_GRACE: Duration = Duration::from_secs(10);
const CHECK: &str = "--health-check (DEMON_HEALTH_CHECK)";
const WINDOW: &str = "--health-window (DEMON_HEALTH_WINDOW)";
const GRACE: &str = "--health-grace (DEMON_HEALTH_GRACE)";
const HOOK: &str = "--on-switch (DEMON_ON_SWITCH)";

/// Options of what follows a switch. See `docs/health-checks.md`.
#[derive(Debug, Clone, Args)]
pub struct AfterSwitchArguments {
    /// Asks the application whether it is well after a switch: `http://…` (GET, 200 to 299 is well) or a command (exit
    /// code 0 is well; words between spaces or a JSON list of words, run without a shell). Fails it, the release before
    /// returns and this one is not tried again until an operator says so
    #[arg(long, env = "DEMON_HEALTH_CHECK", value_name = "COMMAND|URL")]
    pub health_check: Option<String>,

    /// How long a new release has to pass the check before it counts as good
    #[arg(long, env = "DEMON_HEALTH_WINDOW", value_name = "DURATION", default_value = "30s")]
    pub health_window: String,

    /// For how long failures do not count until the check has passed once: the application needs time to load the
    /// release [default: a third of the window, at most 10s]
    #[arg(long, env = "DEMON_HEALTH_GRACE", value_name = "DURATION")]
    pub health_grace: Option<String>,

    /// Time between two checks
    #[arg(long, env = "DEMON_HEALTH_INTERVAL", value_name = "DURATION", default_value = "2s")]
    pub health_interval: String,

    /// Time that one check may take; a command is then killed with everything it started
    #[arg(long, env = "DEMON_HEALTH_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    pub health_timeout: String,

    /// Failures in a row that make a release a bad one
    #[arg(long, env = "DEMON_HEALTH_FAILURES", value_name = "NUMBER", default_value = "1")]
    pub health_failures: String,

    /// Tells the application after each switch: a command, `http://…` (POST), or `signal:HUP:pidfile=PATH`. A failure is
    /// an alert and nothing more
    #[arg(long, env = "DEMON_ON_SWITCH", value_name = "COMMAND|URL|SIGNAL")]
    pub on_switch: Option<String>,

    /// Time that telling it may take
    #[arg(long, env = "DEMON_ON_SWITCH_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    pub on_switch_timeout: String,
}

/// Settings of what follows a switch, each of them checked.
#[derive(Debug, Clone, Serialize)]
pub struct AfterSwitchConfig {
    /// How the application is asked, where it is.
    #[serde(serialize_with = "whether")]
    pub(crate) health_check: Option<HealthCheck>,
    /// How long a release has to pass.
    #[serde(serialize_with = "as_text")]
    pub health_window: Duration,
    /// How long failures do not count.
    #[serde(serialize_with = "as_text")]
    pub health_grace: Duration,
    /// Time between two checks.
    #[serde(serialize_with = "as_text")]
    pub health_interval: Duration,
    /// Time that one check may take.
    #[serde(serialize_with = "as_text")]
    pub health_timeout: Duration,
    /// Failures in a row that make a release a bad one.
    pub health_failures: u32,
    /// How the application is told, where it is.
    #[serde(serialize_with = "whether")]
    pub(crate) on_switch: Option<SwitchHook>,
    /// Time that telling it may take.
    #[serde(serialize_with = "as_text")]
    pub on_switch_timeout: Duration,
}

/// Arguments of a command and queries of an address may hold what is nobody's business: printed is whether there is one.
#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn whether<T, S: Serializer>(set: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match set {
        Some(_) => serializer.serialize_str("***"),
        None => serializer.serialize_none(),
    }
}

impl AfterSwitchConfig {
    pub(crate) fn trial_rules(&self) -> TrialRules {
        TrialRules {
            window: self.health_window,
            grace: self.health_grace,
            interval: self.health_interval,
            failures: self.health_failures,
        }
    }
}

impl AfterSwitchArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<AfterSwitchConfig> {
        let window = duration(&self.health_window, WINDOW_BOUNDS, WINDOW, faults);
        let default_grace = || Some((window? / GRACE_PART).min(LONGEST_DEFAULT_GRACE));
        let grace = match given(self.health_grace.as_deref()) {
            Some("0" | "0s" | "0ms" | "0m") => Some(Duration::ZERO),
            Some(text) => duration(text, PART_BOUNDS, GRACE, faults),
            None => default_grace(),
        };
        if grace.zip(window).is_some_and(|(grace, window)| grace > window) {
            faults.add(GRACE, "it is longer than the window");
        }
        let interval =
            duration(&self.health_interval, PART_BOUNDS, "--health-interval (DEMON_HEALTH_INTERVAL)", faults);
        let timeout = duration(&self.health_timeout, PART_BOUNDS, "--health-timeout (DEMON_HEALTH_TIMEOUT)", faults);
        let hook_timeout =
            duration(&self.on_switch_timeout, PART_BOUNDS, "--on-switch-timeout (DEMON_ON_SWITCH_TIMEOUT)", faults);
        let failures = self.health_failures.trim().parse().ok().filter(|failures| (1..=1000).contains(failures));
        if failures.is_none() {
            faults.add("--health-failures (DEMON_HEALTH_FAILURES)", "it is no number between 1 and 1000");
        }
        let check = given(self.health_check.as_deref()).map(HealthCheck::parse).transpose();
        let check = check.map_err(|error| faults.add_error(CHECK, &error)).ok();
        let hook = given(self.on_switch.as_deref()).map(SwitchHook::parse).transpose();
        let hook = hook.map_err(|error| faults.add_error(HOOK, &error)).ok();
        Some(AfterSwitchConfig {
            health_check: check?,
            health_window: window?,
            health_grace: grace?,
            health_interval: interval?,
            health_timeout: timeout?,
            health_failures: failures?,
            on_switch: hook?,
            on_switch_timeout: hook_timeout?,
        })
    }
}

fn given(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        after_switch: AfterSwitchArguments,
    }

    fn check(arguments: &[&str]) -> Result<AfterSwitchConfig, String> {
        let mut faults = ConfigFaults::default();
        let program = Program::try_parse_from([&["demon-runtime"], arguments].concat()).unwrap();
        let config = program.after_switch.check(&mut faults);
        if faults.is_empty() { Ok(config.unwrap()) } else { Err(faults.to_string()) }
    }

    #[test]
    fn without_options_nothing_is_asked_or_told() {
        let config = check(&["--health-check", " ", "--on-switch", ""]).unwrap();
        assert_eq!((&config.health_check, &config.on_switch), (&None, &None));
        assert_eq!((config.health_window, config.health_grace), (Duration::from_secs(30), Duration::from_secs(10)));
        assert_eq!(check(&["--health-window", "3s"]).unwrap().health_grace, Duration::from_secs(1));
        assert_eq!(check(&["--health-grace", "0s"]).unwrap().health_grace, Duration::ZERO);
    }

    #[test]
    fn every_fault_names_its_option() {
        let faults = check(&[
            "--health-check",
            "https://x/",
            "--on-switch",
            "signal:KILL:pidfile=/p",
            "--health-failures",
            "0",
            "--health-grace",
            "40s",
            "--health-interval",
            "2",
        ]);
        let faults = faults.unwrap_err();
        for option in [
            "DEMON_HEALTH_CHECK",
            "DEMON_ON_SWITCH",
            "DEMON_HEALTH_FAILURES",
            "DEMON_HEALTH_GRACE",
            "DEMON_HEALTH_INTERVAL",
        ] {
            assert!(faults.contains(option), "{option}: {faults}");
        }
    }

    #[test]
    fn arguments_are_not_printed() {
        let config = check(&["--health-check", "check --password hunter2", "--on-switch", "http://app/?key=hunter2"]);
        let shown = serde_json::to_string(&config.unwrap()).unwrap();
        assert!(shown.contains("\"on_switch\":\"***\"") && !shown.contains("hunter2"), "{shown}");
    }
}
