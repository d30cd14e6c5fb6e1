//! Reading an event's time: any RFC 3339 time, and fast where it has the form that we write.

use chrono::{DateTime, NaiveDate, Utc};

/// The time, in UTC; `None` where the text is no RFC 3339 time.
pub(super) fn parse(text: &str) -> Option<DateTime<Utc>> {
    parse_written(text.as_bytes())
        .or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc)))
}

/// `2025-09-21T06:00:00.000Z` and nothing else.
fn parse_written(text: &[u8]) -> Option<DateTime<Utc>> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2, b'.', f1, f2, f3, b'Z'] =
        text
    else {
        return None;
    };
    let year = i32::try_from(number(&[y1, y2, y3, y4])?).ok()?;
    let day = NaiveDate::from_ymd_opt(year, number(&[m1, m2])?, number(&[d1, d2])?)?;
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[i1, i2])?, number(&[s1, s2])?);
    Some(day.and_hms_milli_opt(hour, minute, second, number(&[f1, f2, f3])?)?.and_utc())
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;
    use proptest::prelude::*;

    use super::*;

    fn by_library(text: &str) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
    }

    #[test]
    fn other_forms_are_read_too() {
        for text in ["2025-09-21T08:00:00+02:00", "2025-09-21t06:00:00z", "2016-12-31T23:59:60.000Z"] {
            assert_eq!((parse_written(text.as_bytes()), parse(text)), (None, by_library(text)), "{text}");
            assert!(parse(text).is_some(), "{text}");
        }
        for text in
            ["", "yesterday", "2025-02-29T06:00:00.000Z", "2025-09-21T24:00:00.000Z", "2025-09-21T06:00:00.0x0Z"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_we_write_is_read_as_the_library_reads_it(milliseconds in -62_000_000_000_000_i64..250_000_000_000_000) {
            let time = DateTime::from_timestamp_millis(milliseconds).unwrap();
            let text = time.to_rfc3339_opts(SecondsFormat::Millis, true);
            prop_assert_eq!(parse_written(text.as_bytes()), Some(time));
        }

        #[test]
        fn nothing_else_is_taken(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z") {
            if let Some(time) = parse_written(text.as_bytes()) {
                prop_assert_eq!(by_library(&text), Some(time));
            }
        }
    }
}
