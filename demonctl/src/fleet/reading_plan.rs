//! How to read the rest of the log with the least effort, where of each node another stretch is still unknown.

/// What asking for one node's events costs, in events of a stretch that is read for all.
const COST_OF_A_NODE: u64 = 25;

/// Which nodes to ask for one by one, and from where on to read the log for all others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadingPlan<K> {
    /// Nodes whose stretch begins long before the others', with the sequence it begins at.
    pub(super) one_by_one: Vec<(u64, K)>,
    /// From this sequence on everything is read.
    pub(super) for_all_from: u64,
}

/// The cheapest way to have of each node all events from a sequence on, up to `last`; events behind `known_up_to` are read
/// in any case, because nobody knows whose they are.
pub(super) fn plan<K: Ord>(mut starts: Vec<(u64, K)>, known_up_to: u64, last: u64) -> ReadingPlan<K> {
    let behind = known_up_to + 1;
    starts.retain(|(start, _)| *start < behind);
    starts.sort_unstable();
    let cost = |asked: usize| {
        let from = starts.get(asked).map_or(behind, |(start, _)| *start);
        (asked as u64).saturating_mul(COST_OF_A_NODE).saturating_add((last + 1).saturating_sub(from))
    };
    let asked = (0..=starts.len()).min_by_key(|asked| cost(*asked)).unwrap_or(0);
    let for_all_from = starts.get(asked).map_or(behind, |(start, _)| *start);
    starts.truncate(asked);
    ReadingPlan { one_by_one: starts, for_all_from }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn where_nothing_is_unknown_only_what_came_since_is_read() {
        let settled = vec![(1001, "n1"), (1001, "n2")];
        assert_eq!(plan(settled, 1000, 1010), ReadingPlan { one_by_one: Vec::new(), for_all_from: 1001 });
        assert_eq!(plan(Vec::<(u64, &str)>::new(), 0, 0), ReadingPlan { one_by_one: Vec::new(), for_all_from: 1 });
    }

    #[test]
    fn a_few_nodes_far_behind_are_asked_for_one_by_one_and_many_are_not() {
        let mut starts = vec![(1, 0), (50, 1)];
        starts.extend((2..100).map(|number| (99_000 + number, number)));
        let found = plan(starts, 100_000, 100_000);
        assert_eq!((found.one_by_one, found.for_all_from), (vec![(1, 0), (50, 1)], 99_002));
        let many: Vec<_> = (1..=10_000).map(|number| (number, number)).collect();
        assert_eq!(plan(many, 20_000, 20_000).for_all_from, 1);
    }

    proptest! {
        #[test]
        fn every_node_is_read_from_where_it_is_unknown(
            starts in proptest::collection::vec(1_u64..2000, 0..50),
            known_up_to in 0_u64..2000,
            more in 0_u64..100,
        ) {
            let starts: Vec<(u64, usize)> = starts.into_iter().zip(0..).collect();
            let found = plan(starts.clone(), known_up_to, known_up_to + more);
            prop_assert!(found.for_all_from <= known_up_to + 1);
            for (start, node) in starts {
                prop_assert!(start >= found.for_all_from || found.one_by_one.contains(&(start, node)));
            }
        }
    }
}
