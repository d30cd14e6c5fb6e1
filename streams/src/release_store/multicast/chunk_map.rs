//! Which chunks of an object are here, and where in the stream to ask for the others. Pure.
//!
//! A chunk's place among the others follows from how many are left behind it, which the server says with every message
//! of a batch. All chunks but the last have one size, which the first that arrives tells.

/// Chunks of an object at most: 64 GiB of 64 KiB each. What claims more is read in the ordinary way.
const MOST_CHUNKS: u64 = 1 << 20;

/// A stretch of chunks: the first, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// What became of a chunk that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It was missing; its bytes begin here.
    New { offset: u64 },
    /// It was here already.
    Known,
    /// No chunk of this object has this size at this place.
    Misfit,
}

/// Chunks that are here.
#[derive(Debug)]
pub(super) struct ChunkMap {
    size: u64,
    /// Size of every chunk but the last, once one has told.
    chunk_size: Option<u64>,
    /// The stream sequence of each chunk that is here.
    sequences: Vec<Option<u64>>,
    missing: u64,
    /// Everything before it is here.
    first_missing: u64,
    /// Behind the last chunk that is here.
    end: u64,
}

impl ChunkMap {
    /// For an object of this size in so many chunks; `None` where it cannot have them.
    pub(super) fn new(size: u64, chunks: u64) -> Option<Self> {
        if chunks == 0 || chunks > size || chunks > MOST_CHUNKS {
            return None;
        }
        let places = usize::try_from(chunks).ok()?;
        Some(Self {
            size,
            chunk_size: (chunks == 1).then_some(size),
            sequences: vec![None; places],
            missing: chunks,
            first_missing: 0,
            end: 0,
        })
    }

    /// The place of the chunk that has so many behind it.
    pub(super) fn place(&self, behind: u64) -> Option<u64> {
        self.chunks().checked_sub(1)?.checked_sub(behind)
    }

    /// Takes a chunk.
    pub(super) fn offer(&mut self, place: u64, length: u64, sequence: u64) -> Offered {
        let (chunks, last) = (self.chunks(), self.chunks() - 1);
        if place > last || length == 0 {
            return Offered::Misfit;
        }
        let chunk_size = match self.chunk_size {
            Some(size) => size,
            None if place == last => {
                // The others have one size, as many as there are, and leave this much.
                let rest = self.size.saturating_sub(length);
                if !rest.is_multiple_of(last) {
                    return Offered::Misfit;
                }
                rest / last
            }
            None => length,
        };
        let fits = chunk_size.checked_mul(last).is_some_and(|before| before < self.size)
            && chunk_size.saturating_mul(chunks) >= self.size;
        let expected =
            if place == last { self.size.saturating_sub(chunk_size.saturating_mul(last)) } else { chunk_size };
        if !fits || length != expected {
            return Offered::Misfit;
        }
        self.chunk_size = Some(chunk_size);
        let Some(slot) = usize::try_from(place).ok().and_then(|place| self.sequences.get_mut(place)) else {
            return Offered::Misfit;
        };
        if slot.is_some() {
            return Offered::Known;
        }
        *slot = Some(sequence);
        self.missing -= 1;
        self.end = self.end.max(place + 1);
        while self.is_here(self.first_missing) {
            self.first_missing += 1;
        }
        Offered::New { offset: chunk_size * place }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Chunks that are not here.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// Everything before it is here.
    pub(super) fn first_missing(&self) -> u64 {
        self.first_missing
    }

    pub(super) fn has_any(&self) -> bool {
        self.end > 0
    }

    /// Bytes that are not here, about.
    pub(super) fn missing_bytes(&self) -> u64 {
        self.missing.saturating_mul(self.chunk_bytes())
    }

    /// Size of a chunk, about, while nobody has told.
    pub(super) fn chunk_bytes(&self) -> u64 {
        self.chunk_size.unwrap_or_else(|| self.size.div_ceil(self.chunks()))
    }

    /// The first stretch of missing chunks that is not under way, at most `most` of them.
    pub(super) fn gap(&self, under_way: &[Stretch], most: u64) -> Option<Stretch> {
        self.gap_before(self.chunks(), under_way, most)
    }

    /// The same among the chunks before the last that is here: what was missed on the way.
    pub(super) fn hole(&self, under_way: &[Stretch], most: u64) -> Option<Stretch> {
        self.gap_before(self.end, under_way, most)
    }

    /// How many chunks are missing before the last one that is here.
    pub(super) fn holes(&self) -> u64 {
        self.missing - (self.chunks() - self.end)
    }

    fn gap_before(&self, end: u64, under_way: &[Stretch], most: u64) -> Option<Stretch> {
        let wanted = |place: u64| {
            !self.is_here(place)
                && !under_way.iter().any(|asked| (asked.first..asked.first + asked.count).contains(&place))
        };
        let first = (self.first_missing..end).find(|place| wanted(*place))?;
        let count = (first..end).take_while(|place| wanted(*place)).take(usize::try_from(most).ok()?).count();
        Some(Stretch { first, count: count as u64 })
    }

    /// A stream sequence that is not behind a chunk's: exact where the one before it is here, else as if the chunks in
    /// between followed each other, which brings some twice where they do not.
    pub(super) fn sequence_before(&self, place: u64) -> u64 {
        let before = (0..place).rev().find_map(|known| Some((known, self.sequence(known)?)));
        before.map_or(1, |(known, sequence)| sequence.saturating_add(place - known))
    }

    fn chunks(&self) -> u64 {
        self.sequences.len() as u64
    }

    fn is_here(&self, place: u64) -> bool {
        self.sequence(place).is_some()
    }

    fn sequence(&self, place: u64) -> Option<u64> {
        usize::try_from(place).ok().and_then(|place| self.sequences.get(place).copied()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(place: u64) -> usize {
        usize::try_from(place).unwrap()
    }

    #[test]
    fn chunks_are_placed_by_what_is_left_behind_them() {
        let mut map = ChunkMap::new(25, 3).unwrap();
        assert_eq!((map.place(2), map.place(0), map.place(3)), (Some(0), Some(2), None));
        assert_eq!(map.offer(2, 5, 9), Offered::New { offset: 20 }, "the last one tells the size of the others");
        assert_eq!(map.offer(0, 9, 4), Offered::Misfit);
        assert_eq!(map.offer(0, 10, 4), Offered::New { offset: 0 });
        assert_eq!(map.offer(0, 10, 4), Offered::Known);
        assert_eq!((map.holes(), map.missing_bytes(), map.is_complete()), (1, 10, false));
        assert_eq!(map.offer(1, 10, 6), Offered::New { offset: 10 });
        assert!(map.is_complete() && map.gap(&[], 9).is_none());
    }

    #[test]
    fn what_fits_no_object_is_refused() {
        assert!(ChunkMap::new(0, 0).is_none() && ChunkMap::new(3, 4).is_none());
        assert!(ChunkMap::new(u64::MAX, u64::MAX).is_none());
        let mut map = ChunkMap::new(25, 3).unwrap();
        for (place, length) in [(3, 10), (0, 0), (0, 8), (0, 13), (0, 25), (2, 6), (1, u64::MAX)] {
            assert_eq!(map.offer(place, length, 1), Offered::Misfit, "{length} bytes at {place}");
        }
        let mut one = ChunkMap::new(7, 1).unwrap();
        assert_eq!(one.offer(0, 6, 1), Offered::Misfit);
        assert_eq!(one.offer(0, 7, 1), Offered::New { offset: 0 });
    }

    #[test]
    fn a_gap_begins_behind_what_is_here_and_spares_what_is_under_way() {
        let mut map = ChunkMap::new(100, 10).unwrap();
        assert_eq!((map.gap(&[], 4), map.sequence_before(0)), (Some(Stretch { first: 0, count: 4 }), 1));
        map.offer(0, 10, 5);
        map.offer(4, 10, 12);
        assert_eq!(map.gap(&[], 9), Some(Stretch { first: 1, count: 3 }));
        assert_eq!((map.sequence_before(1), map.sequence_before(3), map.sequence_before(7)), (6, 8, 15));
        let under_way = [Stretch { first: 1, count: 2 }];
        assert_eq!(map.gap(&under_way, 9), Some(Stretch { first: 3, count: 1 }));
        assert_eq!(map.hole(&[Stretch { first: 1, count: 3 }], 9), None);
        assert_eq!((map.holes(), map.hole(&[], 2)), (3, Some(Stretch { first: 1, count: 2 })));
    }

    proptest! {
        /// Whatever arrives in whatever order, asking for gaps ends with every chunk at its own place.
        #[test]
        fn every_object_is_completed(
            sizes in (1_u64..40, 1_u64..9, 1_u64..9),
            heard in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            skips in prop::collection::vec(0_u64..3, 40),
            most in 1_u64..6,
        ) {
            let (chunks, chunk, last) = (sizes.0, sizes.1.max(sizes.2), sizes.1.min(sizes.2));
            let (size, all) = (chunk * (chunks - 1) + last, index(chunks));
            let length = |place: u64| if place == chunks - 1 { last } else { chunk };
            let sequences: Vec<u64> = (0..chunks).scan(0, |at, place| {
                *at += 1 + skips[index(place)];
                Some(*at)
            }).collect();
            let mut map = ChunkMap::new(size, chunks).unwrap();
            let mut bytes = 0;
            let mut take = |map: &mut ChunkMap, place: u64| {
                let offered = map.offer(place, length(place), sequences[index(place)]);
                if let Offered::New { offset } = offered {
                    prop_assert_eq!(offset, chunk * place);
                    bytes += length(place);
                } else {
                    prop_assert_eq!(offered, Offered::Known);
                }
                Ok(())
            };
            for heard in heard {
                take(&mut map, heard.index(all) as u64)?;
            }
            let mut asked = 0;
            while let Some(gap) = map.gap(&[], most) {
                asked += 1;
                prop_assert!(asked <= 40, "no end of {map:?}");
                let from = map.sequence_before(gap.first);
                prop_assert!(from <= sequences[index(gap.first)]);
                let answer: Vec<u64> =
                    (0..chunks).filter(|place| sequences[index(*place)] >= from).take(index(gap.count)).collect();
                for place in answer {
                    take(&mut map, place)?;
                }
            }
            prop_assert!(map.is_complete());
            prop_assert_eq!(bytes, size);
        }
    }
}
