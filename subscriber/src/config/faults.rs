//! All faults of a configuration, in one line.

use std::error::Error;
use std::fmt;

use shared::daemon::ErrorChain;

/// Settings that cannot be used: every one of them, in the order they were checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigFaults(Vec<String>);

impl ConfigFaults {
    pub(super) fn add(&mut self, option: &str, fault: &str) {
        self.0.push(format!("{option}: {fault}"));
    }

    pub(super) fn add_error(&mut self, option: &str, error: &(dyn Error + 'static)) {
        self.add(option, &ErrorChain(error).to_string());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}

impl Error for ConfigFaults {}
