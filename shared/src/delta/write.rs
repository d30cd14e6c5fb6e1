//! Writing a delta.

use std::io::{self, Read, Seek, Write};

use thiserror::Error;

use super::patch::{compress, number, read_range};
use super::plan::{Content, likely_prefix, plan};
use super::window::{DEFAULT_WINDOW_LOG, PrefixBudget, pieces};
use super::{MAGIC, VERSION};
use crate::release::{Release, ReleaseError, ReleaseFile};

/// zstd level of patches: the smallest without the memory of the levels above.
const LEVEL: i32 = 19;

/// How a delta is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaOptions {
    /// Largest file that is one patch, and largest prefix, as a power of two in bytes.
    pub window_log: u8,
    /// zstd level.
    pub level: i32,
    /// Size in bytes at which a delta is not worth having: writing ends there.
    pub at_most: u64,
}

impl Default for DeltaOptions {
    fn default() -> Self {
        Self { window_log: DEFAULT_WINDOW_LOG, level: LEVEL, at_most: u64::MAX }
    }
}

/// A delta that was not written.
#[derive(Debug, Error)]
pub enum WriteDeltaError {
    /// It would be too large to be worth having.
    #[error("the delta would have more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A `release.json` cannot be written.
    #[error("a release has no release.json")]
    Release(#[source] ReleaseError),
    /// A file could not be read, or no longer has the listed size.
    #[error("file `{path}` cannot be patched")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("the delta cannot be written")]
    Output(#[source] io::Error),
}

/// Writes what turns `base` into `release` and returns the output, flushed. `open_base` and `open_new` give the content
/// of a file of either. Holds at most two windows and zstd's tables in memory, however large the trees are. Blocks, for
/// seconds where megabytes have changed.
///
/// What is read is not compared with the releases' digests: apply the delta to find out what it gives.
pub fn write_delta<B: Read + Seek, N: Read, W: Write>(
    [base, release]: [&Release; 2],
    mut open_base: impl FnMut(&ReleaseFile) -> io::Result<B>,
    mut open_new: impl FnMut(&ReleaseFile) -> io::Result<N>,
    options: DeltaOptions,
    output: W,
) -> Result<W, WriteDeltaError> {
    let mut output = Output { inner: output, left: options.at_most, limit: options.at_most };
    output.write(MAGIC)?;
    output.write(&[VERSION, options.window_log])?;
    let [old, new] = [base, release].map(Release::to_json);
    let (old, new) = (old.map_err(WriteDeltaError::Release)?, new.map_err(WriteDeltaError::Release)?);
    let patch = compress(&mut &new[..], new.len() as u64, &old, options.level).map_err(WriteDeltaError::Output)?;
    output.patch(&patch)?;

    let mut budget = PrefixBudget::new(base.total_bytes());
    for (file, content) in plan(base, release) {
        if content != Content::New {
            continue;
        }
        let failed = |source| WriteDeltaError::File { path: file.path.to_string(), source };
        let position = likely_prefix(base, release, file);
        let prefix = position.and_then(|position| Some((position, base.files().get(position)?)));
        let prefix = prefix.filter(|(_, found)| budget.take(file.size, found.size, options.window_log));
        output.write(&number(prefix.map_or(0, |(position, _)| position as u64 + 1)))?;
        let mut old = prefix.map(|(_, found)| open_base(found)).transpose().map_err(failed)?;
        let mut new = open_new(file).map_err(failed)?;
        let old_size = prefix.map_or(0, |(_, found)| found.size);
        for piece in pieces(file.size, old_size, options.window_log) {
            let prefix = match &mut old {
                Some(old) => read_range(old, &piece.prefix).map_err(failed)?,
                None => Vec::new(),
            };
            let patch = compress(&mut new, piece.size, &prefix, options.level).map_err(failed)?;
            output.patch(&patch)?;
        }
    }
    output.inner.flush().map_err(WriteDeltaError::Output)?;
    Ok(output.inner)
}

/// Ends at the limit.
struct Output<W> {
    inner: W,
    left: u64,
    limit: u64,
}

impl<W: Write> Output<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteDeltaError> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or(WriteDeltaError::TooLarge { limit: self.limit })?;
        self.inner.write_all(bytes).map_err(WriteDeltaError::Output)
    }

    fn patch(&mut self, frame: &[u8]) -> Result<(), WriteDeltaError> {
        self.write(&number(frame.len() as u64))?;
        self.write(frame)
    }
}
