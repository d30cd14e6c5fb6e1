//! What a process has used, as Linux tells it. Elsewhere nothing is known, and nothing is said.

use std::fs;
use std::time::Duration;

/// What a process used up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessUsage {
    /// Processor time, user and system.
    pub(crate) processor: Duration,
    /// Memory it holds, in bytes.
    pub(crate) resident: u64,
    /// The most it ever held, or held since [`forget_peak`].
    pub(crate) peak_resident: u64,
}

/// What the process with this id has used; `None` where that is not to be known.
pub(crate) fn of(process_id: u32) -> Option<ProcessUsage> {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    Some(ProcessUsage {
        processor: processor_time(&stat, rustix::param::clock_ticks_per_second())?,
        resident: kibibytes(&status, "VmRSS:")?,
        peak_resident: kibibytes(&status, "VmHWM:")?,
    })
}

/// What this process has used.
pub(crate) fn own() -> Option<ProcessUsage> {
    of(std::process::id())
}

/// Lets this process's peak begin anew; says whether that was possible.
pub(crate) fn forget_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn processor_time(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // The command's name stands in parentheses and may hold blanks; the fields count from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / ticks_per_second.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 100 1 2 3";
        assert_eq!(processor_time(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(kibibytes("Name:\tx\nVmHWM:\t  20 kB\nVmRSS:\t  10 kB\n", "VmRSS:"), Some(10_240));
        assert_eq!(kibibytes("", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_memory() {
        let usage = own().unwrap();
        assert!(usage.resident > 0 && usage.peak_resident >= usage.resident);
    }
}
