//! What is decided about a release before it is built: its name, its time, where it comes from.
//!
//! The facts travel as metadata of the stored objects. They are all that is needed, beside the content, to build the
//! same bytes again: so a publish that was cut off is finished by whoever runs it next, even on another machine and
//! on another day.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use shared::digest::Sha256Digest;
use shared::event::{GitFacts, Trigger};
use shared::identifiers::{BundleName, Tag};

use crate::git_facts::is_commit_sum;

/// Facts of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseFacts {
    /// The bundle.
    pub bundle: BundleName,
    /// The tag.
    pub tag: Tag,
    /// When the release was made, to the second.
    pub timestamp: DateTime<Utc>,
    /// Commit it was made from, where there is one.
    pub git: Option<GitFacts>,
    /// What made the publisher publish.
    pub trigger: Trigger,
}

const TIMESTAMP: &str = "timestamp";
const TRIGGER: &str = "trigger";
const GIT_SHA: &str = "git_sha";
const GIT_REPOSITORY: &str = "git_repository";
const GIT_REFERENCE: &str = "git_ref";
const CONTENT_DIGEST: &str = "content_digest";
const TREE_DIGEST: &str = "tree_digest";

impl ReleaseFacts {
    /// The timestamp as manifest and metadata carry it: `YYYY-MM-DDTHH:MM:SSZ`.
    pub fn timestamp_text(&self) -> String {
        self.timestamp.to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    /// Metadata of the release's objects.
    pub(crate) fn to_metadata(&self, tree: Sha256Digest, content: Sha256Digest) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::from([
            ("bundle".to_owned(), self.bundle.to_string()),
            ("tag".to_owned(), self.tag.to_string()),
            (TREE_DIGEST.to_owned(), tree.to_string()),
            (CONTENT_DIGEST.to_owned(), content.to_string()),
            (TIMESTAMP.to_owned(), self.timestamp_text()),
            (TRIGGER.to_owned(), self.trigger.as_str().to_owned()),
        ]);
        if let Some(git) = &self.git {
            metadata.insert(GIT_SHA.to_owned(), git.sha.clone());
            let optional = [(GIT_REPOSITORY, &git.repository), (GIT_REFERENCE, &git.reference)];
            metadata.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
        }
        metadata
    }

    /// Reads the facts back from an object's metadata; `None` where somebody else wrote it.
    pub(crate) fn from_metadata(bundle: &BundleName, tag: &Tag, metadata: &BTreeMap<String, String>) -> Option<Self> {
        let timestamp = DateTime::parse_from_rfc3339(metadata.get(TIMESTAMP)?).ok()?.with_timezone(&Utc);
        let trigger = serde_json::from_value(metadata.get(TRIGGER)?.as_str().into()).ok()?;
        let git = metadata.get(GIT_SHA).filter(|sha| is_commit_sum(sha)).map(|sha| GitFacts {
            sha: sha.clone(),
            repository: metadata.get(GIT_REPOSITORY).cloned(),
            reference: metadata.get(GIT_REFERENCE).cloned(),
        });
        Some(Self { bundle: bundle.clone(), tag: tag.clone(), timestamp, git, trigger })
    }
}

/// The tree digest that an object's metadata claims. Nothing may rest on it but what to read back next.
pub(crate) fn claimed_tree(metadata: &BTreeMap<String, String>) -> Option<Sha256Digest> {
    metadata.get(TREE_DIGEST)?.parse().ok()
}

/// The content digest that an object's metadata claims. The same holds.
pub(crate) fn claimed_content(metadata: &BTreeMap<String, String>) -> Option<Sha256Digest> {
    metadata.get(CONTENT_DIGEST)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_as_metadata() {
        let facts = ReleaseFacts {
            bundle: "contracts".parse().unwrap(),
            tag: "v1".parse().unwrap(),
            timestamp: DateTime::from_timestamp(1_758_434_400, 0).unwrap(),
            git: Some(GitFacts {
                sha: "0658fb8b7c6a59483726150413f2e1d0c9b8a796".to_owned(),
                repository: Some("acme/contracts".to_owned()),
                reference: None,
            }),
            trigger: Trigger::WorkflowRun,
        };
        let (tree, content) = (Sha256Digest::of(b"tree"), Sha256Digest::of(b"content"));
        let metadata = facts.to_metadata(tree, content);
        assert_eq!(metadata["timestamp"], "2025-09-21T06:00:00Z");
        assert_eq!(ReleaseFacts::from_metadata(&facts.bundle, &facts.tag, &metadata), Some(facts.clone()));
        assert_eq!((claimed_tree(&metadata), claimed_content(&metadata)), (Some(tree), Some(content)));
        assert_eq!(ReleaseFacts::from_metadata(&facts.bundle, &facts.tag, &BTreeMap::new()), None);
    }
}
