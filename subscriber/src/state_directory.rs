//! The directory of one agent's memory: one small file for each bundle, replaced whole, and the lock that makes it one
//! agent's.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::daemon::crash_point::CrashPoint;
use shared::identifiers::BundleName;
use streams::alternating_file::write_in_turns;
use streams::event_writer::new_event_id;
use thiserror::Error;

use crate::agent_presence::AgentFacts;
use crate::durable_file::beside;
use crate::node_state::{FORMAT, NodeState};

/// The memory of an agent of a version that ran one bundle only. Taken over by the bundle it is about.
const ONLY_STATE_FILE: &str = "state.json";
const STEPS: [CrashPoint; 3] = [CrashPoint::FileWritten, CrashPoint::FileSynced, CrashPoint::FileRenamed];
pub(crate) const AGENT_LOCK: &str = "agent.lock";

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
    /// A file holds the memory of another bundle.
    #[error("state file `{}` belongs to bundle `{actual}`, not `{expected}`", path.display())]
    OtherBundle {
        /// The file.
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
    lock: File,
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
            Ok(()) => {
                CrashPoint::StateTakenOver.reach();
                Ok(Self { path: path.to_owned(), lock: file })
            }
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(StateError::Io { path: lock, source }),
        }
    }

    /// Says in the lock file who lives here, for other programs of this machine.
    pub(crate) fn introduce(&self, facts: &AgentFacts) -> Result<(), StateError> {
        facts.write_to(&self.lock).map_err(io_error(&self.path.join(AGENT_LOCK)))
    }

    /// Where the events wait that are not yet in the log.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    /// Where the newest checkpoint of the log is remembered that the loop of this bundle has seen.
    pub(crate) fn checkpoint(&self, bundle: &BundleName) -> PathBuf {
        self.path.join(format!("checkpoint.{bundle}.json"))
    }

    /// Reads the node's memory of a bundle; a new one where there is none. A file that cannot be understood is kept
    /// aside for people and counts as none; one of a newer version is refused.
    pub(crate) fn load(&self, bundle: &BundleName) -> Result<NodeState, StateError> {
        let path = self.state_file(bundle);
        if let Some(state) = read(&path)? {
            if &state.bundle == bundle {
                return Ok(state.upgraded(new_event_id));
            }
            let (expected, actual) = (bundle.clone(), state.bundle);
            return Err(StateError::OtherBundle { path, expected, actual });
        }
        let only = self.path.join(ONLY_STATE_FILE);
        match read(&only)? {
            Some(state) if &state.bundle == bundle => {
                // Durable before the old file goes: a crash in between costs nothing.
                let state = state.upgraded(new_event_id);
                self.save(&state)?;
                fs::remove_file(&only).map_err(io_error(&only))?;
                CrashPoint::StateTakenFromEarlier.reach();
                Ok(state)
            }
            Some(_) | None => Ok(NodeState::new(bundle.clone())),
        }
    }

    /// Replaces the node's memory of a bundle, durably. Also after somebody deleted the directory.
    pub(crate) fn save(&self, state: &NodeState) -> Result<(), StateError> {
        let path = self.state_file(&state.bundle);
        let bytes = serde_json::to_vec_pretty(state).map_err(StateError::Encode)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(io_error(&self.path))?;
        CrashPoint::StateSaving.reach();
        write_in_turns(&path, &bytes, STEPS).map_err(io_error(&path))?;
        CrashPoint::StateSaved.reach();
        Ok(())
    }

    fn state_file(&self, bundle: &BundleName) -> PathBuf {
        self.path.join(format!("state.{bundle}.json"))
    }
}

/// Reads a file of memory; `None` where there is none, or none that can be understood.
fn read(path: &Path) -> Result<Option<NodeState>, StateError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let path = path.to_owned();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Io { path, source }),
    };
    let state = serde_json::from_slice(&bytes).and_then(|Versioned { format }| {
        if format == FORMAT { serde_json::from_slice(&bytes).map(Ok) } else { Ok(Err(format)) }
    });
    match state {
        Ok(Ok(state)) => Ok(Some(state)),
        Ok(Err(actual)) => Err(StateError::Format { path, actual }),
        Err(error) => {
            let aside = beside(&path, ".unreadable");
            tracing::error!(
                path = %path.display(), aside = %aside.display(), %error,
                "the node's state cannot be read; it is kept aside and the node starts without memory"
            );
            fs::rename(&path, &aside).map_err(io_error(&path))?;
            CrashPoint::StateMovedAside.reach();
            Ok(None)
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use shared::identifiers::Incarnation;

    use super::*;

    fn bundle() -> BundleName {
        "contracts".parse().unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&root.path().join("agent")).unwrap();
        let mut state = directory.load(&bundle()).unwrap();
        state.activation_epoch = 3;
        state.position.enter_epoch(Incarnation::from_uuid(uuid::Uuid::from_u128(1)));
        state.position.applied.insert("latest".parse().unwrap(), 17);
        directory.save(&state).unwrap();
        assert_eq!(directory.load(&bundle()).unwrap(), state);
        let other: BundleName = "policies".parse().unwrap();
        assert_eq!(directory.load(&other).unwrap(), NodeState::new(other.clone()), "each bundle has its own");
        fs::copy(directory.state_file(&bundle()), directory.state_file(&other)).unwrap();
        assert!(matches!(directory.load(&other), Err(StateError::OtherBundle { .. })));
    }

    #[test]
    fn the_memory_of_an_agent_that_ran_one_bundle_is_taken_over_by_that_bundle_only() {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(root.path()).unwrap();
        let mut state = NodeState::new(bundle());
        state.activation_epoch = 3;
        directory.save(&state).unwrap();
        fs::rename(directory.state_file(&bundle()), root.path().join(ONLY_STATE_FILE)).unwrap();
        let other: BundleName = "policies".parse().unwrap();
        assert_eq!(directory.load(&other).unwrap(), NodeState::new(other));
        assert_eq!(directory.load(&bundle()).unwrap(), state);
        assert!(!root.path().join(ONLY_STATE_FILE).exists());
        assert_eq!(directory.load(&bundle()).unwrap(), state);
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
        for name in ["state.contracts.json", ONLY_STATE_FILE] {
            fs::write(root.path().join(name), "{").unwrap();
            assert_eq!(directory.load(&bundle()).unwrap(), NodeState::new(bundle()), "{name}");
            assert_eq!(fs::read(root.path().join(format!("{name}.unreadable"))).unwrap(), b"{");
            fs::write(root.path().join(name), "{\"format\":2}").unwrap();
            assert!(matches!(directory.load(&bundle()), Err(StateError::Format { actual: 2, .. })), "{name}");
            fs::remove_file(root.path().join(name)).unwrap();
        }
    }
}
