//! Which batch of an object's chunks is asked for when.
//!
//! Chunks have increasing, but not always consecutive sequences: two objects may be put at the same time. So where the
//! next batch begins is known only when the one before it is here. It is asked for earlier, at the sequence it has if the
//! chunks are consecutive. That can be too early, which brings some chunks twice, but never too late as long as a batch
//! ends by number; one that ended by its bytes makes the guess useless.

use std::collections::VecDeque;

use crate::direct_get::MAX_BATCH_BYTES;

/// Most chunks asked for at a time, however small they are.
const MOST_CHUNKS: u32 = 64;

/// Whether what was asked for ahead can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// It begins where the batch before it ended, or earlier.
    Useful,
    /// Something between them would be missing.
    Useless,
}

/// What was asked for, what has arrived, and what to ask for next.
#[derive(Debug)]
pub(super) struct Batches {
    /// Chunks in a batch.
    pub(super) length: u32,
    /// Chunks that were neither received nor asked for, by what the object says about itself.
    not_asked_for: u64,
    /// The batches under way: where each begins and what is left of it.
    under_way: VecDeque<(u64, u32)>,
    /// The first sequence that the next chunk can have.
    next: u64,
    /// Where chunks follow each other without a gap.
    consecutive: bool,
    /// The last batch had an end, and nothing behind it.
    complete: bool,
}

impl Batches {
    /// For an object that claims so many bytes in so many chunks. The claim costs at most speed where it is wrong.
    pub(super) fn new(size: u64, chunks: u64) -> Self {
        let average = size.div_ceil(chunks.max(1)).max(1);
        let length = u32::try_from(u64::from(MAX_BATCH_BYTES) / average).unwrap_or(MOST_CHUNKS).clamp(1, MOST_CHUNKS);
        Self {
            length,
            not_asked_for: chunks,
            under_way: VecDeque::with_capacity(2),
            next: 1,
            consecutive: true,
            complete: false,
        }
    }

    /// Where a batch to ask for now begins, if one is to be.
    pub(super) fn to_ask_for(&self) -> Option<u64> {
        match (self.under_way.len(), self.under_way.front()) {
            (0, _) => (!self.complete).then_some(self.next),
            // Nobody knows where the first batch begins before its first chunk is here.
            (1, Some((_, left))) if self.next > 1 && self.consecutive && self.not_asked_for > 0 => {
                (*left <= self.length / 2).then_some(self.next + u64::from(*left))
            }
            (_, _) => None,
        }
    }

    /// A batch was asked for.
    pub(super) fn asked(&mut self, from: u64) {
        self.under_way.push_back((from, self.length));
        self.not_asked_for = self.not_asked_for.saturating_sub(u64::from(self.length));
    }

    /// A chunk of the oldest batch arrived; says whether it is a new one.
    pub(super) fn arrived(&mut self, sequence: u64) -> bool {
        if let Some((_, left)) = self.under_way.front_mut() {
            *left = left.saturating_sub(1);
        }
        if sequence < self.next {
            self.consecutive = false;
            return false;
        }
        if self.next > 1 && sequence != self.next {
            self.consecutive = false;
        }
        self.next = sequence.saturating_add(1);
        true
    }

    /// The oldest batch ended, with so many chunks behind it.
    pub(super) fn ended(&mut self, pending: u64) -> Ahead {
        self.under_way.pop_front();
        if self.under_way.front().is_some_and(|(from, _)| *from > self.next) {
            self.under_way.clear();
            self.consecutive = false;
        }
        if self.under_way.is_empty() {
            self.complete = pending == 0;
            return Ahead::Useless;
        }
        Ahead::Useful
    }

    /// Nothing stands where the oldest batch should begin.
    pub(super) fn nothing(&mut self) {
        self.under_way.clear();
        self.complete = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads chunks with these sequences and sizes as a server gives them. Returns the sequences in the order read, how
    /// many came at all, and how often a batch was asked for while another one was under way.
    fn read(stored: &[(u64, u32)], mut batches: Batches) -> (Vec<u64>, usize, usize) {
        let (mut requests, mut read, mut came, mut ahead) = (VecDeque::new(), Vec::new(), 0, 0);
        loop {
            while let Some(from) = batches.to_ask_for() {
                ahead += usize::from(!requests.is_empty());
                let (mut bytes, mut answer) = (0, VecDeque::new());
                for (sequence, size) in stored.iter().filter(|(sequence, _)| *sequence >= from) {
                    if answer.len() == batches.length as usize || bytes >= MAX_BATCH_BYTES {
                        break;
                    }
                    bytes += size;
                    answer.push_back(*sequence);
                }
                requests.push_back(answer);
                batches.asked(from);
                assert!(requests.len() <= 2);
            }
            let Some(answer) = requests.front_mut() else { return (read, came, ahead) };
            if let Some(sequence) = answer.pop_front() {
                came += 1;
                if batches.arrived(sequence) {
                    read.push(sequence);
                }
                // The end follows the last message at once, as the server sends it.
                continue;
            }
            requests.pop_front();
            let pending = stored.iter().filter(|(sequence, _)| *sequence >= batches.next).count() as u64;
            if batches.ended(pending) == Ahead::Useless {
                requests.clear();
            }
        }
    }

    #[test]
    fn consecutive_chunks_are_asked_for_ahead_and_come_once() {
        let stored: Vec<(u64, u32)> = (7..47).map(|sequence| (sequence, 1 << 20)).collect();
        let (read, came, ahead) = read(&stored, Batches::new(40 << 20, 40));
        assert_eq!((read.len(), came, ahead), (40, 40, 9), "each batch of four but the first");
    }

    #[test]
    fn a_small_object_is_one_request() {
        let (read, came, ahead) = read(&[(9, 100)], Batches::new(100, 1));
        assert_eq!((read, came, ahead), (vec![9], 1, 0));
    }

    proptest! {
        #[test]
        fn every_chunk_is_read_once_and_in_order_whatever_the_object_claims(
            gaps in prop::collection::vec((1_u64..4, 1_u32..6_000_000), 0..200),
            claimed in (0_u64..1 << 40, 0_u64..10_000),
        ) {
            let mut sequence = 0;
            let stored: Vec<(u64, u32)> = gaps
                .into_iter()
                .map(|(gap, size)| {
                    sequence += gap;
                    (sequence, size)
                })
                .collect();
            let (read, came, _) = read(&stored, Batches::new(claimed.0, claimed.1));
            prop_assert_eq!(&read, &stored.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>());
            prop_assert!(came <= 2 * stored.len() + MOST_CHUNKS as usize, "{} of {}", came, stored.len());
        }
    }
}
