//! Releases that lie on GitHub, through the operator's command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acceptance::certificates::Authority;
use acceptance::fake_github::{FakeGitHub, FakeRelease, Fault};
use acceptance::forward_proxy::ForwardProxy;
use acceptance::loopback_server::free_listener;
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{both_outputs, finished};
use serde_json::{Value, json};
use tempfile::TempDir;

const TOKEN: &str = "ghp_0123456789hunter2";
const TAG: &str = "contracts-20260203-1f0e9d8c";
const BUNDLE: &str = "{\"apiContracts\": {}, \"schemas\": {\"a.json\": \"{}\"}, \"version\": \"1.0.0\", \"wit\": {}}\n";
const FILES: [&str; 3] = ["bundle.json", "bundle.sha256", "manifest.json"];

/// An operator's machine: a directory, and variables that point at a GitHub.
struct Operator {
    directory: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Operator {
    fn of(github: &FakeGitHub) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            variables: vec![
                ("DEMON_CONTRACTS_SOURCE", "github".to_owned()),
                ("DEMONCTL_GITHUB_API_URL", github.url()),
                ("DEMON_GITHUB_ATTEMPTS", "1".to_owned()),
                ("GH_OWNER", "acme".to_owned()),
                ("GH_REPO", "other".to_owned()),
            ],
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a command line as the playbook writes it, in the operator's directory.
    async fn run(&self, line: &str) -> Outcome {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("demonctl"));
        let mut command: Command = WorkspaceBinary::Demonctl.command();
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(words).current_dir(self.directory.path()).envs(self.variables.iter().cloned());
        Outcome::of(finished(command).await)
    }
}

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn of(output: Output) -> Self {
        let both = both_outputs(&output);
        assert!(!both.contains("hunter2"), "a secret is printed: {both}");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

fn github() -> FakeGitHub {
    let github = FakeGitHub::start("acme", "other");
    publish(&github);
    github
}

fn publish(github: &FakeGitHub) {
    github.publish(FakeRelease::new("v1.0.0"));
    github.publish(FakeRelease::contracts(TAG, BUNDLE));
    github.publish(FakeRelease::contracts("contracts-latest", BUNDLE).named("Contract Bundle (Latest)"));
}

fn downloads(github: &FakeGitHub) -> usize {
    github.paths().iter().filter(|path| path.contains("/download/") || path.contains("/assets/")).count()
}

fn files_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn releases_are_listed_in_githubs_order_and_form() {
    let github = github();
    let operator = Operator::of(&github);
    let json: Value =
        serde_json::from_str(&operator.run("demonctl contracts list-releases --format json").await.ok()).unwrap();
    assert_eq!(
        json,
        json!([
            { "tag_name": "contracts-latest", "published_at": "2026-02-03T06:01:00Z", "name": "Contract Bundle (Latest)" },
            { "tag_name": TAG, "published_at": "2026-02-03T06:01:00Z", "name": format!("Contract Bundle 1.0.0 ({TAG})") },
        ])
    );
    assert_eq!(github.paths(), ["/repos/acme/other/releases?per_page=20"]);
    let table = operator.run("demonctl contracts list-releases --limit 1").await.ok();
    assert!(table.starts_with("Available contract releases:\n"), "{table}");
    assert!(table.contains("contracts-latest") && table.contains("2026-02-03") && !table.contains(TAG), "{table}");
}

#[tokio::test]
async fn a_listing_that_fails_is_empty_and_says_why() {
    let github = github();
    github.accept_token(TOKEN);
    let operator = Operator::of(&github).with("GH_TOKEN", TOKEN);
    for (fault, expected) in [
        (Fault::status(401), "GH_TOKEN"),
        (Fault::status(403), "GH_TOKEN"),
        (Fault::status(500), "HTTP 500"),
        (Fault::rate_limited(403, 4_102_444_800), "until 2100-01-01T00:00:00Z"),
        (Fault::Body("<html>".to_owned()), "is not understood"),
    ] {
        github.recover();
        github.fail("/releases", fault);
        let outcome = operator.run("demonctl contracts list-releases --format json").await;
        assert!(outcome.stderr.contains("Failed to fetch releases: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
        assert_eq!(outcome.ok(), "[]\n");
    }
    let (listener, nobody) = free_listener();
    drop(listener);
    let alone = operator.with("DEMONCTL_GITHUB_API_URL", format!("http://{nobody}/"));
    let outcome = alone.run("demonctl contracts list-releases --format json").await;
    assert!(outcome.stderr.contains(&nobody.to_string()), "{}", outcome.stderr);
    assert_eq!(outcome.ok(), "[]\n");
}

#[tokio::test]
async fn a_dry_run_resolves_the_tag_and_downloads_nothing() {
    let github = github();
    let operator = Operator::of(&github);
    let text = operator.run("demonctl contracts fetch-bundle --dry-run --tag contracts-latest").await.ok();
    for part in [
        "Fetching contract bundle",
        "Dry run mode",
        "Destination: .demon/contracts",
        "Would fetch tag: contracts-latest",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    let lines = operator.run("demonctl contracts fetch-bundle --dry-run --format json").await.ok();
    assert!(lines.contains(r#"{"phase": "fetch", "dry_run": true}"#), "{lines}");
    assert_eq!(files_in(operator.directory.path()), Vec::<String>::new());
    assert_eq!(downloads(&github), 0);

    let missing = operator.run("demonctl contracts fetch-bundle --dry-run --tag contracts-20990101-00000000").await;
    let error = missing.failed();
    assert!(error.contains("Release tag 'contracts-20990101-00000000' not found"), "{error}");
}

#[tokio::test]
async fn a_release_is_fetched_byte_for_byte() {
    let github = github();
    let operator = Operator::of(&github);
    let text = operator.run(&format!("demonctl contracts fetch-bundle --tag {TAG} --dest out")).await.ok();
    assert!(text.contains("Bundle downloaded to: out/bundle.json"), "{text}");
    assert_eq!(files_in(&operator.path("out")), FILES);
    assert_eq!(fs::read_to_string(operator.path("out/bundle.json")).unwrap(), BUNDLE);
    let checked = finished({
        let mut command = Command::new("sha256sum");
        command.args(["-c", "bundle.sha256"]).current_dir(operator.path("out"));
        command
    });
    assert!(checked.await.status.success());
    let lines = operator.run("demonctl contracts fetch-bundle --dest again --format json").await.ok();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({ "phase": "complete", "bundle_path": "again/bundle.json" }));
}

#[tokio::test]
async fn what_fails_on_the_way_leaves_the_directory_as_it_was() {
    let github = github();
    let operator = Operator::of(&github);
    operator.run("demonctl contracts fetch-bundle --dest out").await.ok();
    let next = "contracts-20260204-77aa01bc";
    github.publish(FakeRelease::contracts(next, "{}"));
    for (path, fault, expected) in [
        ("bundle.json", Fault::Altered, "SHA-256 mismatch: expected "),
        ("bundle.json", Fault::CutOff, "cut off after"),
        ("bundle.json", Fault::Short, "truncated"),
        ("manifest.json", Fault::status(404), "HTTP 404"),
        ("/tags/", Fault::status(500), "Failed to fetch release: HTTP 500"),
        ("/tags/", Fault::status(404), "Release tag 'contracts-20260204-77aa01bc' not found"),
        ("/tags/", Fault::status(401), "GH_TOKEN"),
    ] {
        github.recover();
        github.fail(path, fault.clone());
        let outcome = operator.run(&format!("demonctl contracts fetch-bundle --tag {next} --dest out")).await;
        let error = outcome.failed();
        assert!(error.contains(expected), "{fault:?}: {error}");
        assert_eq!(fs::read_to_string(operator.path("out/bundle.json")).unwrap(), BUNDLE, "{fault:?}");
        assert_eq!(files_in(&operator.path("out")), FILES, "{fault:?}");
    }
    let lines = operator.run(&format!("demonctl contracts fetch-bundle --tag {next} --dest out --format json")).await;
    let last: Value = serde_json::from_str(lines.stdout.lines().last().unwrap()).unwrap();
    assert!(last["error"].as_str().is_some_and(|error| error.contains("GH_TOKEN")), "{last}");
    lines.failed();
    github.recover();
    operator.run(&format!("demonctl contracts fetch-bundle --tag {next} --dest out")).await.ok();
    assert_eq!(fs::read_to_string(operator.path("out/bundle.json")).unwrap(), "{}");
}

#[tokio::test]
async fn a_private_repository_is_read_with_the_token_that_no_other_server_sees() {
    let (github, storage) = (github(), FakeGitHub::start("acme", "other"));
    publish(&storage);
    github.make_private(TOKEN);
    github.store_assets_at(&storage);
    let stranger = Operator::of(&github);
    let error = stranger.run("demonctl contracts fetch-bundle --dest out").await.failed();
    assert!(error.contains("Release tag 'contracts-latest' not found") && error.contains("GH_TOKEN"), "{error}");

    for variable in ["GH_TOKEN", "GITHUB_TOKEN"] {
        let operator = Operator::of(&github).with(variable, TOKEN).with("RUST_LOG", "trace");
        operator.run("demonctl contracts fetch-bundle --dest out").await.ok();
        assert_eq!(fs::read_to_string(operator.path("out/bundle.json")).unwrap(), BUNDLE);
        let shown = operator.run("demonctl --print-config contracts fetch-bundle --dest out").await.ok();
        assert!(shown.contains("***") && shown.contains("acme/other"), "{shown}");
    }
    assert_eq!(storage.requests().len(), 6);
    assert!(!format!("{:?}", storage.requests()).contains("hunter2"));
}

#[tokio::test]
async fn everything_goes_through_the_proxy_and_needs_the_authority_that_is_named() {
    let certificates = tempfile::tempdir().unwrap();
    let authority = Authority::new(certificates.path(), "ours");
    let github = FakeGitHub::start_with_tls("acme", "other", &authority.server(certificates.path()));
    publish(&github);
    let proxy = ForwardProxy::start();
    let named = authority.file().to_str().unwrap();

    let operator = Operator::of(&github).with("HTTPS_PROXY", proxy.url()).with("SSL_CERT_FILE", named);
    operator.run("demonctl contracts fetch-bundle --dest out").await.ok();
    assert_eq!(fs::read_to_string(operator.path("out/bundle.json")).unwrap(), BUNDLE);
    let targets = proxy.targets();
    assert!(!targets.is_empty() && targets.iter().all(|target| *target == github.host()), "{targets:?}");

    let stranger =
        Operator::of(&github).with("SSL_CERT_FILE", Authority::new(certificates.path(), "no").file().to_str().unwrap());
    let error = stranger.run("demonctl contracts fetch-bundle --dest out").await.failed();
    assert!(error.contains("SSL_CERT_FILE") && error.contains(&github.host()), "{error}");
    let (listener, nobody) = free_listener();
    drop(listener);
    let cut_off =
        Operator::of(&github).with("SSL_CERT_FILE", named).with("HTTPS_PROXY", format!("http://a:hunter2@{nobody}"));
    let error = cut_off.run("demonctl contracts fetch-bundle --dest out").await.failed();
    assert!(error.contains(&format!("proxy http://{nobody}")), "{error}");
}
