//! A GitHub release through a whole publish cycle, on a real server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use acceptance::fake_github::{FakeGitHub, FakeRelease};
use acceptance::sample_trees::contracts;
use acceptance::world::World;
use publisher::author::Author;
use publisher::build::{SourceContent, read_source};
use publisher::contracts_bundle::ContractsBundle;
use publisher::git_facts::{Commit, TreeState};
use publisher::github::{GitHubReleases, GitHubSettings, RepositoryName, github_release_content};
use publisher::progress::Silent;
use publisher::publish_cycle::{Novelty, PublishError, PublishReport, PublishRequest, publish};
use publisher::source::directory::read_directory;
use shared::daemon::ErrorChain;
use shared::event::{GitFacts, Trigger};
use shared::limits::ReleaseLimits;
use streams::release_store::ReleaseStore;

const TAG: &str = "contracts-20260203-1f0e9d8c";

fn releases(github: &FakeGitHub) -> GitHubReleases {
    let settings = GitHubSettings {
        repository: RepositoryName { owner: "acme".to_owned(), name: "other".to_owned() },
        api_url: github.url().parse().unwrap(),
        download_url: None,
        token: None,
        tag_prefix: "contracts-".to_owned(),
        connect_timeout: Duration::from_secs(20),
        idle_timeout: Duration::from_secs(20),
        timeout: Duration::from_mins(1),
        attempts: 3,
        first_pause: Duration::from_millis(1),
        longest_wait: Duration::from_secs(5),
    };
    GitHubReleases::new(&settings).unwrap()
}

/// Downloads what a tag names, with the request that publishes it.
async fn taken_over(github: &FakeGitHub, tag: &str) -> (SourceContent, PublishRequest) {
    let releases = releases(github);
    let release = releases.get(&tag.parse().unwrap()).await.unwrap();
    let downloaded = releases.download(&release).await.unwrap();
    let (content, facts) = github_release_content(&downloaded).unwrap();
    let request = PublishRequest {
        tag: facts.tag,
        commit: facts.commit,
        trigger: facts.trigger,
        channel: Some("latest".parse().unwrap()),
        ..PublishRequest::new("contracts".parse().unwrap(), facts.timestamp)
    };
    (content, request)
}

async fn published(
    world: &World,
    content: &SourceContent,
    request: &PublishRequest,
) -> Result<PublishReport, PublishError> {
    let log = world.log().await;
    let bucket = ReleaseStore::new(log.connection().clone());
    let mut author = Author::operator("tests".parse().unwrap());
    publish(&log, &bucket, &mut author, content, request, &Silent::shared()).await
}

#[tokio::test]
async fn the_same_bytes_are_the_same_release_wherever_they_were_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = contracts(directory.path());
    let limits = ReleaseLimits::default();
    let source = read_directory(&root, &limits, &Silent).unwrap();
    let bundle_json = ContractsBundle::from_source(&source).unwrap().bundle_json().to_vec();
    let github = FakeGitHub::start("acme", "other");
    github.publish(FakeRelease::contracts(TAG, bundle_json.clone()));
    github.publish(FakeRelease::contracts("contracts-latest", bundle_json));

    // Taken over by its alias: it has the tag of the release, and the facts of its manifest.
    let (content, request) = taken_over(&github, "contracts-latest").await;
    let world = World::start(&[]).await;
    let first = published(&world, &content, &request).await.unwrap();
    assert_eq!(first.novelty, Novelty::Announced);
    let event = &first.release.published;
    assert_eq!((event.tag.as_str(), event.trigger), (TAG, Trigger::Schedule));
    let git = event.git.clone().unwrap();
    assert_eq!(git.repository.as_deref(), Some("acme/contracts"));

    // By its own tag it is the same one.
    let (content, request) = taken_over(&github, TAG).await;
    let again = published(&world, &content, &request).await.unwrap();
    assert_eq!(again.novelty, Novelty::Unchanged);

    // Made here from the same contracts and facts, on a server that knows nothing of it.
    let here = read_source(root, request.bundle.clone(), limits, Silent::shared()).await.unwrap();
    let commit = Commit {
        facts: GitFacts { sha: git.sha, repository: git.repository, reference: git.reference },
        tree: TreeState::Clean,
    };
    let request = PublishRequest { tag: None, commit: Some(commit), ..request };
    let other = World::start(&[]).await;
    let made_here = published(&other, &here, &request).await.unwrap().release.published;
    assert_eq!(made_here.tag, event.tag);
    assert_eq!(made_here.content_digest, event.content_digest);
    assert_eq!(made_here.tree_digest, event.tree_digest);
    assert_eq!((made_here.archive, made_here.release), (event.archive.clone(), event.release.clone()));
}

#[tokio::test]
async fn contracts_that_no_reader_could_use_are_refused_like_those_made_here() {
    let github = FakeGitHub::start("acme", "other");
    let broken = r#"{"schemas": {"a.json": "{\"type\": 7}"}, "version": "1.0.0", "wit": {}}"#;
    github.publish(FakeRelease::contracts(TAG, broken));
    let (content, request) = taken_over(&github, TAG).await;
    let world = World::start(&[]).await;
    let error = published(&world, &content, &request).await.unwrap_err();
    assert!(matches!(error, PublishError::Defects { .. }), "{}", ErrorChain(&error));
}
