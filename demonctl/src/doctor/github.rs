//! Whether GitHub answers, through the proxy that applies, and what the token is good for.

use publisher::github::{GitHubError, GitHubReleases, GitHubSettings};
use shared::daemon::ErrorChain;
use shared::identifiers::Tag;

use super::check::Check;

pub(super) const REACHABLE: &str = "github_reachable";
pub(super) const TOKEN: &str = "github_token";
const KNOWN_TAG: &str = "github_known_tag";
/// For 401, 403 and 404 differ.
const UNKNOWN_TOKEN: &str =
    "401: GitHub does not know the token; it expired or was revoked: make a new one and set GH_TOKEN";
const NO_PERMISSION: &str = "403: GitHub knows the token but does not let it read: give it `contents: read` (classic: `repo`), \
                             and authorise it for the organisation's single sign-on";
const NO_REPOSITORY: &str = "404: no such repository, or a private one that this token may not see: check GH_OWNER and \
                             GH_REPO, then the token's repositories";

/// Asks for the newest release, and for a known one where it is named.
pub(super) async fn check(settings: &GitHubSettings, known_tag: Option<&Tag>) -> Vec<Check> {
    let releases = match GitHubReleases::new(settings) {
        Ok(releases) => releases,
        Err(error) => return judge(Err(&error), settings.token.is_some()),
    };
    let asked = releases.list(1).await;
    let mut checks = judge(asked.as_ref().map(Vec::len), settings.token.is_some());
    if let (Some(tag), Ok(_)) = (known_tag, &asked) {
        checks.push(match releases.get(tag).await {
            Ok(release) => Check::yes(KNOWN_TAG, format!("`{tag}` has {} files", release.assets.len())),
            Err(error) => Check::no(KNOWN_TAG, ErrorChain(&error).to_string(), "check the tag's spelling"),
        });
    }
    checks
}

fn judge(asked: Result<usize, &GitHubError>, with_token: bool) -> Vec<Check> {
    let answers = |detail: &str| Check::yes(REACHABLE, detail);
    let error = match asked {
        Ok(found) => {
            let token = if with_token {
                Check::yes(TOKEN, "the token may read the repository's releases")
            } else {
                Check::yes(TOKEN, "none is set, and none is needed to read")
            };
            let newest =
                if found == 0 { "the API answers; the repository has no contracts release" } else { "the API answers" };
            return vec![answers(newest), token];
        }
        Err(error) => error,
    };
    let detail = ErrorChain(error).to_string();
    match error {
        GitHubError::Refused { status: 401, .. } => {
            vec![answers("the API answers"), Check::no(TOKEN, detail, UNKNOWN_TOKEN)]
        }
        GitHubError::Refused { .. } => vec![answers("the API answers"), Check::no(TOKEN, detail, NO_PERMISSION)],
        GitHubError::NoRepository { .. } => vec![answers("the API answers"), Check::no(TOKEN, detail, NO_REPOSITORY)],
        GitHubError::RateLimited { .. } => {
            let remedy = if with_token { "wait until then" } else { "wait until then, or set GH_TOKEN" };
            vec![answers("the API answers"), Check::no(TOKEN, detail, remedy)]
        }
        GitHubError::Token => {
            let remedy = "GH_TOKEN holds characters that no token has: set it again";
            vec![Check::not_checked(REACHABLE, "no usable token"), Check::no(TOKEN, detail, remedy)]
        }
        GitHubError::NotFound { .. }
        | GitHubError::Status { .. }
        | GitHubError::Connect { .. }
        | GitHubError::Proxy { .. }
        | GitHubError::Tls { .. }
        | GitHubError::Broken { .. }
        | GitHubError::Idle { .. }
        | GitHubError::TooSlow { .. }
        | GitHubError::Size { .. }
        | GitHubError::TooLarge { .. }
        | GitHubError::Redirect { .. }
        | GitHubError::NotUnderstood { .. }
        | GitHubError::MissingAsset { .. }
        | GitHubError::Files { .. }
        | GitHubError::Authorities { .. }
        | GitHubError::Client(_) => {
            let remedy = "check the network, HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE";
            vec![Check::no(REACHABLE, detail, remedy), Check::not_checked(TOKEN, "GitHub was not reached")]
        }
    }
}
