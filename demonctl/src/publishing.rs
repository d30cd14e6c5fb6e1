//! Publishing a directory as a release of any bundle: what `contracts publish` and `bundle publish` share.
//!
//! The source is read before the server is spoken to, so what makes no release leaves no trace anywhere.

mod arguments;
mod preview;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::Utc;
use publisher::author::Author;
use publisher::build::{SourceContent, read_source};
use publisher::channel::AutomaticPromotion;
use publisher::durability_gate::look_before_publishing;
use publisher::git_facts::{Commit, TreeState, read_commit};
use publisher::progress::Progress;
use publisher::publish_cycle::{FrozenChannel, PublishReport, PublishRequest, ReleasePolicy, publish};
use shared::event::{GitFacts, Promoted, Trigger};
use shared::identifiers::BundleName;
use streams::connection::Connection;
use streams::epoch::ensure_epoch;
use streams::event_log::EventLog;
use streams::layout::{Layout, LayoutLimits, ensure};
use streams::release_store::ReleaseStore;
use tokio::task::spawn_blocking;

pub(crate) use self::arguments::PublishingArguments;
use self::report::PublishedRow;
use crate::operator;
use crate::output::{OutputFormat, note, print_line};
use crate::rollout_wait::wait_for;
use crate::transfer_progress::transfer_progress;

/// Options that contradict each other.
const WRONG_USAGE: u8 = 2;

/// What is published, and what its releases must say.
pub(crate) struct Publication {
    /// The bundle.
    pub(crate) bundle: BundleName,
    /// The source.
    pub(crate) directory: PathBuf,
    /// Whether a release without a commit is refused.
    pub(crate) needs_commit: bool,
}

/// Publishes, or says what a publish would do.
pub(crate) async fn run(publication: Publication, arguments: PublishingArguments) -> anyhow::Result<ExitCode> {
    if let Some(fault) = arguments.fault(&publication.bundle) {
        note(&format!("demonctl: {fault}"));
        return Ok(ExitCode::from(WRONG_USAGE));
    }
    let progress = transfer_progress();
    let (content, request) = read(&publication, &arguments, &progress).await?;
    let connection = operator::connect(&arguments.connection).await?;
    if arguments.dry_run {
        let actor = arguments.author_name()?;
        return preview::run(&connection, &actor, &content, &request, progress, arguments.output).await;
    }
    let mut author = arguments.author()?;
    provision(&connection, &author, arguments.replicas).await?;
    look_before_publishing(&connection, &arguments.durability.checked()?).await?;
    let (log, bucket) = (EventLog::new(connection.clone()), ReleaseStore::new(connection.clone()));
    let report = publish(&log, &bucket, &mut author, &content, &request, &progress).await?;
    drop(progress);
    let mut row = PublishedRow::of(&report);
    let followed = match &report.promotion {
        Some(AutomaticPromotion::Promoted(head) | AutomaticPromotion::AlreadyActive(head)) if arguments.wait.wait => {
            wait(&connection, &head.promoted, &arguments, &mut row).await?
        }
        Some(_) | None => {
            report::print(arguments.output, &row)?;
            ExitCode::SUCCESS
        }
    };
    connection.drain().await;
    Ok(frozen_meanwhile(&report).unwrap_or(followed))
}

/// Waits for the nodes, and names those that did not follow. What was published is printed however the wait ends.
async fn wait(
    connection: &Connection,
    head: &Promoted,
    arguments: &PublishingArguments,
    row: &mut PublishedRow,
) -> anyhow::Result<ExitCode> {
    let for_people = arguments.output == OutputFormat::Table;
    if for_people {
        report::print(arguments.output, row)?;
    }
    let limit = arguments.wait.timeout;
    let waited = wait_for(connection, &head.bundle, &head.channel, &head.tag, head.tree_digest, limit).await;
    match &waited {
        Ok(outcome) => {
            if for_people {
                print_line(&outcome.summary(&head.tag))?;
            }
            outcome.note_stragglers();
            row.add_wait(outcome.clone());
        }
        Err(_) => note("demonctl: the release is published; whether the nodes follow is not known"),
    }
    if !for_people {
        report::print(arguments.output, row)?;
    }
    Ok(waited?.exit_code())
}

/// A channel that was frozen between our look and our announcement: the release is there, the channel is not moved.
fn frozen_meanwhile(report: &PublishReport) -> Option<ExitCode> {
    let Some(AutomaticPromotion::Frozen(head)) = &report.promotion else { return None };
    note(&format!(
        "demonctl: the release is published, but channel `{}` was frozen meanwhile by `{}`",
        head.promoted.channel, head.promoted.actor
    ));
    Some(ExitCode::FAILURE)
}

/// Reads the source and decides what can be decided without the server.
async fn read(
    publication: &Publication,
    arguments: &PublishingArguments,
    progress: &Progress,
) -> anyhow::Result<(SourceContent, PublishRequest)> {
    let Publication { bundle, directory, .. } = publication;
    let commit = commit(publication, arguments).await?;
    let base = PublishRequest::new(bundle.clone(), arguments.timestamp().unwrap_or_else(Utc::now));
    let content = read_source(directory.clone(), bundle.clone(), base.limits, progress.clone()).await?;
    let trigger: Trigger = arguments.trigger.into();
    let request = PublishRequest {
        tag: arguments.tag(),
        commit,
        trigger,
        channel: arguments.channel(),
        policy: policy(arguments.force, trigger),
        require_compatible: arguments.require_compatible,
        base: arguments.base(),
        frozen_channel: FrozenChannel::Refuse,
        reason: arguments.reason(),
        deltas: arguments.deltas,
        ..base
    };
    Ok((content, request))
}

/// The daily run cuts the day's release whether or not anything changed.
fn policy(force: bool, trigger: Trigger) -> ReleasePolicy {
    match (force, trigger) {
        (true, _) => ReleasePolicy::Force,
        (false, Trigger::Schedule) => ReleasePolicy::Daily,
        (false, Trigger::Local | Trigger::WorkflowRun | Trigger::WorkflowDispatch) => ReleasePolicy::OnChange,
    }
}

/// The commit given, else what git says about the directory.
async fn commit(publication: &Publication, arguments: &PublishingArguments) -> anyhow::Result<Option<Commit>> {
    let directory = publication.directory.clone();
    let found = spawn_blocking(move || read_commit(&directory)).await.context("git was not asked to the end")?;
    let given = arguments.git_sha();
    let Some(commit) = decide_commit(found, given, arguments.repository(), arguments.git_ref())? else {
        if publication.needs_commit {
            bail!(
                "`{}` lies in no git repository with a commit: say with --git-sha which commit it is made from",
                publication.directory.display()
            );
        }
        return Ok(None);
    };
    if commit.tree == TreeState::Dirty {
        note(&format!(
            "demonctl: warning: `{}` is not exactly what its commit holds, so the tag is made from the content",
            publication.directory.display()
        ));
    }
    Ok(Some(commit))
}

fn decide_commit(
    found: Option<Commit>,
    sha: Option<String>,
    repository: Option<String>,
    reference: Option<String>,
) -> anyhow::Result<Option<Commit>> {
    let commit = match (found, sha) {
        // Whoever names the commit says that the content is its content.
        (found, Some(sha)) => {
            let facts = found.map(|found| found.facts);
            let (repository, reference) = facts.map_or((None, None), |facts| (facts.repository, facts.reference));
            Some(Commit { facts: GitFacts { sha, repository, reference }, tree: TreeState::Clean })
        }
        (found, None) => found,
    };
    let Some(mut commit) = commit else {
        if repository.is_some() || reference.is_some() {
            bail!("--repository and --git-ref say more about a commit: give it with --git-sha");
        }
        return Ok(None);
    };
    commit.facts.repository = repository.or(commit.facts.repository);
    commit.facts.reference = reference.or(commit.facts.reference);
    Ok(Some(commit))
}

/// Creates what is missing on the server; what exists is only checked.
async fn provision(connection: &Connection, author: &Author, replicas: usize) -> anyhow::Result<()> {
    let limits = LayoutLimits { replicas, ..LayoutLimits::default() };
    ensure(connection, &Layout::declared(limits)).await.context("the streams cannot be provisioned")?;
    let log = EventLog::new(connection.clone());
    ensure_epoch(&log, author.source().clone()).await.context("the log cannot be begun")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "0658fb8b7c6a59483726150413f2e1d0c9b8a796";

    fn found(tree: TreeState) -> Commit {
        let facts = GitFacts {
            sha: "1".repeat(40),
            repository: Some("acme/contracts".to_owned()),
            reference: Some("refs/heads/main".to_owned()),
        };
        Commit { facts, tree }
    }

    #[test]
    fn what_is_given_wins_over_what_git_says() {
        let decided = decide_commit(Some(found(TreeState::Dirty)), Some(SHA.to_owned()), None, None).unwrap().unwrap();
        assert_eq!((decided.facts.sha.as_str(), decided.tree), (SHA, TreeState::Clean));
        assert_eq!(decided.facts.repository.as_deref(), Some("acme/contracts"));

        let reference = Some("refs/tags/v1".to_owned());
        let decided = decide_commit(Some(found(TreeState::Dirty)), None, None, reference).unwrap().unwrap();
        assert_eq!(decided.tree, TreeState::Dirty);
        assert_eq!(decided.facts.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(decided.facts.sha, "1".repeat(40));
    }

    #[test]
    fn facts_about_no_commit_are_refused() {
        assert_eq!(decide_commit(None, None, None, None).unwrap(), None);
        assert!(decide_commit(None, None, Some("acme/contracts".to_owned()), None).is_err());
    }

    #[test]
    fn the_schedule_releases_daily_and_force_always() {
        assert_eq!(policy(false, Trigger::Local), ReleasePolicy::OnChange);
        assert_eq!(policy(false, Trigger::Schedule), ReleasePolicy::Daily);
        assert_eq!(policy(true, Trigger::Schedule), ReleasePolicy::Force);
        assert_eq!(policy(true, Trigger::WorkflowDispatch), ReleasePolicy::Force);
    }
}
