//! `release.json` and the archive.

use std::cell::Cell;
use std::io::{self, Write};

use shared::archive::read_archive;
use shared::limits::ReleaseLimits;
use shared::release::{Release, digest_of_tree};

/// Small limits, so that exceeding them is within a fuzzer's reach.
fn limits() -> ReleaseLimits {
    ReleaseLimits { files: 64, file_bytes: 1 << 16, total_bytes: 1 << 18, path_bytes: 512, release_json_bytes: 1 << 16 }
}

/// What is accepted is canonical, within the limits, and its tree digest is that of its files.
pub fn release_json(data: &[u8]) {
    let Ok(release) = Release::parse(data, &limits()) else { return };
    assert_eq!(release.to_json().expect("what was read can be written"), data, "one form only");
    assert_eq!(digest_of_tree(release.files()).expect("it has a digest"), release.tree_digest());
    assert!(release.files().len() as u64 <= limits().files && release.total_bytes() <= limits().total_bytes);
    for file in release.files() {
        let mut components = file.path.components();
        assert!(components.all(|part| !matches!(part, "" | "." | "..")) && !file.path.as_str().starts_with('/'));
    }
}

/// Input: a `release.json`, a line end, an archive. Nothing is written beyond what the release states, and success means
/// that every file was handed out whole.
pub fn archive(data: &[u8]) {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(release) = Release::parse(&data[..end], &limits()) else { return };
    let (written, opened) = (Cell::new(0), Cell::new(0));
    let unpacked = read_archive(&data[end + 1..], &release, |file| {
        opened.set(opened.get() + 1);
        Ok(Counted { left: file.size, written: &written })
    });
    assert!(written.get() <= release.total_bytes());
    if let Ok(verified) = unpacked {
        assert_eq!(verified.release(), &release);
        assert_eq!((opened.get(), written.get()), (release.files().len(), release.total_bytes()));
    }
}

/// An output that accepts as many bytes as the release states for its file.
struct Counted<'a> {
    left: u64,
    written: &'a Cell<u64>,
}

impl Write for Counted<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(buffer.len() as u64).expect("no file grows beyond its stated size");
        self.written.set(self.written.get() + buffer.len() as u64);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
