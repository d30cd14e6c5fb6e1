//! What an answer's status and headers mean: take it, ask again, or give up. Pure, over plain data.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use http::HeaderMap;
use http::header::RETRY_AFTER;

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// 200: read the body.
    Content,
    /// 304: what we have is right.
    NotModified,
    /// 301, 302, 303, 307, 308: look where it points.
    Redirect,
    /// 401 or 403: nobody may ask again like this.
    Refused,
    /// Too many questions; ask again at this time, where it is known.
    RateLimited(Option<DateTime<Utc>>),
    /// The other side is in trouble; ask again, not before this time where it says so.
    Unavailable(Option<DateTime<Utc>>),
    /// Anything else.
    Unexpected,
}

/// Judges an answer.
pub(super) fn judge(status: u16, headers: &HeaderMap, now: DateTime<Utc>) -> Judgement {
    match status {
        200 => Judgement::Content,
        304 => Judgement::NotModified,
        301 | 302 | 303 | 307 | 308 => Judgement::Redirect,
        429 => Judgement::RateLimited(again_at(headers, now)),
        // GitHub says 403 for its limits too; only the headers tell them apart.
        403 if headers.contains_key(RETRY_AFTER) || number(headers, "x-ratelimit-remaining") == Some(0) => {
            Judgement::RateLimited(again_at(headers, now))
        }
        401 | 403 => Judgement::Refused,
        408 | 500..=599 => Judgement::Unavailable(again_at(headers, now)),
        _ => Judgement::Unexpected,
    }
}

fn again_at(headers: &HeaderMap, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| {
        text.trim().parse::<u32>().map_or_else(
            |_| DateTime::parse_from_rfc2822(text.trim()).ok().map(|time| time.with_timezone(&Utc)),
            |seconds| now.checked_add_signed(TimeDelta::seconds(seconds.into())),
        )
    });
    let reset = || {
        (number(headers, "x-ratelimit-remaining") == Some(0))
            .then(|| number(headers, "x-ratelimit-reset"))
            .flatten()
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
    };
    retry_after.or_else(reset)
}

fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// How long to wait before the next attempt: what the other side asks for, else twice as long as the last time, with
/// a random part (0 to 1), so that many who failed together do not come back together. `None`: longer than `longest`.
pub(super) fn pause(
    failed_attempts: u32,
    first: Duration,
    longest: Duration,
    again_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    random: f64,
) -> Option<Duration> {
    let doubled = first.saturating_mul(2_u32.saturating_pow(failed_attempts.saturating_sub(1))).min(longest);
    let jittered = doubled.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
    let Some(again_at) = again_at else { return Some(jittered) };
    // Rounded up by GitHub's clock having whole seconds.
    let asked = (again_at - now).to_std().unwrap_or_default();
    (asked <= longest).then(|| asked.max(jittered))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }

    fn at(seconds: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(NOW + seconds, 0)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn status_and_headers_decide() {
        let reset = (NOW + 30).to_string();
        let limited = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
        for (status, headers, expected) in [
            (200, headers(&[]), Judgement::Content),
            (304, headers(&[]), Judgement::NotModified),
            (302, headers(&[]), Judgement::Redirect),
            (401, headers(&[]), Judgement::Refused),
            (401, headers(&limited), Judgement::Refused),
            (403, headers(&[]), Judgement::Refused),
            (403, headers(&[("x-ratelimit-remaining", "57")]), Judgement::Refused),
            (403, headers(&limited), Judgement::RateLimited(at(30))),
            (403, headers(&[("retry-after", "7")]), Judgement::RateLimited(at(7))),
            (429, headers(&[]), Judgement::RateLimited(None)),
            (429, headers(&[("retry-after", "soon")]), Judgement::RateLimited(None)),
            (503, headers(&[]), Judgement::Unavailable(None)),
            (503, headers(&[("retry-after", "2")]), Judgement::Unavailable(at(2))),
            (404, headers(&[]), Judgement::Unexpected),
            (206, headers(&[]), Judgement::Unexpected),
            // A limit that is not used up says nothing about when to come back.
            (
                500,
                headers(&[("x-ratelimit-remaining", "5"), ("x-ratelimit-reset", &reset)]),
                Judgement::Unavailable(None),
            ),
        ] {
            assert_eq!(judge(status, &headers, now()), expected, "{status} {headers:?}");
        }
        let date = headers(&[("retry-after", "Fri, 15 Jan 2027 08:00:09 GMT")]);
        assert_eq!(judge(429, &date, now()), Judgement::RateLimited(at(9)));
    }

    #[test]
    fn pauses_double_vary_and_end() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(20));
        let pause = |failed, again_at, random| pause(failed, first, longest, again_at, now(), random);
        assert_eq!(pause(1, None, 1.0), Some(Duration::from_secs(1)));
        assert_eq!(pause(1, None, 0.0), Some(Duration::from_millis(500)));
        assert_eq!(pause(4, None, 1.0), Some(Duration::from_secs(8)));
        assert_eq!(pause(40, None, 1.0), Some(longest));
        assert_eq!(pause(1, at(7), 1.0), Some(Duration::from_secs(7)));
        assert_eq!(pause(1, at(-7), 1.0), Some(Duration::from_secs(1)), "the time has passed");
        assert_eq!(pause(1, at(21), 1.0), None, "longer than anybody waits");
    }
}
