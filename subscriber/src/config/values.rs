//! Values as options give them: parsed, bounded, and named with their option where they are wrong.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Serializer;
use streams::connection_arguments::parse_duration;

use super::ConfigFaults;

/// A value of a type that checks itself.
pub(super) fn parsed<T>(text: &str, option: &str, faults: &mut ConfigFaults) -> Option<T>
where
    T: FromStr,
    T::Err: std::error::Error + 'static,
{
    text.parse().map_err(|error: T::Err| faults.add_error(option, &error)).ok()
}

/// A duration within bounds, both included.
pub(super) fn duration(
    text: &str,
    (shortest, longest): (Duration, Duration),
    option: &str,
    faults: &mut ConfigFaults,
) -> Option<Duration> {
    let duration = parse_duration(text).map_err(|error| faults.add_error(option, &error)).ok()?;
    if duration < shortest || duration > longest {
        let (shortest, longest) = (duration_text(shortest), duration_text(longest));
        faults.add(option, &format!("`{text}` is not between {shortest} and {longest}"));
        return None;
    }
    Some(duration)
}

/// A path, seen from the working directory.
pub(super) fn absolute(path: &Path, option: &str, faults: &mut ConfigFaults) -> Option<PathBuf> {
    std::path::absolute(path).map_err(|error| faults.add_error(option, &error)).ok()
}

/// The shortest form that an option would take.
pub(super) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}

/// For `#[serde(serialize_with)]`: a duration as an option gives it.
pub(super) fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*duration))
}

/// Foreign text, short enough for a fault and without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}
