//! The directory of a local stack: what is kept between runs, and the lock that lets one run in it at a time.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use shared::identifiers::NodeName;
use tokio::time::{Instant, sleep};

/// After a `kill -9` the children of the earlier run need a moment to notice and stop.
const EARLIER_RUN_LIMIT: Duration = Duration::from_secs(10);
const RECORD: &str = "processes.json";
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One process that a stack started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedProcess {
    /// What it is, for example `agent edge-1`.
    pub(crate) role: String,
    /// Its process id.
    pub(crate) process_id: u32,
}

/// Processes and port of a running stack, as `processes.json` holds them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// The server's port.
    pub(crate) port: u16,
    /// Every process.
    pub(crate) processes: Vec<RecordedProcess>,
}

/// A locked stack directory. The lock is held until this is dropped, also by a killed process.
pub(crate) struct StackDirectory {
    root: PathBuf,
    _lock: File,
}

impl StackDirectory {
    /// Creates the directory where needed and takes its lock; fails at once where another stack runs in it.
    pub(crate) fn lock(root: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create `{}`", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("cannot resolve `{}`", root.display()))?;
        let path = root.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another stack runs in `{}`: stop it first, or choose another directory with --data",
                    root.display()
                )
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock `{}`", path.display())),
        }
    }

    /// Where the server keeps its configuration, store and log.
    pub(crate) fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    /// Where the passwords are kept, readable by their owner only.
    pub(crate) fn accounts(&self) -> PathBuf {
        self.root.join("accounts.json")
    }

    /// Where the publisher keeps its events that are not stored yet.
    pub(crate) fn publisher(&self) -> PathBuf {
        self.root.join("publisher")
    }

    /// Where a node keeps its cache, state and log.
    pub(crate) fn node(&self, node: &NodeName) -> PathBuf {
        self.root.join("nodes").join(node.as_str())
    }

    /// What the last run recorded, if anything.
    pub(crate) fn last_run(&self) -> Option<RunRecord> {
        last_run(&self.root)
    }

    /// Records what runs now.
    pub(crate) fn record(&self, record: &RunRecord) -> anyhow::Result<()> {
        let path = self.record_path();
        let bytes = serde_json::to_vec_pretty(record).context("the run record cannot be written as JSON")?;
        fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// Waits until the processes of a killed earlier run have ended. See [`wait_until_ended`].
    pub(crate) async fn wait_for_earlier_run(&self) {
        wait_until_ended(&self.root).await;
    }

    fn record_path(&self) -> PathBuf {
        self.root.join(RECORD)
    }
}

fn last_run(root: &Path) -> Option<RunRecord> {
    let bytes = fs::read(root.join(RECORD)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Waits, for at most 10 s, until the processes that were recorded last in a stack's directory have ended. Goes on
/// after that: a process id may belong to somebody else by now, and whatever is really in the way shows later.
pub(crate) async fn wait_until_ended(root: &Path) {
    let Some(record) = last_run(root) else { return };
    let deadline = Instant::now() + EARLIER_RUN_LIMIT;
    while record.processes.iter().any(|process| runs(process.process_id)) && Instant::now() < deadline {
        sleep(LOOK_AGAIN).await;
    }
}

fn runs(process_id: u32) -> bool {
    i32::try_from(process_id).ok().and_then(Pid::from_raw).is_some_and(|pid| test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stack_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = StackDirectory::lock(directory.path()).unwrap();
        let error = StackDirectory::lock(directory.path()).err().unwrap();
        assert!(error.to_string().starts_with("another stack runs in"), "{error}");
        drop(first);
        assert!(StackDirectory::lock(directory.path()).is_ok());
    }

    #[test]
    fn a_record_is_read_back_and_a_broken_one_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let stack = StackDirectory::lock(directory.path()).unwrap();
        assert_eq!(stack.last_run(), None);
        let record = RunRecord {
            port: 4222,
            processes: vec![RecordedProcess { role: "nats-server".to_owned(), process_id: 1 }],
        };
        stack.record(&record).unwrap();
        assert_eq!(stack.last_run(), Some(record));
        fs::write(stack.record_path(), "{").unwrap();
        assert_eq!(stack.last_run(), None);
    }
}
