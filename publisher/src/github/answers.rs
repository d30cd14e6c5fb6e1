//! What the API says about releases, checked as far as it is used.

use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::identifiers::Tag;

use super::error::ContentProblem;

/// Longest text that is kept of a name, in characters.
const MOST_NAME_CHARACTERS: usize = 256;
/// Assets that a release may have.
const MOST_ASSETS: usize = 1000;

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleaseSummary {
    /// The tag, as GitHub gives it.
    pub tag_name: String,
    /// When it was published, RFC 3339.
    pub published_at: Option<String>,
    /// Its title, without control characters.
    pub name: Option<String>,
}

/// One release with its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GitHubRelease {
    /// The tag that was asked for; an alias stays an alias.
    pub tag: Tag,
    /// When it was published, RFC 3339.
    pub published_at: Option<String>,
    /// Its title, without control characters.
    pub name: Option<String>,
    /// Its files.
    pub assets: Vec<GitHubAsset>,
}

/// One file of a release. Two assets are equal only if nothing was uploaded between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GitHubAsset {
    /// File name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Where anybody gets it (`browser_download_url`).
    pub url: String,
    /// Where the API gives it, to whoever may have it.
    pub api_url: Option<String>,
    /// GitHub's number for this upload.
    pub id: Option<u64>,
    /// When it was uploaded.
    pub updated_at: Option<String>,
    /// SHA-256 that GitHub computed, where it did.
    pub digest: Option<Sha256Digest>,
}

impl GitHubRelease {
    /// The file with this name.
    pub fn asset(&self, name: &str) -> Option<&GitHubAsset> {
        self.assets.iter().find(|asset| asset.name == name)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ReleaseAnswer {
    tag_name: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    published_at: Option<String>,
    #[serde(default)]
    draft: bool,
    #[serde(default)]
    assets: Vec<AssetAnswer>,
}

#[derive(Debug, Deserialize)]
struct AssetAnswer {
    name: String,
    size: u64,
    browser_download_url: String,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    updated_at: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    state: Option<String>,
}

impl ReleaseAnswer {
    /// Its line in a listing; `None` for drafts and for other tags.
    pub(super) fn summary(self, prefix: &str) -> Option<ReleaseSummary> {
        (!self.draft && self.tag_name.starts_with(prefix)).then(|| ReleaseSummary {
            tag_name: printable(&self.tag_name),
            published_at: self.published_at.as_deref().map(printable),
            name: self.name.as_deref().map(printable),
        })
    }
}

/// Reads an array of releases.
pub(super) fn parse_releases(body: &[u8]) -> Result<Vec<ReleaseAnswer>, ContentProblem> {
    serde_json::from_slice(body).map_err(ContentProblem::Json)
}

/// Reads the answer to a question for one tag.
pub(super) fn parse_release(body: &[u8], tag: &Tag) -> Result<GitHubRelease, ContentProblem> {
    let answer: ReleaseAnswer = serde_json::from_slice(body).map_err(ContentProblem::Json)?;
    if answer.tag_name != tag.as_str() {
        return Err(ContentProblem::OtherTag { asked: tag.clone(), got: printable(&answer.tag_name) });
    }
    if answer.assets.len() > MOST_ASSETS {
        return Err(ContentProblem::TooManyAssets { limit: MOST_ASSETS });
    }
    let asset = |asset: AssetAnswer| {
        let digest = asset.digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:")).map(str::parse);
        Ok(GitHubAsset {
            digest: digest.transpose().map_err(ContentProblem::Digest)?,
            name: printable(&asset.name),
            size: asset.size,
            url: asset.browser_download_url,
            api_url: asset.url,
            id: asset.id,
            updated_at: asset.updated_at,
        })
    };
    // An upload that is still going on, or was broken off, is not there yet.
    let uploaded = |asset: &AssetAnswer| asset.state.as_deref().is_none_or(|state| state == "uploaded");
    Ok(GitHubRelease {
        tag: tag.clone(),
        published_at: answer.published_at.as_deref().map(printable),
        name: answer.name.as_deref().map(printable),
        assets: answer.assets.into_iter().filter(uploaded).map(asset).collect::<Result<_, _>>()?,
    })
}

/// Text from outside that may go to a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MOST_NAME_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag() -> Tag {
        "contracts-latest".parse().unwrap()
    }

    fn release(assets: &str) -> String {
        format!(r#"{{"tag_name": "contracts-latest", "name": "Latest\u001b[31m", "assets": [{assets}]}}"#)
    }

    #[test]
    fn a_release_is_read_with_what_is_there_already() {
        let digest = Sha256Digest::of(b"x");
        let body = release(&format!(
            r#"{{"name": "bundle.json", "size": 1, "browser_download_url": "http://h/b", "digest": "sha256:{digest}"}},
               {{"name": "half", "size": 1, "browser_download_url": "http://h/b", "state": "starter"}}"#
        ));
        let release = parse_release(body.as_bytes(), &tag()).unwrap();
        assert_eq!(release.name.as_deref(), Some("Latest[31m"));
        assert_eq!(release.assets.len(), 1);
        assert_eq!(release.asset("bundle.json").unwrap().digest, Some(digest));
        assert_eq!(release.asset("half"), None);
    }

    #[test]
    fn another_release_than_the_one_asked_for_is_refused() {
        let other = "contracts-20260203-1f0e9d8c".parse().unwrap();
        assert!(matches!(parse_release(release("").as_bytes(), &other), Err(ContentProblem::OtherTag { .. })));
        assert!(matches!(parse_release(b"<html>", &tag()), Err(ContentProblem::Json(_))));
        let digest = r#"{"name": "b", "size": 1, "browser_download_url": "x", "digest": "sha256:zz"}"#;
        assert!(matches!(parse_release(release(digest).as_bytes(), &tag()), Err(ContentProblem::Digest(_))));
    }

    #[test]
    fn a_listing_keeps_published_releases_with_the_prefix_in_order() {
        let body =
            br#"[{"tag_name": "contracts-b"}, {"tag_name": "v1.0.0"}, {"tag_name": "contracts-d", "draft": true},
                        {"tag_name": "contracts-a", "published_at": "2026-02-03T06:01:00Z", "name": "A"}]"#;
        let kept = parse_releases(body).unwrap().into_iter().filter_map(|release| release.summary("contracts-"));
        let kept: Vec<ReleaseSummary> = kept.collect();
        assert_eq!(
            serde_json::to_string(&kept).unwrap(),
            r#"[{"tag_name":"contracts-b","published_at":null,"name":null},{"tag_name":"contracts-a","published_at":"2026-02-03T06:01:00Z","name":"A"}]"#
        );
    }
}
