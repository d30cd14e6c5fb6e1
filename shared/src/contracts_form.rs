//! The form of the bundle `contracts`: which files of a source belong into it, and the documents made of them.
//!
//! `bundle.json` depends on the contracts alone; its SHA-256 is the content digest that operators see and compare. The
//! manifest says when and from what it was made. Both are pretty JSON with sorted keys and a newline at the end.
//!
//! The publisher makes releases of it, and an agent its embedded last resort: one form, so that nobody who reads a
//! cache can tell them apart by anything but their tag.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::digest::Sha256Digest;
use crate::release_path::ReleasePath;

/// The bundle whose releases have this form.
pub const CONTRACTS_BUNDLE: &str = "contracts";
/// Version of the two documents' form.
pub const FORM_VERSION: &str = "1.0.0";
/// The file that holds the contracts.
pub const BUNDLE_FILE: &str = "bundle.json";
/// The file that says when and from what it was made.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The file that holds its SHA-256.
pub const DIGEST_FILE: &str = "bundle.sha256";
/// The `sha` of a manifest that knows no commit.
pub const NO_COMMIT: &str = "0000000000000000000000000000000000000000";
/// Where the result envelope lies in the source, and under which name it stands among the schemas.
const RESULT_ENVELOPE: (&str, &str) = ("envelopes/result.json", "result-envelope.json");

/// Where a file of the source belongs, with its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContractPlace {
    /// Among the JSON Schemas.
    Schema(String),
    /// Among the API descriptions.
    ApiContract(String),
    /// Among the WIT definitions.
    Wit(String),
}

impl ContractPlace {
    /// The place of a file by its path: files directly in `schemas/`, `api-contracts/` and `wit/`, and the result
    /// envelope. Everything else stays behind.
    pub fn of(path: &ReleasePath) -> Option<Self> {
        if path.as_str() == RESULT_ENVELOPE.0 {
            return Some(Self::Schema(RESULT_ENVELOPE.1.to_owned()));
        }
        let (folder, name) = path.as_str().split_once('/')?;
        let (_, extension) = name.rsplit_once('.')?;
        if name.contains('/') {
            return None;
        }
        match (folder, extension) {
            ("schemas", "json") => Some(Self::Schema(name.to_owned())),
            ("api-contracts", "yaml" | "yml") => Some(Self::ApiContract(name.to_owned())),
            ("wit", "wit") => Some(Self::Wit(name.to_owned())),
            _ => None,
        }
    }
}

/// A name that two files would stand under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTaken(pub String);

/// The contracts, by section and name.
// Fields in the order of their names, so that the keys are sorted whatever the serializer does.
#[derive(Debug, Clone, Serialize)]
pub struct ContractsDocument {
    #[serde(rename = "apiContracts")]
    api_contracts: BTreeMap<String, String>,
    schemas: BTreeMap<String, String>,
    version: &'static str,
    wit: BTreeMap<String, String>,
}

impl Default for ContractsDocument {
    fn default() -> Self {
        let empty = BTreeMap::new;
        Self { api_contracts: empty(), schemas: empty(), version: FORM_VERSION, wit: empty() }
    }
}

impl ContractsDocument {
    /// Puts a text into its place.
    pub fn add(&mut self, place: ContractPlace, text: String) -> Result<(), NameTaken> {
        let (section, name) = match place {
            ContractPlace::Schema(name) => (&mut self.schemas, name),
            ContractPlace::ApiContract(name) => (&mut self.api_contracts, name),
            ContractPlace::Wit(name) => (&mut self.wit, name),
        };
        if section.contains_key(&name) {
            return Err(NameTaken(name));
        }
        section.insert(name, text);
        Ok(())
    }

    /// Whether there is not one contract in it.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty() && self.api_contracts.is_empty() && self.wit.is_empty()
    }

    /// The `bundle.json`.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        pretty(self)
    }
}

/// What a manifest says.
#[derive(Debug, Clone, Copy)]
pub struct ManifestFacts<'a> {
    /// SHA-256 of `bundle.json`.
    pub digest: Sha256Digest,
    /// Commit the contracts were taken from, or [`NO_COMMIT`].
    pub git_sha: &'a str,
    /// The commit's repository, where known.
    pub git_repository: Option<&'a str>,
    /// The commit's ref, where known.
    pub git_reference: Option<&'a str>,
    /// When the release was made: `YYYY-MM-DDTHH:MM:SSZ`.
    pub timestamp: &'a str,
    /// What made the publisher publish.
    pub trigger: &'a str,
}

#[derive(Serialize)]
struct Manifest<'a> {
    bundle: &'static str,
    bundle_sha256: String,
    git: ManifestGit<'a>,
    timestamp: &'a str,
    trigger: &'a str,
    version: &'static str,
}

#[derive(Serialize)]
struct ManifestGit<'a> {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    sha: &'a str,
}

/// The `manifest.json`.
pub fn manifest_json(facts: &ManifestFacts<'_>) -> Result<Vec<u8>, serde_json::Error> {
    pretty(&Manifest {
        bundle: BUNDLE_FILE,
        bundle_sha256: facts.digest.to_string(),
        git: ManifestGit { reference: facts.git_reference, repository: facts.git_repository, sha: facts.git_sha },
        timestamp: facts.timestamp,
        trigger: facts.trigger,
        version: FORM_VERSION,
    })
}

/// The `bundle.sha256` of a release: a line for `sha256sum --check` in the directory of `bundle.json`.
pub fn digest_line(digest: Sha256Digest) -> String {
    format!("{digest}  {BUNDLE_FILE}\n")
}

fn pretty(document: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_contracts_have_a_place() {
        let place = |path: &str| ContractPlace::of(&path.parse().unwrap());
        assert_eq!(place("schemas/a.json"), Some(ContractPlace::Schema("a.json".to_owned())));
        assert_eq!(place("envelopes/result.json"), Some(ContractPlace::Schema("result-envelope.json".to_owned())));
        assert_eq!(place("api-contracts/a.yml"), Some(ContractPlace::ApiContract("a.yml".to_owned())));
        assert_eq!(place("wit/a.wit"), Some(ContractPlace::Wit("a.wit".to_owned())));
        for left in ["README.md", "schemas/a.txt", "schemas/deep/a.json", "envelopes/other.json", "wit/a.json"] {
            assert_eq!(place(left), None, "{left}");
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut document = ContractsDocument::default();
        assert!(document.is_empty());
        document.add(ContractPlace::Wit("a".to_owned()), "1".to_owned()).unwrap();
        document.add(ContractPlace::Schema("a".to_owned()), "{}".to_owned()).unwrap();
        let taken = document.add(ContractPlace::Wit("a".to_owned()), "2".to_owned());
        assert_eq!(taken, Err(NameTaken("a".to_owned())));
        assert!(!document.is_empty());
    }
}
