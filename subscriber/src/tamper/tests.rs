use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::cache::Cache;
use crate::fetch::id_of;
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

    fn store(&self, files: &[(&str, &str)], tag: &str) -> ReleaseId {
        let home = self.home(tag);
        fs::create_dir(&home).unwrap();
        let release = store_release(&home, files, tag);
        if let Some(line) = checksum_line(&release, &home) {
            fs::write(home.join(CHECKSUM_FILE), line).unwrap();
        }
        id_of(&release)
    }

    fn home(&self, tag: &str) -> PathBuf {
        self.cache.release(&tag.parse().unwrap())
    }

    fn compare(&self, id: &ReleaseId) -> Damage {
        compare(&self.cache.release(&id.tag), id, &ReleaseLimits::default()).unwrap()
    }

    fn rebuild(&self, id: &ReleaseId) -> bool {
        rebuild(&self.cache, &self.cache.try_lock().unwrap().unwrap(), id, &ReleaseLimits::default()).unwrap()
    }

    fn put_back_missing(&self, id: &ReleaseId) -> bool {
        put_back_missing(&self.cache, &self.cache.try_lock().unwrap().unwrap(), id, &ReleaseLimits::default()).unwrap()
    }
}

fn overwrite(path: &Path, content: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

const FILES_V1: [(&str, &str); 3] = [("a.json", "{}"), ("b/c.wasm", "xyz"), ("d.txt", "same")];

#[test]
fn an_intact_release_shows_no_damage() {
    let world = World::new();
    let id = world.store(&FILES_V1, "v1");
    assert!(world.compare(&id).is_none());
    let files = contracts_files("{}");
    let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_str())).collect();
    let contracts = world.store(&files, "v2");
    assert!(world.compare(&contracts).is_none());
    fs::remove_file(world.home("v2").join(CHECKSUM_FILE)).unwrap();
    assert_eq!(world.compare(&contracts).paths[0].path, "bundle.sha256");
}

#[test]
fn every_kind_of_damage_is_counted_and_named() {
    type Act = fn(&Path);
    let cases: [(Act, &str, (u64, u64, u64)); 8] = [
        (|home| overwrite(&home.join("files/a.json"), "[]"), "files/a.json", (1, 0, 0)),
        (|home| overwrite(&home.join("files/a.json"), "longer"), "files/a.json", (1, 0, 0)),
        (
            |home| fs::set_permissions(home.join("files/a.json"), fs::Permissions::from_mode(0o555)).unwrap(),
            "files/a.json",
            (1, 0, 0),
        ),
        (|home| fs::remove_dir_all(home.join("files/b")).unwrap(), "files/b/c.wasm", (0, 1, 0)),
        (|home| fs::write(home.join("files/b/new"), "").unwrap(), "files/b/new", (0, 0, 1)),
        (
            |home| {
                fs::remove_file(home.join("files/a.json")).unwrap();
                symlink("d.txt", home.join("files/a.json")).unwrap();
            },
            "files/a.json",
            (1, 0, 0),
        ),
        (|home| fs::remove_file(home.join("release.json")).unwrap(), "release.json", (0, 1, 0)),
        (|home| fs::write(home.join("release.json"), "{}").unwrap(), "release.json or files", (1, 0, 0)),
    ];
    for (act, path, counts) in cases {
        let world = World::new();
        let id = world.store(&FILES_V1, "v1");
        act(&world.home("v1"));
        let damage = world.compare(&id);
        assert_eq!((damage.paths[0].path.as_str(), (damage.changed, damage.missing, damage.extra)), (path, counts));
    }
}

#[test]
fn a_description_that_was_edited_along_with_its_files_is_noticed() {
    let world = World::new();
    let id = world.store(&FILES_V1, "v1");
    fs::remove_dir_all(world.home("v1")).unwrap();
    world.store(&[("a.json", "evil")], "v1");
    let damage = world.compare(&id);
    assert_eq!((damage.paths[0].path.as_str(), damage.changed), ("release.json", 1));
    assert!(!world.rebuild(&id), "it cannot say what should be there");
}

#[test]
fn an_event_names_a_bounded_number_of_paths() {
    let world = World::new();
    let id = world.store(&FILES_V1, "v1");
    for number in 0..50 {
        fs::write(world.home("v1").join(format!("files/extra-{number}")), "").unwrap();
    }
    let damage = world.compare(&id);
    assert_eq!((damage.extra, damage.paths.len()), (50, TamperDetected::MOST_PATHS));
}

#[test]
fn a_damaged_release_is_built_anew_from_copies_in_other_releases() {
    let world = World::new();
    let id = world.store(&FILES_V1, "v1");
    world.store(&[("renamed.json", "{}"), ("b/c.wasm", "other")], "v2");
    overwrite(&world.home("v1").join("files/a.json"), "[]");
    fs::write(world.home("v1").join("files/extra"), "").unwrap();
    assert!(world.rebuild(&id));
    assert!(world.compare(&id).is_none());
    let aside = fs::read_dir(world.cache.root().join("staging")).unwrap().count();
    assert_eq!(aside, 1, "the damaged one waits for its readers");
}

#[test]
fn without_an_intact_copy_nothing_is_replaced() {
    let world = World::new();
    let id = world.store(&FILES_V1, "v1");
    world.store(&[("a.json", "{}")], "v2");
    overwrite(&world.home("v1").join("files/a.json"), "[]");
    overwrite(&world.home("v2").join("files/a.json"), "[]");
    assert!(!world.rebuild(&id), "the other copy is damaged too");
    assert_eq!(fs::read_to_string(world.home("v1").join("files/a.json")).unwrap(), "[]");
}

#[test]
fn only_missing_files_are_put_back_and_changed_ones_stay() {
    let world = World::new();
    let id = world.store(&FILES_V1, "v1");
    world.store(&[("elsewhere.wasm", "xyz")], "v2");
    fs::remove_dir_all(world.home("v1").join("files/b")).unwrap();
    overwrite(&world.home("v1").join("files/a.json"), "[]");
    assert!(world.put_back_missing(&id));
    let damage = world.compare(&id);
    assert_eq!((damage.changed, damage.missing, damage.extra), (1, 0, 0));
    assert_eq!(fs::read_to_string(world.home("v1").join("files/b/c.wasm")).unwrap(), "xyz");
    fs::remove_file(world.home("v1").join("files/d.txt")).unwrap();
    assert!(!world.put_back_missing(&id), "no copy of it is here");
}
