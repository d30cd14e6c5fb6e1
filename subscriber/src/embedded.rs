//! The last resort: the product's own contracts, compiled into the agent, as a release like any other.
//!
//! Its bytes are fixed with the agent's, so it needs no announcement: whoever trusts the agent trusts it. It is made anew
//! each time it is needed, which is rare; nothing of it stays in memory.
//!
//! Why it is made here and not by the publisher, and why it is switched to like a release: `docs/adr/0012`.

use std::collections::BTreeMap;

use bytes::Bytes;
use shared::archive::{WriteArchiveError, write_archive};
use shared::contracts_form::{
    BUNDLE_FILE, CONTRACTS_BUNDLE, ContractPlace, ContractsDocument, DIGEST_FILE, MANIFEST_FILE, ManifestFacts,
    NO_COMMIT, digest_line, manifest_json,
};
use shared::digest::Sha256Digest;
use shared::identifiers::{BundleName, IdentifierError, Tag};
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, Release, ReleaseError, ReleaseFile};
use shared::release_path::{PathError, ReleasePath};
use thiserror::Error;

/// Every file of `contracts/` that may be a contract, by its path.
const SOURCES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/contracts.rs"));
/// What stands before the content digest's first digits in its tag.
const TAG_PREFIX: &str = "contracts-embedded-";
/// Nobody knows when they were written, and the same agent must make the same bytes wherever it was built.
const TIMESTAMP: &str = "1970-01-01T00:00:00Z";
const TRIGGER: &str = "local";

/// The embedded contracts make no release: the agent was built from broken sources.
#[derive(Debug, Error)]
pub(crate) enum EmbeddedError {
    /// A file of theirs is no text.
    #[error("the embedded contract `{0}` is not text")]
    NotText(&'static str),
    /// A name breaks a release's rules, or two files share one.
    #[error("the embedded contract `{0}` cannot stand under its name")]
    Name(String),
    /// A path breaks a release's rules.
    #[error("an embedded contract has an unusable path")]
    Path(#[from] PathError),
    /// A document could not be written as JSON.
    #[error("the embedded contracts cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// A name of ours is none.
    #[error("the embedded contracts have an unusable name")]
    Identifier(#[from] IdentifierError),
    /// They break a limit of releases.
    #[error("the embedded contracts make no release")]
    Release(#[from] ReleaseError),
    /// They cannot be packed.
    #[error("the embedded contracts cannot be packed")]
    Archive(#[from] WriteArchiveError),
}

/// The embedded contracts as a release.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddedContracts {
    release: Release,
    contents: BTreeMap<ReleasePath, Bytes>,
}

impl EmbeddedContracts {
    /// Whether there is a last resort for this bundle: only contracts are compiled in.
    pub(crate) fn serves(bundle: &BundleName) -> bool {
        bundle.as_str() == CONTRACTS_BUNDLE
    }

    /// Makes the release. The same agent makes the same one every time.
    pub(crate) fn make() -> Result<Self, EmbeddedError> {
        let mut document = ContractsDocument::default();
        for (path, content) in SOURCES {
            let Some(place) = ContractPlace::of(&path.parse()?) else { continue };
            let text = std::str::from_utf8(content).map_err(|_| EmbeddedError::NotText(path))?;
            document.add(place, text.to_owned()).map_err(|taken| EmbeddedError::Name(taken.0))?;
        }
        let bundle = document.to_json()?;
        let digest = Sha256Digest::of(&bundle);
        let manifest = manifest_json(&ManifestFacts {
            digest,
            git_sha: NO_COMMIT,
            git_repository: None,
            git_reference: None,
            timestamp: TIMESTAMP,
            trigger: TRIGGER,
        })?;
        let line = digest_line(digest).into_bytes();
        let contents: BTreeMap<ReleasePath, Bytes> =
            [(BUNDLE_FILE, bundle), (MANIFEST_FILE, manifest), (DIGEST_FILE, line)]
                .into_iter()
                .map(|(path, content)| Ok::<_, PathError>((path.parse()?, content.into())))
                .collect::<Result<_, _>>()?;
        let files = contents
            .iter()
            .map(|(path, content)| ReleaseFile {
                path: path.clone(),
                size: content.len() as u64,
                mode: FileMode::Plain,
                sha256: Sha256Digest::of(content),
            })
            .collect();
        let tag: Tag = format!("{TAG_PREFIX}{}", digest.short()).parse()?;
        let bundle = CONTRACTS_BUNDLE.parse()?;
        let release = Release::new(bundle, tag, Some(digest), files, &ReleaseLimits::default())?;
        Ok(Self { release, contents })
    }

    /// The release.
    pub(crate) fn release(&self) -> &Release {
        &self.release
    }

    /// Its archive, in the form that releases are stored in.
    pub(crate) fn archive(&self) -> Result<Bytes, EmbeddedError> {
        let content = |file: &ReleaseFile| {
            self.contents.get(&file.path).map(|content| &content[..]).ok_or(std::io::ErrorKind::NotFound.into())
        };
        Ok(write_archive(&self.release, content, Vec::new())?.into())
    }

    /// The `bundle.json`.
    pub(crate) fn bundle_json(&self) -> Option<&[u8]> {
        self.contents.iter().find(|(path, _)| path.as_str() == BUNDLE_FILE).map(|(_, content)| &content[..])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_embedded_contracts_are_a_contracts_release_and_always_the_same() {
        let embedded = EmbeddedContracts::make().unwrap();
        let paths: Vec<&str> = embedded.release().files().iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["bundle.json", "bundle.sha256", "manifest.json"]);
        let bundle: Value = serde_json::from_slice(embedded.bundle_json().unwrap()).unwrap();
        for schema in ["approval.requested.v1.json", "events.bundle.loaded.v1.json", "result-envelope.json"] {
            let text = bundle["schemas"][schema].as_str().unwrap_or_else(|| panic!("{schema}"));
            assert!(serde_json::from_str::<Value>(text).unwrap().is_object());
        }
        assert!(bundle["wit"]["demon-envelope.wit"].is_string());
        assert_eq!(embedded.release().content_digest(), Sha256Digest::of(embedded.bundle_json().unwrap()));
        assert!(embedded.release().tag().as_str().starts_with(TAG_PREFIX));

        let again = EmbeddedContracts::make().unwrap();
        assert_eq!(again.release(), embedded.release());
        assert_eq!(again.archive().unwrap(), embedded.archive().unwrap());
    }
}
