//! Collecting what is wrong with a command line, so that one look is enough to repair all of it.

use std::error::Error;
use std::fmt;

/// Options that cannot be used: every one of them, in one line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigFaults(Vec<String>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}

impl Error for ConfigFaults {}

impl ConfigFaults {
    pub(super) fn add(&mut self, option: &str, fault: impl fmt::Display) {
        self.0.push(format!("{option}: {fault}"));
    }

    /// The value, or the fault noted.
    pub(super) fn take<T, E: fmt::Display>(&mut self, option: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(option, error)).ok()
    }

    /// Notes all that another check has found.
    pub(super) fn take_all<T>(&mut self, checked: Result<T, Self>) -> Option<T> {
        checked.map_err(|faults| self.0.extend(faults.0)).ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A variable that is set to nothing counts as not set.
pub(super) fn given(value: Option<&String>) -> Option<&String> {
    value.filter(|text| !text.is_empty())
}

/// Outside text, short and on one line.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
