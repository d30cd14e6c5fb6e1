use proptest::prelude::*;

use super::*;

/// The leaves of the test vectors that certificate-transparency implementations share.
const VECTOR: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
/// Roots of the trees of their first one to eight leaves.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn leaves(count: u64) -> Vec<Sha256Digest> {
    (0..count).map(|number| leaf_hash(&[&number.to_be_bytes()])).collect()
}

fn root(leaves: &[Sha256Digest]) -> Sha256Digest {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

fn inclusion(leaves: &[Sha256Digest], index: usize) -> Vec<Sha256Digest> {
    let mut builder = ProofBuilder::inclusion(index as u64, leaves.len() as u64).unwrap();
    for leaf in leaves {
        builder.push(*leaf);
    }
    builder.finish().unwrap()
}

fn consistency(leaves: &[Sha256Digest], from: usize) -> Vec<Sha256Digest> {
    let mut builder = ProofBuilder::consistency(from as u64, leaves.len() as u64).unwrap();
    for leaf in leaves {
        builder.push(*leaf);
    }
    builder.finish().unwrap()
}

/// The definition in RFC 6962, section 2.1, word for word.
fn defined_root(leaves: &[Sha256Digest]) -> Sha256Digest {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        leaves => {
            let half = leaves.len().next_power_of_two() / 2;
            node_hash(defined_root(&leaves[..half]), defined_root(&leaves[half..]))
        }
    }
}

#[test]
fn the_shared_test_vectors_hold() {
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (data, root) in VECTOR.iter().zip(ROOTS) {
        frontier.push(leaf_hash(&[&hex::decode(data).unwrap()]));
        assert_eq!(frontier.root().to_string(), root);
    }
    let leaves: Vec<_> = VECTOR.iter().map(|data| leaf_hash(&[&hex::decode(data).unwrap()])).collect();
    let texts = |proof: Vec<Sha256Digest>| proof.iter().map(Sha256Digest::short).collect::<Vec<_>>();
    assert_eq!(texts(inclusion(&leaves, 5)), ["bc1a0643", "ca854ea1", "d37ee418"]);
    assert_eq!(texts(consistency(&leaves, 6)), ["0ebc5d34", "ca854ea1", "d37ee418"]);
    assert_eq!(texts(consistency(&leaves, 4)), ["6b47aaf2"]);
}

#[test]
fn every_leaf_is_proven_in_every_tree_and_nowhere_else() {
    for size in 1..=40 {
        let leaves = leaves(size);
        let root = root(&leaves);
        for index in 0..leaves.len() {
            let proof = inclusion(&leaves, index);
            for (claimed, leaf) in leaves.iter().enumerate() {
                let holds = verify_inclusion(*leaf, claimed as u64, size, root, &proof);
                assert_eq!(holds, claimed == index, "leaf {claimed} by the proof of {index} in {size}");
            }
            assert!(!verify_inclusion(leaves[index], index as u64, size, leaf_hash(&[b"x"]), &proof));
            let longer = [&proof[..], &[root]].concat();
            assert!(!verify_inclusion(leaves[index], index as u64, size, root, &longer));
        }
        assert!(ProofBuilder::inclusion(size, size).is_err());
    }
}

#[test]
fn every_pair_of_sizes_is_consistent_and_only_with_its_own_roots() {
    let all = leaves(40);
    for to in 0..=all.len() {
        let later = (to as u64, root(&all[..to]));
        for from in 0..=to {
            let earlier = (from as u64, root(&all[..from]));
            let proof = consistency(&all[..to], from);
            assert!(verify_consistency(earlier, later, &proof), "{from} to {to}");
            let other = (earlier.0, leaf_hash(&[b"another log"]));
            assert!(!verify_consistency(other, later, &proof), "{from} to {to}");
            if from < to && from > 0 {
                assert!(!verify_consistency(earlier, (later.0, leaf_hash(&[b"x"])), &proof), "{from} to {to}");
                assert!(!verify_consistency(earlier, later, &proof[1..]), "{from} to {to}");
                assert!(!verify_consistency(later, earlier, &proof), "{from} to {to}");
            }
            let mut before = Frontier::default();
            for leaf in &all[..from] {
                before.push(*leaf);
            }
            let mut builder = ProofBuilder::consistency_after(&before, to as u64).unwrap();
            for leaf in &all[from..] {
                builder.push(*leaf);
            }
            assert_eq!(builder.finish().unwrap(), proof, "{from} to {to}, from the frontier");
        }
    }
    assert!(ProofBuilder::consistency(2, 1).is_err());
}

#[test]
fn a_proof_needs_all_its_leaves() {
    let mut builder = ProofBuilder::inclusion(0, 4).unwrap();
    for leaf in leaves(3) {
        builder.push(leaf);
    }
    assert_eq!(builder.finish(), Err(ProofError::Incomplete { needed: 4, given: 3 }));
}

proptest! {
    #[test]
    fn the_root_is_the_defined_one(count in 0_u64..300) {
        let leaves = leaves(count);
        prop_assert_eq!(root(&leaves), defined_root(&leaves));
    }

    #[test]
    fn an_altered_leaf_is_no_beginning(count in 2_u64..200, at in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let leaves = leaves(count);
        let from = from.index(leaves.len() - 1) + 1;
        let altered = at.index(from);
        let mut other = leaves.clone();
        other[altered] = leaf_hash(&[b"altered"]);
        let proof = consistency(&other, from);
        prop_assert!(!verify_consistency((from as u64, root(&leaves[..from])), (count, root(&other)), &proof));
    }

    #[test]
    fn arbitrary_proofs_never_panic(place in any::<(u64, u64)>(), count in 0_u64..70) {
        let proof = leaves(count);
        let hash = leaf_hash(&[]);
        prop_assert!(!verify_inclusion(hash, place.0, place.1, empty_root(), &proof));
        let _ = verify_consistency((place.0, hash), (place.1, hash), &proof);
    }
}
