//! How much a leader asks for at a time, and how fast. Pure.
//!
//! What a leader has asked for and received itself, the others have received or have on their way: they share the server's
//! strength equally. So a leader asks for more only then, and for as much as takes a moment: with many readers that is one
//! chunk. The rate has a ceiling of its own, for readers on a slow line: what waits for one of them when it notices that it
//! is behind stays far below what the server keeps for a connection (64 MiB).

use std::time::Duration;

/// Bytes a second that a leader asks for at most.
const MOST_BYTES_A_SECOND: u64 = 64 << 20;
/// Bytes asked for at a time at most.
const MOST_BYTES: u64 = 4 << 20;
/// What takes less is followed by more, up to twice as much.
const SHORT: Duration = Duration::from_millis(75);
/// What takes longer is followed by half as much.
const LONG: Duration = Duration::from_millis(200);

/// Time between what it asks for when others are behind: well below that after which it counts as gone.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A leader's speed.
#[derive(Debug)]
pub(super) struct Pace {
    bytes: u64,
    asked_at: Duration,
    not_before: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { bytes: 1, asked_at: Duration::ZERO, not_before: Duration::ZERO }
    }

    /// How many chunks of this size to ask for now; 0 where it is too early.
    pub(super) fn chunks(&self, chunk_bytes: u64, now: Duration) -> u64 {
        if now < self.not_before { 0 } else { (self.bytes / chunk_bytes.max(1)).max(1) }
    }

    /// When it is no longer too early.
    pub(super) fn not_before(&self) -> Duration {
        self.not_before
    }

    /// So many bytes were asked for.
    pub(super) fn asked(&mut self, bytes: u64, now: Duration) {
        self.bytes = bytes.clamp(1, MOST_BYTES);
        self.asked_at = now;
        self.not_before = now + Duration::from_micros(bytes.saturating_mul(1_000_000).div_ceil(MOST_BYTES_A_SECOND));
    }

    /// A reader is this far behind: it catches up before more is asked for. Whatever is said, that is not put off for long.
    pub(super) fn behind(&mut self, lag: Duration, now: Duration) {
        let longest = self.asked_at + LONGEST_PAUSE;
        self.not_before = self.not_before.max(now.saturating_add(lag).min(longest));
    }

    /// All of it arrived after this long.
    pub(super) fn arrived(&mut self, took: Duration) {
        if took < SHORT {
            self.bytes = self.bytes.saturating_mul(2).min(MOST_BYTES);
        } else if took > LONG {
            self.bytes = (self.bytes / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 256 << 10;

    #[test]
    fn it_begins_with_one_chunk_and_doubles_while_that_is_quick() {
        let mut pace = Pace::new();
        let mut asked = Vec::new();
        for _ in 0..7 {
            let chunks = pace.chunks(CHUNK, pace.not_before());
            asked.push(chunks);
            pace.asked(chunks * CHUNK, Duration::ZERO);
            pace.arrived(Duration::from_millis(10));
        }
        assert_eq!(asked, [1, 2, 4, 8, 16, 16, 16]);
        pace.arrived(Duration::from_millis(100));
        assert_eq!(pace.chunks(CHUNK, pace.not_before()), 16);
        (0..9).for_each(|_| pace.arrived(Duration::from_millis(300)));
        assert_eq!(pace.chunks(CHUNK, pace.not_before()), 1);
    }

    #[test]
    fn it_waits_for_one_that_is_behind_but_not_for_long() {
        let mut pace = Pace::new();
        pace.asked(1, Duration::from_secs(1));
        pace.behind(Duration::from_millis(200), Duration::from_millis(1100));
        pace.behind(Duration::from_millis(100), Duration::from_millis(1100));
        assert_eq!(pace.not_before(), Duration::from_millis(1300));
        (0..90).for_each(|later| pace.behind(Duration::MAX, Duration::from_millis(1100 + later)));
        assert_eq!(pace.not_before(), Duration::from_secs(1) + LONGEST_PAUSE);
        assert_eq!(pace.chunks(CHUNK, Duration::from_millis(1500)), 1);
    }

    #[test]
    fn it_does_not_ask_for_more_than_a_slow_line_can_leave_behind() {
        let mut pace = Pace::new();
        let (mut now, mut bytes) = (Duration::ZERO, 0);
        while now < Duration::from_secs(10) {
            now = now.max(pace.not_before());
            let asked = pace.chunks(CHUNK, now) * CHUNK;
            assert!(asked > 0);
            pace.asked(asked, now);
            assert_eq!(pace.chunks(CHUNK, now), 0);
            pace.arrived(Duration::from_millis(1));
            bytes += asked;
        }
        // The last one may begin just before the end, and all of it counts.
        assert!(bytes <= 10 * MOST_BYTES_A_SECOND + 2 * MOST_BYTES, "{bytes}");
    }
}
