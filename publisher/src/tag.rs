//! The tag of a release that is given none: `<bundle>-YYYYMMDD-<sha8>`.
//!
//! Described in `docs/ARCHITECTURE.md`, "Releases".

use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;
use shared::identifiers::{BundleName, IdentifierError, Tag};
use thiserror::Error;

use crate::git_facts::{Commit, TreeState};

/// No tag can be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no tag can be derived for bundle `{bundle}` at {timestamp}: give one")]
pub struct TagError {
    /// The bundle.
    pub bundle: BundleName,
    /// The release's time.
    pub timestamp: DateTime<Utc>,
    /// Which rule the derived text breaks.
    #[source]
    pub source: IdentifierError,
}

/// The tag of a release: the day of its timestamp in UTC, and the first eight digits of the commit's sum, or of the
/// content digest where no commit names the content, so that releases of one commit differ.
pub fn derive_tag(
    bundle: &BundleName,
    timestamp: DateTime<Utc>,
    commit: Option<&Commit>,
    content_digest: Sha256Digest,
) -> Result<Tag, TagError> {
    let sum = match commit {
        Some(Commit { facts, tree: TreeState::Clean }) => facts.sha.chars().take(8).collect(),
        Some(Commit { tree: TreeState::Dirty, .. }) | None => content_digest.short(),
    };
    format!("{bundle}-{}-{sum}", timestamp.format("%Y%m%d")).parse().map_err(|source| TagError {
        bundle: bundle.clone(),
        timestamp,
        source,
    })
}

#[cfg(test)]
mod tests {
    use shared::event::GitFacts;

    use super::*;

    fn commit(tree: TreeState) -> Commit {
        let sha = "0658fb8b7c6a59483726150413f2e1d0c9b8a796".to_owned();
        Commit { facts: GitFacts { sha, repository: None, reference: None }, tree }
    }

    fn tag(bundle: &str, timestamp: &str, commit: Option<&Commit>) -> Result<String, TagError> {
        let timestamp = DateTime::parse_from_rfc3339(timestamp).unwrap().with_timezone(&Utc);
        derive_tag(&bundle.parse().unwrap(), timestamp, commit, Sha256Digest::of(b"abc")).map(|tag| tag.to_string())
    }

    #[test]
    fn day_and_sum_follow_the_table() {
        let (clean, dirty) = (commit(TreeState::Clean), commit(TreeState::Dirty));
        for (bundle, timestamp, commit, expected) in [
            ("contracts", "2025-09-21T06:00:00Z", Some(&clean), "contracts-20250921-0658fb8b"),
            ("contracts", "2025-09-21T06:00:00Z", Some(&dirty), "contracts-20250921-ba7816bf"),
            ("contracts", "2025-09-21T06:00:00Z", None, "contracts-20250921-ba7816bf"),
            ("contracts", "2025-09-22T01:30:00+02:00", Some(&clean), "contracts-20250921-0658fb8b"),
            ("policies_2", "2026-01-01T00:00:00Z", None, "policies_2-20260101-ba7816bf"),
        ] {
            assert_eq!(tag(bundle, timestamp, commit).unwrap(), expected);
        }
    }

    #[test]
    fn a_name_that_leaves_no_room_needs_a_tag_of_its_own() {
        assert!(tag(&"x".repeat(46), "2025-09-21T06:00:00Z", None).is_ok());
        let error = tag(&"x".repeat(47), "2025-09-21T06:00:00Z", None).unwrap_err();
        assert!(error.to_string().ends_with("give one"), "{error}");
    }
}
