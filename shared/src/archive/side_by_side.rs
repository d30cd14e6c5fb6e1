//! Unpacking with several threads: one decompresses, the others hash and write.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};

use super::{check_entry, open_archive, superfluous, unreadable};
use crate::release::{Release, ReleaseFile};
use crate::verification::{CheckedRelease, Ended, FileCheck, TreeVerification, VerifyError, check_side_by_side};

/// Bytes that are handed over at a time; a file of this size or less is handed over whole.
const BLOCK: u64 = 128 * 1024;
/// Blocks of one file that may wait.
const WAITING: usize = 4;

/// Unpacks and verifies an archive on so many threads beside this one.
pub(super) fn unpack_side_by_side<'a, W: Write>(
    input: impl Read,
    release: &'a Release,
    threads: usize,
    create: impl Fn(&ReleaseFile) -> io::Result<W> + Sync,
) -> Result<CheckedRelease, VerifyError> {
    let mut verification = TreeVerification::new(release);
    let check = |check: FileCheck<'a>, mut content: Content| {
        let file = check.file;
        let output = create(file).map_err(|source| VerifyError::Write { item: file.path.to_string(), source })?;
        check.copy(&mut content, output)
    };
    check_side_by_side(&mut verification, threads, check, |verification, hand_over| {
        let mut next = 0;
        decompress(input, verification, &mut next, hand_over).map_err(|error| (next, error))
    })?;
    Ok(verification.finish()?)
}

/// Hands over every file of an archive. `next` is the place of the file that an error belongs to.
fn decompress<'a>(
    input: impl Read,
    verification: &mut TreeVerification<'a>,
    next: &mut usize,
    hand_over: &mut dyn FnMut(FileCheck<'a>, Content) -> Ended,
) -> Result<(), VerifyError> {
    let mut tar = open_archive(input, verification.release())?;
    for entry in tar.entries().map_err(|error| unreadable(&error))? {
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        let Some(check) = verification.next_check() else { return Err(superfluous(&entry)) };
        *next = check.index;
        check_entry(&entry, check.file)?;
        let mut left = check.file.size;
        let first = read_block(&mut entry, &mut left)?;
        let (sender, rest) = sync_channel(WAITING);
        let mut sender = (left > 0).then_some(sender);
        if hand_over(check, Content { current: io::Cursor::new(first), rest: (left > 0).then_some(rest) })
            == Ended::Early
        {
            return Ok(());
        }
        while let Some(blocks) = &sender {
            let block = read_block(&mut entry, &mut left)?;
            // Whoever does not take it any more has failed and says so.
            if block.is_empty() || blocks.send(block).is_err() || left == 0 {
                sender = None;
            }
        }
        *next += 1;
    }
    Ok(())
}

/// The next block of a file of which so many bytes are left; shorter only at the end of the file or of the archive.
fn read_block(entry: &mut impl Read, left: &mut u64) -> Result<Vec<u8>, VerifyError> {
    let wanted = BLOCK.min(*left);
    let mut block = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
    entry.take(wanted).read_to_end(&mut block).map_err(|error| unreadable(&error))?;
    *left = if (block.len() as u64) < wanted { 0 } else { *left - wanted };
    Ok(block)
}

/// The content of one file as it is decompressed.
struct Content {
    current: io::Cursor<Vec<u8>>,
    rest: Option<Receiver<Vec<u8>>>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(block) = self.rest.as_ref().and_then(|rest| rest.recv().ok()) else { return Ok(0) };
            self.current = io::Cursor::new(block);
        }
    }
}
