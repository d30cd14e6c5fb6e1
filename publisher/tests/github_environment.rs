//! The GitHub source in processes of their own, each with an environment of its own: variables, proxies, authorities.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Stdio};

use acceptance::certificates::Authority;
use acceptance::fake_github::{FakeGitHub, FakeRelease};
use acceptance::forward_proxy::ForwardProxy;
use acceptance::loopback_server::free_listener;
use clap::Parser;
use publisher::github::{GitHubArguments, GitHubReleases};
use shared::daemon::ErrorChain;

const TAG: &str = "contracts-latest";
const OUTCOME: &str = "TEST_OUTCOME_FILE";

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    github: GitHubArguments,
}

async fn download_by_environment() -> Result<String, String> {
    let arguments = Arguments::try_parse_from(["test"]).map_err(|error| error.to_string())?;
    let settings = arguments.github.settings().map_err(|error| ErrorChain(&error).to_string())?;
    let chain = |error| ErrorChain(&error).to_string();
    let releases = GitHubReleases::new(&settings).map_err(chain)?;
    let release = releases.get(&TAG.parse().unwrap()).await.map_err(chain)?;
    let files = releases.download(&release).await.map_err(chain)?;
    Ok(format!("{} from {}", files.digest().short(), releases.repository()))
}

#[tokio::test]
#[ignore = "the other tests run it, in a process with the environment that they want"]
async fn child() {
    // Run by hand, it has nobody to tell.
    let Some(file) = std::env::var_os(OUTCOME) else { return };
    let outcome = match download_by_environment().await {
        Ok(text) => format!("ok: {text}"),
        Err(text) => format!("failed: {text}"),
    };
    fs::write(file, outcome).unwrap();
}

/// Runs [`child`] with exactly these variables and returns what became of it.
async fn outcome(variables: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outcome");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored"]).env_clear().env(OUTCOME, &file);
    command.env("DEMON_GITHUB_ATTEMPTS", "1").envs(variables.iter().copied()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let outcome = fs::read_to_string(file).unwrap();
    assert!(!outcome.contains("hunter2"), "{outcome}");
    outcome
}

fn publish(github: &FakeGitHub) {
    github.publish(FakeRelease::contracts(TAG, "{}"));
}

/// Digest of the release's bundle, `{}`.
const DIGEST: &str = "44136fa3";

#[tokio::test]
async fn variables_name_repository_token_and_hosts() {
    let (first, second) = (FakeGitHub::start("acme", "other"), FakeGitHub::start("acme", "other"));
    publish(&first);
    publish(&second);
    let (one, other) = (first.url(), second.url());
    let repository = [("GH_OWNER", "acme"), ("GH_REPO", "other")];
    let ok = format!("ok: {DIGEST} from acme/other");
    let run = async |more: &[(&str, &str)]| outcome(&[&repository[..], more].concat()).await;

    assert_eq!(run(&[("DEMONCTL_GITHUB_API_URL", &one), ("GITHUB_API_URL", &other)]).await, ok);
    assert_eq!((first.requests().len(), second.requests().len()), (4, 0));
    assert_eq!(run(&[("DEMONCTL_GITHUB_API_URL", ""), ("GITHUB_API_URL", &other)]).await, ok);
    assert_eq!((first.requests().len(), second.requests().len()), (4, 4));
    let mirror = [("DEMONCTL_GITHUB_API_URL", one.as_str()), ("DEMONCTL_GITHUB_DOWNLOAD_URL", &other)];
    assert_eq!(run(&mirror).await, ok);
    assert_eq!((first.requests().len(), second.requests().len()), (5, 7));

    first.make_private("hunter2");
    let api = ("DEMONCTL_GITHUB_API_URL", one.as_str());
    assert_eq!(run(&[api, ("GH_TOKEN", "hunter2"), ("GITHUB_TOKEN", "wrong")]).await, ok);
    assert_eq!(run(&[api, ("GH_TOKEN", ""), ("GITHUB_TOKEN", "hunter2")]).await, ok);
    assert!(run(&[api, ("GH_TOKEN", "hunter2 wrong")]).await.contains("HTTP 401"));
    assert!(run(&[api]).await.starts_with("failed: Release tag 'contracts-latest' not found"));
    let elsewhere = outcome(&[api, ("GH_OWNER", "nobody"), ("GH_TOKEN", "hunter2")]).await;
    assert!(elsewhere.contains("not found in nobody/demon"), "{elsewhere}");
}

#[tokio::test]
async fn a_proxy_is_used_unless_the_environment_excepts_the_host() {
    let (github, proxy) = (FakeGitHub::start("afewell-hh", "demon"), ForwardProxy::start());
    publish(&github);
    let (api, host, through) = (github.url(), github.host(), proxy.url());
    let api = ("DEMONCTL_GITHUB_API_URL", api.as_str());
    let ok = format!("ok: {DIGEST} from afewell-hh/demon");

    for excepted in ["127.0.0.1", "example.com,127.0.0.0/8"] {
        assert_eq!(outcome(&[api, ("HTTP_PROXY", &through), ("NO_PROXY", excepted)]).await, ok);
    }
    assert_eq!(outcome(&[api, ("HTTPS_PROXY", &through)]).await, ok);
    assert_eq!(proxy.targets(), Vec::<String>::new(), "HTTPS_PROXY is for https");
    assert_eq!(outcome(&[api, ("HTTP_PROXY", &through), ("NO_PROXY", "example.com")]).await, ok);
    assert!(!proxy.targets().is_empty());
    assert!(proxy.targets().iter().all(|target| *target == host), "{:?}", proxy.targets());
}

#[tokio::test]
async fn a_proxy_that_fails_is_named_without_its_password() {
    let github = FakeGitHub::start("afewell-hh", "demon");
    publish(&github);
    let api = github.url();
    let api = ("DEMONCTL_GITHUB_API_URL", api.as_str());
    let (listener, nobody) = free_listener();
    drop(listener);
    let dead = format!("http://ada:hunter2@{nobody}");
    let failed = outcome(&[api, ("HTTP_PROXY", &dead)]).await;
    assert!(failed.contains(&format!("through proxy http://{nobody}")) && failed.contains("HTTPS_PROXY"), "{failed}");

    let guarded = ForwardProxy::start_with_login("ada", "hunter2");
    let with_login = |login: &str| format!("http://{login}@{}", guarded.host());
    let failed = outcome(&[api, ("HTTP_PROXY", &with_login("ada:hunter2-wrong"))]).await;
    assert!(failed.contains(&format!("HTTP 407 from proxy http://{}", guarded.host())), "{failed}");
    assert!(outcome(&[api, ("HTTP_PROXY", &with_login("ada:hunter2"))]).await.starts_with("ok: "));
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_the_environment_names_it_also_through_a_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(directory.path(), "ours"), Authority::new(directory.path(), "other"));
    let github = FakeGitHub::start_with_tls("afewell-hh", "demon", &authority.server(directory.path()));
    publish(&github);
    let api = github.url();
    let api = ("DEMONCTL_GITHUB_API_URL", api.as_str());
    let ours = ("SSL_CERT_FILE", authority.file().to_str().unwrap());
    let other = ("SSL_CERT_FILE", stranger.file().to_str().unwrap());
    let ok = format!("ok: {DIGEST} from afewell-hh/demon");

    assert_eq!(outcome(&[api, ours]).await, ok);
    let failed = outcome(&[api, other]).await;
    assert!(failed.contains("no secure connection to 127.0.0.1") && failed.contains("SSL_CERT_FILE"), "{failed}");
    let missing = outcome(&[api, ("SSL_CERT_FILE", "/nowhere/ca.pem")]).await;
    assert!(missing.contains("SSL_CERT_FILE") && missing.contains("/nowhere/ca.pem"), "{missing}");
    let empty = directory.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let failed = outcome(&[api, ("SSL_CERT_FILE", empty.to_str().unwrap())]).await;
    assert!(failed.contains("holds no certificate"), "{failed}");
    github.forget_requests();

    let proxy = ForwardProxy::start();
    let through = proxy.url();
    assert_eq!(outcome(&[api, ours, ("HTTPS_PROXY", &through)]).await, ok);
    assert!(!proxy.targets().is_empty());
    assert!(proxy.targets().iter().all(|target| *target == github.host()), "{:?}", proxy.targets());
    let failed = outcome(&[api, other, ("HTTPS_PROXY", &through)]).await;
    assert!(failed.contains("no secure connection to 127.0.0.1"), "a tunnel changes nothing: {failed}");

    let guarded = ForwardProxy::start_with_login("ada", "hunter2");
    let refused = outcome(&[api, ours, ("HTTPS_PROXY", &format!("http://ada:hunter2-wrong@{}", guarded.host()))]).await;
    assert!(refused.contains(&format!("through proxy http://{}", guarded.host())), "{refused}");
    assert_eq!(guarded.targets(), Vec::<String>::new());
}
