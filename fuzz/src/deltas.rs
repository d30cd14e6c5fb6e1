//! Deltas: hostile patches of a release that is here.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex};

use shared::delta::{DeltaReader, PatchedTree};
use shared::digest::Sha256Digest;
use shared::event::{ObjectReference, Published, Trigger};
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, Release, ReleaseFile};

/// Path, executable or not, content.
pub type File = (&'static str, bool, &'static [u8]);
/// The release that every input is applied to.
pub const BASE: [File; 4] = [
    ("bundle.json", false, b"{\"schemas\":{\"a.json\":\"{}\"},\"version\":1}"),
    ("gone", false, b"removed"),
    ("moved/from", false, b"the same bytes under another name"),
    ("run.sh", true, b"#!/bin/sh\necho one\n"),
];
/// The release that must come out, or nothing.
pub const TARGET: [File; 5] = [
    ("bundle.json", false, b"{\"schemas\":{\"a.json\":\"{}\"},\"version\":2}"),
    ("empty", false, b""),
    ("moved/to", false, b"the same bytes under another name"),
    ("new", false, b"added"),
    ("run.sh", false, b"#!/bin/sh\necho one\necho two\n"),
];

/// A release of these files.
pub fn release(files: &[File], tag: &str) -> Release {
    let listed = files.iter().map(|(path, executable, content)| ReleaseFile {
        path: path.parse().expect("a path"),
        size: content.len() as u64,
        mode: FileMode::from_bits(if *executable { 0o755 } else { 0o644 }),
        sha256: Sha256Digest::of(content),
    });
    let (bundle, tag) = ("policies".parse().expect("a name"), tag.parse().expect("a tag"));
    Release::new(bundle, tag, None, listed.collect(), &ReleaseLimits::default()).expect("a release")
}

/// The content of one of them.
pub fn content(files: &[File], file: &ReleaseFile) -> &'static [u8] {
    files.iter().find(|(path, ..)| *path == file.path.as_str()).expect("it is listed").2
}

/// Input: a delta from [`BASE`] to [`TARGET`]. It gives exactly the target, or an error; never more bytes than the
/// target has.
pub fn delta(data: &[u8]) {
    let (base, target) = (release(&BASE, "v1"), release(&TARGET, "v2"));
    let announced = announced(&target);
    let Ok(reader) = DeltaReader::open(data, &base, &announced, &ReleaseLimits::default()) else { return };
    let written = Arc::default();
    let applied = reader.apply(&Memory { written: Arc::clone(&written) });
    let written: &Mutex<BTreeMap<String, Vec<u8>>> = &written;
    let total: usize = written.lock().expect("no thread panicked").values().map(Vec::len).sum();
    assert!(total as u64 <= target.total_bytes());
    if let Ok(verified) = applied {
        assert_eq!(verified.release(), &target);
        for file in target.files() {
            assert_eq!(written.lock().expect("no thread panicked")[file.path.as_str()], content(&TARGET, file));
        }
    }
}

fn announced(release: &Release) -> Published {
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
        release: reference("release.json", &release.to_json().expect("it can be written")),
        deltas: Vec::new(),
        git: None,
        trigger: Trigger::Local,
        actor: "ada".parse().expect("a name"),
    }
}

type Contents = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

struct Memory {
    written: Contents,
}

struct MemoryFile {
    path: String,
    left: u64,
    written: Contents,
}

impl Write for MemoryFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(buffer.len() as u64).expect("no file grows beyond its stated size");
        self.written
            .lock()
            .expect("no thread panicked")
            .entry(self.path.clone())
            .or_default()
            .extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PatchedTree for Memory {
    type Base = Cursor<&'static [u8]>;
    type New = MemoryFile;
    type Written = Cursor<Vec<u8>>;

    fn open_base(&self, file: &ReleaseFile) -> io::Result<Self::Base> {
        Ok(Cursor::new(content(&BASE, file)))
    }

    fn clone_base(&self, _base: &ReleaseFile, _file: &ReleaseFile) -> io::Result<Option<Self::Written>> {
        Ok(None)
    }

    fn create(&self, file: &ReleaseFile) -> io::Result<Self::New> {
        let path = file.path.to_string();
        self.written.lock().expect("no thread panicked").insert(path.clone(), Vec::new());
        Ok(MemoryFile { path, left: file.size, written: Arc::clone(&self.written) })
    }

    fn open_written(&self, file: &ReleaseFile) -> io::Result<Self::Written> {
        Ok(Cursor::new(self.written.lock().expect("no thread panicked")[file.path.as_str()].clone()))
    }
}
