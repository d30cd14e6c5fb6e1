//! A GitHub repository as a publisher's source: every contract release not yet announced is taken over under its own
//! tag, with the time and the commit of its manifest.
//!
//! An alias (`contracts-latest`) decides nothing here: what is newest follows from the releases themselves, and the
//! channel moves by the same rule as for any other publish. A repository that has nothing new costs one question that
//! GitHub answers with "304 Not Modified".

use shared::identifiers::{ChannelName, Tag};
use shared::limits::ReleaseLimits;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;

use super::{GitHubReleaseError, RunError, RunReport, log_report};
use crate::announcement::AnnouncedRelease;
use crate::author::Author;
use crate::channel::{AutomaticPromotion, promote_published};
use crate::config::PublisherConfig;
use crate::github::{GitHubError, GitHubReleases, GitHubSettings, ReleaseSummary, github_release_content};
use crate::progress::Progress;
use crate::publish_cycle::{Novelty, PublishError, PublishReport, PublishRequest, ReleasePolicy, publish};
use crate::release_register::ReleaseRegister;

/// How far back releases are taken over.
pub(super) const MOST_RELEASES: usize = 20;
/// The alias that GitHub's side moves; a copy of a release, never one itself.
const ALIAS: &str = "contracts-latest";

/// The releases of a repository, and what was finished of them.
#[derive(Debug)]
pub(super) struct GitHubSource {
    releases: GitHubReleases,
    /// The listing after which nothing was left to do, whatever happens to the channel.
    finished: Option<Vec<ReleaseSummary>>,
}

impl GitHubSource {
    pub(super) fn new(settings: &GitHubSettings) -> Result<Self, GitHubError> {
        Ok(Self { releases: GitHubReleases::new(settings)?, finished: None })
    }

    /// Takes over what is not announced yet, oldest first, and promotes the newest of them. One that cannot be taken
    /// over does not hold up the others; the run fails then, after them.
    pub(super) async fn take_over(
        &mut self,
        log: &EventLog,
        author: &mut Author,
        config: &PublisherConfig,
        progress: &Progress,
    ) -> Result<RunReport, RunError> {
        let listed = self.releases.list(MOST_RELEASES).await.map_err(|error| RunError::GitHub(Box::new(error)))?;
        if self.finished.as_ref() == Some(&listed) {
            return Ok(RunReport::default());
        }
        let register = ReleaseRegister::read(log, &config.bundle).await.map_err(RunError::Register)?;
        let tags = release_tags(&listed);
        let mut report = RunReport::default();
        let mut fault = None;
        for tag in tags.iter().rev().filter(|tag| register.find(tag).is_none()) {
            match self.take_over_one(log, author, config, tag, progress).await {
                Ok(release) => report.releases.push(release),
                // Withdrawn content stays out for good: nothing to repair, nothing to report again and again.
                Err(GitHubReleaseError::Publish(PublishError::Withdrawn { .. })) => {
                    tracing::info!(bundle.tag = %tag, "release not taken over: its content was withdrawn");
                }
                Err(error) => {
                    // Told with the run's result where it is the first; in the log in any case.
                    let error = RunError::GitHubRelease { tag: tag.clone(), source: Box::new(error) };
                    tracing::warn!(bundle.tag = %tag, error = %error.in_one_line(), "release not taken over");
                    fault.get_or_insert(error);
                }
            }
        }
        let promotion = match &config.channel {
            Some(channel) => promote_newest(log, author, config, &tags, channel, &mut report).await?,
            None => None,
        };
        if let Some(fault) = fault {
            // An error has no place for them, and each of them is in the log for good.
            report.releases.iter().filter(|release| release.novelty != Novelty::AlreadyAnnounced).for_each(log_report);
            return Err(fault);
        }
        self.finished = (!promotion.as_ref().is_some_and(waits_for_a_thaw)).then_some(listed);
        Ok(report)
    }

    async fn take_over_one(
        &self,
        log: &EventLog,
        author: &mut Author,
        config: &PublisherConfig,
        tag: &Tag,
        progress: &Progress,
    ) -> Result<PublishReport, GitHubReleaseError> {
        let release = self.releases.get(tag).await.map_err(GitHubReleaseError::Download)?;
        let downloaded = self.releases.download(&release).await.map_err(GitHubReleaseError::Download)?;
        let (content, facts) = github_release_content(&downloaded).map_err(GitHubReleaseError::Content)?;
        let request = PublishRequest {
            tag: Some(tag.clone()),
            commit: facts.commit,
            // What made the release, not what made us look.
            trigger: facts.trigger,
            limits: ReleaseLimits::default(),
            // Its tag is what makes it a release of its own, whatever its content.
            policy: ReleasePolicy::Force,
            require_compatible: config.require_compatible,
            deltas: config.deltas,
            ..PublishRequest::new(config.bundle.clone(), facts.timestamp)
        };
        let bucket = ReleaseStore::new(log.connection().clone());
        publish(log, &bucket, author, &content, &request, progress).await.map_err(GitHubReleaseError::Publish)
    }
}

/// Whether the next look finds the channel free, once somebody thaws it.
fn waits_for_a_thaw(promotion: &AutomaticPromotion) -> bool {
    matches!(promotion, AutomaticPromotion::Held(_) | AutomaticPromotion::Frozen(_))
}

/// The tags that stand for releases, in the listing's order.
fn release_tags(listed: &[ReleaseSummary]) -> Vec<Tag> {
    let tags = listed.iter().filter(|release| release.tag_name != ALIAS);
    tags.filter_map(|release| release.tag_name.parse().ok()).collect()
}

/// Promotes the newest listed release that is announced and not withdrawn, also where an earlier run was cut off
/// before it could. Says what became of the channel, where there is a release to promote.
async fn promote_newest(
    log: &EventLog,
    author: &mut Author,
    config: &PublisherConfig,
    tags: &[Tag],
    channel: &ChannelName,
    report: &mut RunReport,
) -> Result<Option<AutomaticPromotion>, RunError> {
    let register = ReleaseRegister::read(log, &config.bundle).await.map_err(RunError::Register)?;
    let newest = tags.iter().filter_map(|tag| register.find(tag));
    let Some((published, stream_sequence)) =
        newest.into_iter().find(|(published, _)| register.withdrawal_of(published).is_none())
    else {
        return Ok(None);
    };
    let release = AnnouncedRelease { published: published.clone(), stream_sequence, already_announced: true };
    let tag = release.published.tag.clone();
    let promotion = promote_published(log, author, &release, channel).await;
    let promotion = promotion.map_err(|source| RunError::Promote { tag: tag.clone(), source: Box::new(source) })?;
    if let Some(report) = report.releases.iter_mut().find(|report| report.release.published.tag == tag) {
        report.promotion = Some(promotion.clone());
    } else {
        let (novelty, promotion) = (Novelty::AlreadyAnnounced, Some(promotion.clone()));
        report.releases.push(PublishReport { release, novelty, promotion, compatibility: None });
    }
    Ok(Some(promotion))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_names_that_are_no_tags_are_no_releases() {
        let listed: Vec<ReleaseSummary> = ["contracts-latest", "contracts-20260203-1f0e9d8c", "contracts-a/b"]
            .map(|tag| ReleaseSummary { tag_name: tag.to_owned(), published_at: None, name: None })
            .into();
        let tags: Vec<String> = release_tags(&listed).iter().map(ToString::to_string).collect();
        assert_eq!(tags, ["contracts-20260203-1f0e9d8c"]);
    }
}
