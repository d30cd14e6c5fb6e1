//! The search itself: which promotion to try next, and when it is found. No I/O.

use std::collections::BTreeSet;

use serde::Serialize;

/// What a trial said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Good,
    Bad,
    /// It cannot be said.
    Skip,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Try this one.
    Try(usize),
    /// The answer.
    Found {
        /// Directly before it.
        last_good: usize,
        /// The first that is bad.
        first_bad: usize,
    },
    /// All that is left was skipped.
    Open {
        /// The last that is known to be good.
        last_good: usize,
        /// One of these is the first that is bad.
        candidates: Vec<usize>,
    },
}

/// The search between a good place and a later bad one.
#[derive(Debug, Clone)]
pub(super) struct Search {
    good: usize,
    bad: usize,
    skipped: BTreeSet<usize>,
}

impl Search {
    /// `good` must lie before `bad`.
    pub(super) fn new(good: usize, bad: usize) -> Self {
        Self { good, bad, skipped: BTreeSet::new() }
    }

    /// The next step: always the place nearest to the middle that was not skipped.
    pub(super) fn next(&self) -> Step {
        if self.bad <= self.good + 1 {
            return Step::Found { last_good: self.good, first_bad: self.bad };
        }
        let middle = self.good.midpoint(self.bad);
        let untried = (self.good + 1..self.bad).filter(|place| !self.skipped.contains(place));
        match untried.min_by_key(|place| place.abs_diff(middle)) {
            Some(place) => Step::Try(place),
            None => Step::Open { last_good: self.good, candidates: (self.good + 1..=self.bad).collect() },
        }
    }

    /// Takes in a trial of a place strictly between the two ends; others say nothing new.
    pub(super) fn record(&mut self, place: usize, verdict: Verdict) {
        if place <= self.good || place >= self.bad {
            return;
        }
        match verdict {
            Verdict::Good => self.good = place,
            Verdict::Bad => self.bad = place,
            Verdict::Skip => {
                self.skipped.insert(place);
            }
        }
    }

    /// How many promotions may still be the first bad one.
    pub(super) fn left(&self) -> usize {
        self.bad.saturating_sub(self.good)
    }

    /// How many trials that takes where none is skipped.
    pub(super) fn trials_left(&self) -> u32 {
        self.left().max(1).next_power_of_two().trailing_zeros()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn searched(good: usize, bad: usize, judge: impl Fn(usize) -> Verdict) -> (Step, usize) {
        let mut search = Search::new(good, bad);
        for trials in 0.. {
            match search.next() {
                Step::Try(place) => {
                    assert!(good < place && place < bad);
                    search.record(place, judge(place));
                }
                step @ (Step::Found { .. } | Step::Open { .. }) => return (step, trials),
            }
        }
        unreachable!()
    }

    #[test]
    fn neighbours_need_no_trial() {
        let (step, trials) = searched(3, 4, |_| unreachable!());
        assert_eq!((step, trials), (Step::Found { last_good: 3, first_bad: 4 }, 0));
    }

    proptest! {
        #[test]
        fn the_first_bad_one_is_found_in_logarithmic_time(
            start in 0_usize..1000, length in 1_usize..5000, at in any::<prop::sample::Index>()
        ) {
            let bad = start + length;
            let first = start + 1 + at.index(length);
            let judge = |place| if place < first { Verdict::Good } else { Verdict::Bad };
            let (step, trials) = searched(start, bad, judge);
            prop_assert_eq!(step, Step::Found { last_good: first - 1, first_bad: first });
            let most = Search::new(start, bad).trials_left();
            prop_assert!(trials <= most as usize, "{} trials, {} foreseen", trials, most);
        }

        #[test]
        fn skipped_ones_never_make_the_answer_wrong(
            length in 1_usize..200, at in any::<prop::sample::Index>(),
            skipped in proptest::collection::btree_set(0_usize..200, 0..100)
        ) {
            let first = 1 + at.index(length);
            let judge = |place: usize| match () {
                () if skipped.contains(&place) => Verdict::Skip,
                () if place < first => Verdict::Good,
                () => Verdict::Bad,
            };
            let (step, trials) = searched(0, length, judge);
            prop_assert!(trials <= length);
            match step {
                Step::Found { last_good, first_bad } => {
                    prop_assert_eq!((last_good, first_bad), (first - 1, first));
                }
                Step::Open { last_good, candidates } => {
                    prop_assert!(candidates.contains(&first));
                    prop_assert!(last_good < first);
                    // Open only because everything between was skipped.
                    let (_, between) = candidates.split_last().unwrap();
                    prop_assert!(!between.is_empty() && between.iter().all(|place| skipped.contains(place)));
                }
                Step::Try(_) => prop_assert!(false),
            }
        }
    }
}
