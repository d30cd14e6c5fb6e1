//! Points in time and in the log, as options name them.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use thiserror::Error;

/// Text that names no point in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no time: RFC 3339 (`2025-09-21T14:03:00Z`), a day or minute of UTC (`2025-09-21`, `2025-09-21T14:03`), \
     or how long ago (`90s`, `30m`, `2h`, `7d`)"
)]
pub(crate) struct TimeError(String);

/// Reads an option's time; a relative one counts back from now.
pub(crate) fn parse_time(text: &str) -> Result<DateTime<Utc>, TimeError> {
    time_seen_from(text, Utc::now())
}

/// A point in the log: a stream sequence, or a time by the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PointInLog {
    /// After the event with this stream sequence.
    Sequence(u64),
    /// After everything that the server had stored by then.
    Time(DateTime<Utc>),
}

impl PointInLog {
    /// Whether an event lies at or before the point.
    pub(crate) fn includes(self, stream_sequence: u64, stored_at: DateTime<Utc>) -> bool {
        match self {
            Self::Sequence(last) => stream_sequence <= last,
            Self::Time(last) => stored_at <= last,
        }
    }
}

impl FromStr for PointInLog {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        match text.parse() {
            Ok(sequence) => Ok(Self::Sequence(sequence)),
            Err(_) => parse_time(text).map(Self::Time),
        }
    }
}

/// A time as tables show it: to the second, in UTC.
pub(crate) fn to_the_second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A time as tables show it where seconds are too coarse.
pub(crate) fn to_the_millisecond(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn time_seen_from(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, TimeError> {
    let refused = || TimeError(text.chars().take(60).flat_map(char::escape_default).collect());
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(time.and_utc());
        }
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: i64 = number.parse().map_err(|_| refused())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(refused()),
    };
    let ago = number.checked_mul(seconds).and_then(TimeDelta::try_seconds).ok_or_else(refused)?;
    now.checked_sub_signed(ago).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Result<String, TimeError> {
        let now = "2025-09-21T12:00:00Z".parse().unwrap();
        time_seen_from(text, now).map(to_the_second)
    }

    #[test]
    fn times_are_absolute_or_relative() {
        for (text, expected) in [
            ("2025-09-21T14:03:00+02:00", "2025-09-21T12:03:00Z"),
            ("2025-09-20T14:03:09.5", "2025-09-20T14:03:09Z"),
            ("2025-09-20T14:03", "2025-09-20T14:03:00Z"),
            ("2025-09-20", "2025-09-20T00:00:00Z"),
            ("90s", "2025-09-21T11:58:30Z"),
            ("2h", "2025-09-21T10:00:00Z"),
            ("7d", "2025-09-14T12:00:00Z"),
        ] {
            assert_eq!(seen(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "h", "2", "2y", "-2h", "yesterday", "99999999999999999w", "9999999999999w", "2025-13-01"] {
            assert!(seen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bare_number_is_a_sequence() {
        assert_eq!("12".parse(), Ok(PointInLog::Sequence(12)));
        let time: PointInLog = "2025-09-20".parse().unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert!(time.includes(99, at("2025-09-20T00:00:00Z")) && !time.includes(1, at("2025-09-20T00:00:01Z")));
        assert!(PointInLog::Sequence(3).includes(3, at("2025-09-20T00:00:00Z")));
    }
}
