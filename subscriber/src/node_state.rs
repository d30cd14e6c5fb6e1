//! What a node remembers over a restart: one small file, replaced whole, and the lock that makes it one agent's.
//!
//! The file is a memory, not the truth: which release is current is what the cache's link says, and what is desired is
//! what the log says. Lost, it costs a report and a comparison.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::event::Loaded;
use shared::identifiers::{BundleName, ChannelName, Incarnation, Tag};
use thiserror::Error;

use crate::durable_file::write_atomically;
use crate::failures::FailureBook;

/// Version of the file's form.
const FORMAT: u32 = 1;
const STATE_FILE: &str = "state.json";
const AGENT_LOCK: &str = "agent.lock";
/// Releases loaded earlier that are remembered.
const MOST_PREVIOUS: usize = 32;
/// Epochs left behind that are remembered.
const MOST_EPOCHS: usize = 32;

/// A release by its name and identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ReleaseId {
    /// Its tag.
    pub tag: Tag,
    /// Its identity.
    pub tree_digest: Sha256Digest,
}

/// A release that this node switched to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoadedRelease {
    /// The release.
    pub id: ReleaseId,
    /// Its content digest.
    pub content_digest: Sha256Digest,
    /// The commit it was made from, where known.
    pub git_sha: Option<String>,
    /// When it was switched to, by this node's clock.
    pub loaded_at: DateTime<Utc>,
}

/// How far this node has read the log. Sequences of different epochs cannot be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPosition {
    /// The log's epoch.
    pub epoch: Option<Incarnation>,
    /// Epochs before it: an answer that still shows one of them comes from a replica that lags.
    pub left_behind: Vec<Incarnation>,
    /// Sequence of the newest head applied, for each channel.
    pub applied: BTreeMap<ChannelName, u64>,
    /// The newest state of the log that was acted on.
    pub read_up_to: u64,
}

impl LogPosition {
    /// Begins to count anew in another epoch.
    pub(crate) fn enter_epoch(&mut self, epoch: Incarnation) {
        let mut left_behind = std::mem::take(&mut self.left_behind);
        left_behind.extend(self.epoch);
        let surplus = left_behind.len().saturating_sub(MOST_EPOCHS);
        left_behind.drain(..surplus);
        *self = Self { epoch: Some(epoch), left_behind, ..Self::default() };
    }
}

/// The node's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeState {
    format: u32,
    /// The bundle this directory is about.
    pub bundle: BundleName,
    /// The release that was last switched to.
    pub active: Option<LoadedRelease>,
    /// The ones before it, newest first, each once.
    pub previous: Vec<LoadedRelease>,
    /// How far the log was read.
    pub position: LogPosition,
    /// What failed.
    pub failures: FailureBook,
    /// Number of the last switch.
    pub activation_epoch: u64,
    /// A switch that happened and is not yet recorded in the outbox, with its time.
    pub unreported: Option<(DateTime<Utc>, Loaded)>,
}

impl NodeState {
    /// The memory of a node that remembers nothing.
    pub(crate) fn new(bundle: BundleName) -> Self {
        Self {
            format: FORMAT,
            bundle,
            active: None,
            previous: Vec::new(),
            position: LogPosition::default(),
            failures: FailureBook::default(),
            activation_epoch: 0,
            unreported: None,
        }
    }

    /// Notes a switch; `report` waits to be recorded.
    pub(crate) fn switched_to(&mut self, release: LoadedRelease, report: Loaded) {
        let at = release.loaded_at;
        self.failures.forget(&release.id);
        self.previous.retain(|previous| previous.id.tag != release.id.tag);
        if let Some(old) = self.active.replace(release)
            && self.active.as_ref().is_some_and(|new| new.id.tag != old.id.tag)
        {
            self.previous.retain(|previous| previous.id.tag != old.id.tag);
            self.previous.insert(0, old);
        }
        self.previous.truncate(MOST_PREVIOUS);
        self.activation_epoch = report.activation_epoch;
        self.unreported = Some((at, report));
    }
}

/// A state directory that cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another agent lives in it.
    #[error("another agent is running with state directory `{}`", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory or a file in it cannot be used.
    #[error("state file `{}` cannot be used", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Written by a newer version.
    #[error("state file `{}` has format {actual}, this version reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        actual: u32,
    },
    /// The directory belongs to another bundle.
    #[error("state directory `{}` belongs to bundle `{actual}`, not `{expected}`", path.display())]
    OtherBundle {
        /// The directory.
        path: PathBuf,
        /// The bundle asked for.
        expected: BundleName,
        /// The bundle it holds.
        actual: BundleName,
    },
    /// The state cannot be written as JSON.
    #[error("the node's state cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
}

/// The directory of one agent's memory, for as long as that agent lives.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory where it is missing and takes its lock. Fails at once where another agent holds it; the kernel
    /// gives it back when that agent ends, however it ends.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))?;
        let lock = path.join(AGENT_LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let file = file.map_err(io_error(&lock))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StateError::Io { path: lock, source }),
        }
    }

    /// Where the events wait that are not yet in the log.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    /// Reads the node's memory of a bundle; a new one where there is none. A file that cannot be understood is kept
    /// aside for people and counts as none; one of a newer version is refused.
    pub(crate) fn load(&self, bundle: &BundleName) -> Result<NodeState, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let path = self.path.join(STATE_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(NodeState::new(bundle.clone())),
            Err(source) => return Err(StateError::Io { path, source }),
        };
        let state = serde_json::from_slice(&bytes).and_then(|Versioned { format }| {
            if format == FORMAT { serde_json::from_slice(&bytes).map(Ok) } else { Ok(Err(format)) }
        });
        let state: NodeState = match state {
            Ok(Ok(state)) => state,
            Ok(Err(actual)) => return Err(StateError::Format { path, actual }),
            Err(error) => {
                let aside = self.path.join("state.json.unreadable");
                tracing::error!(
                    path = %path.display(), aside = %aside.display(), %error,
                    "the node's state cannot be read; it is kept aside and the node starts without memory"
                );
                fs::rename(&path, &aside).map_err(io_error(&path))?;
                return Ok(NodeState::new(bundle.clone()));
            }
        };
        if &state.bundle == bundle {
            return Ok(state);
        }
        let (path, expected) = (self.path.clone(), bundle.clone());
        Err(StateError::OtherBundle { path, expected, actual: state.bundle })
    }

    /// Replaces the node's memory, durably. Also after somebody deleted the directory.
    pub(crate) fn save(&self, state: &NodeState) -> Result<(), StateError> {
        let path = self.path.join(STATE_FILE);
        let bytes = serde_json::to_vec_pretty(state).map_err(StateError::Encode)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(io_error(&self.path))?;
        write_atomically(&path, &bytes, 0o600).map_err(io_error(&path))
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use shared::event::LoadSource;

    use super::*;

    fn bundle() -> BundleName {
        "contracts".parse().unwrap()
    }

    fn switch(state: &mut NodeState, tag: &str) {
        let id = ReleaseId { tag: tag.parse().unwrap(), tree_digest: Sha256Digest::of(tag.as_bytes()) };
        let report = Loaded {
            bundle: bundle(),
            tag: id.tag.clone(),
            tree_digest: id.tree_digest,
            content_digest: id.tree_digest,
            channel: None,
            source: LoadSource::Cache,
            wire_bytes: 0,
            previous_tag: None,
            duration_ms: 0,
            activation_epoch: state.activation_epoch + 1,
            verified: true,
        };
        let content_digest = id.tree_digest;
        state.switched_to(LoadedRelease { id, content_digest, git_sha: None, loaded_at: DateTime::UNIX_EPOCH }, report);
    }

    fn tags(state: &NodeState) -> Vec<&str> {
        state.previous.iter().map(|release| release.id.tag.as_str()).collect()
    }

    #[test]
    fn switches_are_remembered_newest_first_and_once() {
        let mut state = NodeState::new(bundle());
        for tag in ["v1", "v2", "v3", "v2", "v2"] {
            switch(&mut state, tag);
        }
        assert_eq!(state.active.as_ref().unwrap().id.tag.as_str(), "v2");
        assert_eq!(tags(&state), ["v3", "v1"]);
        assert_eq!(state.activation_epoch, 5);
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&root.path().join("agent")).unwrap();
        let mut state = directory.load(&bundle()).unwrap();
        switch(&mut state, "v1");
        state.position.enter_epoch(Incarnation::from_uuid(uuid::Uuid::from_u128(1)));
        state.position.applied.insert("latest".parse().unwrap(), 17);
        directory.save(&state).unwrap();
        assert_eq!(directory.load(&bundle()).unwrap(), state);
        let other = directory.load(&"policies".parse().unwrap());
        assert!(matches!(other, Err(StateError::OtherBundle { .. })));
    }

    #[test]
    fn a_second_agent_is_refused_until_the_first_ends() {
        let root = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(root.path()).unwrap();
        let second = StateDirectory::open(root.path()).unwrap_err();
        assert!(matches!(second, StateError::InUse { .. }));
        drop(first);
        assert!(StateDirectory::open(root.path()).is_ok());
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_a_newer_one_refused() {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(root.path()).unwrap();
        fs::write(root.path().join(STATE_FILE), "{").unwrap();
        assert_eq!(directory.load(&bundle()).unwrap(), NodeState::new(bundle()));
        assert_eq!(fs::read(root.path().join("state.json.unreadable")).unwrap(), b"{");
        fs::write(root.path().join(STATE_FILE), "{\"format\":2}").unwrap();
        assert!(matches!(directory.load(&bundle()), Err(StateError::Format { actual: 2, .. })));
    }

    #[test]
    fn entering_an_epoch_forgets_the_sequences_and_remembers_the_one_before() {
        let epoch = |number| Incarnation::from_uuid(uuid::Uuid::from_u128(number));
        let mut position = LogPosition::default();
        position.enter_epoch(epoch(1));
        position.read_up_to = 9;
        position.enter_epoch(epoch(2));
        assert_eq!((position.read_up_to, position.left_behind), (0, vec![epoch(1)]));
    }
}
