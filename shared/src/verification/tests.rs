//! Archives and stored files against their descriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::*;
use crate::archive::{read_archive, read_archive_without_digests, write_archive};
use crate::release::{FileMode, ReleaseFile};

fn tree() -> BTreeMap<&'static str, Vec<u8>> {
    let long = "directory-with-a-long-name/".repeat(5) + "file.json";
    BTreeMap::from([
        ("a.json", b"{}".to_vec()),
        ("b/empty", Vec::new()),
        (Box::leak(long.into_boxed_str()), vec![7; 100_000]),
    ])
}

fn release_of(tree: &BTreeMap<&str, Vec<u8>>) -> Release {
    let files = tree
        .iter()
        .map(|(path, content)| ReleaseFile {
            path: path.parse().unwrap(),
            size: content.len() as u64,
            mode: if path.ends_with("empty") { FileMode::Executable } else { FileMode::Plain },
            sha256: Sha256Digest::of(content),
        })
        .collect();
    Release::new("contracts".parse().unwrap(), "v1".parse().unwrap(), None, files, &ReleaseLimits::default()).unwrap()
}

fn archive_of(tree: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
    write_archive(&release_of(tree), |file| Ok(&tree[file.path.as_str()][..]), Vec::new()).unwrap()
}

#[test]
fn an_archive_gives_back_what_was_packed() {
    let tree = tree();
    let release = release_of(&tree);
    let mut unpacked = BTreeSet::new();
    let archive = archive_of(&tree);
    assert_eq!(archive, archive_of(&tree), "same tree, same bytes");
    let verified = read_archive(&archive[..], &release, |file| {
        unpacked.insert(file.path.clone());
        Ok(io::sink())
    })
    .unwrap();
    assert_eq!(verified.release(), &release);
    assert_eq!(unpacked.len(), tree.len());
}

#[test]
fn an_archive_of_another_tree_is_refused_with_both_digests() {
    let release = release_of(&tree());
    let mut altered = tree();
    altered.insert("a.json", b"[]".to_vec());
    let error = read_archive(&archive_of(&altered)[..], &release, |_| Ok(io::sink())).unwrap_err();
    let VerifyError::Refused(failure) = error else { panic!("{error}") };
    assert_eq!(failure.check, FailedCheck::File);
    assert_eq!(
        (failure.expected, failure.actual),
        (Sha256Digest::of(b"{}").to_string(), Sha256Digest::of(b"[]").to_string())
    );
}

#[test]
fn missing_added_and_cut_archives_are_refused() {
    let release = release_of(&tree());
    let mut missing = tree();
    missing.remove("b/empty");
    let mut added = tree();
    added.insert("z", b"more".to_vec());
    let whole = archive_of(&tree());
    for archive in [
        archive_of(&missing),
        archive_of(&added),
        whole[..whole.len() / 2].to_vec(),
        b"no archive".to_vec(),
        Vec::new(),
    ] {
        let error = read_archive(&archive[..], &release, |_| Ok(io::sink())).unwrap_err();
        assert!(matches!(error, VerifyError::Refused(_)), "{error}");
    }
}

#[test]
fn a_full_disk_says_nothing_about_the_release() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = read_archive(&archive_of(&tree())[..], &release_of(&tree()), |_| Ok(Full)).unwrap_err();
    assert!(matches!(error, VerifyError::Write { .. }), "{error}");
}

#[test]
fn the_emergency_flag_skips_digests_and_nothing_else() {
    assert_eq!(EmergencyFlag::raised(false), None);
    let flag = EmergencyFlag::raised(true).unwrap();
    let release = release_of(&tree());
    let check = |tree: &BTreeMap<&str, Vec<u8>>| {
        let read = |archive: &[u8]| read_archive_without_digests(archive, &release, flag, |_| Ok(io::sink()));
        let unpacked = read(&archive_of(tree)).is_ok();
        let stored = check_files_without_digests(&release, flag, |file| {
            tree.get(file.path.as_str()).map(Vec::as_slice).ok_or(io::ErrorKind::NotFound.into())
        });
        (unpacked, stored.is_ok())
    };
    let mut altered = tree();
    altered.insert("a.json", b"[]".to_vec());
    assert_eq!(check(&altered), (true, true), "other bytes");
    altered.insert("a.json", b"longer".to_vec());
    assert_eq!(check(&altered), (false, false), "another size");
    altered.remove("a.json");
    assert_eq!(check(&altered), (false, false), "a file is missing");
    let mut added = tree();
    added.insert("z", b"more".to_vec());
    assert!(!check(&added).0, "a file is added");
}

#[test]
fn files_on_disk_are_compared_one_by_one() {
    let mut tree = tree();
    let release = release_of(&tree);
    let verify = |tree: &BTreeMap<&str, Vec<u8>>| {
        verify_files(&release, |file| {
            tree.get(file.path.as_str()).map(Vec::as_slice).ok_or(io::ErrorKind::NotFound.into())
        })
    };
    assert!(verify(&tree).is_ok());
    tree.insert("b/empty", b"x".to_vec());
    assert!(matches!(verify(&tree), Err(VerifyError::Refused(failure)) if failure.item == "b/empty"));
    tree.remove("b/empty");
    assert!(matches!(verify(&tree), Err(VerifyError::Refused(failure)) if failure.actual == "missing"));
}
