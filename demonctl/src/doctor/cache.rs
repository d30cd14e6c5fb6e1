//! What the cache on this host holds: the running release, file by file, and room for the next one.

use std::path::Path;

use shared::daemon::ErrorChain;
use shared::event::Published;
use subscriber::reader::{CurrentRelease, ReadReleaseError};

use super::check::Check;
use crate::event_text::bytes;

pub(super) const RELEASE: &str = "cache_digest";
const DISK: &str = "disk_space";
/// Needed where nothing is known of a release, and left free beside one.
const SPARE: u64 = 64 << 20;

/// Compares every file of the running release with its digest. Reads the whole release.
pub(super) fn release(cache: &Path) -> Check {
    let remedy = "somebody changed files: delete the cache and restart the agent, which fetches the release again";
    let current = match CurrentRelease::open(cache) {
        Ok(current) => current,
        Err(error @ ReadReleaseError::NoCurrent { .. }) => {
            let remedy = "is --cache the agent's DEMON_CONTRACTS_CACHE? if so, start the agent, which fills it";
            return Check::no(RELEASE, ErrorChain(&error).to_string(), remedy);
        }
        Err(error) => return Check::no(RELEASE, ErrorChain(&error).to_string(), remedy),
    };
    let files = current.release().files();
    let faults: Vec<String> = files
        .iter()
        .filter_map(|file| current.read(file.path.as_str()).err())
        .map(|error| ErrorChain(&error).to_string())
        .collect();
    match faults.first() {
        None => Check::yes(RELEASE, format!("{} files of `{}` match", files.len(), current.release().tag())),
        Some(first) => Check::no(RELEASE, format!("{} of {} files: {first}", faults.len(), files.len()), remedy),
    }
}

/// Whether the channel's release fits beside what is there.
pub(super) fn disk(cache: &Path, newest: Option<&Published>) -> Check {
    // It may not exist yet.
    let existing =
        std::path::absolute(cache).ok().and_then(|path| path.ancestors().find(|at| at.exists()).map(Path::to_owned));
    let Some(existing) = existing else {
        return Check::no(DISK, format!("`{}` is no usable path", cache.display()), "check --cache");
    };
    let state = match rustix::fs::statvfs(&existing) {
        Ok(state) => state,
        Err(error) => return Check::no(DISK, format!("`{}`: {error}", existing.display()), "check the mount"),
    };
    let available = state.f_bavail.saturating_mul(state.f_frsize);
    let needed = newest.map_or(0, |release| release.archive.size.saturating_add(release.total_bytes));
    room(available, needed.saturating_add(SPARE), &existing)
}

fn room(available: u64, needed: u64, at: &Path) -> Check {
    let detail = format!("{} free at `{}`, {} needed", bytes(available), at.display(), bytes(needed));
    if available >= needed {
        return Check::yes(DISK, detail);
    }
    Check::no(DISK, detail, "make room, keep fewer releases (DEMON_KEEP_RELEASES), or move DEMON_CONTRACTS_CACHE")
}

#[cfg(test)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn too_little_room_is_said() {
        assert_eq!(room(10, 10, Path::new("/")).outcome, Outcome::Yes);
        assert_eq!(room(9, 10, Path::new("/")).outcome, Outcome::No);
    }
}
