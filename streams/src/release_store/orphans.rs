//! Chunks that no object refers to: what a put leaves that was killed before its meta message, and what takes room away
//! from releases until somebody collects it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use thiserror::Error;

use super::object_meta::{self, ObjectMeta, chunk_subject};
use super::{MetaError, ReleaseStore};
use crate::event_log::{ReadError, leader_read};
use crate::jetstream_api::{ApiError, api_request};
use crate::layout::release_stream;

/// One put that never became an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanedWrite {
    /// Its id; its chunks are filed under it.
    pub nuid: String,
    /// How many chunks it left.
    pub chunks: u64,
    /// When the last of them was stored, by the server's clock.
    pub last_chunk_at: DateTime<Utc>,
}

impl OrphanedWrite {
    /// Whether nobody can be writing it any more: its last chunk is older than `age` by the server's clock.
    pub fn is_older_than(&self, age: Duration, server_time: DateTime<Utc>) -> bool {
        TimeDelta::from_std(age).is_ok_and(|age| server_time - self.last_chunk_at > age)
    }
}

/// What [`ReleaseStore::orphaned_writes`] found.
#[derive(Debug, Clone)]
pub struct OrphanedWrites {
    /// The server's time of the listing.
    pub server_time: DateTime<Utc>,
    /// The writes, oldest last chunk first. One that is under way right now is among them.
    pub writes: Vec<OrphanedWrite>,
}

/// Orphans that cannot be told or collected.
#[derive(Debug, Error)]
pub enum OrphanError {
    /// The bucket's subjects cannot be listed.
    #[error("the release bucket cannot be listed")]
    List(#[source] ApiError),
    /// A message cannot be read from the leader.
    #[error("the release bucket cannot be read from its leader")]
    Read(#[source] ReadError),
    /// A meta message is not valid: which chunks it refers to is unknown, so none may be collected.
    #[error("`{subject}` holds no valid meta message, so it is unknown which chunks belong to it")]
    Meta {
        /// Its subject.
        subject: String,
        /// Why.
        #[source]
        source: MetaError,
    },
    /// The server does not say what time it is.
    #[error("the server does not tell its time: it is older than this program supports")]
    NoServerTime,
    /// The chunks could not be removed.
    #[error("the chunks of write `{nuid}` cannot be removed")]
    Remove {
        /// The write.
        nuid: String,
        /// Why.
        #[source]
        source: ApiError,
    },
}

/// The part of a stream's description that is asked for here.
#[derive(Deserialize)]
struct StreamAnswer {
    /// How many subjects match in all; they come in pages.
    #[serde(default)]
    total: u64,
    #[serde(default)]
    ts: Option<DateTime<Utc>>,
    state: State,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

impl ReleaseStore {
    /// Lists the writes that no object refers to, as the stream's leader sees it. Needs operator rights.
    pub async fn orphaned_writes(&self) -> Result<OrphanedWrites, OrphanError> {
        // Chunks first: an object that is announced meanwhile is then found among the metas.
        let (server_time, written) = self.written_chunks().await?;
        let referred = self.referred_writes().await?;
        let mut writes = Vec::new();
        for (nuid, chunks) in written {
            if referred.contains(&nuid) {
                continue;
            }
            let last = leader_read::last(&self.connection, &release_stream(), &chunk_subject(&nuid)).await;
            // Collected by somebody else a moment ago.
            let Some(last) = last.map_err(OrphanError::Read)? else { continue };
            writes.push(OrphanedWrite { nuid, chunks, last_chunk_at: last.stored_at });
        }
        writes.sort_by(|one, other| (one.last_chunk_at, &one.nuid).cmp(&(other.last_chunk_at, &other.nuid)));
        Ok(OrphanedWrites { server_time, writes })
    }

    /// Removes the chunks of a write. Returns only after the server has removed them. The caller makes sure that it is
    /// old enough: a put that still goes on would fail.
    pub async fn collect(&self, write: &OrphanedWrite) -> Result<(), OrphanError> {
        let removed = self.purge_chunks(&write.nuid).await;
        removed.map_err(|source| OrphanError::Remove { nuid: write.nuid.clone(), source })
    }

    /// The server's time, and every write with its number of chunks.
    async fn written_chunks(&self) -> Result<(DateTime<Utc>, BTreeMap<String, u64>), OrphanError> {
        let (mut written, mut offset) = (BTreeMap::new(), 0);
        let all = chunk_subject("");
        loop {
            let request = serde_json::json!({ "subjects_filter": chunk_subject("*"), "offset": offset });
            let operation = format!("STREAM.INFO.{}", release_stream());
            let answer: StreamAnswer =
                api_request(&self.connection, &operation, &request).await.map_err(OrphanError::List)?;
            let server_time = answer.ts.ok_or(OrphanError::NoServerTime)?;
            let page = answer.state.subjects.unwrap_or_default();
            offset += page.len() as u64;
            let last_page = page.is_empty() || offset >= answer.total;
            let writes = page.into_iter();
            written
                .extend(writes.filter_map(|(subject, chunks)| Some((subject.strip_prefix(&all)?.to_owned(), chunks))));
            if last_page {
                return Ok((server_time, written));
            }
        }
    }

    /// The writes that an object refers to. Read one by one from the leader: a replica that lags would make the chunks
    /// of a new object look like nobody's.
    async fn referred_writes(&self) -> Result<BTreeSet<String>, OrphanError> {
        let (mut referred, mut from) = (BTreeSet::new(), 1);
        let (stream, filter) = (release_stream(), object_meta::all_subjects());
        loop {
            let next = leader_read::next(&self.connection, &stream, &filter, from).await.map_err(OrphanError::Read)?;
            let Some(message) = next else { return Ok(referred) };
            from = message.stream_sequence + 1;
            let meta = ObjectMeta::parse(&message.payload)
                .map_err(|source| OrphanError::Meta { subject: message.subject.clone(), source })?;
            if !meta.deleted {
                referred.insert(meta.nuid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_counted_from_the_last_chunk_by_the_servers_clock() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let write = OrphanedWrite { nuid: "n".to_owned(), chunks: 3, last_chunk_at: at(1000) };
        let hour = Duration::from_hours(1);
        assert!(!write.is_older_than(hour, at(4600)));
        assert!(write.is_older_than(hour, at(4601)));
        assert!(!write.is_older_than(hour, at(10)), "a chunk from the future is not old");
        assert!(!write.is_older_than(Duration::MAX, at(i64::from(u32::MAX))));
    }

    #[test]
    fn a_page_of_subjects_is_read_with_the_servers_time() {
        let text = r#"{"type":"x","config":{},"total":2,"offset":0,"limit":100000,"ts":"2026-01-02T03:04:05.6Z",
            "state":{"messages":3,"subjects":{"$O.BUNDLES.C.a":2,"$O.BUNDLES.C.b":1}}}"#;
        let answer: StreamAnswer = serde_json::from_str(text).unwrap();
        assert_eq!((answer.total, answer.state.subjects.unwrap().len()), (2, 2));
        assert!(answer.ts.is_some());
    }
}
