//! The variables that matter here, masked, and the emergency switches among them. Pure.

use std::collections::BTreeMap;

use super::check::Check;
use crate::environment_masking::{masked, secrets_in};

const SWITCHES: &str = "emergency_switches";
const PREFIXES: [&str; 5] = ["DEMON_", "DEMONCTL_", "NATS_", "GH_", "GITHUB_"];
const NAMES: [&str; 8] =
    ["AGENT_API_KEY", "BIND_ADDR", "PORT", "RUST_LOG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Variables and their values.
pub(super) type Variables = BTreeMap<String, String>;

/// Those that matter, as they are.
pub(super) fn relevant(all: impl Iterator<Item = (String, String)>) -> Variables {
    let matters = |name: &str| {
        let upper = name.to_ascii_uppercase();
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || NAMES.contains(&upper.as_str())
            || CERTIFICATES.contains(&name)
    };
    all.filter(|(name, _)| matters(name)).collect()
}

/// The same without secrets.
pub(super) fn shown(variables: &Variables) -> Variables {
    variables.iter().map(|(name, value)| (name.clone(), masked(name, value))).collect()
}

/// Every secret among them.
pub(super) fn secrets(variables: &Variables) -> Vec<String> {
    variables.iter().flat_map(|(name, value)| secrets_in(name, value)).collect()
}

/// Warns of switches that are on: those that skip something, and those that open something.
pub(super) fn switches(variables: &Variables) -> Check {
    let is_on = |value: &str| matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
    let is_switch = |name: &str| {
        name.starts_with("DEMON_SKIP_")
            || ["DEMON_ALLOW_OPEN_HTTP", "DEMON_OVERRIDE", "DEMON_FORCE", "DEMON_FORCE_RELEASE"].contains(&name)
            || name == "DEMON_PUBLISHER_LISTEN_WITHOUT_KEY"
    };
    let on: Vec<&str> = variables
        .iter()
        .filter(|(name, value)| is_switch(name) && is_on(value))
        .map(|(name, _)| name.as_str())
        .collect();
    if on.is_empty() {
        return Check::yes(SWITCHES, "none is on");
    }
    Check::warning(SWITCHES, on.join(", "), "switch them off as soon as the emergency is over")
}

#[cfg(test)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn only_what_matters_is_shown_and_switches_are_named() {
        let all = [
            ("DEMON_SKIP_CONTRACT_BUNDLE", "Yes"),
            ("HOME", "/root"),
            ("GH_TOKEN", "ghp_secret"),
            ("https_proxy", "http://u:pw12@p"),
        ];
        let variables = relevant(all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let shown = shown(&variables);
        assert_eq!(
            (shown.len(), shown["GH_TOKEN"].as_str(), shown["https_proxy"].as_str()),
            (3, "***", "http://***@p")
        );
        assert_eq!(secrets(&variables), ["ghp_secret", "pw12"]);
        let check = switches(&variables);
        assert_eq!((check.outcome, check.detail.as_str()), (Outcome::Warning, "DEMON_SKIP_CONTRACT_BUNDLE"));
    }
}
