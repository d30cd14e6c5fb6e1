//! One line of words for each event, as the replay table shows it.

use shared::event::{BundleEvent, FallbackSource, Hold, LoadSource};

/// What the event says beside its type, source and tag.
pub(crate) fn describe(event: &BundleEvent) -> String {
    match event {
        BundleEvent::Published(data) => format!(
            "{} files, {}, content {}, by {} ({})",
            data.files,
            bytes(data.total_bytes),
            data.content_digest.short(),
            data.actor,
            data.trigger.as_str()
        ),
        BundleEvent::Promoted(data) => {
            let cause = data.cause.as_str();
            let hold = match (data.hold, data.overrode_freeze()) {
                (Hold::None, _) => "",
                (Hold::Held, _) => ", held",
                (Hold::Frozen, false) => ", frozen",
                (Hold::Frozen, true) => ", frozen, override",
            };
            let previous = data.previous_tag.as_ref().map(|tag| format!(" from {tag}")).unwrap_or_default();
            let reason = data.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("channel {}{previous} ({cause}{hold}) by {}{reason}", data.channel, data.actor)
        }
        BundleEvent::Withdrawn(data) => format!("by {}: {}", data.actor, data.reason),
        BundleEvent::RefreshAttempt(data) => match &data.base_tag {
            Some(base) => format!("fetching, running {base} meanwhile"),
            None => "fetching, running nothing yet".to_owned(),
        },
        BundleEvent::Staged(data) => format!("verified, {} read, {} ms", bytes(data.wire_bytes), data.duration_ms),
        BundleEvent::Loaded(data) => {
            let source = match data.source {
                LoadSource::Cache => "from cache",
                LoadSource::Download => "downloaded",
                LoadSource::Delta => "patched",
                LoadSource::Embedded => "built in",
            };
            let verified = if data.verified { "" } else { ", NOT VERIFIED" };
            format!("switched in {} ms, {source}{verified}", data.duration_ms)
        }
        BundleEvent::VerificationFailed(data) => {
            let (expected, actual) = (shortened(&data.expected), shortened(&data.actual));
            format!("{}{}: expected {expected}, actual {actual}", ahead(data.ahead), data.item)
        }
        BundleEvent::DownloadFailed(data) => format!("{}{}", ahead(data.ahead), data.error),
        BundleEvent::FallbackActivated(data) => {
            let source = match data.source {
                FallbackSource::LastGood => "last good release",
                FallbackSource::Embedded => "built-in schemas",
            };
            let wanted = data.wanted_tag.as_ref().map(|tag| format!(" instead of {tag}")).unwrap_or_default();
            format!("{source}{wanted}: {}", data.cause.as_str().replace('_', " "))
        }
        BundleEvent::StaleDetected(data) => {
            format!("{} hours old, limit {}", data.age_hours, data.threshold_hours)
        }
        BundleEvent::UpdateDetected(data) => format!("pinned, newer release {} exists", data.newer_tag),
        BundleEvent::TamperDetected(data) if data.damaged() == 0 => "files are whole again".to_owned(),
        BundleEvent::TamperDetected(data) => {
            let healed = if data.healed { ", healed" } else { ", NOT HEALED" };
            format!("{} changed, {} missing, {} extra{healed}", data.changed, data.missing, data.extra)
        }
        BundleEvent::Reverted(data) => match &data.restored {
            Some(restored) => format!("back to {} in {} ms: {}", restored.tag, data.duration_ms, data.check),
            None => format!("nothing to go back to: {}", data.check),
        },
        BundleEvent::EpochStarted(data) => match &data.continues {
            None => format!("{} begins epoch {}", data.stream, data.epoch),
            Some(continued) => format!(
                "{} was restored and begins epoch {}, which continues {} behind its event {}",
                data.stream, data.epoch, continued.epoch, continued.stream_sequence
            ),
        },
        BundleEvent::Checkpointed(data) => format!("events 1 to {} are signed, root {}", data.size, data.root.short()),
        BundleEvent::Unknown(_) => "of a type this version does not know".to_owned(),
    }
}

/// What stands before the failure of a fetch that nothing waited for.
fn ahead(ahead: bool) -> &'static str {
    if ahead { "before its promotion: " } else { "" }
}

/// A digest in a table: enough to compare by eye.
fn shortened(text: &str) -> String {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        format!("{}…", &text[..12])
    } else {
        text.to_owned()
    }
}

/// A size in the largest binary unit below it.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut scaled = count;
    let mut remainder = 0;
    let mut unit = "B";
    for next in UNITS {
        if scaled < 1024 {
            break;
        }
        remainder = scaled % 1024;
        scaled /= 1024;
        unit = next;
    }
    format!("{scaled}.{} {unit}", remainder * 10 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn only_digests_are_shortened() {
        assert_eq!(shortened("14 bytes"), "14 bytes");
        assert_eq!(shortened(&"ab".repeat(32)), "abababababab…");
    }
}
