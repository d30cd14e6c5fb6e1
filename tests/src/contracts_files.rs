//! The three files of a contracts release, made without the product from the workspace's own contracts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use shared::digest::Sha256Digest;

/// The commit that [`ContractsFiles::fresh`] names.
pub const GIT_SHA: &str = "0658fb8b7c6a59483726150413f2e1d0c9b8a796";

/// A release that can be bent before it is served.
#[derive(Debug, Clone)]
pub struct ContractsFiles {
    /// `bundle.json`.
    pub bundle: Vec<u8>,
    /// `manifest.json`.
    pub manifest: Value,
    /// `bundle.sha256`.
    pub digest_file: String,
}

impl ContractsFiles {
    /// The workspace's contracts, released now.
    pub fn fresh() -> Self {
        Self::with_bundle(&pretty(&workspace_bundle()), Utc::now())
    }

    /// The same, released a while ago.
    pub fn aged(age: Duration) -> Self {
        Self::with_bundle(&pretty(&workspace_bundle()), Utc::now() - age)
    }

    /// Other content in a release that is right otherwise.
    pub fn with_bundle(bundle: &[u8], timestamp: DateTime<Utc>) -> Self {
        let digest = Sha256Digest::of(bundle).to_string();
        let manifest = json!({
            "bundle": "bundle.json",
            "bundle_sha256": digest,
            "git": { "sha": GIT_SHA },
            "timestamp": timestamp.to_rfc3339_opts(SecondsFormat::Secs, true),
            "trigger": "schedule",
            "version": "1.0.0",
        });
        Self { bundle: bundle.to_vec(), manifest, digest_file: format!("{digest}  bundle.json\n") }
    }

    /// Name and content of each file.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 3] {
        [
            ("bundle.json", self.bundle.clone()),
            ("manifest.json", pretty(&self.manifest)),
            ("bundle.sha256", self.digest_file.clone().into_bytes()),
        ]
    }
}

/// The content of `bundle.json` for the workspace's contracts.
pub fn workspace_bundle() -> Value {
    let contracts = workspace().join("contracts");
    let mut schemas = texts(&contracts.join("schemas"));
    let envelope = fs::read_to_string(contracts.join("envelopes/result.json")).expect("the envelope is there");
    schemas.insert("result-envelope.json".to_owned(), envelope.into());
    json!({"apiContracts": {}, "schemas": schemas, "version": "1.0.0", "wit": texts(&contracts.join("wit"))})
}

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn texts(directory: &Path) -> Map<String, Value> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("`{}`: {error}", directory.display()));
    entries
        .map(|entry| {
            let path = entry.expect("the directory can be listed").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("names are text").to_owned();
            (name, fs::read_to_string(&path).expect("a contract is text").into())
        })
        .collect()
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("a value has a JSON form");
    bytes.push(b'\n');
    bytes
}
