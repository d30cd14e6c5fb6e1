//! A GitHub release as content of a publish cycle, so that the same bytes are the same release wherever they lie.

use chrono::{DateTime, Utc};
use shared::event::{GitFacts, Trigger};
use shared::identifiers::{BundleName, Tag};
use shared::release_path::{PathError, ReleasePath};

use super::contracts_files::DownloadedContracts;
use crate::build::SourceContent;
use crate::contracts_bundle::{BUNDLE_FILE, CONTRACTS_BUNDLE, DIGEST_FILE, MANIFEST_FILE};
use crate::git_facts::{Commit, NO_COMMIT, TreeState};
use crate::source::SourceTree;
use crate::tag::derive_tag;

/// What a publish request takes over from a GitHub release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitHubReleaseFacts {
    /// The release's own tag; for an alias, the tag that follows from the manifest. `None` where none can be derived:
    /// then the publish cycle says so.
    pub tag: Option<Tag>,
    /// When it was made, by its manifest.
    pub timestamp: DateTime<Utc>,
    /// The commit it was made from, by its manifest.
    pub commit: Option<Commit>,
    /// What made it.
    pub trigger: Trigger,
}

/// The downloaded files as a release's tree, byte for byte, and the facts to publish them with.
pub fn github_release_content(
    downloaded: &DownloadedContracts,
) -> Result<(SourceContent, GitHubReleaseFacts), PathError> {
    let path = |name: &str| name.parse::<ReleasePath>();
    let tree = SourceTree::in_memory([
        (path(BUNDLE_FILE)?, downloaded.bundle_json.clone()),
        (path(MANIFEST_FILE)?, downloaded.manifest_json.clone()),
        (path(DIGEST_FILE)?, downloaded.bundle_sha256.clone()),
    ]);
    Ok((SourceContent::prebuilt_contracts(tree, downloaded.bundle_json.clone()), facts(downloaded)))
}

fn facts(downloaded: &DownloadedContracts) -> GitHubReleaseFacts {
    let manifest = downloaded.manifest();
    let commit = (manifest.git_sha != NO_COMMIT).then(|| Commit {
        facts: GitFacts {
            sha: manifest.git_sha.clone(),
            repository: manifest.git_repository.clone(),
            reference: manifest.git_reference.clone(),
        },
        // A release is made from a checkout; its own tag says the same.
        tree: TreeState::Clean,
    });
    let tag = if names_one_release(&downloaded.tag) {
        Some(downloaded.tag.clone())
    } else {
        let bundle: Option<BundleName> = CONTRACTS_BUNDLE.parse().ok();
        bundle.and_then(|bundle| derive_tag(&bundle, manifest.timestamp, commit.as_ref(), downloaded.digest()).ok())
    };
    GitHubReleaseFacts { tag, timestamp: manifest.timestamp, commit, trigger: trigger(manifest.trigger.as_deref()) }
}

/// Whether a tag stands for one release for ever, unlike an alias that moves: `contracts-YYYYMMDD-…`.
fn names_one_release(tag: &Tag) -> bool {
    tag.as_str().strip_prefix("contracts-").is_some_and(|rest| {
        rest.split_once('-').is_some_and(|(day, sum)| {
            day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit()) && !sum.is_empty()
        })
    })
}

/// The workflow's word for what started it. A release that does not say, or says something else, was made by CI.
fn trigger(word: Option<&str>) -> Trigger {
    let known = [Trigger::Local, Trigger::Schedule, Trigger::WorkflowRun, Trigger::WorkflowDispatch];
    known.into_iter().find(|trigger| Some(trigger.as_str()) == word).unwrap_or(Trigger::WorkflowRun)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shared::digest::Sha256Digest;
    use shared::limits::ReleaseLimits;

    use super::*;
    use crate::build::{BuiltRelease, build};
    use crate::contracts_bundle::ContractsBundle;
    use crate::progress::Silent;
    use crate::release_facts::ReleaseFacts;

    const SHA: &str = "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796";

    fn downloaded(tag: &str, trigger: &str, sha: &str) -> DownloadedContracts {
        let bundle = Bytes::from_static(b"{\"schemas\": {}}\n");
        let digest = Sha256Digest::of(&bundle);
        let manifest = format!(
            r#"{{"version": "1.0.0", "timestamp": "2026-02-03T06:00:11Z", "bundle_sha256": "{digest}", {trigger}
                 "git": {{"sha": "{sha}", "repository": "acme/contracts", "ref": "refs/heads/main"}}}}"#
        );
        let checksum = format!("{digest}  bundle.json\n");
        DownloadedContracts::verified(tag.parse().unwrap(), bundle, manifest.into(), checksum.into()).unwrap()
    }

    #[test]
    fn the_manifest_gives_the_facts_and_an_alias_its_tag() {
        for (tag, trigger, sha, expected_tag, expected) in [
            ("contracts-latest", "", SHA, "contracts-20260203-1f0e9d8c", Trigger::WorkflowRun),
            (
                "contracts-20260204-77aa01bc",
                r#""trigger": "schedule","#,
                SHA,
                "contracts-20260204-77aa01bc",
                Trigger::Schedule,
            ),
            ("contracts-latest", r#""trigger": "push","#, SHA, "contracts-20260203-1f0e9d8c", Trigger::WorkflowRun),
            ("production", r#""trigger": "local","#, SHA, "contracts-20260203-1f0e9d8c", Trigger::Local),
        ] {
            let (_, facts) = github_release_content(&downloaded(tag, trigger, sha)).unwrap();
            assert_eq!(facts.tag.unwrap().as_str(), expected_tag);
            assert_eq!(facts.trigger, expected);
            assert_eq!(facts.timestamp.to_rfc3339(), "2026-02-03T06:00:11+00:00");
            assert_eq!(facts.commit.unwrap().facts.repository.as_deref(), Some("acme/contracts"));
        }
        let without_commit = downloaded("contracts-latest", "", NO_COMMIT);
        let (content, facts) = github_release_content(&without_commit).unwrap();
        assert_eq!(facts.commit, None);
        assert_eq!(facts.tag.unwrap().as_str(), format!("contracts-20260203-{}", content.content_digest().short()));
    }

    async fn built(content: SourceContent, facts: ReleaseFacts) -> BuiltRelease {
        build(content, facts, ReleaseLimits::default(), Silent::shared()).await.unwrap()
    }

    #[tokio::test]
    async fn the_same_files_are_the_same_release_whether_built_here_or_downloaded() {
        let source = SourceTree::in_memory([("schemas/a.json".parse().unwrap(), Bytes::from_static(b"{}"))]);
        let bundle = ContractsBundle::from_source(&source).unwrap();
        let contracts: BundleName = CONTRACTS_BUNDLE.parse().unwrap();
        let facts = ReleaseFacts {
            bundle: contracts.clone(),
            tag: "contracts-20260203-1f0e9d8c".parse().unwrap(),
            timestamp: DateTime::from_timestamp(1_770_098_411, 0).unwrap(),
            git: Some(GitFacts { sha: SHA.to_owned(), repository: None, reference: None }),
            trigger: Trigger::Schedule,
        };
        let tree = bundle.tree(&facts).unwrap();
        let file = |name: &str| {
            let file = tree.files().find(|file| file.path.as_str() == name).unwrap().clone();
            Bytes::from(tree.read(&file).unwrap())
        };
        let (tag, bundle_json) = ("contracts-latest".parse().unwrap(), file(BUNDLE_FILE));
        let downloaded =
            DownloadedContracts::verified(tag, bundle_json, file(MANIFEST_FILE), file(DIGEST_FILE)).unwrap();
        let (content, taken) = github_release_content(&downloaded).unwrap();
        let taken = ReleaseFacts {
            bundle: contracts.clone(),
            tag: taken.tag.unwrap(),
            timestamp: taken.timestamp,
            git: taken.commit.map(|commit| commit.facts),
            trigger: taken.trigger,
        };
        assert_eq!(taken, facts);

        let here = built(SourceContent::new(&contracts, source).unwrap(), facts).await;
        let there = built(content, taken).await;
        assert_eq!(here.release_json(), there.release_json());
        assert_eq!(here.archive_reference(), there.archive_reference());
        assert_eq!(there.release().content_digest(), downloaded.digest());
    }
}
