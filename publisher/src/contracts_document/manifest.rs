//! The two files beside a `bundle.json`: what its manifest must say, and whether manifest and checksum belong to it.

use chrono::DateTime;
use serde_json::{Map, Value};
use shared::digest::Sha256Digest;

use super::{Defect, form, pointer, strict_json};
use crate::git_facts::is_commit_sum;

/// Largest manifest or checksum file, in bytes.
pub const MANIFEST_BYTES: usize = 1 << 20;
/// Keys a manifest may have.
const KEYS: [&str; 7] = ["bundle", "bundle_sha256", "description", "git", "timestamp", "trigger", "version"];
/// Keys of its `git`.
const GIT_KEYS: [&str; 4] = ["branch", "ref", "repository", "sha"];

/// What a manifest was found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestFindings {
    /// What is wrong with it. Paths are JSON Pointers into the manifest.
    pub defects: Vec<Defect>,
    /// Keys that nobody knows: to be refused where strictness is asked for.
    pub unknown_keys: Vec<Defect>,
}

/// Checks a `manifest.json` by itself and against the digest of its bundle's bytes.
pub fn check_manifest(manifest: &[u8], bundle: Sha256Digest) -> ManifestFindings {
    let mut findings = ManifestFindings::default();
    let mut defect = |path: &str, message: String| findings.defects.push(Defect::new(path, message));
    if manifest.len() > MANIFEST_BYTES {
        defect("", format!("it has {} bytes, more than the {MANIFEST_BYTES} allowed", manifest.len()));
        return findings;
    }
    let json = match strict_json::read(manifest) {
        Ok(json) => json,
        Err(error) => {
            defect("", format!("it is not JSON: {error}"));
            return findings;
        }
    };
    for path in &json.duplicates {
        defect(path, "the key is there more than once".to_owned());
    }
    let Value::Object(object) = &json.value else {
        defect("", format!("it is {}, not an object", form::kind_of(&json.value)));
        return findings;
    };
    let no_git = Map::new();
    let git = match object.get("git") {
        Some(Value::Object(git)) => git,
        Some(other) => {
            defect("/git", format!("it is {}, not an object", form::kind_of(other)));
            &no_git
        }
        None => &no_git,
    };
    let git_sha = git.get("sha").filter(|_| !git.is_empty());
    for (path, value, rule) in [
        ("/version", object.get("version"), (&|text: &str| !text.is_empty()) as &dyn Fn(&str) -> bool),
        ("/timestamp", object.get("timestamp"), &|text: &str| DateTime::parse_from_rfc3339(text).is_ok()),
        ("/git/sha", git_sha, &is_commit_sum),
        ("/bundle_sha256", object.get("bundle_sha256"), &|text: &str| text.parse::<Sha256Digest>().is_ok()),
    ] {
        let expected = match path {
            "/timestamp" => "an RFC 3339 time",
            "/git/sha" => "40 lowercase hex digits",
            "/bundle_sha256" => "64 lowercase hex digits",
            _ => "a text",
        };
        match value {
            None => defect(path, format!("it is missing: {expected}")),
            Some(Value::String(text)) if rule(text) => {}
            Some(other) => defect(path, format!("{other} is not {expected}")),
        }
    }
    let claimed = object.get("bundle_sha256").and_then(Value::as_str).and_then(|text| text.parse().ok());
    if let Some(message) = claimed.and_then(|claimed| mismatch(claimed, bundle)) {
        defect("/bundle_sha256", message);
    }
    let unknown = |path: String| Defect::new(path, "nobody knows this key");
    let outer = object.keys().filter(|key| !KEYS.contains(&key.as_str())).map(|key| pointer(&[key]));
    let inner = git.keys().filter(|key| !GIT_KEYS.contains(&key.as_str())).map(|key| pointer(&["git", key]));
    findings.unknown_keys = outer.chain(inner).map(unknown).collect();
    findings
}

/// Checks a `bundle.sha256`, as `sha256sum` writes it, against the digest of the bundle's bytes.
pub fn check_checksum(checksum: &[u8], bundle: Sha256Digest) -> Vec<Defect> {
    let line = std::str::from_utf8(checksum).ok().filter(|text| text.len() <= MANIFEST_BYTES);
    let line = line.and_then(|text| text.lines().find(|line| line.ends_with("bundle.json")));
    let claimed = line.and_then(|line| line.split_whitespace().next()).and_then(|digest| digest.parse().ok());
    match claimed {
        None => vec![Defect::new("", "no line `<64 lowercase hex digits>  bundle.json` is in it")],
        Some(claimed) => mismatch(claimed, bundle).map(|message| Defect::new("", message)).into_iter().collect(),
    }
}

/// What there is to say of a digest that is not the one claimed.
fn mismatch(expected: Sha256Digest, actual: Sha256Digest) -> Option<String> {
    (expected != actual).then(|| format!("SHA-256 mismatch: expected {expected}, got {actual}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(change: impl FnOnce(&mut Value)) -> ManifestFindings {
        let mut manifest = json!({
            "version": "1.0.0",
            "timestamp": "2026-02-03T06:00:11Z",
            "git": { "sha": "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796", "repository": "acme/contracts", "ref": "refs/heads/main" },
            "bundle": "bundle.json",
            "bundle_sha256": Sha256Digest::of(b"bundle").to_string(),
            "trigger": "schedule",
        });
        change(&mut manifest);
        check_manifest(manifest.to_string().as_bytes(), Sha256Digest::of(b"bundle"))
    }

    #[test]
    fn manifests_follow_the_table() {
        type Edit = fn(&mut Value);
        assert_eq!(manifest(|_| ()), ManifestFindings::default());
        for (edit, expected) in [
            ((|m| m["version"] = json!(1)) as Edit, "/version: 1 is not a text"),
            (|m| m["timestamp"] = json!("yesterday"), "/timestamp: \"yesterday\" is not an RFC 3339 time"),
            (|m| m["git"] = json!({}), "/git/sha: it is missing: 40 lowercase hex digits"),
            (|m| m["git"]["sha"] = json!("1F0E"), "/git/sha: \"1F0E\" is not 40 lowercase hex digits"),
            (|m| m["bundle_sha256"] = json!("x"), "/bundle_sha256: \"x\" is not 64 lowercase hex digits"),
            (|m| *m = json!([]), "/: it is an array, not an object"),
        ] {
            let found: Vec<String> = manifest(edit).defects.iter().map(ToString::to_string).collect();
            assert_eq!(found, [expected]);
        }
        for key in ["version", "timestamp", "git", "bundle_sha256"] {
            let findings = manifest(|manifest| drop(manifest.as_object_mut().unwrap().remove(key)));
            assert_eq!(findings.defects.len(), 1, "{key}");
            assert!(findings.defects[0].path.starts_with(&format!("/{key}")), "{:?}", findings.defects);
        }
    }

    #[test]
    fn a_manifest_of_another_bundle_is_told_with_both_digests() {
        let (expected, got) = (Sha256Digest::of(b"other"), Sha256Digest::of(b"bundle"));
        let findings = manifest(|manifest| manifest["bundle_sha256"] = json!(expected.to_string()));
        assert_eq!(findings.defects[0].message, format!("SHA-256 mismatch: expected {expected}, got {got}"));
    }

    #[test]
    fn unknown_keys_are_set_apart() {
        let findings = manifest(|manifest| {
            manifest["more"] = json!(1);
            manifest["git"]["more"] = json!(1);
        });
        assert_eq!(findings.defects, []);
        let paths: Vec<&str> = findings.unknown_keys.iter().map(|key| key.path.as_str()).collect();
        assert_eq!(paths, ["/more", "/git/more"]);
    }

    #[test]
    fn checksums_are_read_as_the_usual_tools_write_them() {
        let (digest, other) = (Sha256Digest::of(b"bundle"), Sha256Digest::of(b"other"));
        for (text, expected) in [
            (format!("{digest}  bundle.json\n"), None),
            (format!("{digest} *bundle.json\n"), None),
            (format!("{other}  x\n{digest}  bundle.json\n"), None),
            (format!("{other}  bundle.json\n"), Some(format!("SHA-256 mismatch: expected {other}, got {digest}"))),
            (String::new(), Some("no line `<64 lowercase hex digits>  bundle.json` is in it".to_owned())),
            (
                "xyz  bundle.json".to_owned(),
                Some("no line `<64 lowercase hex digits>  bundle.json` is in it".to_owned()),
            ),
        ] {
            let found = check_checksum(text.as_bytes(), digest).into_iter().map(|defect| defect.message).next();
            assert_eq!(found, expected, "{text}");
        }
    }
}
