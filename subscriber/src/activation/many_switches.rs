//! Readers that resolve `current` once, during thousands of switches: none fails, none sees two releases.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use shared::digest::Sha256Digest;
use shared::limits::ReleaseLimits;
use shared::verification::VerifiedRelease;

use super::*;
use crate::reader::CurrentRelease;
use crate::release_directory::{FILES, ReleaseDirectory};
use crate::retention::{QUIET_TIME, collect, stored_releases};
use crate::test_releases::{contracts_files, store_release};

const SWITCHES: usize = 2_000;
const SWITCHES_LONG: usize = 10_000;

/// A cache, and what its readers found until it stopped changing.
struct World {
    _root: tempfile::TempDir,
    cache: Cache,
    stop: AtomicBool,
    reads: AtomicU64,
}

/// Reads the current release whole, resolving `current` once; the error says what is wrong with it.
type Read = fn(&Path) -> Result<(), String>;

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("contracts"));
        cache.ensure().unwrap();
        Self { _root: root, cache, stop: AtomicBool::new(false), reads: AtomicU64::new(0) }
    }

    fn store(&self, tag: &str) -> VerifiedRelease {
        let home = self.cache.release(&tag.parse().unwrap());
        fs::create_dir(&home).unwrap();
        let files = contracts_files(tag);
        let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_str())).collect();
        store_release(&home, &files, tag);
        ReleaseDirectory::open(&home, &ReleaseLimits::default()).unwrap().verify().unwrap()
    }

    fn switch(&self, release: &VerifiedRelease) {
        activate(&self.cache, &self.lock(), release).unwrap();
    }

    /// Waits a moment where it must: a program that another test starts has a copy of every open file, locks included,
    /// until it has begun.
    fn lock(&self) -> CacheLock {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.cache.try_lock().unwrap() {
                Some(lock) => return lock,
                None if Instant::now() < deadline => thread::yield_now(),
                None => panic!("the cache stays locked"),
            }
        }
    }

    /// Switches so often while the readers read; returns how many releases they read.
    fn hammered(&self, readers: &[Read], switches: usize, mut switch: impl FnMut(usize)) -> u64 {
        thread::scope(|scope| {
            let hammer = |read: &Read| {
                let read = *read;
                scope.spawn(move || -> Result<(), String> {
                    while !self.stop.load(Ordering::Acquire) {
                        read(self.cache.root())?;
                        self.reads.fetch_add(1, Ordering::AcqRel);
                    }
                    Ok(())
                })
            };
            let readers: Vec<_> = readers.iter().map(hammer).collect();
            // Also where a switch panics: the readers are waited for.
            let stop_readers = StopReaders(&self.stop);
            (0..switches).for_each(&mut switch);
            drop(stop_readers);
            for reader in readers {
                reader.join().unwrap().unwrap();
            }
        });
        self.reads.load(Ordering::Acquire)
    }
}

/// Ends the readers when it goes.
struct StopReaders<'a>(&'a AtomicBool);

impl Drop for StopReaders<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Whether the three files belong to one release.
fn whole(read: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<(), String> {
    let (bundle, manifest, checksum) = (read("bundle.json")?, read("manifest.json")?, read("bundle.sha256")?);
    let digest = Sha256Digest::of(&bundle).to_string();
    let all_name_it = [manifest, checksum].iter().all(|text| String::from_utf8_lossy(text).contains(&digest));
    if all_name_it { Ok(()) } else { Err(format!("torn: {}", String::from_utf8_lossy(&bundle))) }
}

fn read_plainly(cache: &Path) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let release = cache.join(fs::read_link(cache.join(CURRENT)).map_err(failed)?);
    whole(|name| fs::read(release.join(FILES).join(name)).map_err(|error| format!("{}: {error}", release.display())))
}

fn read_with_library(cache: &Path) -> Result<(), String> {
    let current = CurrentRelease::open(cache).map_err(|error| format!("{error:?}"))?;
    whole(|name| current.read(name).map_err(|error| format!("{error:?}")))
}

fn switch_between_releases(switches: usize) {
    let world = World::new();
    let releases: Vec<_> = ["v1", "v2", "v3", "v4"].iter().map(|tag| world.store(tag)).collect();
    world.switch(&releases[0]);
    let reads = world.hammered(&[read_plainly, read_with_library], switches, |number| {
        world.switch(&releases[(number + 1) % releases.len()]);
    });
    assert!(reads > 0, "nobody read");
}

/// Each switch is to a new release, and all that is not the current or previous one goes at once unless a reader holds
/// it: the ten minutes are counted as over.
fn switch_and_collect(switches: usize) {
    let world = World::new();
    world.switch(&world.store("v"));
    let reads = world.hammered(&[read_with_library, read_with_library], switches, |number| {
        let release = world.store(&format!("v{number}"));
        world.switch(&release);
        let later = SystemTime::now() + QUIET_TIME + Duration::from_mins(1);
        collect(&world.cache, &world.lock(), &[], 1, &[], later).unwrap();
    });
    assert!(reads > 0, "nobody read");
    let left = stored_releases(&world.cache).unwrap().len();
    assert!(left < 8, "{left} releases are left: nothing was collected under the readers' eyes");
}

#[test]
fn readers_see_whole_releases_during_many_switches() {
    switch_between_releases(SWITCHES);
}

#[test]
fn no_release_is_collected_under_a_reader_that_holds_it() {
    switch_and_collect(SWITCHES / 4);
}

#[test]
#[ignore = "takes minutes on a slow disk"]
fn readers_see_whole_releases_during_ten_thousand_switches() {
    switch_between_releases(SWITCHES_LONG);
    switch_and_collect(SWITCHES_LONG);
}
