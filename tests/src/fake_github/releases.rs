//! Releases and their files, as the API shows them.

use bytes::Bytes;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;

/// Commit of contracts that are made here.
const COMMIT: &str = "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796";

/// A release to publish.
#[derive(Debug, Clone)]
pub struct FakeRelease {
    pub(super) tag: String,
    pub(super) name: String,
    pub(super) published_at: String,
    pub(super) draft: bool,
    pub(super) assets: Vec<FakeAsset>,
}

#[derive(Debug, Clone)]
pub(super) struct FakeAsset {
    pub(super) name: String,
    pub(super) content: Bytes,
    /// Given when it is published.
    pub(super) id: u64,
}

impl FakeRelease {
    /// A release without files.
    pub fn new(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            name: format!("Contract Bundle 1.0.0 ({tag})"),
            published_at: "2026-02-03T06:01:00Z".to_owned(),
            draft: false,
            assets: Vec::new(),
        }
    }

    /// A contracts release of this content, as CI makes it: the bundle, its manifest and its checksum.
    pub fn contracts(tag: &str, bundle_json: impl Into<Bytes>) -> Self {
        let bundle_json = bundle_json.into();
        let digest = Sha256Digest::of(&bundle_json);
        let manifest = json!({
            "version": "1.0.0",
            "timestamp": "2026-02-03T06:00:11Z",
            "git": { "sha": COMMIT, "repository": "acme/contracts", "ref": "refs/heads/main" },
            "bundle": "bundle.json",
            "bundle_sha256": digest.to_string(),
            "trigger": "schedule",
        });
        Self::new(tag)
            .asset("bundle.json", bundle_json)
            .asset("manifest.json", format!("{manifest:#}\n"))
            .asset("bundle.sha256", format!("{digest}  bundle.json\n"))
    }

    /// Adds a file, in place of an earlier one with its name.
    #[must_use]
    pub fn asset(mut self, name: &str, content: impl Into<Bytes>) -> Self {
        self.assets.retain(|asset| asset.name != name);
        self.assets.push(FakeAsset { name: name.to_owned(), content: content.into(), id: 0 });
        self
    }

    /// Leaves a file out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.assets.retain(|asset| asset.name != name);
        self
    }

    /// Its title.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// When it was published, RFC 3339.
    #[must_use]
    pub fn published_at(mut self, time: &str) -> Self {
        time.clone_into(&mut self.published_at);
        self
    }

    /// Nobody has published it yet.
    #[must_use]
    pub fn draft(mut self) -> Self {
        self.draft = true;
        self
    }

    /// The API's form.
    pub(super) fn to_json(&self, api: &str, downloads: &str) -> Value {
        let asset = |asset: &FakeAsset| {
            json!({
                "id": asset.id,
                "url": format!("{api}/releases/assets/{}", asset.id),
                "name": asset.name,
                "size": asset.content.len(),
                "state": "uploaded",
                "updated_at": self.published_at,
                "browser_download_url": format!("{downloads}/releases/download/{}/{}", self.tag, asset.name),
            })
        };
        json!({
            "tag_name": self.tag,
            "name": self.name,
            "draft": self.draft,
            "prerelease": false,
            "published_at": self.published_at,
            "assets": self.assets.iter().map(asset).collect::<Vec<_>>(),
        })
    }
}
