//! Does news still arrive? What the log shows is compared with what the live feed delivered. Pure decisions.
//!
//! A subscription can be dead while everything else works: an export was removed, a republish configured away, a message
//! lost on its way. Reads find the news all the same, only later; without this nobody would know.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long the feed may lag behind what a read showed.
const TOLERANCE: Duration = Duration::from_secs(5);
/// Before a denied subscription is tried again, and how long after that no denial means success.
const DENIED_PAUSE: Duration = Duration::from_secs(30);
/// Places in the log that are remembered as delivered. Exact ones: a forged message with a high one proves nothing.
const MOST_DELIVERED: usize = 64;

/// What is wrong with the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// It did not deliver this event.
    Missed { sequence: u64 },
    /// The server does not allow this subject.
    Denied { subject: String, again_at: Instant },
    /// It was denied and was tried again: no answer until then is a good one.
    Probing { subject: String, until: Instant },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedCare {
    /// Nothing, and nothing to wait for.
    None,
    /// Look again at this time.
    At(Instant),
    /// Subscribe anew.
    Resubscribe,
}

/// What is known of one feed.
#[derive(Debug, Default)]
pub(crate) struct FeedWatchdog {
    delivered: VecDeque<u64>,
    /// The head's place when the feed began: what was stored before is not delivered. Not known before the first read.
    baseline: Option<u64>,
    /// The connection that the baseline belongs to, by its number.
    connects: u64,
    /// A head that was read and is still to be delivered, and until when.
    overdue: Option<(u64, Instant)>,
    fault: Option<Fault>,
}

impl FeedWatchdog {
    /// The feed delivered the event of the followed head that stands here.
    pub(crate) fn delivered(&mut self, sequence: u64) {
        if self.delivered.len() >= MOST_DELIVERED {
            self.delivered.pop_front();
        }
        self.delivered.push_back(sequence);
    }

    /// The server denied a subscription to this subject.
    pub(crate) fn denied(&mut self, subject: String, now: Instant) {
        self.fault = Some(Fault::Denied { subject, again_at: now + DENIED_PAUSE });
    }

    /// A read over the connection of this number showed the followed head here.
    pub(crate) fn read(&mut self, head: u64, connects: u64, now: Instant) {
        if self.connects != connects {
            // What was stored between two connections is nobody's fault, and another one proves itself anew.
            self.connects = connects;
            self.begin();
            self.fault.take_if(|fault| matches!(fault, Fault::Missed { .. }));
        }
        let baseline = *self.baseline.get_or_insert(head);
        if self.delivered.contains(&head) {
            self.overdue = None;
            // News has arrived since.
            self.fault.take_if(|fault| matches!(fault, Fault::Missed { sequence } if *sequence < head));
        } else if head > baseline && self.overdue.is_none_or(|(sequence, _)| sequence < head) {
            self.overdue = Some((head, now + TOLERANCE));
        }
    }

    /// What is to be done now.
    pub(crate) fn care(&mut self, now: Instant) -> FeedCare {
        let delivered = &self.delivered;
        self.overdue.take_if(|(sequence, _)| delivered.contains(sequence));
        if let Some((sequence, until)) = self.overdue {
            if now < until {
                return FeedCare::At(until);
            }
            self.fault = Some(Fault::Missed { sequence });
            self.begin();
            self.baseline = Some(sequence);
            return FeedCare::Resubscribe;
        }
        match &self.fault {
            Some(Fault::Denied { again_at, .. }) if now < *again_at => FeedCare::At(*again_at),
            Some(Fault::Denied { subject, .. }) => {
                self.fault = Some(Fault::Probing { subject: subject.clone(), until: now + TOLERANCE });
                self.begin();
                FeedCare::Resubscribe
            }
            Some(Fault::Probing { until, .. }) if now < *until => FeedCare::At(*until),
            Some(Fault::Probing { .. }) => {
                self.fault = None;
                FeedCare::None
            }
            Some(Fault::Missed { .. }) | None => FeedCare::None,
        }
    }

    /// When there is something to be done, as far as that is known.
    pub(crate) fn care_at(&self, now: Instant) -> Option<Instant> {
        let pause = match self.fault.as_ref() {
            Some(Fault::Denied { again_at: at, .. } | Fault::Probing { until: at, .. }) => Some(*at),
            Some(Fault::Missed { .. }) | None => None,
        };
        let overdue = self.overdue.map(|(_, until)| until);
        [pause, overdue].into_iter().flatten().min().map(|at| at.max(now))
    }

    /// What operators are told. A miss is told until news arrives again, or over another connection.
    pub(crate) fn fault(&self) -> Option<String> {
        match self.fault.as_ref()? {
            Fault::Missed { sequence } => Some(format!(
                "live messages do not arrive: event {sequence} was found by reading the log only; until one arrives, news \
                 is noticed at the next look (see DEMON_INTERVAL)"
            )),
            Fault::Denied { subject, .. } | Fault::Probing { subject, .. } => {
                Some(format!("permission denied to listen on `{subject}`: news is noticed at the next look only"))
            }
        }
    }

    fn begin(&mut self) {
        self.baseline = None;
        self.overdue = None;
        self.delivered.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(now: Instant) -> Instant {
        now + TOLERANCE
    }

    #[test]
    fn what_was_there_before_and_what_was_delivered_is_no_miss() {
        let (mut watchdog, now) = (FeedWatchdog::default(), Instant::now());
        watchdog.read(7, 1, now);
        watchdog.read(7, 1, now);
        assert_eq!(watchdog.care(late(now)), FeedCare::None);
        watchdog.delivered(9);
        watchdog.read(9, 1, now);
        assert_eq!(watchdog.care(late(now)), FeedCare::None);
        // A read may be faster than the feed.
        watchdog.read(12, 1, now);
        assert_eq!(watchdog.care(now), FeedCare::At(late(now)));
        watchdog.delivered(12);
        assert_eq!((watchdog.care(late(now)), watchdog.fault()), (FeedCare::None, None));
    }

    #[test]
    fn a_miss_is_told_until_news_arrives() {
        let (mut watchdog, now) = (FeedWatchdog::default(), Instant::now());
        watchdog.read(7, 1, now);
        // A forged message from the future hides nothing.
        watchdog.delivered(1_000_000);
        watchdog.read(9, 1, now);
        assert_eq!(watchdog.care(late(now)), FeedCare::Resubscribe);
        assert!(watchdog.fault().unwrap().contains("event 9"));
        assert_eq!(watchdog.care(late(now)), FeedCare::None, "once for each miss");
        watchdog.read(9, 1, now);
        assert!(watchdog.fault().is_some());
        watchdog.read(11, 1, now);
        assert_eq!(watchdog.care(late(now)), FeedCare::Resubscribe, "still dead");
        watchdog.delivered(15);
        watchdog.read(15, 1, now);
        assert_eq!(watchdog.fault(), None);
    }

    #[test]
    fn another_connection_begins_anew() {
        let (mut watchdog, now) = (FeedWatchdog::default(), Instant::now());
        watchdog.read(7, 1, now);
        watchdog.read(9, 1, now);
        assert_eq!(watchdog.care(late(now)), FeedCare::Resubscribe);
        watchdog.read(11, 2, now);
        assert_eq!((watchdog.care(late(now)), watchdog.fault()), (FeedCare::None, None));
    }

    #[test]
    fn a_denial_is_told_until_trying_again_is_not_denied() {
        let (mut watchdog, now) = (FeedWatchdog::default(), Instant::now());
        watchdog.denied("live.bundle.promoted.c.>".to_owned(), now);
        let again = now + DENIED_PAUSE;
        assert_eq!(watchdog.care(now), FeedCare::At(again));
        assert_eq!(watchdog.care(again), FeedCare::Resubscribe);
        assert!(watchdog.fault().is_some());
        watchdog.denied("live.bundle.promoted.c.>".to_owned(), again);
        assert_eq!(watchdog.care(again + DENIED_PAUSE), FeedCare::Resubscribe);
        let quiet = again + DENIED_PAUSE + TOLERANCE;
        assert_eq!((watchdog.care(quiet), watchdog.fault()), (FeedCare::None, None));
    }
}
