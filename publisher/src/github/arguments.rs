//! Which repository, which hosts, which token: command line options, environment variables, defaults.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use clap::Args;
use reqwest::Url;
use serde::{Serialize, Serializer};
use streams::connection_arguments::parse_duration;
use streams::secret::Secret;
use thiserror::Error;

use super::answers::GitHubAsset;
use super::error::ContentProblem;

/// What the tags of contract releases begin with.
pub const CONTRACTS_TAG_PREFIX: &str = "contracts-";
const DEFAULT_API_URL: &str = "https://api.github.com/";
const DEFAULT_OWNER: &str = "afewell-hh";
const DEFAULT_REPOSITORY: &str = "demon";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_IDLE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// How to reach the releases of a GitHub repository. A variable that is set but empty counts as unset.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "GitHub releases")]
pub struct GitHubArguments {
    /// Owner of the repository
    #[arg(long, env = "GH_OWNER", value_name = "NAME", default_value = DEFAULT_OWNER)]
    pub github_owner: String,

    /// Repository; `owner/repository` overrides the owner
    #[arg(long, env = "GH_REPO", value_name = "NAME", default_value = DEFAULT_REPOSITORY)]
    pub github_repository: String,

    // Not parsed by clap, whose error would repeat it.
    /// Token, for private repositories and a higher rate limit; sent to the API's host only. Better given by its
    /// variable (`GH_TOKEN`, else `GITHUB_TOKEN`) than on the command line, which others can see
    #[arg(long, env = "GH_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = parse_secret)]
    pub github_token: Option<Secret>,

    /// The second variable for the token
    #[arg(
        long = "github-token-second",
        env = "GITHUB_TOKEN",
        hide = true,
        hide_env_values = true,
        value_parser = parse_secret
    )]
    pub second_token: Option<Secret>,

    /// Address of the API, also by `GITHUB_API_URL`; `https://api.github.com/` without either
    #[arg(long, env = "DEMONCTL_GITHUB_API_URL", value_name = "URL", hide_env_values = true, value_parser = parse_secret)]
    pub github_api_url: Option<Secret>,

    /// The second variable for the API
    #[arg(
        long = "github-api-url-second",
        env = "GITHUB_API_URL",
        hide = true,
        hide_env_values = true,
        value_parser = parse_secret
    )]
    pub second_api_url: Option<Secret>,

    /// Where assets are downloaded from, instead of the host that the release names, for example a mirror of
    /// `https://github.com/`
    #[arg(
        long,
        env = "DEMONCTL_GITHUB_DOWNLOAD_URL",
        value_name = "URL",
        hide_env_values = true,
        value_parser = parse_secret
    )]
    pub github_download_url: Option<Secret>,

    /// How long one answer of GitHub may take, body included: a whole number with `ms`, `s` or `m`
    #[arg(
        long,
        env = "DEMON_GITHUB_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = parse_duration
    )]
    pub github_timeout: Duration,

    /// How often GitHub is asked before a question fails: 1 to 10
    #[arg(
        long,
        env = "DEMON_GITHUB_ATTEMPTS",
        value_name = "NUMBER",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=10)
    )]
    pub github_attempts: u32,
}

/// `owner/repository`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    /// User or organisation.
    pub owner: String,
    /// The repository.
    pub name: String,
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.owner, self.name)
    }
}

impl Serialize for RepositoryName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How to reach the releases of a repository, checked. Serialises with the token masked.
#[derive(Debug, Clone, Serialize)]
pub struct GitHubSettings {
    /// The repository.
    pub repository: RepositoryName,
    /// The API; without user and password.
    #[serde(serialize_with = "as_text")]
    pub api_url: Url,
    /// Scheme, host and port that take the place of those of a download; none: as the release says.
    #[serde(serialize_with = "as_optional_text")]
    pub download_url: Option<Url>,
    /// Who we are; nobody in particular without it.
    pub token: Option<Secret>,
    /// What the tags of a listing begin with.
    pub tag_prefix: String,
    /// One connection, TLS included.
    #[serde(serialize_with = "as_milliseconds")]
    pub connect_timeout: Duration,
    /// Longest silence of the other side.
    #[serde(serialize_with = "as_milliseconds")]
    pub idle_timeout: Duration,
    /// One answer, body included.
    #[serde(serialize_with = "as_milliseconds")]
    pub timeout: Duration,
    /// Attempts for one answer.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each further one.
    #[serde(serialize_with = "as_milliseconds")]
    pub first_pause: Duration,
    /// Longest wait that GitHub may ask for; where it asks for more, the question fails.
    #[serde(serialize_with = "as_milliseconds")]
    pub longest_wait: Duration,
}

/// Options that name no repository or no host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GitHubArgumentsError {
    /// No owner or repository of GitHub has such a name.
    #[error(
        "`{value}` is no {what} (`{option}`, `{variable}`): letters, digits, `-`, `_` and `.`, at most 100 characters"
    )]
    Name {
        /// Owner or repository.
        what: &'static str,
        /// The flag.
        option: &'static str,
        /// The variable.
        variable: &'static str,
        /// What was given, cut.
        value: String,
    },
    /// No address of a web server.
    #[error("`{option}` (`{variable}`) is no usable address: {reason}")]
    Url {
        /// The flag.
        option: &'static str,
        /// The variable.
        variable: &'static str,
        /// Why; never the address, which may hold a password.
        reason: &'static str,
    },
}

impl GitHubArguments {
    /// The settings these options amount to.
    pub fn settings(&self) -> Result<GitHubSettings, GitHubArgumentsError> {
        let (owner, name) = match self.github_repository.split_once('/') {
            Some((owner, name)) => (owner, name),
            None => (or_default(&self.github_owner, DEFAULT_OWNER), self.github_repository.as_str()),
        };
        let owner = checked_name(owner, "owner", "--github-owner", "GH_OWNER")?;
        let name = or_default(name, DEFAULT_REPOSITORY);
        let name = checked_name(name, "repository", "--github-repository", "GH_REPO")?;
        let api = match (given(self.github_api_url.as_ref()), given(self.second_api_url.as_ref())) {
            (Some(url), _) => address(url, "--github-api-url", "DEMONCTL_GITHUB_API_URL")?,
            (None, Some(url)) => address(url, "--github-api-url", "GITHUB_API_URL")?,
            (None, None) => address(&Secret::from(DEFAULT_API_URL), "--github-api-url", "DEMONCTL_GITHUB_API_URL")?,
        };
        let download = given(self.github_download_url.as_ref())
            .map(|url| address(url, "--github-download-url", "DEMONCTL_GITHUB_DOWNLOAD_URL"));
        let token = given(self.github_token.as_ref()).or_else(|| given(self.second_token.as_ref()));
        Ok(GitHubSettings {
            repository: RepositoryName { owner, name },
            api_url: api,
            download_url: download.transpose()?,
            token: token.map(|token| Secret::new(token.expose().trim())),
            tag_prefix: CONTRACTS_TAG_PREFIX.to_owned(),
            connect_timeout: CONNECT_TIMEOUT.min(self.github_timeout),
            idle_timeout: LONGEST_IDLE.min(self.github_timeout),
            timeout: self.github_timeout,
            attempts: self.github_attempts,
            first_pause: FIRST_PAUSE,
            longest_wait: LONGEST_WAIT,
        })
    }
}

impl GitHubSettings {
    /// Host and port of the API, for messages.
    pub(super) fn api_host(&self) -> String {
        host_of(&self.api_url)
    }

    /// Where a file is fetched: the mirror if one is set; the API if we have a token, because only there it counts;
    /// else where anybody gets it.
    pub(super) fn asset_url(&self, asset: &GitHubAsset) -> Result<Url, ContentProblem> {
        let unusable = || ContentProblem::Address { asset: asset.name.clone() };
        let parsed = |text: &str| match Url::parse(text) {
            Ok(url) if usable(&url).is_ok() => Ok(url),
            Ok(_) | Err(_) => Err(unusable()),
        };
        if let Some(mirror) = &self.download_url {
            let named = parsed(&asset.url)?;
            let mut url = mirror.clone();
            let base = mirror.path().trim_end_matches('/');
            url.set_path(&format!("{base}{}", named.path()));
            url.set_query(named.query());
            return Ok(url);
        }
        if self.token.is_some()
            && let Some(url) = asset.api_url.as_deref().and_then(|url| parsed(url).ok())
            && url.origin() == self.api_url.origin()
        {
            return Ok(url);
        }
        parsed(&asset.url)
    }
}

/// Host and port of an address, for messages: nothing of it that may be secret.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether an address is one of a web server and holds no login.
pub(super) fn usable(url: &Url) -> Result<(), &'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it begins with neither http:// nor https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a user or password; give a token in GH_TOKEN instead");
    }
    Ok(())
}

fn address(text: &Secret, option: &'static str, variable: &'static str) -> Result<Url, GitHubArgumentsError> {
    let refused = |reason| GitHubArgumentsError::Url { option, variable, reason };
    let url = Url::parse(text.expose().trim()).map_err(|_| refused("it is no URL"))?;
    usable(&url).map_err(refused)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("it goes on after its path"));
    }
    Ok(url)
}

fn checked_name(
    value: &str,
    what: &'static str,
    option: &'static str,
    variable: &'static str,
) -> Result<String, GitHubArgumentsError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=100).contains(&value.len()) && value.bytes().all(fits) && !matches!(value, "." | "..") {
        return Ok(value.to_owned());
    }
    let value = value.chars().take(80).flat_map(char::escape_default).collect();
    Err(GitHubArgumentsError::Name { what, option, variable, value })
}

fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn given(secret: Option<&Secret>) -> Option<&Secret> {
    secret.filter(|secret| !secret.expose().trim().is_empty())
}

// clap asks for a `Result`.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn parse_secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

fn as_text<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(url.as_str())
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn as_optional_text<S: Serializer>(url: &Option<Url>, serializer: S) -> Result<S::Ok, S::Error> {
    url.as_ref().map(Url::as_str).serialize(serializer)
}

fn as_milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
