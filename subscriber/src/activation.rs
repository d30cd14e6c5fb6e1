//! The switch: which release is current changes here and nowhere else.
//!
//! Described in `docs/ARCHITECTURE.md`, "On a node".
//!
//! Temporary link, `rename(2)`, sync. At any instant `current` is the old release or the new one, whole; after
//! the function returned, the new one also after a power failure. Only what is verified can be switched to.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use shared::daemon::crash_point::CrashPoint;
use shared::release::Release;
use shared::verification::Activatable;
use thiserror::Error;

use crate::cache::{CURRENT, Cache, CacheError, CacheLock, Current, RELEASES};
use crate::durable_file::{remove_file_if_present, sync_directory, write_atomically};
use crate::fetch::id_of;
use crate::release_directory::{CHECKSUM_FILE, checksum_line, says_to_be};
use crate::staging::touch;

/// The flat view: what the operators' commands find directly in the cache, and where it leads.
const FLAT_VIEW: [(&str, &str); 3] = [
    ("bundle.json", "current/files/bundle.json"),
    ("manifest.json", "current/files/manifest.json"),
    ("bundle.sha256", "current/bundle.sha256"),
];

/// Between the steps of placing a link: made, renamed, durable.
const CURRENT_STEPS: [CrashPoint; 3] =
    [CrashPoint::CurrentLinkMade, CrashPoint::CurrentRenamed, CrashPoint::CurrentDurable];
const VIEW_STEPS: [CrashPoint; 3] = [CrashPoint::ViewLinkMade, CrashPoint::ViewRenamed, CrashPoint::ViewDurable];

/// A switch that did not happen, or whose durability is not known.
#[derive(Debug, Error)]
pub(crate) enum ActivationError {
    /// The cache cannot be used.
    #[error("the cache cannot be used")]
    Cache(#[from] CacheError),
    /// The release is not where it was staged: somebody deleted it, or put another one under its tag.
    #[error("release `{}` is gone or was replaced", path.display())]
    Gone {
        /// Where it lay.
        path: PathBuf,
    },
    /// A link cannot be placed.
    #[error("link `{}` cannot be placed", path.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes a release current and durable as such, and brings the flat view in line with it.
///
/// A crash at any instruction leaves the old or the new release current; the flat view follows `current` by itself,
/// and what is missing of it is placed by [`repair_flat_view`] at the next start.
pub(crate) fn activate(cache: &Cache, lock: &CacheLock, release: &impl Activatable) -> Result<(), ActivationError> {
    CrashPoint::SwitchBegun.reach();
    let tag = release.release().tag();
    let home = cache.release(tag);
    if !says_to_be(&home, &id_of(release.release())) {
        return Err(ActivationError::Gone { path: home });
    }
    // Links that lead through `current` come first, so that no instant shows a current release without them.
    place_flat_view(cache, lock, release.release())?;
    match cache.current()? {
        Current::Release(old) if &old == tag => {}
        Current::Release(old) => {
            // Its time says until when it was in use. A release that is gone needs no time.
            let _ = touch(&cache.release(&old));
            CrashPoint::OldReleaseTouched.reach();
            place_link(cache, lock, CURRENT, &target_of(release.release()))?;
        }
        Current::Absent | Current::Foreign => place_link(cache, lock, CURRENT, &target_of(release.release()))?,
    }
    repair_flat_view(cache, lock, release.release())
}

/// Places or removes what is missing or wrong in the flat view of the current release, and rewrites its checksum
/// file where the cache was moved since. Changes nothing where all is well.
pub(crate) fn repair_flat_view(cache: &Cache, lock: &CacheLock, release: &Release) -> Result<(), ActivationError> {
    if place_flat_view(cache, lock, release)? {
        return Ok(());
    }
    for (name, target) in FLAT_VIEW {
        let path = cache.root().join(name);
        if leads_to(&path, target) {
            remove_file_if_present(&path).map_err(|source| ActivationError::Link { path, source })?;
            CrashPoint::ViewRemoved.reach();
        }
    }
    Ok(())
}

/// Places what is missing of a release's flat view, and its checksum file. Says whether the release has one at all.
fn place_flat_view(cache: &Cache, lock: &CacheLock, release: &Release) -> Result<bool, ActivationError> {
    let home = cache.release(release.tag());
    let Some(line) = checksum_line(release, &home) else { return Ok(false) };
    let path = home.join(CHECKSUM_FILE);
    if fs::read(&path).ok().as_ref() != Some(&line) {
        write_atomically(&path, &line, 0o444).map_err(|source| ActivationError::Link { path, source })?;
    }
    for (name, target) in FLAT_VIEW {
        if !leads_to(&cache.root().join(name), target) {
            place_link(cache, lock, name, target)?;
        }
    }
    Ok(true)
}

fn leads_to(link: &Path, target: &str) -> bool {
    fs::read_link(link).is_ok_and(|found| found == Path::new(target))
}

fn target_of(release: &Release) -> String {
    format!("{RELEASES}/{}", release.tag())
}

/// Points a link of the cache at a target, atomically and durably, whatever stands under its name now (a directory
/// excepted). The lock makes the temporary name ours alone.
fn place_link(cache: &Cache, _lock: &CacheLock, name: &str, target: &str) -> Result<(), ActivationError> {
    let path = cache.root().join(name);
    let temporary = cache.root().join(format!(".{name}.new"));
    let [made, renamed, durable] = if name == CURRENT { CURRENT_STEPS } else { VIEW_STEPS };
    let place = || -> io::Result<()> {
        remove_file_if_present(&temporary)?;
        symlink(target, &temporary)?;
        made.reach();
        // Not synced before it is renamed: a file system keeps the order of changes to one directory, and until the sync
        // below either link may be found after a power failure.
        fs::rename(&temporary, &path)?;
        renamed.reach();
        sync_directory(cache.root())?;
        durable.reach();
        Ok(())
    };
    place().map_err(|source| ActivationError::Link { path: path.clone(), source })
}

#[cfg(test)]
mod many_switches;
#[cfg(test)]
mod tests {
    use shared::limits::ReleaseLimits;
    use shared::verification::VerifiedRelease;

    use super::*;
    use crate::release_directory::ReleaseDirectory;
    use crate::test_releases::{contracts_files, store_release};

    struct World {
        _root: tempfile::TempDir,
        cache: Cache,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let cache = Cache::new(root.path().join("contracts"));
            cache.ensure().unwrap();
            Self { _root: root, cache }
        }

        fn store(&self, files: &[(&str, &str)], tag: &str) -> VerifiedRelease {
            let home = self.cache.release(&tag.parse().unwrap());
            fs::create_dir(&home).unwrap();
            store_release(&home, files, tag);
            ReleaseDirectory::open(&home, &ReleaseLimits::default()).unwrap().verify().unwrap()
        }

        fn store_contracts(&self, bundle: &str, tag: &str) -> VerifiedRelease {
            let files = contracts_files(bundle);
            let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_str())).collect();
            self.store(&files, tag)
        }

        fn activate(&self, release: &VerifiedRelease) -> Result<(), ActivationError> {
            activate(&self.cache, &self.cache.try_lock().unwrap().unwrap(), release)
        }

        fn read(&self, path: &str) -> io::Result<String> {
            fs::read_to_string(self.cache.root().join(path))
        }
    }

    #[test]
    fn a_switch_changes_everything_that_leads_through_current() {
        let world = World::new();
        let (one, two) = (world.store_contracts("1", "v1"), world.store_contracts("2", "v2"));
        world.activate(&one).unwrap();
        assert_eq!(
            (world.read("bundle.json").unwrap(), world.read("current/files/bundle.json").unwrap()),
            ("1".into(), "1".into())
        );
        world.activate(&two).unwrap();
        assert_eq!(world.read("bundle.json").unwrap(), "2");
        assert!(world.read("bundle.sha256").unwrap().contains("/releases/v2/files/bundle.json"));
        assert_eq!(world.cache.current().unwrap(), Current::Release("v2".parse().unwrap()));
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_release_and_hinders_nobody() {
        let world = World::new();
        let (one, two) = (world.store_contracts("1", "v1"), world.store_contracts("2", "v2"));
        world.activate(&one).unwrap();
        symlink("releases/v2", world.cache.root().join(".current.new")).unwrap();
        assert_eq!(world.read("bundle.json").unwrap(), "1");
        world.activate(&two).unwrap();
        assert_eq!(world.read("bundle.json").unwrap(), "2");
        assert!(!world.cache.root().join(".current.new").exists());
    }

    #[test]
    fn a_crash_after_the_rename_is_finished_by_repairing_the_view() {
        let world = World::new();
        let one = world.store_contracts("1", "v1");
        symlink("releases/v1", world.cache.current_link()).unwrap();
        fs::write(world.cache.root().join("bundle.json"), "an old plain copy").unwrap();
        repair_flat_view(&world.cache, &world.cache.try_lock().unwrap().unwrap(), one.release()).unwrap();
        assert_eq!(world.read("bundle.json").unwrap(), "1");
        assert!(world.read("manifest.json").is_ok());
    }

    #[test]
    fn a_plain_release_has_no_flat_view() {
        let world = World::new();
        let contracts = world.store_contracts("1", "v1");
        let plain = world.store(&[("policy.wasm", "x")], "v2");
        world.activate(&contracts).unwrap();
        world.activate(&plain).unwrap();
        assert_eq!(world.read("current/files/policy.wasm").unwrap(), "x");
        assert!(fs::symlink_metadata(world.cache.root().join("bundle.json")).is_err());
    }

    #[test]
    fn what_is_gone_or_in_the_way_is_an_error_and_changes_nothing() {
        let world = World::new();
        let (one, two) = (world.store_contracts("1", "v1"), world.store_contracts("2", "v2"));
        world.activate(&one).unwrap();
        fs::remove_dir_all(world.cache.release(&"v2".parse().unwrap())).unwrap();
        assert!(matches!(world.activate(&two), Err(ActivationError::Gone { .. })));
        world.store_contracts("another agent's", "v2");
        assert!(matches!(world.activate(&two), Err(ActivationError::Gone { .. })));
        assert_eq!(world.read("bundle.json").unwrap(), "1");

        fs::remove_file(world.cache.current_link()).unwrap();
        fs::create_dir_all(world.cache.root().join("current/x")).unwrap();
        assert!(matches!(world.activate(&one), Err(ActivationError::Link { .. })));
    }
}
