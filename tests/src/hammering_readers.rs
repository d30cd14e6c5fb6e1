//! Readers that read the current release of a cache again and again, each time resolving `current` once.
//!
//! One is the product's reader library. The other shares no code with it: it reads the link, opens files below where
//! the link leads, and compares each with its digest, which is all that the promise asks of a reader.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use shared::daemon::ErrorChain;
use shared::digest::Sha256Digest;
use subscriber::reader::{CurrentRelease, ReadReleaseError};

/// Between two reads of one reader, so that the agent gets the processor now and then.
const BETWEEN_READS: Duration = Duration::from_millis(1);

/// Reads the current release of a cache whole; the tag of what was read, or `None` where nothing is current.
pub type Read = fn(&Path) -> Result<Option<String>, String>;

/// Two readers of one cache, until they are dropped.
#[derive(Debug)]
pub struct HammeringReaders {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    cache: PathBuf,
    /// Held by each read; taken whole by a test that changes the cache in ways no agent would.
    gate: RwLock<()>,
    /// Whether a release was current once: from then on there always is one.
    established: AtomicBool,
    stop: AtomicBool,
    reads: AtomicU64,
    faults: Mutex<Vec<String>>,
}

/// The readers wait while this lives.
#[derive(Debug)]
pub struct Paused<'a> {
    _gate: RwLockWriteGuard<'a, ()>,
    shared: &'a Shared,
}

impl HammeringReaders {
    /// Starts both.
    pub fn start(cache: &Path) -> Self {
        let shared = Arc::new(Shared {
            cache: cache.to_owned(),
            gate: RwLock::new(()),
            established: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            faults: Mutex::default(),
        });
        let readers: [(&str, Read); 2] = [("the reader library", read_with_library), ("a plain reader", read_plainly)];
        let start = |(name, read): (&'static str, Read)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.hammer(name, read))
        };
        let threads = readers.into_iter().map(start).collect();
        Self { shared, threads }
    }

    /// How many releases were read whole.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Acquire)
    }

    /// Whether one of them has seen a current release, since nothing was expected to be current.
    pub fn saw_one(&self) -> bool {
        self.shared.established.load(Ordering::Acquire)
    }

    /// Lets both wait, and waits for their reads on the way.
    pub fn pause(&self) -> Paused<'_> {
        Paused { _gate: self.shared.gate.write().unwrap_or_else(PoisonError::into_inner), shared: &self.shared }
    }

    /// # Panics
    /// Where a reader failed or saw anything but one whole release.
    pub fn assert_faultless(&self) {
        let faults = self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(faults.is_empty(), "readers of `{}` failed: {faults:#?}", self.shared.cache.display());
    }
}

impl Paused<'_> {
    /// The cache may be empty until a release is current again.
    pub fn expect_nothing_current(&self) {
        self.shared.established.store(false, Ordering::Release);
    }
}

impl Shared {
    fn hammer(&self, name: &str, read: Read) {
        while !self.stop.load(Ordering::Acquire) {
            {
                let _reading: RwLockReadGuard<'_, ()> = self.gate.read().unwrap_or_else(PoisonError::into_inner);
                let established = self.established.load(Ordering::Acquire);
                match read(&self.cache) {
                    Ok(Some(_)) => {
                        self.established.store(true, Ordering::Release);
                        self.reads.fetch_add(1, Ordering::AcqRel);
                    }
                    Ok(None) if !established => {}
                    Ok(None) => self.fault(format!("{name}: no release is current any more")),
                    Err(fault) => self.fault(format!("{name}: {fault}")),
                }
            }
            thread::sleep(BETWEEN_READS);
        }
    }

    fn fault(&self, text: String) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

impl Drop for HammeringReaders {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // One that panicked did so in the test's own code, and its message is on standard error.
            let _ = thread.join();
        }
    }
}

/// Reads with the product's library.
pub fn read_with_library(cache: &Path) -> Result<Option<String>, String> {
    match CurrentRelease::open(cache) {
        Ok(current) => read_all(&current).map(Some),
        Err(ReadReleaseError::NoCurrent { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ErrorChain(&error).to_string()),
    }
}

/// Reads every file of a release that is held open; its tag.
pub fn read_all(current: &CurrentRelease) -> Result<String, String> {
    for file in current.release().files() {
        current.read(file.path.as_str()).map_err(|error| ErrorChain(&error).to_string())?;
    }
    Ok(current.release().tag().to_string())
}

/// Reads with nothing but the link, `release.json` and the files.
pub fn read_plainly(cache: &Path) -> Result<Option<String>, String> {
    // The one time that `current` is resolved.
    let target = match fs::read_link(cache.join("current")) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("`current`: {error}")),
    };
    let tag = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let release = cache.join(&target);
    let description = read(&release.join("release.json"))?;
    let description: Value = serde_json::from_slice(&description).map_err(|error| format!("release.json: {error}"))?;
    if description["tag"] != tag.as_str() {
        return Err(format!("`current` leads to {tag}, which says to be {}", description["tag"]));
    }
    let mut listed = BTreeSet::new();
    for file in description["files"].as_array().ok_or("release.json lists no files")? {
        let path = file["path"].as_str().ok_or("a file without a path")?;
        let content = read(&release.join("files").join(path))?;
        if file["sha256"] != Sha256Digest::of(&content).to_string().as_str() {
            return Err(format!("`{path}` of {tag} is not the released one"));
        }
        listed.insert(path.to_owned());
    }
    let found = fs::read_dir(release.join("files")).map_err(|error| format!("files of {tag}: {error}"))?;
    let found: BTreeSet<String> =
        found.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if found == listed { Ok(Some(tag)) } else { Err(format!("{tag} holds {found:?} and lists {listed:?}")) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("`{}`: {error}", path.display()))
}
