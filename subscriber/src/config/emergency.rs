//! Switches for emergencies. A slip must not switch safety off: only plain words do.

use clap::Args;
use serde::Serialize;

use super::values::shown;

/// Switches for emergencies.
#[derive(Debug, Clone, Args)]
pub struct EmergencyArguments {
    /// Emergency only: load no bundle and ask for none; true for `1`, `true`, `yes` and `on`, false for anything else
    #[arg(long, env = "DEMON_SKIP_CONTRACT_BUNDLE", value_name = "FLAG", num_args = 0..=1, default_missing_value = "1")]
    pub skip_contract_bundle: Option<String>,
}

/// Switches for emergencies, as they count.
#[derive(Debug, Clone, Serialize)]
pub struct EmergencyConfig {
    /// Loading of bundles is switched off.
    pub skip_contract_bundle: bool,
}

impl EmergencyArguments {
    /// How they count, and what is odd about them.
    pub(super) fn check(&self) -> (EmergencyConfig, Vec<String>) {
        let (skip_contract_bundle, odd) =
            emergency_switch("DEMON_SKIP_CONTRACT_BUNDLE", self.skip_contract_bundle.as_deref());
        (EmergencyConfig { skip_contract_bundle }, odd.into_iter().collect())
    }
}

/// Whether a switch is on, and what is odd about its value.
pub(super) fn emergency_switch(variable: &str, value: Option<&str>) -> (bool, Option<String>) {
    let text = value.unwrap_or_default().trim().to_ascii_lowercase();
    match text.as_str() {
        "1" | "true" | "yes" | "on" => (true, None),
        "" | "0" | "false" | "no" | "off" => (false, None),
        _ => {
            let shown = shown(&text);
            (false, Some(format!("{variable}: `{shown}` is not 1, true, yes or on, so it counts as off")))
        }
    }
}
