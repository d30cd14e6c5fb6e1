//! Options about bytes that are not as announced: on their way here, and on the disk.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use shared::event::TamperMode;

use super::{ConfigFaults, as_text, duration, emergency_switch};

const INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24));
const SKIP: &str = "DEMON_SKIP_BUNDLE_VERIFICATION";

/// Options about bytes that are not as announced.
#[derive(Debug, Clone, Args)]
pub struct IntegrityArguments {
    /// What to do when files of the running release were changed on disk. Missing ones are put back in every case
    #[arg(long, env = "DEMON_TAMPER", value_name = "MODE", default_value = "report", value_enum)]
    pub tamper: TamperArgument,

    /// Time between two comparisons of every byte of the running release with what was announced: 1s to 1440m. A change that
    /// the system tells of is looked at within seconds, whatever is set here
    #[arg(long, env = "DEMON_TAMPER_INTERVAL", value_name = "DURATION", default_value = "5m")]
    pub tamper_interval: String,

    /// Emergency only: run a release although its digests do not match; true for `1`, `true`, `yes` and `on`, false for
    /// anything else. Paths, sizes, limits and withdrawals still count, and what runs unverified is shown as such
    #[arg(long, env = SKIP, value_name = "FLAG", num_args = 0..=1, default_missing_value = "1")]
    pub skip_bundle_verification: Option<String>,
}

/// What to do about changed files, as an option names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TamperArgument {
    /// Say so, and leave changed and added files as they are
    Report,
    /// Put the release's own files back
    Heal,
    /// As `heal`, and count as unhealthy from the first suspicion until every byte was compared again
    Strict,
}

/// Settings about bytes that are not as announced.
#[derive(Debug, Clone, Serialize)]
pub struct IntegrityConfig {
    /// What to do about changed files.
    pub tamper: TamperMode,
    /// Time between two comparisons of every byte.
    #[serde(serialize_with = "as_text")]
    pub tamper_interval: Duration,
    /// Digests are not compared.
    pub skip_bundle_verification: bool,
}

impl IntegrityArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<IntegrityConfig> {
        let option = "--tamper-interval (DEMON_TAMPER_INTERVAL)";
        let (skip_bundle_verification, _) = emergency_switch(SKIP, self.skip_bundle_verification.as_deref());
        Some(IntegrityConfig {
            tamper: match self.tamper {
                TamperArgument::Report => TamperMode::Report,
                TamperArgument::Heal => TamperMode::Heal,
                TamperArgument::Strict => TamperMode::Strict,
            },
            tamper_interval: duration(&self.tamper_interval, INTERVAL_BOUNDS, option, faults)?,
            skip_bundle_verification,
        })
    }

    /// What is odd about the options, or must not be overlooked.
    pub(super) fn warning(&self) -> Option<String> {
        match emergency_switch(SKIP, self.skip_bundle_verification.as_deref()) {
            (true, _) => Some(format!(
                "{SKIP} is set: releases run although their digests do not match; unset it as soon as the emergency is over"
            )),
            (false, odd) => odd,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        integrity: IntegrityArguments,
    }

    fn check(arguments: &[&str]) -> (Option<IntegrityConfig>, Option<String>, ConfigFaults) {
        let program = Program::try_parse_from([&["program"], arguments].concat()).unwrap();
        let mut faults = ConfigFaults::default();
        let config = program.integrity.check(&mut faults);
        (config, program.integrity.warning(), faults)
    }

    #[test]
    fn the_default_reports_every_five_minutes_and_verifies() {
        let (config, warning, faults) = check(&[]);
        let config = config.unwrap();
        assert_eq!((config.tamper, config.tamper_interval), (TamperMode::Report, Duration::from_mins(5)));
        assert!(!config.skip_bundle_verification && warning.is_none() && faults.is_empty());
    }

    #[test]
    fn only_the_documented_words_switch_verification_off_and_that_is_loud() {
        for on in ["1", "true", "TRUE", "yes", "on"] {
            let (config, warning, _) = check(&["--skip-bundle-verification", on]);
            assert!(config.unwrap().skip_bundle_verification && warning.unwrap().contains("is set"), "{on}");
        }
        for off in ["0", "false", "", "no"] {
            let (config, warning, _) = check(&["--skip-bundle-verification", off]);
            assert!(!config.unwrap().skip_bundle_verification && warning.is_none(), "{off}");
        }
        let (config, warning, _) = check(&["--skip-bundle-verification", "maybe"]);
        assert!(!config.unwrap().skip_bundle_verification && warning.unwrap().contains("counts as off"));
    }

    #[test]
    fn an_interval_without_bounds_is_a_fault() {
        for bad in ["0s", "2000m", "soon"] {
            let (config, _, faults) = check(&["--tamper-interval", bad]);
            assert!(config.is_none() && !faults.is_empty(), "{bad}");
        }
    }
}
