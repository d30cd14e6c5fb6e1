//! The files in which a stopped server keeps a stream, to be damaged.

use std::fs;
use std::path::{Path, PathBuf};

use crate::server::Server;

/// The files of a stream's messages, by name. The server must not run, or what it holds in memory is written over it.
pub fn message_blocks(server: &Server, stream: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&server.store(), stream, &mut found);
    found.sort();
    assert!(!found.is_empty(), "stream `{stream}` has no message blocks below `{}`", server.store().display());
    found
}

/// Turns one bit over, at the first place where these bytes stand, so many bytes behind its beginning.
///
/// # Panics
/// Where they stand nowhere.
pub fn flip_bit_after(blocks: &[PathBuf], bytes: &[u8], behind: usize) {
    for block in blocks {
        let mut content = fs::read(block).expect("the block can be read");
        if let Some(place) = content.windows(bytes.len()).position(|window| window == bytes) {
            content[place + behind] ^= 0x10;
            return fs::write(block, content).expect("the block can be written");
        }
    }
    panic!("no block holds {:?}", String::from_utf8_lossy(bytes));
}

/// Cuts the last block down to a share of its length, as a disk that lost its last writes.
pub fn truncate_last(blocks: &[PathBuf], numerator: u64, denominator: u64) {
    let last = blocks.last().expect("there is one");
    let file = fs::File::options().write(true).open(last).expect("the block can be opened");
    let length = file.metadata().expect("it has a length").len();
    file.set_len(length * numerator / denominator).expect("it can be cut");
}

fn collect(directory: &Path, stream: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, stream, found);
        } else if path.extension().is_some_and(|kind| kind == "blk")
            && path.components().any(|c| c.as_os_str() == stream)
        {
            found.push(path);
        }
    }
}
