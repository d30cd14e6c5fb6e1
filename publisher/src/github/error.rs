//! What can go wrong between us and GitHub, in words that say what to do.
//!
//! No text holds a token, a proxy's password or the query of an address, which may be a signature.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use shared::digest::DigestError;
use shared::identifiers::Tag;
use thiserror::Error;

use super::arguments::RepositoryName;
use super::contracts_files::FilesError;

/// A question that GitHub did not answer as it should.
#[derive(Debug, Error)]
pub enum GitHubError {
    /// There is no such release, or nobody may see it.
    #[error("Release tag '{tag}' not found in {repository}{}", private_hint(*.with_token))]
    NotFound {
        /// The tag.
        tag: Tag,
        /// Where it was looked for.
        repository: RepositoryName,
        /// Whether we sent a token.
        with_token: bool,
    },
    /// There is no such repository, or nobody may see it.
    #[error("repository {repository} not found at {host}: check GH_OWNER and GH_REPO{}", private_hint(*.with_token))]
    NoRepository {
        /// The repository.
        repository: RepositoryName,
        /// Who was asked.
        host: String,
        /// Whether we sent a token.
        with_token: bool,
    },
    /// 401 or 403.
    #[error("{host} refused {what} (HTTP {status}): {}", token_advice(*.status, *.with_token))]
    Refused {
        /// What was asked for.
        what: String,
        /// Who refused.
        host: String,
        /// 401 or 403.
        status: u16,
        /// Whether we sent a token.
        with_token: bool,
    },
    /// Too many questions.
    #[error("the rate limit of {host} is used up{}{}", until_text(.until.as_ref()), rate_hint(*.with_token))]
    RateLimited {
        /// Who refused.
        host: String,
        /// When to ask again, where it said so.
        until: Option<DateTime<Utc>>,
        /// Whether we sent a token.
        with_token: bool,
    },
    /// Any other answer than the expected one.
    #[error("Failed to fetch release: HTTP {status} from {host} for {what}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// Who answered.
        host: String,
    },
    /// Nothing came back from the other side.
    #[error("cannot reach {host} for {what}")]
    Connect {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came back through the proxy.
    #[error("cannot reach {host} for {what} through proxy {proxy}: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY")]
    Proxy {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// The proxy, without user and password.
        proxy: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The other side's certificate is not trusted, or it does not speak TLS.
    #[error(
        "no secure connection to {host} for {what}: where its certificate comes from a private authority, name that \
         authority's PEM file in SSL_CERT_FILE"
    )]
    Tls {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke in the middle of a body.
    #[error("{what} from {host} was cut off after {received} bytes")]
    Broken {
        /// What was asked for.
        what: String,
        /// Who answered.
        host: String,
        /// Bytes that had come.
        received: u64,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("{host} sent nothing for {limit:?} while {what} was fetched, after {received} bytes")]
    Idle {
        /// What was asked for.
        what: String,
        /// Who was asked.
        host: String,
        /// Bytes that had come.
        received: u64,
        /// How long we waited.
        limit: Duration,
    },
    /// Something came, but too slowly.
    #[error("{what} from {host} took longer than {limit:?}: {received} bytes came")]
    TooSlow {
        /// What was asked for.
        what: String,
        /// Who was asked.
        host: String,
        /// Bytes that had come.
        received: u64,
        /// How long it may take.
        limit: Duration,
    },
    /// Not the size that GitHub names.
    #[error("{what} from {host} is truncated or altered: {received} bytes came, {expected} were announced")]
    Size {
        /// What was asked for.
        what: String,
        /// Who answered.
        host: String,
        /// Bytes that came.
        received: u64,
        /// Bytes that should have.
        expected: u64,
    },
    /// More than we take.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// Most bytes.
        limit: u64,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects {what} to where it is not followed: {reason}")]
    Redirect {
        /// What was asked for.
        what: String,
        /// Who redirected.
        host: String,
        /// Why not.
        reason: &'static str,
    },
    /// An answer that makes no sense.
    #[error("the answer of {host} about {what} is not understood")]
    NotUnderstood {
        /// What was asked for.
        what: String,
        /// Who answered.
        host: String,
        /// Why.
        #[source]
        source: ContentProblem,
    },
    /// A release that lacks a file.
    #[error("release `{tag}` has no asset `{asset}`")]
    MissingAsset {
        /// The release.
        tag: Tag,
        /// The missing file.
        asset: String,
    },
    /// Files that do not belong together.
    #[error("the files of release `{tag}` are not used")]
    Files {
        /// The release.
        tag: Tag,
        /// Why.
        #[source]
        source: FilesError,
    },
    /// The authorities of the environment cannot be used.
    #[error("SSL_CERT_FILE names no usable file of certificates: `{path}`: {reason}")]
    Authorities {
        /// What the variable says.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    /// The token is no header value.
    #[error("the token in GH_TOKEN is not usable: it holds characters that no token has")]
    Token,
}

/// An answer that cannot be used.
#[derive(Debug, Error)]
pub enum ContentProblem {
    /// It is no JSON of the expected form.
    #[error("it is not the expected JSON")]
    Json(#[source] serde_json::Error),
    /// It speaks of something else.
    #[error("release `{asked}` was asked for, `{got}` came")]
    OtherTag {
        /// What was asked for.
        asked: Tag,
        /// What came.
        got: String,
    },
    /// It has too many files.
    #[error("it has more than {limit} assets")]
    TooManyAssets {
        /// Most.
        limit: usize,
    },
    /// A digest is none.
    #[error("an asset's digest is not usable")]
    Digest(#[source] DigestError),
    /// A file lies nowhere.
    #[error("asset `{asset}` has no usable address")]
    Address {
        /// The file.
        asset: String,
    },
}

fn private_hint(with_token: bool) -> &'static str {
    if with_token {
        " (of a private repository GH_TOKEN must be allowed to read the contents)"
    } else {
        " (a private repository needs a token in GH_TOKEN)"
    }
}

fn token_advice(status: u16, with_token: bool) -> &'static str {
    match (status, with_token) {
        (_, false) => "set GH_TOKEN to a token with the scope `repo` (fine-grained: read access to contents)",
        (401, true) => {
            "the token in GH_TOKEN is wrong or has expired; it needs the scope `repo` (fine-grained: read access to contents)"
        }
        (_, true) => "the token in GH_TOKEN lacks the scope `repo` (fine-grained: read access to contents)",
    }
}

fn until_text(until: Option<&DateTime<Utc>>) -> String {
    until.map(|until| format!(" until {}", until.to_rfc3339_opts(SecondsFormat::Secs, true))).unwrap_or_default()
}

fn rate_hint(with_token: bool) -> &'static str {
    if with_token { "" } else { " (with a token in GH_TOKEN it is higher)" }
}
