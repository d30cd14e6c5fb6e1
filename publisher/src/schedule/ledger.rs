//! Which due times are done, which one is due, and which were missed. Pure: the time is passed in.

use chrono::{DateTime, TimeDelta, Utc};

use super::Schedule;

/// A due time that is not done after this long counts as missed.
pub const GRACE: TimeDelta = TimeDelta::minutes(1);
/// A clock that was wrong by more than this did not count the days that we count.
const PLAUSIBLE_STEP: TimeDelta = TimeDelta::days(1);
/// Missed due times that are counted one by one; a gap with more counts as this many.
const MOST_COUNTED: u64 = 1000;

/// What was done of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleLedger {
    done: DateTime<Utc>,
    counted: DateTime<Utc>,
}

/// How a schedule stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The due time to run for; one run makes up for all before it.
    pub due: Option<DateTime<Utc>>,
    /// Due times that turned out to be missed since the last look.
    pub newly_missed: u64,
    /// The last one of those.
    pub last_missed: Option<DateTime<Utc>>,
}

impl ScheduleLedger {
    /// A ledger in which everything up to this moment is done.
    pub fn new(done: DateTime<Utc>) -> Self {
        Self { done, counted: done }
    }

    /// Everything up to this moment is done.
    pub fn done(&self) -> DateTime<Utc> {
        self.done
    }

    /// Looks at the clock. Each missed due time is reported once.
    pub fn look(&mut self, schedule: &Schedule, now: DateTime<Utc>) -> Standing {
        // A clock that stepped back a little must not run a due time twice; one that was far off must not silence us.
        if self.done - now > PLAUSIBLE_STEP {
            *self = Self::new(now);
        }
        let Some(due) = schedule.last_until(now).filter(|due| *due > self.done) else { return Standing::default() };
        let mut standing = Standing { due: Some(due), ..Standing::default() };
        let mut seen = self.counted.max(self.done);
        while let Some(next) = schedule.next_after(seen).filter(|next| *next <= due) {
            let missed = next < due || now - next > GRACE;
            if !missed {
                break;
            }
            standing.newly_missed += 1;
            standing.last_missed = Some(next);
            seen = next;
            if standing.newly_missed == MOST_COUNTED {
                standing.last_missed = Some(due);
                seen = due;
            }
        }
        self.counted = seen;
        standing
    }

    /// Notes that a run for this due time has succeeded.
    pub fn complete(&mut self, due: DateTime<Utc>) {
        self.done = self.done.max(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
    }

    fn daily() -> Schedule {
        "0 6 * * *".parse().unwrap()
    }

    fn due(day: u32) -> DateTime<Utc> {
        time(&format!("2026-02-{day:02}T06:00:00Z"))
    }

    #[test]
    fn a_due_time_is_run_once_and_on_time_is_not_missed() {
        let mut ledger = ScheduleLedger::new(due(2));
        assert_eq!(ledger.look(&daily(), time("2026-02-03T05:59:59Z")), Standing::default());
        let standing = ledger.look(&daily(), time("2026-02-03T06:00:00Z"));
        assert_eq!(standing, Standing { due: Some(due(3)), ..Standing::default() });
        ledger.complete(due(3));
        for later in ["2026-02-03T06:00:01Z", "2026-02-03T23:59:59Z"] {
            assert_eq!(ledger.look(&daily(), time(later)), Standing::default(), "{later}");
        }
    }

    #[test]
    fn days_off_are_counted_and_made_up_for_by_one_run() {
        let mut ledger = ScheduleLedger::new(due(2));
        let standing = ledger.look(&daily(), time("2026-02-05T12:00:00Z"));
        assert_eq!(standing, Standing { due: Some(due(5)), newly_missed: 3, last_missed: Some(due(5)) });
        let again = ledger.look(&daily(), time("2026-02-05T12:00:10Z"));
        assert_eq!(again, Standing { due: Some(due(5)), ..Standing::default() }, "still due, counted once");
        ledger.complete(due(5));
        assert_eq!(ledger.look(&daily(), time("2026-02-05T12:00:20Z")), Standing::default());
    }

    #[test]
    fn a_run_that_fails_beyond_the_grace_is_missed_once() {
        let mut ledger = ScheduleLedger::new(due(2));
        let missed = |ledger: &mut ScheduleLedger, now| ledger.look(&daily(), time(now)).newly_missed;
        assert_eq!(missed(&mut ledger, "2026-02-03T06:00:00Z"), 0);
        assert_eq!(missed(&mut ledger, "2026-02-03T06:00:50Z"), 0);
        assert_eq!(missed(&mut ledger, "2026-02-03T06:01:10Z"), 1);
        assert_eq!(missed(&mut ledger, "2026-02-03T06:05:00Z"), 0);
    }

    #[test]
    fn a_clock_that_steps_back_repeats_nothing_and_one_that_was_far_off_silences_nothing() {
        let mut ledger = ScheduleLedger::new(due(3));
        assert_eq!(ledger.look(&daily(), time("2026-02-03T05:50:00Z")), Standing::default());
        assert_eq!(ledger.look(&daily(), time("2026-02-03T06:00:00Z")), Standing::default(), "done before the step");
        let mut ledger = ScheduleLedger::new(time("2040-01-01T06:00:00Z"));
        assert_eq!(ledger.look(&daily(), time("2026-02-03T05:50:00Z")), Standing::default());
        assert_eq!(ledger.look(&daily(), time("2026-02-03T06:00:00Z")).due, Some(due(3)));
    }

    #[test]
    fn a_long_gap_of_a_dense_schedule_ends_counting() {
        let schedule: Schedule = "* * * * * *".parse().unwrap();
        let mut ledger = ScheduleLedger::new(due(2));
        assert_eq!(ledger.look(&schedule, due(20)).newly_missed, MOST_COUNTED);
        assert_eq!(ledger.look(&schedule, due(20)).newly_missed, 0);
    }
}
