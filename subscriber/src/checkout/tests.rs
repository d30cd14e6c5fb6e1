use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use chrono::DateTime;

use super::*;
use crate::release_directory::ReleaseDirectory;
use crate::test_releases::contracts_files;

/// Local files come from no server.
const FETCHED: Means = Means::Fetched { wire_bytes: 0, strategy: FetchStrategy::Archive };

fn bundle() -> BundleName {
    "contracts".parse().unwrap()
}

fn local(tag: &str, content: &str) -> LocalRelease {
    let files = contracts_files(content);
    let files: Vec<(&str, Bytes)> = files.iter().map(|(path, text)| (*path, Bytes::from(text.clone()))).collect();
    LocalRelease::of_files(&bundle(), &tag.parse().unwrap(), &files).unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

async fn plain(local: &LocalRelease, destination: &Path) -> CheckedOut {
    into_directory(&Origin::Local(local), destination, BTreeSet::new(), Foreign::Refuse).await.unwrap()
}

#[tokio::test]
async fn a_cache_gets_the_agents_layout_and_keeps_the_release_before() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("contracts");
    let cache = Cache::new(&path);
    assert!(!has_cache_layout(&path));
    for (tag, content) in [("v1", "1"), ("v2", "2")] {
        let release = local(tag, content);
        let first = into_cache(&Origin::Local(&release), &path, None, false).await.unwrap();
        let again = into_cache(&Origin::Local(&release), &path, None, false).await.unwrap();
        assert_eq!((first.means, again.means), (FETCHED, Means::Found));
        assert_eq!(read(&path.join("bundle.json")), content);
    }
    assert!(has_cache_layout(&path));
    assert_eq!(stored_releases(&cache).unwrap().len(), 2);
    fs::remove_dir_all(&path).unwrap();
    assert!(has_cache_layout(&path), "its lock says what it was");
}

#[tokio::test]
async fn a_damaged_release_in_the_cache_is_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let (path, release) = (root.path().join("contracts"), local("v1", "1"));
    into_cache(&Origin::Local(&release), &path, None, true).await.unwrap();
    let file = path.join("current/files/bundle.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "2").unwrap();
    let healed = into_cache(&Origin::Local(&release), &path, None, true).await.unwrap();
    assert_eq!(healed.means, FETCHED);
    let home = Cache::new(&path).release(&"v1".parse().unwrap());
    ReleaseDirectory::open(&home, &ReleaseLimits::default()).unwrap().verify().unwrap();
}

#[tokio::test]
async fn a_pin_is_left_or_removed_with_the_switch() {
    let root = tempfile::tempdir().unwrap();
    let (path, release) = (root.path().join("contracts"), local("v1", "1"));
    let names = release.release();
    let digests = (names.tag().clone(), names.tree_digest(), names.content_digest());
    let pin = LocalPin::new(bundle(), digests, None, DateTime::UNIX_EPOCH, None);
    into_cache(&Origin::Local(&release), &path, Some(pin.clone()), true).await.unwrap();
    assert_eq!(LocalPin::load(&Cache::new(&path)).unwrap(), Some(pin));
    into_cache(&Origin::Local(&release), &path, None, true).await.unwrap();
    assert_eq!(LocalPin::load(&Cache::new(&path)).unwrap(), None);
}

#[tokio::test]
async fn a_directory_gets_the_files_alone_with_their_usual_modes() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/er/validation");
    let (one, two) = (local("v1", "1"), local("v2", "2"));
    assert_eq!(plain(&one, &path).await.means, FETCHED);
    assert_eq!(plain(&one, &path).await.means, Means::Found);
    assert_eq!(fs::metadata(path.join("bundle.json")).unwrap().permissions().mode() & 0o777, 0o644);
    plain(&two, &path).await;
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bundle.json", "bundle.sha256", "manifest.json"]);
    assert_eq!(read(&path.join("bundle.json")), "2");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no staging directory is left");
}

#[tokio::test]
async fn what_killed_processes_left_is_removed_and_what_others_work_in_is_not() {
    let root = tempfile::tempdir().unwrap();
    let area = |id: u32| root.path().join(format!(".out.fetch-{id:032}"));
    let (abandoned, live, pipe, link) = (area(1), area(2), area(3), area(4));
    fs::create_dir_all(abandoned.join("cache/staging")).unwrap();
    fs::create_dir(&live).unwrap();
    let owner = fs::File::open(&live).unwrap();
    owner.lock().unwrap();
    // In a directory that everybody may write to: names like ours that would be waited for, or lead elsewhere.
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let elsewhere = root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &link).unwrap();
    // And somebody's own, by its name.
    let own = root.path().join(".out.fetch-data");
    fs::create_dir(&own).unwrap();
    plain(&local("v1", "1"), &root.path().join("out")).await;
    assert!(!abandoned.exists());
    assert!([&live, &pipe, &link, &elsewhere, &own].iter().all(|path| path.exists()));
    drop(owner);
}

#[tokio::test]
async fn a_directory_with_a_name_almost_like_a_staging_area_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("out");
    plain(&local("v1", "1"), &path).await;
    fs::create_dir(path.join(".mine.fetch-data")).unwrap();
    fs::write(path.join(".mine.fetch-data/notes"), "mine").unwrap();
    plain(&local("v2", "2"), &path).await;
    assert_eq!(read(&path.join("bundle.json")), "2");
    assert_eq!(read(&path.join(".mine.fetch-data/notes")), "mine");
}

#[tokio::test]
async fn files_of_others_stay_and_links_are_not_written_through() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("out");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("mine"), "mine").unwrap();
    fs::write(root.path().join("outside"), "outside").unwrap();
    symlink("../outside", path.join("bundle.json")).unwrap();
    let refused =
        into_directory(&Origin::Local(&local("v1", "1")), &path, BTreeSet::new(), Foreign::Refuse).await.unwrap_err();
    assert!(matches!(refused, CheckoutError::Foreign { ref example, .. } if example == "bundle.json"), "{refused}");
    assert_eq!(read(&root.path().join("outside")), "outside");
    fs::remove_file(path.join("bundle.json")).unwrap();
    plain(&local("v1", "1"), &path).await;
    assert_eq!((read(&path.join("mine")), read(&path.join("bundle.json"))), ("mine".to_owned(), "1".to_owned()));
}

#[tokio::test]
async fn a_directory_of_somebody_else_is_moved_aside_only_when_asked() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("out");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("theirs"), "theirs").unwrap();
    let files = [("policy.rego", Bytes::from_static(b"allow"))];
    let release = LocalRelease::of_files(&"policies".parse().unwrap(), &"p1".parse().unwrap(), &files).unwrap();
    let check_out = |foreign| {
        let (origin, path) = (Origin::Local(&release), path.clone());
        async move { into_directory(&origin, &path, BTreeSet::new(), foreign).await }
    };
    assert!(matches!(check_out(Foreign::Refuse).await, Err(CheckoutError::Foreign { .. })));
    assert_eq!(read(&path.join("theirs")), "theirs");
    let aside = check_out(Foreign::MoveAside).await.unwrap().moved_aside.unwrap();
    assert_eq!(
        (read(&aside.join("theirs")), read(&path.join("policy.rego"))),
        ("theirs".to_owned(), "allow".to_owned())
    );
}

#[test]
fn digests_are_compared_in_the_words_of_the_playbook() {
    let (expected, actual) = (Sha256Digest::of(b"1"), Sha256Digest::of(b"2"));
    let error = CheckoutError::Refused {
        tag: "v1".parse().unwrap(),
        destination: PathBuf::from("out"),
        failure: Box::new(VerificationFailure::object("contracts/v1.tar.zst", expected, actual)),
    };
    let text = error.to_string();
    assert!(text.contains(&format!("SHA-256 mismatch: expected {expected}, got {actual}")), "{text}");
}
