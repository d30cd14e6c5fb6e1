//! The releases of a GitHub repository as a source: what there is, which one is meant, and its verified files.
//!
//! | step | function | gives | promise |
//! |---|---|---|---|
//! | list | [`GitHubReleases::list`] | [`ReleaseSummary`] | the newest contract releases, in GitHub's order |
//! | find | [`GitHubReleases::find`] | [`GitHubRelease`] | what one tag names at this moment |
//! | poll | [`GitHubReleases::poll`] | [`Poll`] | "unchanged" only after the caller has acknowledged that very release |
//! | download | [`GitHubReleases::download`] | [`DownloadedContracts`] | three files whose digests agree |
//! | publish | [`github_release_content`] | content and facts for a publish cycle | the same bytes, the same tree digest |
//!
//! An answer that has not changed costs a "304 Not Modified". The token goes to the API's own origin and nowhere else.
//! Proxies (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) and authorities (`SSL_CERT_FILE`, `SSL_CERT_DIR`) are
//! those of the environment.

mod answers;
mod arguments;
mod contracts_files;
mod error;
mod http_client;
mod release_content;
mod response_judgement;
mod tls_roots;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use reqwest::Url;
use shared::digest::Sha256Digest;
use shared::identifiers::Tag;

pub use self::answers::{GitHubAsset, GitHubRelease, ReleaseSummary};
pub use self::arguments::{
    CONTRACTS_TAG_PREFIX, GitHubArguments, GitHubArgumentsError, GitHubSettings, RepositoryName,
};
pub use self::contracts_files::{ContractsManifest, DownloadedContracts, FilesError};
pub use self::error::{ContentProblem, GitHubError};
pub use self::release_content::{GitHubReleaseFacts, github_release_content};

use self::answers::{parse_release, parse_releases};
use self::http_client::{Answer, Fetch, HttpClient};
use crate::contracts_bundle::{BUNDLE_FILE, DIGEST_FILE, MANIFEST_FILE};

/// Most bytes of a JSON answer.
const MOST_JSON_BYTES: u64 = 8 << 20;
/// Most bytes of each file of a release.
const MOST_BUNDLE_BYTES: u64 = 64 << 20;
const MOST_MANIFEST_BYTES: u64 = 1 << 20;
const MOST_CHECKSUM_BYTES: u64 = 4 << 10;
/// Most releases in one answer, by GitHub's rules.
const LARGEST_PAGE: usize = 100;
/// Answers that one listing asks for at most.
const MOST_PAGES: usize = 10;
/// Answers kept for comparing.
const MOST_KEPT_ANSWERS: usize = 32;

/// The releases of one repository. Keeps the last answers in memory, so that asking again for what has not changed is
/// cheap; nothing is kept on disk.
#[derive(Debug)]
pub struct GitHubReleases {
    settings: GitHubSettings,
    http: HttpClient,
    answers: Mutex<BTreeMap<Url, KeptAnswer>>,
    acknowledged: Mutex<BTreeMap<Tag, GitHubRelease>>,
}

#[derive(Debug, Clone)]
struct KeptAnswer {
    entity_tag: String,
    body: Bytes,
}

/// What a poll found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// The release that was acknowledged last, asset for asset.
    Unchanged,
    /// Another one, or one that was not acknowledged yet.
    Changed(GitHubRelease),
    /// There is no release with this tag.
    Missing,
}

impl GitHubReleases {
    /// Prepares the client; contacts nobody. Fails where the environment's authorities cannot be used.
    pub fn new(settings: &GitHubSettings) -> Result<Self, GitHubError> {
        Ok(Self {
            http: HttpClient::new(settings)?,
            settings: settings.clone(),
            answers: Mutex::default(),
            acknowledged: Mutex::default(),
        })
    }

    /// The newest releases whose tag begins with the settings' prefix, in GitHub's order, drafts left out, at most
    /// `limit`. Looks at the newest thousand releases of the repository, no further.
    pub async fn list(&self, limit: usize) -> Result<Vec<ReleaseSummary>, GitHubError> {
        let page_size = limit.saturating_mul(2).clamp(1, LARGEST_PAGE);
        let mut found = Vec::new();
        for page in 1..=MOST_PAGES {
            if found.len() >= limit {
                break;
            }
            let mut url = self.repository_url(&["releases"]);
            url.query_pairs_mut().append_pair("per_page", &page_size.to_string());
            if page > 1 {
                url.query_pairs_mut().append_pair("page", &page.to_string());
            }
            let body = self.ask(url, "the releases").await.map_err(|error| self.repository_missing(error))?;
            let releases = parse_releases(&body).map_err(|source| self.not_understood("the releases", source))?;
            let full = releases.len() >= page_size;
            found.extend(releases.into_iter().filter_map(|release| release.summary(&self.settings.tag_prefix)));
            if !full {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// What a tag names at this moment; `None` where there is no such release, or the repository does not exist for
    /// whoever asks: GitHub does not tell the two apart.
    pub async fn find(&self, tag: &Tag) -> Result<Option<GitHubRelease>, GitHubError> {
        let what = format!("release `{tag}`");
        let url = self.repository_url(&["releases", "tags", tag.as_str()]);
        let body = match self.ask(url, &what).await {
            Ok(body) => body,
            Err(GitHubError::Status { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        parse_release(&body, tag).map(Some).map_err(|problem| self.not_understood(&what, problem))
    }

    /// The same, with an error that says what to do where there is none.
    pub async fn get(&self, tag: &Tag) -> Result<GitHubRelease, GitHubError> {
        self.find(tag).await?.ok_or_else(|| GitHubError::NotFound {
            tag: tag.clone(),
            repository: self.settings.repository.clone(),
            with_token: self.settings.token.is_some(),
        })
    }

    /// Whether a tag names something else than what was acknowledged last. Says "changed" again and again until
    /// [`Self::acknowledge`] is called: a publish that failed is not forgotten.
    pub async fn poll(&self, tag: &Tag) -> Result<Poll, GitHubError> {
        let Some(release) = self.find(tag).await? else { return Ok(Poll::Missing) };
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(if acknowledged.get(tag) == Some(&release) { Poll::Unchanged } else { Poll::Changed(release) })
    }

    /// Remembers, for [`Self::poll`], that everything was done with this release. In memory only: after a restart the
    /// first poll says "changed".
    pub fn acknowledge(&self, release: &GitHubRelease) {
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.insert(release.tag.clone(), release.clone());
    }

    /// Downloads the three files of a contracts release and verifies them: sizes against GitHub's, `bundle.json`
    /// against `bundle.sha256` and the manifest, and the manifest's fields.
    pub async fn download(&self, release: &GitHubRelease) -> Result<DownloadedContracts, GitHubError> {
        // Small ones first: most refusals cost little then.
        let bundle_sha256 = self.asset(release, DIGEST_FILE, MOST_CHECKSUM_BYTES).await?;
        let manifest_json = self.asset(release, MANIFEST_FILE, MOST_MANIFEST_BYTES).await?;
        let bundle_json = self.asset(release, BUNDLE_FILE, MOST_BUNDLE_BYTES).await?;
        DownloadedContracts::verified(release.tag.clone(), bundle_json, manifest_json, bundle_sha256)
            .map_err(|source| GitHubError::Files { tag: release.tag.clone(), source })
    }

    /// Where the releases come from, for messages: `owner/repository`.
    pub fn repository(&self) -> &RepositoryName {
        &self.settings.repository
    }

    async fn asset(&self, release: &GitHubRelease, name: &str, most_bytes: u64) -> Result<Bytes, GitHubError> {
        let missing = || GitHubError::MissingAsset { tag: release.tag.clone(), asset: name.to_owned() };
        let asset = release.asset(name).ok_or_else(missing)?;
        let what = format!("`{name}` of release `{}`", release.tag);
        if asset.size > most_bytes {
            return Err(GitHubError::TooLarge { what, limit: most_bytes });
        }
        let answer = self
            .http
            .fetch(&Fetch {
                url: self.settings.asset_url(asset).map_err(|source| self.not_understood(&what, source))?,
                accept: "application/octet-stream",
                most_bytes,
                expected_bytes: Some(asset.size),
                entity_tag: None,
                what: &what,
            })
            .await?;
        let Answer::Content { body, .. } = answer else {
            return Err(GitHubError::Status { status: 304, what, host: String::new() });
        };
        match asset.digest {
            Some(expected) if expected != Sha256Digest::of(&body) => Err(GitHubError::Files {
                tag: release.tag.clone(),
                source: FilesError::Digest { file: name.to_owned(), expected, got: Sha256Digest::of(&body) },
            }),
            Some(_) | None => Ok(body),
        }
    }

    /// An answer of the API, from memory where GitHub says that it has not changed.
    async fn ask(&self, url: Url, what: &str) -> Result<Bytes, GitHubError> {
        let kept = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&url).cloned();
        let answer = self
            .http
            .fetch(&Fetch {
                url: url.clone(),
                accept: "application/vnd.github+json",
                most_bytes: MOST_JSON_BYTES,
                expected_bytes: None,
                entity_tag: kept.as_ref().map(|kept| kept.entity_tag.as_str()),
                what,
            })
            .await?;
        match (answer, kept) {
            (Answer::NotModified, Some(kept)) => Ok(kept.body),
            (Answer::NotModified, None) => {
                Err(GitHubError::Status { status: 304, what: what.to_owned(), host: self.settings.api_host() })
            }
            (Answer::Content { body, entity_tag }, _) => {
                let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.remove(&url);
                if let Some(entity_tag) = entity_tag {
                    if answers.len() >= MOST_KEPT_ANSWERS {
                        answers.clear();
                    }
                    answers.insert(url, KeptAnswer { entity_tag, body: body.clone() });
                }
                Ok(body)
            }
        }
    }

    fn repository_url(&self, rest: &[&str]) -> Url {
        let mut url = self.settings.api_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            let RepositoryName { owner, name } = &self.settings.repository;
            path.pop_if_empty().push("repos").push(owner).push(name).extend(rest);
        }
        url
    }

    fn repository_missing(&self, error: GitHubError) -> GitHubError {
        if !matches!(error, GitHubError::Status { status: 404, .. }) {
            return error;
        }
        GitHubError::NoRepository {
            repository: self.settings.repository.clone(),
            host: self.settings.api_host(),
            with_token: self.settings.token.is_some(),
        }
    }

    fn not_understood(&self, what: &str, source: ContentProblem) -> GitHubError {
        GitHubError::NotUnderstood { what: what.to_owned(), host: self.settings.api_host(), source }
    }
}
