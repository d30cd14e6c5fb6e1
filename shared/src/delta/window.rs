//! How much of a file is patched at a time, and against which bytes of the base.

use std::ops::Range;

/// Window that deltas are written with: 64 MiB.
pub const DEFAULT_WINDOW_LOG: u8 = 26;
/// Largest window that is read.
pub const MAX_WINDOW_LOG: u8 = 26;
/// Smallest window that is read; below it the pieces would be too many.
pub const MIN_WINDOW_LOG: u8 = 16;
/// How often over the base's bytes may serve as prefix. A publisher needs each once, or twice in pieces; without a bound
/// a small delta could make a node read its largest file for every file of the release.
const PREFIX_ROUNDS: u64 = 4;
/// Prefixes of small trees.
const PREFIX_FLOOR: u64 = 16 << 20;

/// One piece of a file, and the part of the base's file that is its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) size: u64,
    pub(super) prefix: Range<u64>,
}

/// The pieces of a file of `size` bytes against a base file of `base` bytes, in order. At least one.
pub(super) fn pieces(size: u64, base: u64, window_log: u8) -> impl Iterator<Item = Piece> {
    let window = 1_u64 << window_log;
    let whole = size <= window && base <= window;
    let half = window / 2;
    let count = if whole { 1 } else { size.div_ceil(half).max(1) };
    (0..count).map(move |index| {
        if whole {
            return Piece { size, prefix: 0..base };
        }
        let start = index * half;
        let end = (start + half).min(size);
        let prefix = start.saturating_sub(half / 2).min(base)..(start + half + half / 2).min(base);
        Piece { size: end - start, prefix }
    })
}

/// What prefixes may still be read. Writer and reader count alike.
#[derive(Debug)]
pub(super) struct PrefixBudget(u64);

impl PrefixBudget {
    pub(super) fn new(base_bytes: u64) -> Self {
        Self(base_bytes.saturating_mul(PREFIX_ROUNDS).saturating_add(PREFIX_FLOOR))
    }

    /// Takes the prefixes of one file out of the budget; `false` where it does not reach.
    pub(super) fn take(&mut self, size: u64, base: u64, window_log: u8) -> bool {
        let needed: u64 = pieces(size, base, window_log).map(|piece| piece.prefix.end - piece.prefix.start).sum();
        match self.0.checked_sub(needed) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_the_window_is_one_piece() {
        assert_eq!(pieces(0, 0, 16).collect::<Vec<_>>(), [Piece { size: 0, prefix: 0..0 }]);
        let window = 1 << 16;
        assert_eq!(pieces(window, window, 16).collect::<Vec<_>>(), [Piece { size: window, prefix: 0..window }]);
    }

    #[test]
    fn larger_files_are_cut_and_every_piece_sees_its_surroundings() {
        let half = 1_u64 << 15;
        for (size, base) in [(5 * half + 7, 4 * half), (1, 10 * half), (10 * half, 0), (3 * half, 100 * half)] {
            let pieces: Vec<Piece> = pieces(size, base, 16).collect();
            assert_eq!(pieces.iter().map(|piece| piece.size).sum::<u64>(), size);
            for (start, piece) in (0..).step_by(1 << 15).zip(&pieces) {
                assert!(piece.size <= half && piece.prefix.end <= base);
                assert!(piece.prefix.start <= piece.prefix.end);
                assert!(piece.prefix.end - piece.prefix.start <= 2 * half);
                assert!(piece.prefix.start <= start, "what stood there before can be found");
            }
        }
    }

    #[test]
    fn prefixes_are_bounded_by_the_base() {
        let mut budget = PrefixBudget::new(10 << 20);
        let taken = (0..100).take_while(|_| budget.take(1, 10 << 20, 26)).count();
        assert_eq!(taken, 5);
        assert!(budget.take(1 << 30, 0, 26), "no prefix needs no budget");
    }
}
