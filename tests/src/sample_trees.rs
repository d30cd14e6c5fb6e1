//! Directories to publish.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A plain directory with subdirectories, an empty file, an executable, names beyond ASCII and some size: everything a
/// release has to carry.
pub fn plain(directory: &Path) -> PathBuf {
    let root = directory.join("plain");
    write(&root.join("policy.rego"), b"package demon\n\ndefault allow := false\n");
    write(&root.join("empty"), b"");
    write(&root.join("config/limits.json"), b"{\"requests\": 100}\n");
    write(&root.join("config/n\u{e4}chte/\u{65e5}\u{672c}.txt"), "gr\u{fc}\u{df}e\n".as_bytes());
    write(&root.join("modules/filter.wasm"), &noise(700_000, 1));
    let program = root.join("bin/check");
    write(&program, b"#!/bin/sh\nexit 0\n");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    root
}

/// A contracts directory as the exporter takes it: small, with every folder.
pub fn contracts(directory: &Path) -> PathBuf {
    let root = directory.join("contracts");
    write(
        &root.join("schemas/approval.requested.v1.json"),
        b"{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"type\":\"object\"}\n",
    );
    write(&root.join("schemas/events.ritual.started.v1.json"), "{\"title\":\"B\u{fc}ndel\"}\n".as_bytes());
    write(&root.join("envelopes/result.json"), b"{\"type\":\"object\",\"required\":[\"result\"]}\n");
    write(&root.join("wit/demon-envelope.wit"), b"package demon:contracts@0.1.0;\n");
    root
}

/// Changes the one file by which the second release of [`contracts`] differs from the first.
pub fn change_one_contract(root: &Path, text: &str) {
    let schema = format!("{{\"type\":\"object\",\"description\":\"{text}\"}}\n");
    write(&root.join("schemas/approval.requested.v1.json"), schema.as_bytes());
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// The repository's own contracts.
pub fn repository_contracts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts").canonicalize().expect("the repository has contracts")
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("the path has a parent")).expect("the directory is writable");
    fs::write(path, content).expect("the directory is writable");
}
