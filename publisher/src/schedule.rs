//! When the day's release is due: a cron expression in UTC, and arithmetic on it. Reads no clock.

mod ledger;
mod record;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SubsecRound as _, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use serde::{Serialize, Serializer};
use thiserror::Error;

pub use self::ledger::{GRACE, ScheduleLedger, Standing};
pub use self::record::{RecordError, ScheduleRecord};

const LONGEST_EXPRESSION: usize = 200;

/// A cron expression: five fields, or six with seconds first. Always UTC.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

/// Text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScheduleError {
    /// It is not understood.
    #[error("`{text}` is no cron expression (minute hour day month weekday, such as `0 6 * * *`): {fault}")]
    Expression {
        /// What was given, shortened.
        text: String,
        /// What is wrong with it.
        fault: String,
    },
    /// No time ever matches.
    #[error("`{0}` never comes")]
    Never(String),
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        let refused = |fault: String| ScheduleError::Expression { text: shown.clone(), fault };
        if text.len() > LONGEST_EXPRESSION {
            return Err(refused(format!("it is longer than {LONGEST_EXPRESSION} characters")));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text.trim()).map_err(|error| refused(one_line(&error.to_string())))?;
        let schedule = Self { text: text.trim().to_owned(), cron };
        match schedule.next_after(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(shown)),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Schedule {
    /// The first due time later than this moment.
    pub fn next_after(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_next_occurrence(&moment.trunc_subsecs(0), false).ok()
    }

    /// The last due time not later than this moment.
    pub fn last_until(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron.find_previous_occurrence(&moment.trunc_subsecs(0), true).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
    }

    #[test]
    fn the_next_and_the_last_due_time_around_six_in_the_morning_and_month_ends() {
        for (expression, now, next, last) in [
            ("0 6 * * *", "2026-02-03T05:59:59Z", "2026-02-03T06:00:00Z", "2026-02-02T06:00:00Z"),
            ("0 6 * * *", "2026-02-03T05:59:59.999Z", "2026-02-03T06:00:00Z", "2026-02-02T06:00:00Z"),
            ("0 6 * * *", "2026-02-03T06:00:00Z", "2026-02-04T06:00:00Z", "2026-02-03T06:00:00Z"),
            ("0 6 * * *", "2026-02-03T06:00:00.001Z", "2026-02-04T06:00:00Z", "2026-02-03T06:00:00Z"),
            ("0 6 * * *", "2026-02-03T06:01:00Z", "2026-02-04T06:00:00Z", "2026-02-03T06:00:00Z"),
            ("0 6 * * *", "2026-02-28T07:00:00Z", "2026-03-01T06:00:00Z", "2026-02-28T06:00:00Z"),
            ("0 6 * * *", "2028-02-28T07:00:00Z", "2028-02-29T06:00:00Z", "2028-02-28T06:00:00Z"),
            ("0 6 * * *", "2026-12-31T07:00:00Z", "2027-01-01T06:00:00Z", "2026-12-31T06:00:00Z"),
            // The nights in which clocks elsewhere change.
            ("0 2 * * *", "2026-03-29T01:30:00Z", "2026-03-29T02:00:00Z", "2026-03-28T02:00:00Z"),
            ("0 2 * * *", "2026-10-25T02:30:00Z", "2026-10-26T02:00:00Z", "2026-10-25T02:00:00Z"),
            ("0 6 * * 1", "2026-02-03T06:00:00Z", "2026-02-09T06:00:00Z", "2026-02-02T06:00:00Z"),
            ("0 0 31 * *", "2026-02-03T00:00:00Z", "2026-03-31T00:00:00Z", "2026-01-31T00:00:00Z"),
            ("*/5 * * * * *", "2026-02-03T05:59:59Z", "2026-02-03T06:00:00Z", "2026-02-03T05:59:55Z"),
        ] {
            let schedule: Schedule = expression.parse().unwrap();
            assert_eq!(schedule.next_after(time(now)), Some(time(next)), "`{expression}` after {now}");
            assert_eq!(schedule.last_until(time(now)), Some(time(last)), "`{expression}` until {now}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_one_line() {
        let long = "1,".repeat(200);
        for bad in ["six o'clock", "", "0 25 * * *", "60 6 * * *", "0 6 * *", "0 6 * * * * * *", "0 0 30 2 *", &long] {
            let error = bad.parse::<Schedule>().unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "`{bad}`: {error}");
        }
    }
}
