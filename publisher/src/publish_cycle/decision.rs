//! What a publish has to do, by what the log says. Pure.

use shared::digest::Sha256Digest;
use shared::event::{Published, Withdrawn};
use shared::identifiers::Tag;

use super::{PublishError, PublishRequest, ReleasePolicy};
use crate::announcement::AnnouncedRelease;
use crate::release_register::ReleaseRegister;
use crate::tag::derive_tag;

/// What a publish has to do about the release.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Nothing: the newest release has this content.
    Unchanged(AnnouncedRelease),
    /// Nothing: an earlier release with the tag has this content.
    AlreadyAnnounced(AnnouncedRelease),
    /// Announce once more a tag that has this content.
    AnnounceAgain(Tag),
    /// Make a release with this tag.
    Release(Tag),
}

/// Decides what a publish has to do. Content that was withdrawn, and a tag that holds other content, are refused.
pub(crate) fn decide(
    register: &ReleaseRegister,
    content_digest: Sha256Digest,
    request: &PublishRequest,
) -> Result<Decision, PublishError> {
    if let Some(Withdrawn { tag, actor, reason, .. }) = register.withdrawal_of_content(content_digest).cloned() {
        return Err(PublishError::Withdrawn { content_digest, tag, actor, reason });
    }
    let newest = register.newest().filter(|(newest, _)| newest.content_digest == content_digest);
    if let (Some((newest, sequence)), ReleasePolicy::OnChange) = (newest, request.policy) {
        return Ok(Decision::Unchanged(announced(newest, sequence)));
    }
    let tag = match &request.tag {
        Some(tag) => tag.clone(),
        None => derive_tag(&request.bundle, request.timestamp, request.commit.as_ref(), content_digest)
            .map_err(PublishError::Tag)?,
    };
    if let (Some((newest, sequence)), ReleasePolicy::Daily) = (newest, request.policy)
        && newest.tag == tag
    {
        return Ok(Decision::Unchanged(announced(newest, sequence)));
    }
    match (register.find(&tag), request.policy) {
        (None, _) => Ok(Decision::Release(tag)),
        (Some((earlier, _)), _) if earlier.content_digest != content_digest => {
            Err(taken(&tag, Some(earlier.content_digest), content_digest))
        }
        (Some(_), ReleasePolicy::Force) => Ok(Decision::AnnounceAgain(tag)),
        (Some((earlier, sequence)), ReleasePolicy::OnChange | ReleasePolicy::Daily) => {
            Ok(Decision::AlreadyAnnounced(announced(earlier, sequence)))
        }
    }
}

fn announced(published: &Published, stream_sequence: u64) -> AnnouncedRelease {
    AnnouncedRelease { published: published.clone(), stream_sequence, already_announced: true }
}

pub(super) fn taken(tag: &Tag, other: Option<Sha256Digest>, content_digest: Sha256Digest) -> PublishError {
    let other = other.map_or_else(|| "of another origin".to_owned(), |digest| digest.to_string());
    PublishError::TagTaken { tag: tag.clone(), other, content_digest }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use shared::event::GitFacts;

    use super::*;
    use crate::git_facts::{Commit, TreeState};
    use crate::test_releases::{published, withdrawn};

    fn content(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    fn request(tag: Option<&str>, policy: ReleasePolicy) -> PublishRequest {
        let sha = "0658fb8b7c6a59483726150413f2e1d0c9b8a796".to_owned();
        PublishRequest {
            tag: tag.map(|tag| tag.parse().unwrap()),
            commit: Some(Commit { facts: GitFacts { sha, repository: None, reference: None }, tree: TreeState::Clean }),
            policy,
            ..PublishRequest::new("contracts".parse().unwrap(), DateTime::UNIX_EPOCH)
        }
    }

    fn decided_by(
        policy: ReleasePolicy,
        releases: &[(&str, &str)],
        withdrawals: &[(&str, &str)],
        text: &str,
        tag: Option<&str>,
    ) -> String {
        let register = ReleaseRegister::of(
            releases.iter().map(|(tag, text)| published(tag, text)),
            withdrawals.iter().map(|(tag, text)| withdrawn(&published(tag, text))),
        );
        match decide(&register, content(text), &request(tag, policy)) {
            Ok(Decision::Unchanged(release)) => format!("unchanged {}", release.published.tag),
            Ok(Decision::AlreadyAnnounced(release)) => format!("announced {}", release.published.tag),
            Ok(Decision::AnnounceAgain(tag)) => format!("again {tag}"),
            Ok(Decision::Release(tag)) => format!("release {tag}"),
            Err(PublishError::Withdrawn { tag, .. }) => format!("withdrawn {tag}"),
            Err(PublishError::TagTaken { tag, .. }) => format!("taken {tag}"),
            Err(error) => panic!("{error}"),
        }
    }

    const TODAY: &str = "contracts-19700101-0658fb8b";

    #[test]
    fn content_and_log_decide_what_a_publish_does() {
        for (releases, withdrawals, text, tag, expected) in [
            (&[][..], &[][..], "a", None, "release contracts-19700101-0658fb8b"),
            (&[("v1", "a")], &[], "a", None, "unchanged v1"),
            (&[("v1", "a")], &[], "b", None, "release contracts-19700101-0658fb8b"),
            (&[("v1", "a")], &[], "b", Some("v2"), "release v2"),
            // Compared with the newest, not with any: going back is a change.
            (&[("v1", "a"), ("v2", "b")], &[], "a", Some("v3"), "release v3"),
            (&[("v1", "a"), ("v2", "b")], &[], "a", Some("v1"), "announced v1"),
            // The newest that is not withdrawn.
            (&[("v1", "a"), ("v2", "b")], &[("v2", "b")], "a", None, "unchanged v1"),
            (&[("v1", "a"), ("v2", "b")], &[("v2", "b")], "b", None, "withdrawn v2"),
            (&[("v1", "a"), ("v2", "b")], &[("v1", "a")], "a", Some("v3"), "withdrawn v1"),
            // Same tag, other content.
            (&[("v1", "a")], &[], "b", Some("v1"), "taken v1"),
            (&[(TODAY, "a")], &[], "b", None, "taken contracts-19700101-0658fb8b"),
        ] {
            assert_eq!(
                decided_by(ReleasePolicy::OnChange, releases, withdrawals, text, tag),
                expected,
                "{releases:?} {withdrawals:?} {text} {tag:?}"
            );
        }
    }

    #[test]
    fn a_daily_release_is_cut_once_a_day_and_a_forced_one_always() {
        use ReleasePolicy::{Daily, Force};
        for (policy, releases, withdrawals, text, tag, expected) in [
            (Daily, &[][..], &[][..], "a", None, "release contracts-19700101-0658fb8b"),
            (Daily, &[("yesterday", "a")], &[], "a", None, "release contracts-19700101-0658fb8b"),
            (Daily, &[("yesterday", "a"), (TODAY, "a")], &[], "a", None, "unchanged contracts-19700101-0658fb8b"),
            (Daily, &[(TODAY, "a"), ("later", "a")], &[], "a", None, "announced contracts-19700101-0658fb8b"),
            (Daily, &[(TODAY, "a")], &[], "b", None, "taken contracts-19700101-0658fb8b"),
            (Daily, &[("v1", "a")], &[("v1", "a")], "a", None, "withdrawn v1"),
            (Force, &[], &[], "a", None, "release contracts-19700101-0658fb8b"),
            (Force, &[("v1", "a")], &[], "a", None, "release contracts-19700101-0658fb8b"),
            (Force, &[(TODAY, "a")], &[], "a", None, "again contracts-19700101-0658fb8b"),
            (Force, &[("v1", "a"), ("v2", "b")], &[], "a", Some("v1"), "again v1"),
            (Force, &[("v1", "a")], &[], "b", Some("v1"), "taken v1"),
            (Force, &[("v1", "a")], &[("v1", "a")], "a", None, "withdrawn v1"),
        ] {
            assert_eq!(
                decided_by(policy, releases, withdrawals, text, tag),
                expected,
                "{policy:?} {releases:?} {withdrawals:?} {text} {tag:?}"
            );
        }
    }
}
