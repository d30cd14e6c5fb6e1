//! The Merkle tree over a log: RFC 6962, section 2.1 (the same in RFC 9162), with SHA-256.
//!
//! A leaf's hash is SHA-256 of `0x00` and its data, a node's that of `0x01` and the hashes of its two children. Two logs
//! with the same root hold the same leaves in the same order.
//!
//! Streaming: [`Frontier`] holds one hash for each bit of the tree's size, [`ProofBuilder`] at most two for each level of
//! the tree. Nobody keeps the leaves.

mod proof;

use serde::{Deserialize, Serialize};

pub use self::proof::{ProofBuilder, ProofError, verify_consistency, verify_inclusion};
use crate::digest::{DigestBuilder, Sha256Digest};

const LEAF: u8 = 0;
const NODE: u8 = 1;

/// Hash of a leaf whose data are these parts, one behind the other.
pub fn leaf_hash(parts: &[&[u8]]) -> Sha256Digest {
    let mut digest = DigestBuilder::default();
    digest.update(&[LEAF]);
    for part in parts {
        digest.update(part);
    }
    digest.finish()
}

/// Hash of the node above two others.
pub fn node_hash(left: Sha256Digest, right: Sha256Digest) -> Sha256Digest {
    let mut digest = DigestBuilder::default();
    digest.update(&[NODE]);
    digest.update(left.as_bytes());
    digest.update(right.as_bytes());
    digest.finish()
}

/// Root of the tree without leaves.
pub fn empty_root() -> Sha256Digest {
    Sha256Digest::of(b"")
}

/// A tree to which leaves are added: all that its root, and the root of every longer one, needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    size: u64,
    /// Roots of the perfect trees that the leaves make up, largest first: one for each bit of the size.
    subtrees: Vec<Sha256Digest>,
}

impl Frontier {
    /// Adds the next leaf by its hash.
    pub fn push(&mut self, leaf: Sha256Digest) {
        self.size += 1;
        let mut right = leaf;
        for _ in 0..self.size.trailing_zeros() {
            let Some(left) = self.subtrees.pop() else { break };
            right = node_hash(left, right);
        }
        self.subtrees.push(right);
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root.
    pub fn root(&self) -> Sha256Digest {
        let mut subtrees = self.subtrees.iter().rev();
        let Some(last) = subtrees.next() else { return empty_root() };
        subtrees.fold(*last, |right, left| node_hash(*left, right))
    }

    /// The perfect trees with the place of their first leaf.
    fn subtrees(&self) -> impl Iterator<Item = (u64, u64, Sha256Digest)> {
        let mut start = 0;
        let sizes = (0..u64::BITS).rev().map(|bit| 1 << bit).filter(|size| self.size & size != 0);
        sizes.zip(&self.subtrees).map(move |(size, hash)| {
            let first = start;
            start += size;
            (first, size, *hash)
        })
    }
}

#[cfg(test)]
mod tests;
