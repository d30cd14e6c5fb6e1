//! What did not match, and what could not be read or written.

use std::io;

use thiserror::Error;

use crate::digest::Sha256Digest;
use crate::event::FailedCheck;

/// What differed first. Both sides are kept as text: digests, sizes, or the words of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", in_words(.item, .expected, .actual))]
pub struct VerificationFailure {
    /// What was compared.
    pub check: FailedCheck,
    /// The object, file or rule.
    pub item: String,
    /// What was announced.
    pub expected: String,
    /// What was found.
    pub actual: String,
}

/// One wording in every log, event, alert and command: operators search for it.
fn in_words(item: &str, expected: &str, actual: &str) -> String {
    let is_digest = |text: &str| text.parse::<Sha256Digest>().is_ok();
    if is_digest(expected) && is_digest(actual) {
        format!("SHA-256 mismatch: expected {expected}, got {actual} in `{item}`")
    } else {
        format!("`{item}` does not match: expected {expected}, actual {actual}")
    }
}

impl VerificationFailure {
    /// A rule that does not hold.
    pub fn rule(item: impl Into<String>, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self { check: FailedCheck::Rule, item: item.into(), expected: expected.into(), actual: actual.into() }
    }

    /// An object whose bytes are not those that were announced.
    pub fn object(item: impl Into<String>, expected: Sha256Digest, actual: Sha256Digest) -> Self {
        Self {
            check: FailedCheck::Object,
            item: item.into(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        }
    }
}

/// Why a tree could not be verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It is not what was announced.
    #[error(transparent)]
    Refused(#[from] VerificationFailure),
    /// A file's content could not be read; says nothing about the release.
    #[error("`{item}` could not be read")]
    Read {
        /// The file.
        item: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file's content could not be written; says nothing about the release.
    #[error("`{item}` could not be written")]
    Write {
        /// The file.
        item: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}
