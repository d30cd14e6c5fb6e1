//! Choices that look random and can be made again: a test prints its seed, and the seed repeats the test.

use std::time::Duration;

/// A sequence of choices that its seed determines (SplitMix64, public domain).
#[derive(Debug, Clone)]
pub struct SeededChoice(u64);

impl SeededChoice {
    /// The sequence of these numbers, in this order.
    pub fn of(seeds: &[u64]) -> Self {
        let mut choice = Self(0);
        for seed in seeds {
            choice.0 ^= *seed;
            choice.0 = choice.next();
        }
        choice
    }

    /// The next number, evenly spread.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound that is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A time below a bound.
    pub fn time_below(&mut self, bound: Duration) -> Duration {
        let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.below(bound))
    }

    /// One of a list that is not empty.
    pub fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let position = self.below(list.len() as u64);
        &list[usize::try_from(position).unwrap_or_default()]
    }
}
