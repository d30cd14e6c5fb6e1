//! A file whose parts arrive in any order, hashed on the way as far as it is whole from its beginning.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use shared::digest::{DigestBuilder, Sha256Digest};

/// Bytes read back at a time.
const READ: usize = 256 * 1024;

/// A file on its way.
pub(super) struct PlacedFile {
    file: File,
    digest: DigestBuilder,
    /// Everything before it is hashed.
    hashed: u64,
    /// Parts behind it: where each begins and ends.
    waiting: BTreeMap<u64, u64>,
}

impl PlacedFile {
    /// For an empty file.
    pub(super) fn new(file: File) -> Self {
        Self { file, digest: DigestBuilder::default(), hashed: 0, waiting: BTreeMap::new() }
    }

    /// Writes a part. Each may be given once.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        if offset == self.hashed {
            self.digest.update(bytes);
            self.hashed = end;
        } else {
            self.waiting.insert(offset, end);
        }
        while let Some(end) = self.waiting.remove(&self.hashed) {
            self.hash_to(end)?;
        }
        Ok(())
    }

    /// The file and the digest of what is whole from its beginning.
    pub(super) fn finish(self) -> (File, Sha256Digest) {
        (self.file, self.digest.finish())
    }

    fn hash_to(&mut self, end: u64) -> io::Result<()> {
        let mut buffer = vec![0; READ];
        while self.hashed < end {
            let left = usize::try_from(end - self.hashed).unwrap_or(READ).min(READ);
            let part = buffer.get_mut(..left).unwrap_or_default();
            self.file.read_exact_at(part, self.hashed)?;
            self.digest.update(part);
            self.hashed += left as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_of_the_parts_makes_no_difference(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..12),
            order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let offsets: Vec<u64> = parts.iter().scan(0, |at, part| {
                let offset = *at;
                *at += part.len() as u64;
                Some(offset)
            }).collect();
            let mut placed = PlacedFile::new(tempfile::tempfile().unwrap());
            for number in order.into_iter().filter(|number| *number < parts.len()) {
                placed.write(offsets[number], &parts[number]).unwrap();
            }
            let whole = parts.concat();
            let (mut file, digest) = placed.finish();
            prop_assert_eq!(digest, Sha256Digest::of(&whole));
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            prop_assert_eq!(content, whole);
        }
    }

    #[test]
    fn a_large_part_is_read_back_in_pieces() {
        let whole = vec![7_u8; 3 * READ + 5];
        let mut placed = PlacedFile::new(tempfile::tempfile().unwrap());
        placed.write(1, &whole[1..]).unwrap();
        placed.write(0, &whole[..1]).unwrap();
        assert_eq!(placed.finish().1, Sha256Digest::of(&whole));
    }
}
