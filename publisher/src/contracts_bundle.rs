//! The tree of the bundle `contracts`: exactly `bundle.json`, `manifest.json` and `bundle.sha256`, read from a source
//! and checked. Their form is `shared`'s: an agent makes its embedded last resort in the same one.

use std::io;

use bytes::Bytes;
pub use shared::contracts_form::{BUNDLE_FILE, CONTRACTS_BUNDLE, FORM_VERSION};
use shared::contracts_form::{ContractPlace, ContractsDocument, ManifestFacts, NameTaken, digest_line, manifest_json};
pub(crate) use shared::contracts_form::{DIGEST_FILE, MANIFEST_FILE};
use shared::digest::Sha256Digest;
use shared::release::ReleaseFile;
use shared::release_path::{PathError, ReleasePath};
use thiserror::Error;

use crate::git_facts::NO_COMMIT;
use crate::release_facts::ReleaseFacts;
use crate::source::{SourceTree, list};

/// One contract that cannot be part of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContractProblem {
    /// It is no text.
    #[error("`{path}` is not UTF-8 text")]
    NotText {
        /// The file, relative to the source.
        path: ReleasePath,
    },
    /// It is a schema and no JSON.
    #[error("`{path}` is not JSON: {reason}")]
    NotJson {
        /// The file, relative to the source.
        path: ReleasePath,
        /// What is wrong, and where.
        reason: String,
    },
    /// Two files would stand under one name.
    #[error("`{path}` would stand under the name `{name}`, which another file has")]
    NameTaken {
        /// The second file, relative to the source.
        path: ReleasePath,
        /// The name.
        name: String,
    },
    /// It cannot be read, or changed while it was.
    #[error("`{path}` cannot be read: {reason}")]
    Unreadable {
        /// The file, relative to the source.
        path: ReleasePath,
        /// The system's words.
        reason: String,
    },
}

/// A source that makes no contracts bundle.
#[derive(Debug, Error)]
pub enum ContractsError {
    /// There is not one contract in it.
    #[error("the source holds no contracts: no `schemas/*.json`, `api-contracts/*.yaml` or `wit/*.wit`")]
    Nothing,
    /// Everything that is wrong with its files.
    #[error("the contracts make no bundle: {}", list(.0))]
    Problems(Vec<ContractProblem>),
    /// A document could not be written as JSON.
    #[error("a document of the contracts bundle cannot be written")]
    Json(#[source] serde_json::Error),
    /// A name of the tree broke the rules of a release.
    #[error("the contracts bundle has an unusable file name")]
    Path(#[source] PathError),
}

/// The contracts of a source, as one document.
#[derive(Debug, Clone)]
pub struct ContractsBundle {
    bundle_json: Bytes,
    digest: Sha256Digest,
}

impl ContractsBundle {
    /// Takes the contracts of a source: files directly in `schemas/`, `api-contracts/` and `wit/`, and the result
    /// envelope. Everything else stays behind. Reports all problems, not only the first.
    pub fn from_source(source: &SourceTree) -> Result<Self, ContractsError> {
        Self::of(source, |_| true)
    }

    /// The same with an empty `wit`. Such a bundle is for looking at: what is released has its WIT definitions.
    pub fn from_source_without_wit(source: &SourceTree) -> Result<Self, ContractsError> {
        Self::of(source, |place| !matches!(place, ContractPlace::Wit(_)))
    }

    fn of(source: &SourceTree, taken: fn(&ContractPlace) -> bool) -> Result<Self, ContractsError> {
        let mut document = ContractsDocument::default();
        let mut problems = Vec::new();
        for file in source.files() {
            let Some(place) = ContractPlace::of(&file.path).filter(taken) else { continue };
            if let Err(problem) = add(&mut document, file, place, source.read(file)) {
                problems.push(problem);
            }
        }
        if !problems.is_empty() {
            return Err(ContractsError::Problems(problems));
        }
        if document.is_empty() {
            return Err(ContractsError::Nothing);
        }
        let bundle_json = Bytes::from(document.to_json().map_err(ContractsError::Json)?);
        Ok(Self { digest: Sha256Digest::of(&bundle_json), bundle_json })
    }

    /// SHA-256 of `bundle.json`: the content digest.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The `bundle.json`.
    pub fn bundle_json(&self) -> &[u8] {
        &self.bundle_json
    }

    /// The same, shared.
    pub(crate) fn bundle_json_bytes(&self) -> Bytes {
        self.bundle_json.clone()
    }

    /// The release's tree: the bundle, its manifest and its checksum.
    pub fn tree(&self, facts: &ReleaseFacts) -> Result<SourceTree, ContractsError> {
        let git = facts.git.as_ref();
        let manifest = manifest_json(&ManifestFacts {
            digest: self.digest,
            git_sha: git.map_or(NO_COMMIT, |git| git.sha.as_str()),
            git_repository: git.and_then(|git| git.repository.as_deref()),
            git_reference: git.and_then(|git| git.reference.as_deref()),
            timestamp: &facts.timestamp_text(),
            trigger: facts.trigger.as_str(),
        });
        let manifest = Bytes::from(manifest.map_err(ContractsError::Json)?);
        let checksum = Bytes::from(digest_line(self.digest));
        let path = |name: &str| name.parse::<ReleasePath>().map_err(ContractsError::Path);
        Ok(SourceTree::in_memory([
            (path(BUNDLE_FILE)?, self.bundle_json.clone()),
            (path(MANIFEST_FILE)?, manifest),
            (path(DIGEST_FILE)?, checksum),
        ]))
    }
}

fn add(
    document: &mut ContractsDocument,
    file: &ReleaseFile,
    place: ContractPlace,
    content: io::Result<Vec<u8>>,
) -> Result<(), ContractProblem> {
    let path = || file.path.clone();
    let content = content.map_err(|error| ContractProblem::Unreadable { path: path(), reason: error.to_string() })?;
    let text = String::from_utf8(content).map_err(|_| ContractProblem::NotText { path: path() })?;
    if let ContractPlace::Schema(_) = place {
        serde_json::from_str::<serde::de::IgnoredAny>(&text)
            .map_err(|error| ContractProblem::NotJson { path: path(), reason: error.to_string() })?;
    }
    document.add(place, text).map_err(|NameTaken(name)| ContractProblem::NameTaken { path: path(), name })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use chrono::DateTime;
    use shared::event::{GitFacts, Trigger};

    use super::*;

    fn source(files: &[(&str, &[u8])]) -> SourceTree {
        let file = |(path, content): &(&str, &[u8])| (path.parse().unwrap(), Bytes::copy_from_slice(content));
        SourceTree::in_memory(files.iter().map(file))
    }

    fn sample() -> SourceTree {
        source(&[
            ("schemas/b.json", b"{\"b\": 1}\n"),
            ("schemas/a.json", b"{\"type\": \"object\"}"),
            ("schemas/nested/no.json", b"{}"),
            ("schemas/notes.txt", b"no"),
            ("envelopes/result.json", b"{}"),
            ("envelopes/other.json", b"{}"),
            ("api-contracts/api.yaml", b"openapi: 3.1.0\n"),
            ("wit/x.wit", b"package demon:contracts@0.1.0;\n"),
            ("README.md", b"no"),
        ])
    }

    fn facts(git: Option<GitFacts>) -> ReleaseFacts {
        ReleaseFacts {
            bundle: CONTRACTS_BUNDLE.parse().unwrap(),
            tag: "contracts-20260203-1f0e9d8c".parse().unwrap(),
            timestamp: DateTime::from_timestamp(1_770_098_411, 0).unwrap(),
            git,
            trigger: Trigger::Schedule,
        }
    }

    fn content(tree: &SourceTree, path: &str) -> String {
        let file = tree.files().find(|file| file.path.as_str() == path).unwrap();
        String::from_utf8(tree.read(file).unwrap()).unwrap()
    }

    const GOLDEN_BUNDLE: &str = r#"{
  "apiContracts": {
    "api.yaml": "openapi: 3.1.0\n"
  },
  "schemas": {
    "a.json": "{\"type\": \"object\"}",
    "b.json": "{\"b\": 1}\n",
    "result-envelope.json": "{}"
  },
  "version": "1.0.0",
  "wit": {
    "x.wit": "package demon:contracts@0.1.0;\n"
  }
}
"#;

    #[test]
    fn the_three_files_have_their_documented_form() {
        let bundle = ContractsBundle::from_source(&sample()).unwrap();
        let git = GitFacts {
            sha: "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796".to_owned(),
            repository: Some("acme/contracts".to_owned()),
            reference: Some("refs/heads/main".to_owned()),
        };
        let tree = bundle.tree(&facts(Some(git))).unwrap();
        let paths: Vec<&str> = tree.files().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["bundle.json", "bundle.sha256", "manifest.json"]);
        assert_eq!(content(&tree, "bundle.json"), GOLDEN_BUNDLE);
        let digest = Sha256Digest::of(GOLDEN_BUNDLE.as_bytes());
        assert_eq!(bundle.digest(), digest);
        assert_eq!(content(&tree, "bundle.sha256"), format!("{digest}  bundle.json\n"));
        assert_eq!(
            content(&tree, "manifest.json"),
            format!(
                r#"{{
  "bundle": "bundle.json",
  "bundle_sha256": "{digest}",
  "git": {{
    "ref": "refs/heads/main",
    "repository": "acme/contracts",
    "sha": "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796"
  }},
  "timestamp": "2026-02-03T06:00:11Z",
  "trigger": "schedule",
  "version": "1.0.0"
}}
"#
            )
        );
    }

    #[test]
    fn without_a_commit_the_manifest_says_so_with_zeros() {
        let tree = ContractsBundle::from_source(&sample()).unwrap().tree(&facts(None)).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&content(&tree, "manifest.json")).unwrap();
        assert_eq!(manifest["git"], serde_json::json!({ "sha": NO_COMMIT }));
    }

    #[test]
    fn the_checksum_file_passes_the_usual_tool() {
        let directory = tempfile::tempdir().unwrap();
        let tree = ContractsBundle::from_source(&sample()).unwrap().tree(&facts(None)).unwrap();
        for file in tree.files() {
            fs::write(directory.path().join(file.path.as_str()), tree.read(file).unwrap()).unwrap();
        }
        let check = || {
            let mut command = Command::new("sha256sum");
            command.args(["--check", "bundle.sha256"]).current_dir(directory.path());
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().map(|status| status.success())
        };
        // Where the tool is missing, the form is still held by the golden text above.
        if let Ok(passed) = check() {
            assert!(passed);
            fs::write(directory.path().join("bundle.json"), "{}").unwrap();
            assert!(!check().unwrap());
        }
    }

    #[test]
    fn the_content_digest_does_not_depend_on_time_or_commit() {
        let bundle = ContractsBundle::from_source(&sample()).unwrap();
        let mut later = facts(None);
        later.timestamp += chrono::TimeDelta::days(1);
        let (one, other) = (bundle.tree(&facts(None)).unwrap(), bundle.tree(&later).unwrap());
        assert_eq!(content(&one, "bundle.json"), content(&other, "bundle.json"));
        assert_ne!(content(&one, "manifest.json"), content(&other, "manifest.json"));
    }

    #[test]
    fn broken_contracts_are_named_together() {
        let error = ContractsBundle::from_source(&source(&[
            ("schemas/broken.json", b"{"),
            ("schemas/binary.json", b"\xff"),
            ("envelopes/result.json", b"{}"),
            ("schemas/result-envelope.json", b"{}"),
        ]))
        .unwrap_err();
        let text = error.to_string();
        for part in
            ["`schemas/broken.json` is not JSON", "`schemas/binary.json` is not UTF-8", "`result-envelope.json`"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let error = ContractsBundle::from_source(&source(&[("README.md", b"x")])).unwrap_err();
        assert!(matches!(error, ContractsError::Nothing));
    }
}
