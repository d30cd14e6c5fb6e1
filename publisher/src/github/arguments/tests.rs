use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    github: GitHubArguments,
}

fn settings(arguments: &[&str]) -> Result<GitHubSettings, GitHubArgumentsError> {
    let arguments = std::iter::once(&"command").chain(arguments);
    Command::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).github.settings()
}

fn asset(api_url: Option<&str>) -> GitHubAsset {
    GitHubAsset {
        name: "bundle.json".to_owned(),
        size: 1,
        url: "https://github.com/acme/other/releases/download/t/bundle.json".to_owned(),
        api_url: api_url.map(str::to_owned),
        id: None,
        updated_at: None,
        digest: None,
    }
}

#[test]
fn repository_and_hosts_are_checked() {
    let known = settings(&["--github-owner", "acme", "--github-repository", "other"]).unwrap();
    assert_eq!(known.repository.to_string(), "acme/other");
    let both = settings(&["--github-owner", "acme", "--github-repository", "team/other"]).unwrap();
    assert_eq!(both.repository.to_string(), "team/other");
    let empty = settings(&["--github-owner", "", "--github-repository", ""]).unwrap();
    assert_eq!(empty.repository.to_string(), "afewell-hh/demon");
    for (arguments, expected) in [
        (["--github-owner", "a/b"], "GH_OWNER"),
        (["--github-repository", "a/b/c"], "GH_REPO"),
        (["--github-repository", ".."], "GH_REPO"),
        (["--github-repository", "a b"], "GH_REPO"),
        (["--github-api-url", "api.github.com"], "no URL"),
        (["--github-api-url", "ftp://host/"], "neither"),
        (["--github-api-url", "https://host/?a=b"], "goes on"),
        (["--github-download-url", "https://user:hunter2@host/"], "user or password"),
    ] {
        let error = settings(&arguments).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_first_variable_wins_unless_it_is_empty() {
    let token = |arguments: &[&str]| settings(arguments).unwrap().token.map(|token| token.expose().to_owned());
    let both = ["--github-token", "one", "--github-token-second", "two"];
    assert_eq!(token(&both).as_deref(), Some("one"));
    assert_eq!(token(&["--github-token", "", "--github-token-second", "two\n"]).as_deref(), Some("two"));
    assert_eq!(token(&["--github-token", " ", "--github-token-second", ""]), None);
    let api = |arguments: &[&str]| settings(arguments).unwrap().api_url.to_string();
    let second = ["--github-api-url", "", "--github-api-url-second", "http://127.0.0.1:9/api"];
    assert_eq!(api(&second), "http://127.0.0.1:9/api");
    assert_eq!(api(&["--github-api-url", "", "--github-api-url-second", ""]), DEFAULT_API_URL);
}

#[test]
fn settings_are_shown_without_the_token() {
    let settings = settings(&["--github-token", "ghp_hunter2"]).unwrap();
    let shown = serde_json::to_string(&settings).unwrap() + &format!("{settings:?}");
    assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn assets_come_from_the_mirror_else_with_a_token_from_the_api_else_from_where_anybody_gets_them() {
    let api = "https://api.github.com/repos/acme/other/releases/assets/7";
    let url = |arguments: &[&str], api_url: Option<&str>| {
        settings(arguments).unwrap().asset_url(&asset(api_url)).unwrap().to_string()
    };
    let public = "https://github.com/acme/other/releases/download/t/bundle.json";
    let token = ["--github-token", "t", "--github-api-url", DEFAULT_API_URL];
    assert_eq!(url(&["--github-token", "", "--github-token-second", ""], Some(api)), public);
    assert_eq!(url(&token, Some(api)), api);
    assert_eq!(url(&token, None), public);
    assert_eq!(url(&token, Some("https://elsewhere.example/assets/7")), public, "the token counts at the API only");
    let mirror = [&token[..], &["--github-download-url", "http://127.0.0.1:8/mirror/"]].concat();
    assert_eq!(url(&mirror, Some(api)), "http://127.0.0.1:8/mirror/acme/other/releases/download/t/bundle.json");

    let unusable = GitHubAsset { url: "file:///etc/passwd".to_owned(), ..asset(None) };
    assert!(matches!(settings(&[]).unwrap().asset_url(&unusable), Err(ContentProblem::Address { .. })));
}
