//! What `/healthz/strict` demands beyond a running release that is what it should be.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use super::ConfigFaults;

const OPTION: &str = "--strict-requires (DEMON_STRICT_REQUIRES)";

/// Options of the strict health check.
#[derive(Debug, Clone, Args)]
pub struct StrictArguments {
    /// What `/healthz/strict` also demands, between commas: `connected`, `fresh`, `converged`, `proven`. What is not
    /// listed is a warning in its body only: traffic hangs on this check, and an outage of NATS must not take every node
    /// out of service
    #[arg(long, env = "DEMON_STRICT_REQUIRES", value_name = "LIST", default_value = "")]
    pub strict_requires: String,
}

/// A state of the node that is a warning unless it is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Requirement {
    /// The log can be read, and news arrives.
    Connected,
    /// The running release is not stale.
    Fresh,
    /// The desired release runs.
    Converged,
    /// The running release is not on trial.
    Proven,
}

impl Requirement {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Connected, Self::Fresh, Self::Converged, Self::Proven];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Fresh => "fresh",
            Self::Converged => "converged",
            Self::Proven => "proven",
        }
    }
}

impl StrictArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> BTreeSet<Requirement> {
        let words = self.strict_requires.split(',').map(str::trim).filter(|word| !word.is_empty());
        let mut requirements = BTreeSet::new();
        for word in words {
            let known = Requirement::ALL.into_iter().find(|requirement| requirement.as_str() == word);
            if known.is_none() {
                let shown: String = word.chars().take(40).flat_map(char::escape_debug).collect();
                faults.add(OPTION, &format!("`{shown}` is not connected, fresh, converged or proven"));
            }
            requirements.extend(known);
        }
        requirements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_and_others_named() {
        let check = |text: &str| {
            let mut faults = ConfigFaults::default();
            let found = StrictArguments { strict_requires: text.to_owned() }.check(&mut faults);
            (found.into_iter().collect::<Vec<_>>(), faults.to_string())
        };
        assert_eq!(check(""), (vec![], String::new()));
        assert_eq!(check(" fresh , connected,").0, [Requirement::Connected, Requirement::Fresh]);
        assert!(check("fresh,licence").1.contains("`licence`"));
    }
}
