//! Reading a delta and making the release that it describes, verified file by file.

use std::io::{self, BufRead, Read, Seek, Write};

use super::patch::{decompress, read_number, read_range};
use super::plan::{Content, plan};
use super::window::{MAX_WINDOW_LOG, MIN_WINDOW_LOG, PrefixBudget, pieces};
use super::{MAGIC, VERSION};
use crate::event::Published;
use crate::limits::ReleaseLimits;
use crate::release::{Release, ReleaseFile};
use crate::verification::{
    CheckedFile, Ended, FileCheck, TreeVerification, VerificationFailure, VerifiedRelease, VerifyError,
    check_side_by_side, threads_for, verify_release_json,
};

/// The tree that a delta is applied to, and the one that comes out. Nothing that is read from it is trusted. Several
/// threads use it at once, never for the same file of the release.
pub trait PatchedTree: Sync {
    /// A file of the base.
    type Base: Read + Seek;
    /// A file of the release while it is written.
    type New: Write;
    /// A file of the release that was written or cloned before.
    type Written: Read;

    /// Opens a file of the base.
    fn open_base(&self, file: &ReleaseFile) -> io::Result<Self::Base>;

    /// Makes a file of the release as a clone of the base's that shares its storage until one of them is written to,
    /// and opens the clone; `None` where the disk cannot do that, and nothing was made.
    fn clone_base(&self, base: &ReleaseFile, file: &ReleaseFile) -> io::Result<Option<Self::Written>>;

    /// Makes a file of the release. What is written is flushed, but neither synced nor closed here.
    fn create(&self, file: &ReleaseFile) -> io::Result<Self::New>;

    /// Opens a file of the release that was made before.
    fn open_written(&self, file: &ReleaseFile) -> io::Result<Self::Written>;
}

/// A delta whose `release.json` is read.
#[derive(Debug)]
pub struct DeltaReader<'a, R> {
    input: R,
    base: &'a Release,
    release: Release,
    window_log: u8,
}

impl<'a, R: BufRead> DeltaReader<'a, R> {
    /// Reads the beginning of a delta: its form, and the `release.json`, which must be the announced one. `base` is the
    /// release it is applied to.
    pub fn open(
        mut input: R,
        base: &'a Release,
        announced: &Published,
        limits: &ReleaseLimits,
    ) -> Result<Self, VerificationFailure> {
        let mut start = [0; MAGIC.len() + 2];
        input.read_exact(&mut start).map_err(|error| unreadable(&error))?;
        let [magic @ .., version, window_log] = start;
        if &magic != MAGIC || version != VERSION {
            let actual = format!("bytes {}", hex::encode(start));
            return Err(VerificationFailure::rule("delta", format!("a delta of version {VERSION}"), actual));
        }
        if !(MIN_WINDOW_LOG..=MAX_WINDOW_LOG).contains(&window_log) {
            let expected = format!("a window of 2^{MIN_WINDOW_LOG} to 2^{MAX_WINDOW_LOG} bytes");
            return Err(VerificationFailure::rule("delta", expected, format!("one of 2^{window_log}")));
        }
        let size = announced.release.size;
        if size > limits.release_json_bytes {
            let expected = format!("at most {} bytes", limits.release_json_bytes);
            return Err(VerificationFailure::rule(announced.release.name.clone(), expected, format!("{size} bytes")));
        }
        let prefix = base.to_json().map_err(|error| VerificationFailure::rule("delta", "a base", error.to_string()))?;
        let json = read_patch(&mut input, &prefix, size).map_err(|error| unreadable(&error))?;
        let release = verify_release_json(&json, announced, limits)?;
        Ok(Self { input, base, release, window_log })
    }

    /// The release that comes out.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Makes the release's files, comparing each with its digest on the way, and the end of the delta with the end of the
    /// list. What the base has is taken over on a few threads while this one patches. Reads, writes and holds no more
    /// than the two releases and the window state, whatever the delta says.
    pub fn apply(mut self, tree: &impl PatchedTree) -> Result<VerifiedRelease, VerifyError> {
        let (base, release) = (self.base, self.release.clone());
        let mut verification = TreeVerification::new(&release);
        let mut budget = PrefixBudget::new(base.total_bytes());
        let mut doubled = Vec::new();
        let threads = threads_for(&release);
        let from_base = |check, found| take_over(check, tree, found);
        check_side_by_side(&mut verification, threads, from_base, |verification, hand_over| {
            for (_, content) in plan(base, &release) {
                let Some(check) = verification.next_check() else { break };
                let index = check.index;
                match content {
                    Content::InBase(found) => {
                        if hand_over(check, found) == Ended::Early {
                            break;
                        }
                    }
                    // Once what it is like is there.
                    Content::InRelease(found) => doubled.push((check, found)),
                    Content::New => {
                        let patched = self.patched(check, &mut budget, tree).map_err(|error| (index, error))?;
                        verification.accept(&patched);
                    }
                }
            }
            Ok(())
        })?;
        for (check, found) in doubled {
            let mut earlier = tree.open_written(found).map_err(|source| read_error(found, source))?;
            verification.accept(&copy(check, &mut earlier, tree)?);
        }
        let mut beyond = [0];
        match self.input.read(&mut beyond) {
            Ok(0) => verification.finish()?.verified(),
            Ok(_) => Err(VerificationFailure::rule("delta", "no further byte", "a further byte").into()),
            Err(error) => Err(unreadable(&error).into()),
        }
    }

    fn patched<'f>(
        &mut self,
        check: FileCheck<'f>,
        budget: &mut PrefixBudget,
        tree: &impl PatchedTree,
    ) -> Result<CheckedFile<'f>, VerifyError> {
        let file = check.file;
        let position = read_number(&mut self.input).map_err(|error| unreadable(&error))?;
        let base = match position.checked_sub(1) {
            None => None,
            Some(index) => {
                let found = usize::try_from(index).ok().and_then(|index| self.base.files().get(index));
                let Some(found) = found else {
                    let expected = format!("one of {} files of the base", self.base.files().len());
                    return Err(VerificationFailure::rule("delta", expected, format!("file {position}")).into());
                };
                if !budget.take(file.size, found.size, self.window_log) {
                    return Err(VerificationFailure::rule("delta", "fewer bytes of prefixes", "too many").into());
                }
                Some(found)
            }
        };
        let opened = base.map(|found| tree.open_base(found).map_err(|source| read_error(found, source)));
        let mut patches = Patches {
            input: &mut self.input,
            prefix: opened.transpose()?,
            pieces: pieces(file.size, base.map_or(0, |found| found.size), self.window_log),
            current: io::Cursor::new(Vec::new()),
        };
        let output = tree.create(file).map_err(|source| write_error(file, source))?;
        check.copy(&mut patches, output).map_err(|error| match error {
            // What cannot be read is the delta, or a base that is not what it should be.
            VerifyError::Read { source, .. } => unreadable(&source).into(),
            VerifyError::Refused(_) | VerifyError::Write { .. } => error,
        })
    }
}

/// The content of a file, patch after patch.
struct Patches<'a, R, B, P> {
    input: &'a mut R,
    prefix: Option<B>,
    pieces: P,
    current: io::Cursor<Vec<u8>>,
}

impl<R: BufRead, B: Read + Seek, P: Iterator<Item = super::window::Piece>> Read for Patches<'_, R, B, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(piece) = self.pieces.next() else { return Ok(0) };
            let prefix = match &mut self.prefix {
                Some(base) => read_range(base, &piece.prefix)?,
                None => Vec::new(),
            };
            // The one before goes first: two would be one too many.
            self.current = io::Cursor::new(Vec::new());
            self.current = io::Cursor::new(read_patch(self.input, &prefix, piece.size)?);
        }
    }
}

/// Reads one patch, which must give exactly `size` bytes and end with its frame.
fn read_patch(input: &mut impl BufRead, prefix: &[u8], size: u64) -> io::Result<Vec<u8>> {
    let length = read_number(input)?;
    let mut frame = input.take(length);
    let mut content = Vec::new();
    // Grows with what really comes: a size alone allocates nothing.
    decompress(&mut frame, prefix)?.take(size.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 != size {
        let actual = if content.len() as u64 > size { "more".to_owned() } else { content.len().to_string() };
        return Err(malformed(format!("a patch gives {actual} bytes instead of {size}")));
    }
    if frame.limit() != 0 {
        return Err(malformed(format!("a patch has {} bytes behind its frame", frame.limit())));
    }
    Ok(content)
}

/// Makes a file of the one that the base has: a clone that is then read, or a copy that is hashed on the way.
fn take_over<'f>(
    check: FileCheck<'f>,
    tree: &impl PatchedTree,
    found: &ReleaseFile,
) -> Result<CheckedFile<'f>, VerifyError> {
    let file = check.file;
    if let Some(mut clone) = tree.clone_base(found, file).map_err(|source| write_error(file, source))? {
        return check.copy(&mut clone, io::sink());
    }
    let mut base = tree.open_base(found).map_err(|source| read_error(found, source))?;
    copy(check, &mut base, tree)
}

fn copy<'f>(
    check: FileCheck<'f>,
    content: &mut dyn Read,
    tree: &impl PatchedTree,
) -> Result<CheckedFile<'f>, VerifyError> {
    let file = check.file;
    let output = tree.create(file).map_err(|source| write_error(file, source))?;
    check.copy(content, output)
}

fn read_error(file: &ReleaseFile, source: io::Error) -> VerifyError {
    VerifyError::Read { item: file.path.to_string(), source }
}

fn write_error(file: &ReleaseFile, source: io::Error) -> VerifyError {
    VerifyError::Write { item: file.path.to_string(), source }
}

fn unreadable(error: &io::Error) -> VerificationFailure {
    VerificationFailure::rule("delta", "a readable delta of the base", error.to_string())
}

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
