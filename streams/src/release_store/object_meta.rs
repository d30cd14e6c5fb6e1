//! An object's meta message in the standard layout (ADR-20), and the bucket's subjects.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::subjects::RELEASE_BUCKET;
use thiserror::Error;

use super::chunk_writer::Written;

const DIGEST_PREFIX: &str = "SHA-256=";

/// What is said about an object when it is put.
#[derive(Debug, Clone, Default)]
pub struct NewObject {
    /// Its name, for example `contracts/v1.tar.zst`.
    pub name: String,
    /// One line for people.
    pub description: Option<String>,
    /// Facts that `nats object info` prints.
    pub metadata: BTreeMap<String, String>,
}

impl NewObject {
    /// An object with only a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// An object in the bucket, as its meta message describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its name.
    pub name: String,
    /// Id of the write that stored it; its chunks are filed under it.
    pub nuid: String,
    /// Its size in bytes.
    pub size: u64,
    /// How many chunks it has.
    pub chunks: u64,
    /// SHA-256 of its content, as claimed by whoever wrote it.
    pub sha256: Sha256Digest,
    /// What was said about it.
    pub description: Option<String>,
    /// Further facts.
    pub metadata: BTreeMap<String, String>,
}

/// A meta message that describes no object.
#[derive(Debug, Error)]
pub enum MetaError {
    /// Not JSON, or a field is missing.
    #[error("not an object's meta message")]
    Json(#[source] serde_json::Error),
    /// The digest is missing or of another kind.
    #[error("digest `{0}` is not of the form `SHA-256=<base64>`")]
    Digest(String),
    /// The object belongs to another bucket, or its chunks could stand anywhere.
    #[error("field `{field}` holds `{value}`")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// The meta message on the wire. Field names are those of the standard; unknown ones are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectMeta {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    options: Option<Options>,
    bucket: String,
    pub(super) nuid: String,
    pub(super) size: u64,
    pub(super) chunks: u64,
    #[serde(default)]
    mtime: String,
    #[serde(default)]
    digest: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Options {
    #[serde(default)]
    max_chunk_size: u64,
}

impl ObjectMeta {
    pub(super) fn new(object: NewObject, written: Written, now: DateTime<Utc>) -> Self {
        let Written { nuid, size, chunks, chunk_size, sha256 } = written;
        Self {
            name: object.name,
            description: object.description,
            metadata: (!object.metadata.is_empty()).then_some(object.metadata),
            options: Some(Options { max_chunk_size: chunk_size as u64 }),
            bucket: RELEASE_BUCKET.to_owned(),
            nuid,
            size,
            chunks,
            mtime: now.to_rfc3339_opts(SecondsFormat::Millis, true),
            digest: digest_text(sha256),
            deleted: false,
        }
    }

    pub(super) fn parse(payload: &[u8]) -> Result<Self, MetaError> {
        let meta: Self = serde_json::from_slice(payload).map_err(MetaError::Json)?;
        let field = |field, value: &str| MetaError::Field { field, value: value.chars().take(80).collect() };
        if meta.bucket != RELEASE_BUCKET {
            return Err(field("bucket", &meta.bucket));
        }
        // The nuid becomes a subject token: it must not reach other subjects.
        if meta.nuid.is_empty() || !meta.nuid.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(field("nuid", &meta.nuid));
        }
        if !meta.deleted {
            meta.sha256()?;
        }
        Ok(meta)
    }

    pub(super) fn sha256(&self) -> Result<Sha256Digest, MetaError> {
        self.digest
            .strip_prefix(DIGEST_PREFIX)
            .and_then(|text| BASE64_URL_SAFE.decode(text).ok())
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Sha256Digest::from_bytes)
            .ok_or_else(|| MetaError::Digest(self.digest.chars().take(80).collect()))
    }

    pub(super) fn with_digest(mut self, sha256: Sha256Digest) -> Self {
        self.digest = digest_text(sha256);
        self
    }

    pub(super) fn into_stored(self) -> StoredObject {
        // Parsing has checked the digest of everything that is not deleted.
        let sha256 = self.sha256().unwrap_or(Sha256Digest::from_bytes([0; 32]));
        StoredObject {
            name: self.name,
            nuid: self.nuid,
            size: self.size,
            chunks: self.chunks,
            sha256,
            description: self.description,
            metadata: self.metadata.unwrap_or_default(),
        }
    }
}

fn digest_text(sha256: Sha256Digest) -> String {
    format!("{DIGEST_PREFIX}{}", BASE64_URL_SAFE.encode(sha256.as_bytes()))
}

pub(super) fn meta_subject(name: &str) -> String {
    format!("$O.{RELEASE_BUCKET}.M.{}", BASE64_URL_SAFE.encode(name))
}

pub(super) fn all_subjects() -> String {
    format!("$O.{RELEASE_BUCKET}.M.>")
}

pub(super) fn chunk_subject(nuid: &str) -> String {
    format!("$O.{RELEASE_BUCKET}.C.{nuid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> ObjectMeta {
        let mut object = NewObject::named("contracts/v1.tar.zst");
        object.metadata.insert("tree_digest".to_owned(), "ab".to_owned());
        let written = Written {
            nuid: "dm5pvpon39tBmRentI2PSy".to_owned(),
            size: 3,
            chunks: 1,
            chunk_size: 262_144,
            sha256: Sha256Digest::of(b"abc"),
        };
        ObjectMeta::new(object, written, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn the_meta_message_has_the_standard_form() {
        assert_eq!(
            serde_json::to_string(&meta()).unwrap(),
            "{\"name\":\"contracts/v1.tar.zst\",\"metadata\":{\"tree_digest\":\"ab\"},\
             \"options\":{\"max_chunk_size\":262144},\"bucket\":\"BUNDLES\",\"nuid\":\"dm5pvpon39tBmRentI2PSy\",\
             \"size\":3,\"chunks\":1,\"mtime\":\"1970-01-01T00:00:00.000Z\",\
             \"digest\":\"SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0=\"}"
        );
        assert_eq!(meta_subject("contracts/v1"), "$O.BUNDLES.M.Y29udHJhY3RzL3Yx");
        assert_eq!(chunk_subject("n"), "$O.BUNDLES.C.n");
    }

    #[test]
    fn what_other_clients_write_is_read() {
        let text = r#"{"name":"app/1.0.0","description":null,"metadata":{},"headers":null,
            "options":{"link":null,"max_chunk_size":131072},"bucket":"BUNDLES","nuid":"dm5pvpon39tBmRentI2PSy",
            "size":3,"chunks":1,"mtime":"2026-11-20T17:24:13.609Z",
            "digest":"SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0="}"#;
        let stored = ObjectMeta::parse(text.as_bytes()).unwrap().into_stored();
        assert_eq!(stored.sha256, Sha256Digest::of(b"abc"));
        assert_eq!((stored.size, stored.chunks, stored.description), (3, 1, None));
    }

    #[test]
    fn hostile_descriptions_are_refused() {
        let with = |change: fn(&mut ObjectMeta)| {
            let mut meta = meta();
            change(&mut meta);
            ObjectMeta::parse(&serde_json::to_vec(&meta).unwrap())
        };
        assert!(matches!(with(|meta| meta.nuid = ">".to_owned()), Err(MetaError::Field { field: "nuid", .. })));
        assert!(matches!(with(|meta| meta.nuid = "a.b".to_owned()), Err(MetaError::Field { .. })));
        assert!(matches!(with(|meta| meta.bucket = "other".to_owned()), Err(MetaError::Field { .. })));
        assert!(matches!(with(|meta| meta.digest = "SHA-256=AA==".to_owned()), Err(MetaError::Digest(_))));
        assert!(matches!(with(|meta| meta.digest = String::new()), Err(MetaError::Digest(_))));
        assert!(matches!(ObjectMeta::parse(b"{}"), Err(MetaError::Json(_))));
    }
}
