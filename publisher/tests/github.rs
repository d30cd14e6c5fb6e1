//! The GitHub source against a GitHub on this machine: what it finds, what it refuses, and where the token goes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use acceptance::fake_github::{FakeGitHub, FakeRelease, Fault};
use acceptance::loopback_server::free_listener;
use chrono::{TimeDelta, Utc};
use publisher::github::{GitHubError, GitHubReleases, GitHubSettings, Poll, RepositoryName};
use shared::daemon::ErrorChain;
use shared::identifiers::Tag;
use streams::secret::Secret;

const TOKEN: &str = "ghp_0123456789hunter2";
const BUNDLE: &str = "{\"schemas\": {}, \"version\": \"1.0.0\", \"wit\": {}}\n";
const TAG: &str = "contracts-20260203-1f0e9d8c";

fn github() -> FakeGitHub {
    let github = FakeGitHub::start("acme", "other");
    github.publish(FakeRelease::contracts(TAG, BUNDLE));
    github
}

fn settings(github: &FakeGitHub) -> GitHubSettings {
    GitHubSettings {
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
    }
}

fn with_token(github: &FakeGitHub) -> GitHubSettings {
    GitHubSettings { token: Some(Secret::new(TOKEN)), ..settings(github) }
}

/// A client that gives silence little time.
fn impatient(github: &FakeGitHub) -> GitHubSettings {
    let (idle, whole) = (Duration::from_millis(400), Duration::from_millis(1200));
    GitHubSettings { idle_timeout: idle, timeout: whole, attempts: 1, ..settings(github) }
}

fn client(settings: &GitHubSettings) -> GitHubReleases {
    GitHubReleases::new(settings).unwrap()
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn text(error: &GitHubError) -> String {
    let text = ErrorChain(error).to_string();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Finds and downloads the release; the error's text where that fails.
async fn downloaded(settings: &GitHubSettings) -> Result<String, String> {
    let releases = client(settings);
    let release = releases.get(&tag(TAG)).await.map_err(|error| text(&error))?;
    let files = releases.download(&release).await.map_err(|error| text(&error))?;
    Ok(String::from_utf8(files.bundle_json.to_vec()).unwrap())
}

#[tokio::test]
async fn a_release_is_found_and_its_files_are_what_was_published() {
    let github = github();
    let releases = client(&settings(&github));
    let release = releases.find(&tag(TAG)).await.unwrap().unwrap();
    assert_eq!(release.published_at.as_deref(), Some("2026-02-03T06:01:00Z"));
    let files = releases.download(&release).await.unwrap();
    assert_eq!(files.bundle_json, BUNDLE);
    assert_eq!(files.bundle_sha256, format!("{}  bundle.json\n", files.digest()));
    assert_eq!(files.manifest().git_sha, "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796");

    let requests = github.requests();
    assert!(requests.iter().all(|request| request.method == "GET" && request.header("authorization").is_empty()));
    let agent = format!("demon/{}", env!("CARGO_PKG_VERSION"));
    assert!(requests.iter().all(|request| request.header("user-agent") == agent), "{requests:?}");
    assert_eq!(github.paths()[0], format!("/repos/acme/other/releases/tags/{TAG}"));
    let download = format!("/acme/other/releases/download/{TAG}/bundle.json");
    assert!(github.paths().contains(&download), "{:?}", github.paths());
    assert_eq!(releases.find(&tag("contracts-latest")).await.unwrap(), None);
}

#[tokio::test]
async fn a_listing_keeps_contract_releases_in_order_over_several_pages() {
    let github = FakeGitHub::start("acme", "other");
    for number in 0..30 {
        github.publish(FakeRelease::new(&format!("contracts-202602{number:02}-1f0e9d8c")));
        github.publish(FakeRelease::new(&format!("v1.{number}")));
        github.publish(FakeRelease::new(&format!("v2.{number}")));
    }
    github.publish(FakeRelease::new("contracts-latest").named("Contract Bundle (Latest)"));
    github.publish(FakeRelease::new("contracts-draft").draft());
    github.accept_token(TOKEN);
    let releases = client(&with_token(&github));

    let listed = releases.list(3).await.unwrap();
    let tags: Vec<&str> = listed.iter().map(|release| release.tag_name.as_str()).collect();
    assert_eq!(tags, ["contracts-latest", "contracts-20260229-1f0e9d8c", "contracts-20260228-1f0e9d8c"]);
    assert_eq!(listed[0].name.as_deref(), Some("Contract Bundle (Latest)"));
    let first = "/repos/acme/other/releases?per_page=6";
    assert_eq!(github.paths(), [first, &format!("{first}&page=2")], "no more pages than needed");

    assert_eq!(releases.list(1000).await.unwrap().len(), 31, "until there are no more");
    assert_eq!(releases.list(0).await.unwrap(), []);
    github.fail("/releases", Fault::status(404));
    let error = text(&client(&settings(&github)).list(3).await.unwrap_err());
    assert!(error.contains("acme/other not found") && error.contains("GH_OWNER"), "{error}");
}

#[tokio::test]
async fn what_has_not_changed_costs_a_304_and_is_changed_until_it_is_acknowledged() {
    let github = github();
    let (releases, tag) = (client(&settings(&github)), tag(TAG));
    let Poll::Changed(release) = releases.poll(&tag).await.unwrap() else { panic!("it is new") };
    assert_eq!(releases.poll(&tag).await.unwrap(), Poll::Changed(release.clone()), "nobody has done anything with it");
    releases.acknowledge(&release);
    assert_eq!(releases.poll(&tag).await.unwrap(), Poll::Unchanged);
    assert_eq!((github.answered(200), github.answered(304)), (1, 2));

    // The same tag with other files, as an alias gets them.
    github.publish(FakeRelease::contracts(TAG, "{}"));
    let Poll::Changed(other) = releases.poll(&tag).await.unwrap() else { panic!("it has changed") };
    assert_ne!(other, release);
    assert_eq!(github.answered(304), 2);
    // A listing is compared as well.
    releases.list(5).await.unwrap();
    assert_eq!(releases.list(5).await.unwrap().len(), 1);
    assert_eq!(github.answered(304), 3);

    github.remove(TAG);
    assert_eq!(releases.poll(&tag).await.unwrap(), Poll::Missing);
}

#[tokio::test]
async fn the_token_goes_to_the_api_and_to_no_other_server() {
    let (github, storage) = (github(), FakeGitHub::start("acme", "other"));
    github.make_private(TOKEN);
    github.store_assets_at(&storage);
    storage.publish(FakeRelease::contracts(TAG, BUNDLE));
    assert_eq!(downloaded(&with_token(&github)).await.unwrap(), BUNDLE);

    assert!(github.requests().iter().all(|request| request.header("authorization") == format!("token {TOKEN}")));
    let stored = storage.requests();
    assert_eq!(stored.len(), 3);
    for request in stored {
        assert!(!format!("{request:?}").contains("hunter2"), "{request:?}");
    }

    // Neither does it follow an answer of the API itself.
    storage.forget_requests();
    github.fail("/tags/", Fault::Redirect(format!("{}repos/acme/other/releases/tags/{TAG}", storage.url())));
    client(&with_token(&github)).get(&tag(TAG)).await.unwrap();
    assert_eq!(storage.requests().len(), 1);
    assert!(!format!("{:?}", storage.requests()).contains("hunter2"));
    // A renamed repository: elsewhere on the same server it is needed.
    github.recover();
    github.fail_times("/tags/", 1, Fault::Redirect(format!("/repos/acme/other/releases/tags/{TAG}?moved")));
    client(&with_token(&github)).get(&tag(TAG)).await.unwrap();
}

#[tokio::test]
async fn a_private_repository_asks_for_a_token_by_name() {
    let github = github();
    github.make_private(TOKEN);
    let error = downloaded(&settings(&github)).await.unwrap_err();
    assert!(error.starts_with(&format!("Release tag '{TAG}' not found")) && error.contains("GH_TOKEN"), "{error}");
    let wrong = GitHubSettings { token: Some(Secret::new("hunter2 of somebody else")), ..settings(&github) };
    let error = downloaded(&wrong).await.unwrap_err();
    assert!(error.contains("HTTP 401") && error.contains("GH_TOKEN") && error.contains("`repo`"), "{error}");
    github.forget_requests();
    github.fail("/tags/", Fault::status(403));
    let error = downloaded(&with_token(&github)).await.unwrap_err();
    assert!(error.contains("HTTP 403") && error.contains("lacks the scope `repo`"), "{error}");
    assert_eq!(github.requests().len(), 1, "a refusal is not asked for again");
    let unusable = GitHubSettings { token: Some(Secret::new("hunter2\n")), ..settings(&github) };
    assert!(text(&GitHubReleases::new(&unusable).unwrap_err()).contains("GH_TOKEN"));
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for_and_trouble_that_stays_is_told() {
    let github = github();
    for fault in [Fault::status(503), Fault::status(500), Fault::CutOff, Fault::Short] {
        github.fail_times("bundle.json", 2, fault);
        assert_eq!(downloaded(&settings(&github)).await.unwrap(), BUNDLE);
    }
    github.forget_requests();
    github.fail("/tags/", Fault::status(500));
    let error = downloaded(&settings(&github)).await.unwrap_err();
    assert!(error.starts_with("Failed to fetch release: HTTP 500"), "{error}");
    assert_eq!(github.requests().len(), 3, "as many attempts as the settings say");
    github.recover();
    for status in [404, 410] {
        github.forget_requests();
        github.fail_times("bundle.json", 1, Fault::status(status));
        let error = downloaded(&settings(&github)).await.unwrap_err();
        assert!(error.contains(&format!("HTTP {status}")) && error.contains("bundle.json"), "{error}");
    }
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_if_short_and_named_if_long() {
    let github = github();
    let begin = Instant::now();
    github.fail_times("/tags/", 1, Fault::Status(429, vec![("retry-after", "1".to_owned())]));
    client(&settings(&github)).get(&tag(TAG)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(900), "it waits as long as it is told");

    github.forget_requests();
    let until = Utc::now() + TimeDelta::minutes(30);
    github.fail("/tags/", Fault::rate_limited(403, until.timestamp()));
    let error = downloaded(&settings(&github)).await.unwrap_err();
    assert!(error.contains("rate limit"), "{error}");
    assert!(error.contains(&until.format("%Y-%m-%dT%H:%M:%SZ").to_string()) && error.contains("GH_TOKEN"), "{error}");
    assert_eq!(github.requests().len(), 1);
}

#[tokio::test]
async fn files_that_are_not_what_was_promised_are_refused() {
    for (file, fault, expected) in [
        ("bundle.json", Fault::Altered, "SHA-256 mismatch: expected "),
        ("bundle.json", Fault::Short, "truncated or altered"),
        ("bundle.json", Fault::CutOff, "was cut off after"),
        ("bundle.json", Fault::Endless, "larger than the limit"),
        ("manifest.json", Fault::Body("{}".to_owned()), "truncated or altered"),
        ("bundle.sha256", Fault::Endless, "larger than the limit"),
        ("/tags/", Fault::Body("<html>".to_owned()), "is not understood"),
        ("/tags/", Fault::Endless, "larger than the limit"),
        ("/tags/", Fault::Redirect("http://user:hunter2@127.0.0.1/".to_owned()), "not followed"),
        ("/tags/", Fault::Redirect("file:///etc/passwd".to_owned()), "not followed"),
        ("/releases/", Fault::Redirect(format!("/repos/acme/other/releases/tags/{TAG}")), "redirected too often"),
    ] {
        let github = github();
        github.fail(file, fault.clone());
        let error = downloaded(&GitHubSettings { attempts: 1, ..settings(&github) }).await.unwrap_err();
        assert!(error.contains(expected), "{fault:?}: {error}");
    }
    for name in ["bundle.json", "manifest.json", "bundle.sha256"] {
        let github = github();
        github.publish(FakeRelease::contracts(TAG, BUNDLE).without(name));
        let error = downloaded(&settings(&github)).await.unwrap_err();
        assert!(error.contains(&format!("no asset `{name}`")), "{error}");
    }
    let github = github();
    github.publish(FakeRelease::contracts(TAG, BUNDLE).asset("bundle.json", BUNDLE.replace("1.0.0", "1.0.1")));
    let error = downloaded(&settings(&github)).await.unwrap_err();
    assert!(error.contains("SHA-256 mismatch: expected ") && error.contains(", got "), "{error}");
}

#[tokio::test]
async fn silence_and_slowness_end() {
    let github = github();
    for (path, fault, expected) in [
        ("/tags/", Fault::Hang, "sent nothing for"),
        ("bundle.json", Fault::Hang, "sent nothing for"),
        ("bundle.json", Fault::Stall, "sent nothing for"),
        ("bundle.json", Fault::Trickle(Duration::from_millis(100)), "took longer than"),
    ] {
        github.recover();
        github.fail(path, fault.clone());
        let begin = Instant::now();
        let error = downloaded(&impatient(&github)).await.unwrap_err();
        assert!(error.contains(expected), "{fault:?}: {error}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{fault:?} took {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let github = github();
    let (listener, address) = free_listener();
    drop(listener);
    let nobody =
        GitHubSettings { api_url: format!("http://{address}/").parse().unwrap(), attempts: 2, ..settings(&github) };
    let error = downloaded(&nobody).await.unwrap_err();
    assert!(error.contains(&format!("cannot reach {address}")) && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_mirror_takes_the_place_of_the_download_host() {
    let (github, mirror) = (github(), github());
    github.accept_token(TOKEN);
    let settings = GitHubSettings { download_url: Some(mirror.url().parse().unwrap()), ..with_token(&github) };
    assert_eq!(downloaded(&settings).await.unwrap(), BUNDLE);
    assert_eq!(github.requests().len(), 1, "the API is asked for the release only");
    assert_eq!(mirror.requests().len(), 3);
    assert!(mirror.requests().iter().all(|request| request.header("authorization").is_empty()));
}
