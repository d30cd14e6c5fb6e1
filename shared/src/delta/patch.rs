//! One patch: a zstd frame with other bytes as its prefix, as `zstd --patch-from` makes it.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;

use zstd::zstd_safe::CParameter;

use super::NUMBER_BYTES;
use super::window::MAX_WINDOW_LOG;

/// zstd's own limits of a window.
const WINDOW_LOGS: Range<u32> = 10..MAX_WINDOW_LOG as u32 + 2;
/// From this window on the match finder's tables no longer reach over all of it, and long matches are looked for too.
const LONG_MATCHES_FROM: u32 = 24;

/// One byte below the largest: zstd 1.5.7 looks for places to split full blocks at, and a patch of a large file, which is
/// almost nothing but the beginnings of blocks, becomes a sixth larger by it.
const LARGEST_BLOCK: u32 = (128 << 10) - 1;

/// Compresses `content`, of exactly `size` bytes, with a prefix.
pub(super) fn compress(content: &mut dyn Read, size: u64, prefix: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), level, prefix)?;
    let largest = size.max(prefix.len() as u64).max(1);
    let window = (largest.ilog2() + 1).clamp(WINDOW_LOGS.start, WINDOW_LOGS.end - 1);
    encoder.window_log(window)?;
    encoder.set_parameter(CParameter::MaxBlockSize(LARGEST_BLOCK))?;
    if window >= LONG_MATCHES_FROM {
        encoder.long_distance_matching(true)?;
    }
    // Known before the first byte, the size makes the frame one segment: its reader allocates no more than that.
    encoder.set_pledged_src_size(Some(size))?;
    let copied = io::copy(&mut content.take(size), &mut encoder)?;
    if copied != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    encoder.finish()
}

/// Reads one patch. What it gives is bounded by the caller; its window by [`MAX_WINDOW_LOG`].
pub(super) fn decompress<'a>(frame: impl BufRead + 'a, prefix: &'a [u8]) -> io::Result<impl Read + 'a> {
    let mut decoder = zstd::Decoder::with_ref_prefix(frame, prefix)?.single_frame();
    decoder.window_log_max(u32::from(MAX_WINDOW_LOG))?;
    Ok(decoder)
}

/// Reads a part of a base's file. A file that is shorter than it should be is an error.
pub(super) fn read_range(file: &mut (impl Read + Seek), range: &Range<u64>) -> io::Result<Vec<u8>> {
    let length = range.end - range.start;
    file.seek(SeekFrom::Start(range.start))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The bytes of a number.
pub(super) fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(NUMBER_BYTES);
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Reads a number. There is one form of each: without needless bytes.
pub(super) fn read_number(input: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for index in 0..NUMBER_BYTES {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << (7 * index);
        if byte[0] & 0x80 == 0 {
            let needless = index > 0 && byte[0] == 0;
            return if needless { Err(malformed("a number has needless bytes")) } else { Ok(value) };
        }
    }
    Err(malformed("a number is too long"))
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for value in [0, 1, 127, 128, 300, 1 << 20, (1 << 35) - 1] {
            let bytes = number(value);
            assert_eq!(read_number(&mut &bytes[..]).unwrap(), value);
        }
        for bad in [&[0x80, 0][..], &[0x80; 6], &[0xff], &[]] {
            assert!(read_number(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_patch_of_similar_content_is_small_and_gives_it_back() {
        let old: Vec<u8> =
            (0..200_000_u32).flat_map(|value| (value.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        let mut new = old.clone();
        new[400_000] ^= 1;
        new.truncate(790_000);
        let frame = compress(&mut &new[..], new.len() as u64, &old, 19).unwrap();
        assert!(frame.len() < 200, "{}", frame.len());
        let mut back = Vec::new();
        decompress(&frame[..], &old).unwrap().read_to_end(&mut back).unwrap();
        assert_eq!(back, new);
    }

    #[test]
    fn a_frame_that_claims_a_large_window_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        io::copy(&mut io::repeat(0).take(1 << 20), &mut encoder).unwrap();
        let frame = encoder.finish().unwrap();
        let read = decompress(&frame[..], b"").unwrap().read_to_end(&mut Vec::new());
        assert!(read.is_err());
    }

    #[test]
    fn a_range_of_a_shorter_file_is_an_error() {
        let mut file = Cursor::new(b"0123456789");
        assert_eq!(read_range(&mut file, &(3..6)).unwrap(), b"345");
        assert!(read_range(&mut file, &(3..11)).is_err());
    }
}
