//! What went wrong with which release, how often, and when it may be tried again: pure bookkeeping.
//!
//! A failure belongs to one announcement of a release. One that is announced again, with other objects, starts
//! afresh; a message that merely claims so changes nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::node_state::ReleaseId;

/// Repeats of one failure become one event in this time.
pub(crate) const REPORT_INTERVAL: TimeDelta = TimeDelta::hours(1);
/// Failures remembered; the oldest give way.
const MOST_REMEMBERED: usize = 64;

/// One announcement of one release: what a failure is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailureKey {
    /// The release.
    pub release: ReleaseId,
    /// Stream sequence of its announcement; 0 for a release that was taken from the cache.
    pub announcement: u64,
}

/// Kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// The bytes are not what was announced.
    Verification,
    /// The bytes could not be had or stored.
    Download,
}

/// A remembered failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What it is about.
    pub key: FailureKey,
    /// Its kind.
    pub kind: FailureKind,
    /// What failed; equal causes are repeats of one failure.
    pub cause: String,
    /// How many attempts failed in a row.
    pub attempts: u64,
    /// No attempt before this time.
    pub not_before: DateTime<Utc>,
    /// When an event last said so.
    pub reported_at: DateTime<Utc>,
    /// Attempts that failed since then.
    pub unreported: u64,
}

/// Whether a failure is worth an event of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// Yes, and it stands for so many earlier repeats.
    Event {
        /// The repeats.
        repeats: u64,
    },
    /// No: the same was said less than an hour ago.
    Counted,
}

/// Bounds of the time between two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryBounds {
    /// After the first failure.
    pub first: Duration,
    /// At most; doubled until then.
    pub longest: Duration,
}

impl RetryBounds {
    /// Time to wait after so many failures in a row. `spread` (0 to 1) moves it by up to a fifth either way, so that a
    /// fleet does not try again at once.
    pub(crate) fn delay(&self, attempts: u64, spread: f64) -> Duration {
        let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(30);
        let delay = self.first.saturating_mul(1 << doublings).min(self.longest);
        delay.mul_f64(0.8 + 0.4 * spread.clamp(0.0, 1.0))
    }

    /// The longest time that [`RetryBounds::delay`] gives.
    fn bound(&self) -> TimeDelta {
        TimeDelta::from_std(self.longest.mul_f64(1.2)).unwrap_or(TimeDelta::MAX)
    }
}

/// All remembered failures, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FailureBook(Vec<Failure>);

impl FailureBook {
    /// Notes a failed attempt and says whether it is to be reported.
    pub(crate) fn note(
        &mut self,
        key: FailureKey,
        kind: FailureKind,
        cause: &str,
        now: DateTime<Utc>,
        delay: impl FnOnce(u64) -> Duration,
    ) -> Report {
        let earlier = self.0.iter().position(|failure| failure.key == key).map(|index| self.0.remove(index));
        let attempts = earlier.as_ref().map_or(0, |failure| failure.attempts) + 1;
        let delay = TimeDelta::from_std(delay(attempts)).unwrap_or(TimeDelta::MAX);
        let not_before = now.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let (report, reported_at, unreported) = match earlier {
            Some(earlier) if earlier.kind == kind && earlier.cause == cause && !is_due(earlier.reported_at, now) => {
                (Report::Counted, earlier.reported_at, earlier.unreported + 1)
            }
            Some(earlier) => (Report::Event { repeats: earlier.unreported }, now, 0),
            None => (Report::Event { repeats: 0 }, now, 0),
        };
        if self.0.len() >= MOST_REMEMBERED {
            self.0.remove(0);
        }
        let cause = cause.to_owned();
        self.0.push(Failure { key, kind, cause, attempts, not_before, reported_at, unreported });
        report
    }

    /// What is remembered about an announcement.
    pub(crate) fn find(&self, key: &FailureKey) -> Option<&Failure> {
        self.0.iter().find(|failure| &failure.key == key)
    }

    /// Until when the announcement is not to be tried again, if that lies ahead. A time further ahead than any
    /// delay comes from a clock that was wrong, and is ignored.
    pub(crate) fn blocked_until(
        &self,
        key: &FailureKey,
        now: DateTime<Utc>,
        bounds: &RetryBounds,
    ) -> Option<DateTime<Utc>> {
        let not_before = self.find(key)?.not_before;
        (not_before > now && not_before - now <= bounds.bound()).then_some(not_before)
    }

    /// Whether an attempt on this announcement is worth an event: nothing failed yet, or the hour is over.
    pub(crate) fn attempt_is_news(&self, key: &FailureKey, now: DateTime<Utc>) -> bool {
        self.find(key).is_none_or(|failure| is_due(failure.reported_at, now))
    }

    /// Forgets an announcement: it worked.
    pub(crate) fn forget(&mut self, release: &ReleaseId) {
        self.0.retain(|failure| &failure.key.release != release);
    }

    /// Lets every failed download be tried at once: the connection is back, or an operator said so. `kinds` says which.
    pub(crate) fn retry_now(&mut self, now: DateTime<Utc>, kinds: &[FailureKind]) {
        for failure in self.0.iter_mut().filter(|failure| kinds.contains(&failure.kind)) {
            failure.not_before = failure.not_before.min(now);
        }
    }

    /// All of them, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Failure> {
        self.0.iter()
    }
}

/// A time of the last report that lies ahead comes from a clock that was wrong.
fn is_due(reported_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now - reported_at >= REPORT_INTERVAL || reported_at > now
}

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;

    use super::*;

    const BOUNDS: RetryBounds = RetryBounds { first: Duration::from_secs(1), longest: Duration::from_mins(1) };

    fn key(announcement: u64) -> FailureKey {
        let release = ReleaseId { tag: "v1".parse().unwrap(), tree_digest: Sha256Digest::of(b"1") };
        FailureKey { release, announcement }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn note(book: &mut FailureBook, announcement: u64, cause: &str, seconds: i64) -> Report {
        let delay = |attempts| BOUNDS.delay(attempts, 0.5);
        book.note(key(announcement), FailureKind::Download, cause, at(seconds), delay)
    }

    #[test]
    fn the_delay_doubles_up_to_its_bound() {
        let seconds: Vec<u64> = [1, 2, 3, 6, 7, 100].map(|attempts| BOUNDS.delay(attempts, 0.5).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60]);
        assert_eq!(BOUNDS.delay(u64::MAX, 1.0), Duration::from_secs(72));
    }

    #[test]
    fn repeats_of_one_failure_are_one_event_an_hour_with_their_number() {
        let mut book = FailureBook::default();
        assert_eq!(note(&mut book, 7, "refused", 0), Report::Event { repeats: 0 });
        assert_eq!(note(&mut book, 7, "refused", 10), Report::Counted);
        assert_eq!(note(&mut book, 7, "refused", 20), Report::Counted);
        assert!(!book.attempt_is_news(&key(7), at(30)));
        assert!(book.attempt_is_news(&key(7), at(3600)));
        assert_eq!(note(&mut book, 7, "refused", 3600), Report::Event { repeats: 2 });
        assert_eq!(note(&mut book, 7, "refused", 3610), Report::Counted);
    }

    #[test]
    fn another_cause_or_announcement_is_another_failure() {
        let mut book = FailureBook::default();
        note(&mut book, 7, "refused", 0);
        note(&mut book, 7, "refused", 1);
        assert_eq!(note(&mut book, 7, "timed out", 2), Report::Event { repeats: 1 });
        assert_eq!(note(&mut book, 9, "timed out", 3), Report::Event { repeats: 0 });
        assert_eq!(book.blocked_until(&key(8), at(3), &BOUNDS), None);
    }

    #[test]
    fn a_failure_blocks_for_its_delay_and_no_longer_whatever_the_clock_did() {
        let mut book = FailureBook::default();
        note(&mut book, 7, "refused", 0);
        assert_eq!(book.blocked_until(&key(7), at(0), &BOUNDS), Some(at(1)));
        assert_eq!(book.blocked_until(&key(7), at(1), &BOUNDS), None);
        assert_eq!(book.blocked_until(&key(7), at(-1_000_000), &BOUNDS), None);
        book.retry_now(at(0), &[FailureKind::Verification]);
        assert!(book.blocked_until(&key(7), at(0), &BOUNDS).is_some());
        book.retry_now(at(0), &[FailureKind::Download]);
        assert_eq!(book.blocked_until(&key(7), at(0), &BOUNDS), None);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut book = FailureBook::default();
        for announcement in 0..100 {
            note(&mut book, announcement, "refused", 0);
        }
        assert_eq!(book.iter().count(), MOST_REMEMBERED);
        assert!(book.find(&key(0)).is_none() && book.find(&key(99)).is_some());
    }
}
