//! Proofs about a tree, made while its leaves stream by, and their verification (RFC 9162, sections 2.1.3 and 2.1.4).
//!
//! A proof is the hashes of some subtrees. Which ones follows from the sizes alone and they do not overlap, so one pass
//! over the leaves computes all of them.

use std::ops::Range;

use thiserror::Error;

use super::{Frontier, empty_root, node_hash};
use crate::digest::Sha256Digest;

/// A proof that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// There is no such leaf.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    NoSuchLeaf {
        /// The leaf, from 0.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// A smaller tree cannot contain a larger one.
    #[error("a tree of {to} leaves does not contain one of {from}")]
    Shrinking {
        /// The earlier size.
        from: u64,
        /// The later size.
        to: u64,
    },
    /// Not all leaves of the tree were given.
    #[error("the proof needs {needed} leaves, {given} were given")]
    Incomplete {
        /// How many it needs.
        needed: u64,
        /// How many it got.
        given: u64,
    },
}

/// Makes one proof from the leaves of a tree, given in order.
#[derive(Debug, Clone)]
pub struct ProofBuilder {
    /// The subtrees of the proof, in the proof's order, and what is known of each.
    parts: Vec<(Range<u64>, Frontier)>,
    /// Parts whose hash is known from the start.
    known: Vec<Option<Sha256Digest>>,
    /// The leaf that comes next.
    next: u64,
    size: u64,
}

impl ProofBuilder {
    /// A proof that the leaf with this index (from 0) is in the tree of this size. Needs all leaves.
    pub fn inclusion(index: u64, size: u64) -> Result<Self, ProofError> {
        if index >= size {
            return Err(ProofError::NoSuchLeaf { index, size });
        }
        let mut parts = Vec::new();
        let (mut start, mut end) = (0, size);
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                parts.push(middle..end);
                end = middle;
            } else {
                parts.push(start..middle);
                start = middle;
            }
        }
        parts.reverse();
        Ok(Self::new(parts, size))
    }

    /// A proof that the tree of the first size is the beginning of the tree of the second. Needs all leaves.
    pub fn consistency(from: u64, to: u64) -> Result<Self, ProofError> {
        if from > to {
            return Err(ProofError::Shrinking { from, to });
        }
        let mut parts = Vec::new();
        let (mut start, mut end) = (0, to);
        while from != 0 && from != end {
            let middle = start + split(end - start);
            if from <= middle {
                parts.push(middle..end);
                end = middle;
            } else {
                parts.push(start..middle);
                start = middle;
            }
        }
        if start > 0 {
            parts.push(start..end);
        }
        parts.reverse();
        Ok(Self::new(parts, to))
    }

    /// A proof that this tree is the beginning of the tree of that size. Needs the leaves behind this tree only.
    pub fn consistency_after(from: &Frontier, to: u64) -> Result<Self, ProofError> {
        let mut builder = Self::consistency(from.size, to)?;
        builder.next = from.size;
        for (first, size, hash) in from.subtrees() {
            let place = builder.parts.iter().position(|(part, _)| *part == (first..first + size));
            if let Some(place) = place {
                builder.known[place] = Some(hash);
            }
        }
        Ok(builder)
    }

    fn new(parts: Vec<Range<u64>>, size: u64) -> Self {
        let known = vec![None; parts.len()];
        let parts = parts.into_iter().map(|part| (part, Frontier::default())).collect();
        Self { parts, known, next: 0, size }
    }

    /// Takes the next leaf by its hash. Leaves behind the tree's end change nothing.
    pub fn push(&mut self, leaf: Sha256Digest) {
        let index = self.next;
        if index >= self.size {
            return;
        }
        self.next += 1;
        if let Some((_, subtree)) = self.parts.iter_mut().find(|(part, _)| part.contains(&index)) {
            subtree.push(leaf);
        }
    }

    /// The proof.
    pub fn finish(self) -> Result<Vec<Sha256Digest>, ProofError> {
        let incomplete = ProofError::Incomplete { needed: self.size, given: self.next };
        let parts = self.parts.into_iter().zip(self.known);
        let hash = |((part, subtree), known): ((Range<u64>, Frontier), Option<Sha256Digest>)| {
            known.or_else(|| (subtree.size() == part.end - part.start).then(|| subtree.root()))
        };
        parts.map(hash).collect::<Option<Vec<_>>>().ok_or(incomplete)
    }
}

/// The largest power of two below a size of at least two.
fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// Whether the leaf with this index (from 0) is in the tree with this size and root.
pub fn verify_inclusion(leaf: Sha256Digest, index: u64, size: u64, root: Sha256Digest, proof: &[Sha256Digest]) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(*sibling, hash);
            climb_to_right_child(&mut place, &mut last);
        } else {
            hash = node_hash(hash, *sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// Whether the first tree (size and root) is the beginning of the second.
pub fn verify_consistency(from: (u64, Sha256Digest), to: (u64, Sha256Digest), proof: &[Sha256Digest]) -> bool {
    let ((from_size, from_root), (to_size, to_root)) = (from, to);
    if from_size == to_size {
        return proof.is_empty() && from_root == to_root;
    }
    if from_size == 0 {
        return proof.is_empty() && from_root == empty_root();
    }
    if from_size > to_size {
        return false;
    }
    let (mut place, mut last) = (from_size - 1, to_size - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let mut rest = proof.iter();
    let start = if from_size.is_power_of_two() { Some(from_root) } else { rest.next().copied() };
    let Some(start) = start else { return false };
    let (mut earlier, mut later) = (start, start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            earlier = node_hash(*sibling, earlier);
            later = node_hash(*sibling, later);
            climb_to_right_child(&mut place, &mut last);
        } else {
            later = node_hash(later, *sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && earlier == from_root && later == to_root
}

/// A node at the right edge that is a left child has no sibling: its parents stand in for it until one has.
fn climb_to_right_child(place: &mut u64, last: &mut u64) {
    while *place & 1 == 0 && *place != 0 {
        *place >>= 1;
        *last >>= 1;
    }
}
