//! The three files of a contracts release, and what must hold between them.

use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use serde::Deserialize;
use shared::digest::{DigestError, Sha256Digest};
use shared::identifiers::Tag;
use thiserror::Error;

use crate::contracts_bundle::BUNDLE_FILE;
use crate::git_facts::is_commit_sum;

/// The files as they were downloaded. Their digests agree and the manifest is complete: there is no other way to make
/// a value of this type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadedContracts {
    /// The tag that was asked for; an alias stays an alias.
    pub tag: Tag,
    /// The contracts.
    pub bundle_json: Bytes,
    /// When and from what they were made.
    pub manifest_json: Bytes,
    /// The checksum file.
    pub bundle_sha256: Bytes,
    /// SHA-256 of the contracts.
    digest: Sha256Digest,
    manifest: ContractsManifest,
}

/// What a manifest says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractsManifest {
    /// Version of the bundle's form.
    pub version: String,
    /// When it was made, to the second.
    pub timestamp: DateTime<Utc>,
    /// Commit, 40 lowercase hex digits.
    pub git_sha: String,
    /// `owner/repository`, where it says so.
    pub git_repository: Option<String>,
    /// Full reference, where it says so.
    pub git_reference: Option<String>,
    /// SHA-256 of `bundle.json`.
    pub bundle_sha256: Sha256Digest,
    /// What made it, in the words of the workflow.
    pub trigger: Option<String>,
}

/// Files that do not belong together.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The content is not what was promised.
    #[error("SHA-256 mismatch: expected {expected}, got {got} for `{file}`")]
    Digest {
        /// The file.
        file: String,
        /// What was promised.
        expected: Sha256Digest,
        /// What came.
        got: Sha256Digest,
    },
    /// The checksum file has another form.
    #[error("`bundle.sha256` is not one line `<SHA-256>  bundle.json`")]
    ChecksumForm,
    /// The checksum is none.
    #[error("`bundle.sha256` holds no SHA-256")]
    Checksum(#[source] DigestError),
    /// The manifest is no JSON of the expected form.
    #[error("`manifest.json` is not usable")]
    Manifest(#[source] serde_json::Error),
    /// A field of the manifest breaks its rule.
    #[error("`{field}` of `manifest.json` is not usable: {rule}")]
    ManifestField {
        /// The field.
        field: &'static str,
        /// Its rule.
        rule: &'static str,
    },
    /// The contracts are no JSON object.
    #[error("`bundle.json` is no JSON document")]
    Bundle(#[source] serde_json::Error),
}

#[derive(Deserialize)]
struct ManifestForm {
    version: String,
    timestamp: String,
    git: GitForm,
    bundle_sha256: String,
    #[serde(default)]
    trigger: Option<String>,
}

#[derive(Deserialize)]
struct GitForm {
    sha: String,
    #[serde(default)]
    repository: Option<String>,
    #[serde(default, rename = "ref")]
    reference: Option<String>,
}

impl DownloadedContracts {
    /// Takes the files if they belong together.
    pub fn verified(
        tag: Tag,
        bundle_json: Bytes,
        manifest_json: Bytes,
        bundle_sha256: Bytes,
    ) -> Result<Self, FilesError> {
        let digest = Sha256Digest::of(&bundle_json);
        let mismatch = |expected| FilesError::Digest { file: BUNDLE_FILE.to_owned(), expected, got: digest };
        let promised = parse_checksum(&bundle_sha256)?;
        if promised != digest {
            return Err(mismatch(promised));
        }
        let manifest = ContractsManifest::parse(&manifest_json)?;
        if manifest.bundle_sha256 != digest {
            return Err(mismatch(manifest.bundle_sha256));
        }
        serde_json::from_slice::<serde::de::IgnoredAny>(&bundle_json).map_err(FilesError::Bundle)?;
        Ok(Self { tag, bundle_json, manifest_json, bundle_sha256, digest, manifest })
    }

    /// SHA-256 of `bundle.json`: the content digest.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// What the manifest says.
    pub fn manifest(&self) -> &ContractsManifest {
        &self.manifest
    }
}

impl ContractsManifest {
    /// Reads a manifest; fields that it does not know are left alone.
    pub fn parse(bytes: &[u8]) -> Result<Self, FilesError> {
        let form: ManifestForm = serde_json::from_slice(bytes).map_err(FilesError::Manifest)?;
        let refused = |field, rule| FilesError::ManifestField { field, rule };
        if form.version.is_empty() {
            return Err(refused("version", "a text that is not empty"));
        }
        let timestamp = DateTime::parse_from_rfc3339(&form.timestamp)
            .map_err(|_| refused("timestamp", "a time as RFC 3339 writes it"))?;
        if !is_commit_sum(&form.git.sha) {
            return Err(refused("git.sha", "40 lowercase hex digits"));
        }
        let bundle_sha256 =
            form.bundle_sha256.parse().map_err(|_| refused("bundle_sha256", "64 lowercase hex digits"))?;
        let short = |text: &Option<String>| text.as_ref().is_none_or(|text| plain(text));
        if !short(&form.git.repository) || !short(&form.git.reference) || !short(&form.trigger) {
            return Err(refused("git and trigger", "texts without control characters, at most 256 bytes"));
        }
        Ok(Self {
            version: form.version,
            timestamp: timestamp.with_timezone(&Utc).trunc_subsecs(0),
            git_sha: form.git.sha,
            git_repository: form.git.repository,
            git_reference: form.git.reference,
            bundle_sha256,
            trigger: form.trigger,
        })
    }
}

/// Whether a text can travel in metadata and logs.
fn plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control)
}

/// Reads what `sha256sum` writes: digest, two spaces (or ` *`), name.
fn parse_checksum(bytes: &[u8]) -> Result<Sha256Digest, FilesError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FilesError::ChecksumForm)?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (digest, name) = line.split_once(' ').ok_or(FilesError::ChecksumForm)?;
    if !matches!(name.strip_prefix([' ', '*']), Some(BUNDLE_FILE)) {
        return Err(FilesError::ChecksumForm);
    }
    digest.parse().map_err(FilesError::Checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796";

    fn manifest(digest: &str) -> String {
        format!(
            r#"{{"version": "1.0.0", "timestamp": "2026-02-03T06:00:11.5Z", "git": {{"sha": "{SHA}"}},
                 "bundle_sha256": "{digest}", "new": 1}}"#
        )
    }

    fn verified(bundle: &str, manifest: &str, checksum: &str) -> Result<DownloadedContracts, String> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let tag = "contracts-latest".parse().unwrap();
        DownloadedContracts::verified(tag, bytes(bundle), bytes(manifest), bytes(checksum))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn files_that_belong_together_are_taken_as_they_are() {
        let digest = Sha256Digest::of(b"{}").to_string();
        for checksum in [format!("{digest}  bundle.json\n"), format!("{digest} *bundle.json")] {
            let files = verified("{}", &manifest(&digest), &checksum).unwrap();
            assert_eq!(files.digest().to_string(), digest);
            assert_eq!(files.manifest().timestamp.to_rfc3339(), "2026-02-03T06:00:11+00:00");
            assert_eq!(files.bundle_sha256, checksum);
        }
    }

    #[test]
    fn every_disagreement_is_refused() {
        let (digest, other) = (Sha256Digest::of(b"{}").to_string(), Sha256Digest::of(b"[]").to_string());
        let (good, checksum) = (manifest(&digest), format!("{digest}  bundle.json\n"));
        let mismatch = format!("SHA-256 mismatch: expected {other}, got {digest}");
        for (bundle, manifest, checksum, expected) in [
            ("{}", good.as_str(), format!("{other}  bundle.json\n"), mismatch.as_str()),
            ("{}", &manifest(&other), checksum.clone(), &mismatch),
            ("[]", &good, checksum.clone(), "SHA-256 mismatch"),
            ("{}", &good, String::new(), "not one line"),
            ("{}", &good, format!("{digest}  dist/bundle.json\n"), "not one line"),
            ("{}", &good, format!("{digest}  bundle.json\n{digest}  manifest.json\n"), "not one line"),
            ("{}", &good, format!("{}  bundle.json\n", &digest[1..]), "no SHA-256"),
            ("{}", "[]", checksum.clone(), "`manifest.json` is not usable"),
            ("{}", &good.replace("1.0.0", ""), checksum.clone(), "`version`"),
            ("{}", &good.replace("2026-02-03T", "yesterday "), checksum.clone(), "`timestamp`"),
            ("{}", &good.replace(SHA, "1f0e9d8c"), checksum.clone(), "`git.sha`"),
            ("{}", &good.replace(&digest, "0"), checksum.clone(), "`bundle_sha256`"),
            ("{}", &good.replace("\"new\": 1", "\"trigger\": \"a\\nb\""), checksum, "`git and trigger`"),
        ] {
            let error = verified(bundle, manifest, &checksum).unwrap_err();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
        let text = "no document";
        let digest = Sha256Digest::of(text.as_bytes()).to_string();
        let error = verified(text, &manifest(&digest), &format!("{digest}  bundle.json\n")).unwrap_err();
        assert!(error.contains("`bundle.json` is no JSON"), "{error}");
    }
}
