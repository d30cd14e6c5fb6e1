//! Deltas of random trees, damaged deltas, hostile deltas, and the fixed form.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::patch::number;
use super::*;
use crate::digest::Sha256Digest;
use crate::event::{ObjectReference, Published, Trigger};
use crate::limits::ReleaseLimits;
use crate::release::{FileMode, Release, ReleaseFile};
use crate::verification::{VerificationFailure, VerifiedRelease, VerifyError};

type Tree = BTreeMap<String, (FileMode, Vec<u8>)>;
type Contents = BTreeMap<String, Vec<u8>>;

fn release(tree: &Tree, tag: &str) -> Release {
    let file = |(path, (mode, content)): (&String, &(FileMode, Vec<u8>))| ReleaseFile {
        path: path.parse().unwrap(),
        size: content.len() as u64,
        mode: *mode,
        sha256: Sha256Digest::of(content),
    };
    let (bundle, tag) = ("policies".parse().unwrap(), tag.parse().unwrap());
    Release::new(bundle, tag, None, tree.iter().map(file).collect(), &ReleaseLimits::default()).unwrap()
}

fn announced(release: &Release) -> Published {
    let json = release.to_json().unwrap();
    let reference = |name: &str, bytes: &[u8]| ObjectReference {
        name: name.to_owned(),
        size: bytes.len() as u64,
        sha256: Sha256Digest::of(bytes),
    };
    Published {
        bundle: release.bundle().clone(),
        tag: release.tag().clone(),
        tree_digest: release.tree_digest(),
        content_digest: release.content_digest(),
        files: release.files().len() as u64,
        total_bytes: release.total_bytes(),
        archive: reference("archive", b""),
        release: reference("release.json", &json),
        deltas: Vec::new(),
        git: None,
        trigger: Trigger::Local,
        actor: "ada".parse().unwrap(),
    }
}

fn open(tree: &Tree, file: &ReleaseFile) -> Cursor<Vec<u8>> {
    Cursor::new(tree[file.path.as_str()].1.clone())
}

/// A small window, so that small trees are cut into pieces too.
const SMALL: DeltaOptions = DeltaOptions { window_log: MIN_WINDOW_LOG, level: 3, at_most: u64::MAX };

fn delta(old: &Tree, new: &Tree, options: DeltaOptions) -> Vec<u8> {
    let releases = [&release(old, "v1"), &release(new, "v2")];
    write_delta(releases, |file| Ok(open(old, file)), |file| Ok(open(new, file)), options, Vec::new()).unwrap()
}

/// Trees in memory.
struct Memory<'a> {
    base: &'a Tree,
    written: Arc<Mutex<Contents>>,
    clones: bool,
}

struct MemoryFile {
    path: String,
    written: Arc<Mutex<Contents>>,
}

impl Write for MemoryFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.written.lock().unwrap().entry(self.path.clone()).or_default().extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PatchedTree for Memory<'_> {
    type Base = Cursor<Vec<u8>>;
    type New = MemoryFile;
    type Written = Cursor<Vec<u8>>;

    fn open_base(&self, file: &ReleaseFile) -> io::Result<Self::Base> {
        Ok(open(self.base, file))
    }

    fn clone_base(&self, base: &ReleaseFile, file: &ReleaseFile) -> io::Result<Option<Self::Written>> {
        if !self.clones {
            return Ok(None);
        }
        let content = open(self.base, base);
        self.written.lock().unwrap().insert(file.path.to_string(), content.get_ref().clone());
        Ok(Some(content))
    }

    fn create(&self, file: &ReleaseFile) -> io::Result<Self::New> {
        self.written.lock().unwrap().insert(file.path.to_string(), Vec::new());
        Ok(MemoryFile { path: file.path.to_string(), written: Arc::clone(&self.written) })
    }

    fn open_written(&self, file: &ReleaseFile) -> io::Result<Self::Written> {
        Ok(Cursor::new(self.written.lock().unwrap()[file.path.as_str()].clone()))
    }
}

fn applied(delta: &[u8], old: &Tree, new: &Release, clones: bool) -> Result<(VerifiedRelease, Contents), VerifyError> {
    let written = Arc::default();
    let memory = Memory { base: old, written: Arc::clone(&written), clones };
    let base = release(old, "v1");
    let reader = DeltaReader::open(delta, &base, &announced(new), &ReleaseLimits::default())?;
    assert_eq!(reader.release(), new);
    let verified = reader.apply(&memory)?;
    let contents = written.lock().unwrap().clone();
    Ok((verified, contents))
}

fn refused(delta: &[u8], old: &Tree, new: &Tree) -> VerificationFailure {
    match applied(delta, old, &release(new, "v2"), false) {
        Err(VerifyError::Refused(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn contents(tree: &Tree) -> Contents {
    tree.iter().map(|(path, (_, content))| (path.clone(), content.clone())).collect()
}

fn tree(files: &[(&str, &[u8])]) -> Tree {
    files.iter().map(|(path, content)| ((*path).to_owned(), (FileMode::Plain, content.to_vec()))).collect()
}

/// Bytes that do not compress by themselves.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let path = proptest::sample::select(vec!["a", "b/a", "b/c", "d/e/f", "g", "h.json"]).prop_map(str::to_owned);
    let mode = prop_oneof![Just(FileMode::Plain), Just(FileMode::Executable)];
    // Few seeds, so that files of two trees resemble each other, or are the same elsewhere.
    let content = (0_u64..3, 0_usize..100_000, 0_usize..3).prop_map(|(seed, size, edits)| {
        let mut content = noise(seed, size);
        for edit in 0..edits.min(size) {
            content[edit * size / 3] ^= 0x55;
        }
        content
    });
    proptest::collection::btree_map(path, (mode, content), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_delta_of_any_two_trees_gives_the_second(old in any_tree(), new in any_tree(), clones: bool) {
        let delta = delta(&old, &new, SMALL);
        let (verified, written) = applied(&delta, &old, &release(&new, "v2"), clones).unwrap();
        prop_assert_eq!(verified.release(), &release(&new, "v2"));
        prop_assert_eq!(written, contents(&new));
    }

    #[test]
    fn a_damaged_delta_is_an_error_or_gives_the_same(
        old in any_tree(), new in any_tree(), place: prop::sample::Index, bit in 0_u8..8, cut: bool,
    ) {
        let mut damaged = delta(&old, &new, SMALL);
        let place = place.index(damaged.len());
        if cut {
            damaged.truncate(place);
        } else {
            damaged[place] ^= 1 << bit;
        }
        if let Ok((verified, written)) = applied(&damaged, &old, &release(&new, "v2"), true) {
            prop_assert_eq!(verified.release(), &release(&new, "v2"));
            prop_assert_eq!(written, contents(&new));
        }
    }

    #[test]
    fn noise_is_no_delta(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let old = tree(&[("a", b"1")]);
        let new = tree(&[("a", b"2")]);
        prop_assert!(applied(&bytes, &old, &release(&new, "v2"), true).is_err());
        let with_start = [&b"DELTA\x01\x10"[..], &bytes].concat();
        prop_assert!(applied(&with_start, &old, &release(&new, "v2"), true).is_err());
    }
}

#[test]
fn unchanged_renamed_doubled_and_removed_files_cost_nothing() {
    let large = noise(1, 100_000);
    let old = tree(&[("gone", &large[1..]), ("kept", &large), ("old/name", &large[2..])]);
    let mut new = tree(&[("kept", &large), ("kept-twice", &large), ("new/name", &large[2..])]);
    new.get_mut("new/name").unwrap().0 = FileMode::Executable;
    let delta = delta(&old, &new, DeltaOptions::default());
    assert!(delta.len() < 400, "{}", delta.len());
    let (verified, written) = applied(&delta, &old, &release(&new, "v2"), false).unwrap();
    assert_eq!(verified.release().files()[2].mode, FileMode::Executable);
    assert_eq!(written, contents(&new));
}

#[test]
fn new_content_that_is_there_twice_travels_once() {
    let old = tree(&[("a", b"")]);
    let content = noise(7, 50_000);
    let new = tree(&[("a", &content), ("b", &content)]);
    let delta = delta(&old, &new, SMALL);
    assert!(delta.len() < 51_000, "{}", delta.len());
    assert_eq!(applied(&delta, &old, &release(&new, "v2"), true).unwrap().1, contents(&new));
}

#[test]
fn a_file_beyond_the_window_travels_in_pieces() {
    let content = noise(3, 400_000);
    let mut altered = content.clone();
    altered[200_000] ^= 1;
    altered.splice(10..10, *b"inserted");
    let (old, new) = (tree(&[("a", &content)]), tree(&[("a", &altered)]));
    let delta = delta(&old, &new, SMALL);
    assert!(delta.len() < 2_000, "{}", delta.len());
    assert_eq!(applied(&delta, &old, &release(&new, "v2"), false).unwrap().1, contents(&new));
}

#[test]
fn writing_ends_where_a_delta_is_not_worth_having() {
    let (old, new) = (tree(&[("a", b"")]), tree(&[("a", &noise(1, 10_000)), ("b", &noise(2, 10_000))]));
    let releases = [&release(&old, "v1"), &release(&new, "v2")];
    let mut opened = Vec::new();
    let open_new = |file: &ReleaseFile| {
        opened.push(file.path.to_string());
        Ok(open(&new, file))
    };
    let options = DeltaOptions { at_most: 5_000, ..SMALL };
    let written = write_delta(releases, |file| Ok(open(&old, file)), open_new, options, Vec::new());
    assert!(matches!(written, Err(WriteDeltaError::TooLarge { limit: 5_000 })));
    assert_eq!(opened, ["a"], "the second file is not even read");
}

#[test]
fn a_delta_of_another_base_is_refused() {
    let (old, new) = (tree(&[("a", &noise(1, 5_000))]), tree(&[("a", &noise(1, 6_000))]));
    let made = delta(&old, &new, SMALL);
    let other = tree(&[("a", &noise(2, 5_000))]);
    refused(&made, &other, &new);
    // The base on this disk was altered, its list was not.
    let mut altered = old.clone();
    altered.get_mut("a").unwrap().1[100] ^= 1;
    let memory = Memory { base: &altered, written: Arc::default(), clones: true };
    let (base, new) = (release(&old, "v1"), release(&new, "v2"));
    let reader = DeltaReader::open(&made[..], &base, &announced(&new), &ReleaseLimits::default()).unwrap();
    assert!(matches!(reader.apply(&memory), Err(VerifyError::Refused(_))));
}

#[test]
fn an_altered_file_of_the_base_is_not_taken_over() {
    let old = tree(&[("a", b"same"), ("b", b"1")]);
    let new = tree(&[("a", b"same"), ("b", b"2")]);
    let made = delta(&old, &new, SMALL);
    let mut altered = old.clone();
    altered.get_mut("a").unwrap().1 = b"SAME".to_vec();
    for clones in [true, false] {
        let memory = Memory { base: &altered, written: Arc::default(), clones };
        let (base, new) = (release(&old, "v1"), release(&new, "v2"));
        let reader = DeltaReader::open(&made[..], &base, &announced(&new), &ReleaseLimits::default()).unwrap();
        let Err(VerifyError::Refused(failure)) = reader.apply(&memory) else { panic!("it was taken over") };
        assert_eq!(failure.item, "a");
    }
}

/// A delta by hand: beginning, `release.json`, and whatever follows.
fn handmade(old: &Tree, new: &Tree, window_log: u8, rest: &[u8]) -> Vec<u8> {
    let [old, new] = [release(old, "v1"), release(new, "v2")].map(|release| release.to_json().unwrap());
    let json = patch::compress(&mut &new[..], new.len() as u64, &old, 3).unwrap();
    let start = [&MAGIC[..], &[VERSION, window_log]].concat();
    [&start[..], &number(json.len() as u64), &json, rest].concat()
}

#[test]
fn hostile_deltas_are_refused_before_they_cost_anything() {
    let old = tree(&[("a", b"1")]);
    let new = tree(&[("a", b"2")]);
    let frame = |content: &[u8]| patch::compress(&mut &content[..], content.len() as u64, b"1", 3).unwrap();
    let file = |base: u64, length: u64, frame: &[u8]| [&number(base)[..], &number(length), frame].concat();
    let good = frame(b"2");
    let length = good.len() as u64;
    let whole = handmade(&old, &new, 16, &file(1, length, &good));
    assert!(applied(&whole, &old, &release(&new, "v2"), false).is_ok(), "else nothing below is tested");

    let mut bomb = zstd::Encoder::new(Vec::new(), 19).unwrap();
    io::copy(&mut io::repeat(0).take(1 << 30), &mut bomb).unwrap();
    let bomb = bomb.finish().unwrap();
    for (rest, expected) in [
        (file(2, length, &good), "file 2"),
        (file(u64::from(u32::MAX), length, &good), "file 4294967295"),
        (file(1, bomb.len() as u64, &bomb), "more bytes instead of 1"),
        (file(1, (1 << 35) - 1, &good), "behind its frame"),
        (file(1, length - 1, &good), ""),
        (file(1, length + 1, &[&good[..], b"x"].concat()), "behind its frame"),
        (file(1, length, &[&good[..], b"x"].concat()), "a further byte"),
        (file(1, 0, b""), ""),
        (file(1, length, &good[..4]), ""),
        (Vec::new(), ""),
    ] {
        let failure = refused(&handmade(&old, &new, 16, &rest), &old, &new);
        assert!(failure.actual.contains(expected), "{expected}: {failure}");
    }
    for window_log in [0, MIN_WINDOW_LOG - 1, MAX_WINDOW_LOG + 1, u8::MAX] {
        let failure = refused(&handmade(&old, &new, window_log, &file(1, length, &good)), &old, &new);
        assert!(failure.expected.contains("window"), "{failure}");
    }
    let mut later = whole.clone();
    later[MAGIC.len()] = VERSION + 1;
    assert!(refused(&later, &old, &new).expected.contains("version"));
}

#[test]
fn a_delta_cannot_make_a_node_read_its_largest_file_again_and_again() {
    let large = noise(1, 8 << 20);
    let old = tree(&[("large", &large)]);
    let small: Vec<(String, [u8; 1])> = (0..20_u8).map(|index| (format!("f{index:02}"), [index])).collect();
    let files: Vec<(&str, &[u8])> = small.iter().map(|(path, content)| (path.as_str(), &content[..])).collect();
    let new = tree(&files);
    let mut rest = Vec::new();
    for (_, content) in &files {
        let frame = patch::compress(&mut &content[..], 1, &large, 1).unwrap();
        rest.extend([&number(1)[..], &number(frame.len() as u64), &frame].concat());
    }
    let failure = refused(&handmade(&old, &new, 26, &rest), &old, &new);
    assert!(failure.expected.contains("prefixes"), "{failure}");
}

#[test]
fn the_form_of_a_delta_is_fixed() {
    let old = tree(&[("a.json", b"{\"version\":1}"), ("b", b"same"), ("c", b"gone")]);
    let new = tree(&[("a.json", b"{\"version\":2}"), ("b", b"same"), ("d/e", b"new")]);
    let golden = hex::decode(include_str!("../../testdata/delta.v1.hex").split_whitespace().collect::<String>());
    let golden = golden.unwrap();
    assert_eq!(&golden[..7], b"DELTA\x01\x1a");
    assert_eq!(applied(&golden, &old, &release(&new, "v2"), false).unwrap().1, contents(&new));
    // Another version of zstd may write other bytes; ours is pinned.
    assert_eq!(hex::encode(delta(&old, &new, DeltaOptions::default())), hex::encode(golden));
}
