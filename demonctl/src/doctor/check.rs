//! One question of the doctor and its answer.

use std::fmt;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// All well.
    Yes,
    /// Something must be done.
    No,
    /// Nothing is broken, but somebody should know.
    Warning,
    /// What it rests on failed, or it was not asked for.
    NotChecked,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Yes => "yes",
            Self::No => "NO",
            Self::Warning => "warning",
            Self::NotChecked => "-",
        })
    }
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
    /// What to do next; absent where nothing is to be done.
    pub(crate) remedy: Option<String>,
}

impl Check {
    pub(crate) fn yes(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Yes, detail: detail.into(), remedy: None }
    }

    pub(crate) fn no(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::No, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn warning(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warning, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn not_checked(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::NotChecked, detail: why.into(), remedy: None }
    }
}
