//! The delta object: a release as the changes of another release.
//!
//! Described in `docs/releases.md`, "Deltas". Nothing of a delta is trusted: what it gives must be the announced
//! release down to the last byte of the last file, and whoever is not served by it fetches the archive.
//!
//! ```text
//! delta   = "DELTA" version:byte window:byte patch(release.json) file*
//! file    = base:number patch+
//! patch   = length:number, one zstd frame of that many bytes
//! number  = unsigned LEB128, at most 5 bytes
//! ```
//!
//! The first patch gives the `release.json`, with the base's `release.json` as the frame's prefix (`zstd
//! --patch-from`). From then on both file lists are known, so only content that neither the base nor an earlier file
//! of the release has is in the delta, in the order of the list: what is unchanged, renamed, removed, doubled or of
//! another mode costs nothing. `base` is 0 for a file without prefix, else one more than the position of the base's
//! file that is the prefix.
//!
//! A file that fits the window, as does its prefix, is one patch. A larger one is cut into pieces of half a window, each
//! a patch with the base's bytes around the same place as its prefix; so nobody holds more than two windows in memory.

mod apply;
mod patch;
mod plan;
mod window;
mod write;

#[cfg(test)]
mod tests;

pub use self::apply::{DeltaReader, PatchedTree};
pub use self::window::{DEFAULT_WINDOW_LOG, MAX_WINDOW_LOG, MIN_WINDOW_LOG};
pub use self::write::{DeltaOptions, WriteDeltaError, write_delta};

const MAGIC: &[u8; 5] = b"DELTA";
/// Version of the form that this version writes and reads.
const VERSION: u8 = 1;
/// Most bytes of a number.
const NUMBER_BYTES: usize = 5;
