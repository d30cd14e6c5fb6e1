//! Stand-ins on `PATH` for programs that the playbook calls and a test machine must not be touched by: `gh`,
//! `systemctl`, `crontab`, `kubectl`, `journalctl`. They keep every call; the first three also do the work, in files.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::process::{continue_process, process_exists, signal_process, wait_until_gone};

/// Separates the arguments of one call.
const SEPARATOR: char = '\u{1f}';

const PROGRAMS: [(&str, &str); 5] = [
    ("gh", include_str!("shims/gh.sh")),
    ("systemctl", include_str!("shims/systemctl.sh")),
    ("crontab", include_str!("shims/crontab.sh")),
    ("kubectl", include_str!("shims/record.sh")),
    ("journalctl", include_str!("shims/record.sh")),
];

/// The repository that the stand-in for `gh` serves, unless told otherwise.
pub const REPOSITORY: &str = "afewell-hh/demon";

/// A directory of stand-ins.
#[derive(Debug)]
pub struct Shims {
    directory: PathBuf,
}

impl Shims {
    /// Installs them in a directory of their own below `directory`. The `gh` among them serves [`REPOSITORY`] without
    /// one release, and somebody is signed in.
    pub fn install(directory: &Path) -> Self {
        let shims = Self { directory: directory.join("shims") };
        for part in ["bin", "calls", "answers", "systemctl", "github/releases", "github/tags"] {
            fs::create_dir_all(shims.directory.join(part)).expect("the temporary directory is writable");
        }
        for (name, script) in PROGRAMS {
            shims.write_program(name, script);
            shims.write(&format!("calls/{name}"), "");
        }
        shims.write("systemctl/environment", "");
        shims.write("github/repository", REPOSITORY);
        shims.write("github/signed-in", "");
        shims.write("github/order", "");
        shims.write("github/runs", "");
        shims
    }

    /// `PATH` for a command that shall meet them: they first, then the system's own programs.
    pub fn path(&self) -> OsString {
        let mut path = self.directory.join("bin").into_os_string();
        path.push(":/usr/bin:/bin");
        path
    }

    /// One of them as a file.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    /// Puts one more program on their `PATH`, as a link.
    pub fn link(&self, name: &str, program: &Path) {
        symlink(program, self.program(name)).expect("there is no such program among the stand-ins yet");
    }

    /// Puts one more program on their `PATH`, or replaces one, as a shell script.
    pub fn write_program(&self, name: &str, script: &str) {
        let path = self.program(name);
        fs::write(&path, script).expect("the temporary directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }

    /// Takes one away.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.program(name)).expect("it is there");
    }

    /// The arguments of each call of a program so far, first call first.
    pub fn calls(&self, name: &str) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.directory.join("calls").join(name)).expect("the program keeps its calls");
        text.lines().map(|line| line.split_terminator(SEPARATOR).map(str::to_owned).collect()).collect()
    }

    /// What `kubectl` or `journalctl` prints from now on.
    pub fn answer(&self, name: &str, text: &str) {
        self.write(&format!("answers/{name}"), text);
    }

    /// The stand-ins' `gh` as what it serves.
    pub fn github(&self) -> ServedReleases<'_> {
        ServedReleases { shims: self }
    }

    /// What the unit `demon-runtime` runs: a program with its arguments.
    pub fn unit_command(&self, command: &Command) {
        let mut line = format!("#!/bin/sh\nexec {}", quoted(&command.get_program().to_string_lossy()));
        for argument in command.get_args() {
            line.push(' ');
            line.push_str(&quoted(&argument.to_string_lossy()));
        }
        line.push('\n');
        let path = self.directory.join("systemctl/command");
        fs::write(&path, line).expect("the temporary directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }

    /// The unit's environment file. It holds from the next start on.
    pub fn unit_environment(&self, variables: &[(String, String)]) {
        let lines: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        self.write("systemctl/environment", &lines.concat());
    }

    /// The unit's process, where it was started and not stopped.
    pub fn unit_process(&self) -> Option<u32> {
        let id = fs::read_to_string(self.directory.join("systemctl/pid")).ok()?.trim().parse().ok()?;
        process_exists(id).then_some(id)
    }

    /// Everything the unit has written.
    pub fn unit_log(&self) -> String {
        fs::read_to_string(self.directory.join("systemctl/log")).unwrap_or_default()
    }

    /// The crontab as it stands; `None` where there is none.
    pub fn crontab(&self) -> Option<String> {
        fs::read_to_string(self.directory.join("crontab")).ok()
    }

    /// Sets the crontab.
    pub fn set_crontab(&self, text: &str) {
        self.write("crontab", text);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).expect("the temporary directory is writable");
    }
}

impl Drop for Shims {
    fn drop(&mut self) {
        if let Some(id) = self.unit_process() {
            continue_process(id);
            signal_process(id, Signal::KILL);
            wait_until_gone(id);
        }
    }
}

/// What the stand-in for `gh` serves.
#[derive(Debug, Clone, Copy)]
pub struct ServedReleases<'a> {
    shims: &'a Shims,
}

impl ServedReleases<'_> {
    /// Adds a release, or replaces one, with these files.
    pub fn put<'f>(self, tag: &str, files: impl IntoIterator<Item = (&'f str, &'f [u8])>) {
        let assets = self.assets(tag);
        if !assets.exists() {
            let order = self.directory().join("order");
            let mut tags = fs::read_to_string(&order).expect("the order is there");
            tags.push_str(tag);
            tags.push('\n');
            fs::write(&order, tags).expect("the temporary directory is writable");
        }
        fs::create_dir_all(&assets).expect("the temporary directory is writable");
        for (name, content) in files {
            fs::write(assets.join(name), content).expect("the temporary directory is writable");
        }
        let release = self.directory().join("releases").join(tag);
        fs::write(release.join("title"), format!("Contract Bundle ({tag})\n")).expect("it is writable");
        fs::write(release.join("published"), "2026-02-03T06:01:00Z\n").expect("it is writable");
        fs::write(self.directory().join("tags").join(tag), "unknown\n").expect("it is writable");
    }

    /// Takes one file of a release away.
    pub fn remove_asset(self, tag: &str, name: &str) {
        fs::remove_file(self.assets(tag).join(name)).expect("the asset is there");
    }

    /// Replaces or adds one file of a release.
    pub fn put_asset(self, tag: &str, name: &str, content: &[u8]) {
        fs::write(self.assets(tag).join(name), content).expect("the release is there");
    }

    /// One file of a release.
    pub fn asset(self, tag: &str, name: &str) -> Option<Vec<u8>> {
        fs::read(self.assets(tag).join(name)).ok()
    }

    /// The releases, oldest first.
    pub fn tags(self) -> Vec<String> {
        let order = fs::read_to_string(self.directory().join("order")).expect("the order is there");
        order.lines().map(str::to_owned).collect()
    }

    /// The commit that a tag points at.
    pub fn commit(self, tag: &str) -> Option<String> {
        let commit = fs::read_to_string(self.directory().join("tags").join(tag)).ok()?;
        Some(commit.trim().to_owned())
    }

    /// Makes it unreachable, or reachable again.
    pub fn set_unreachable(self, unreachable: bool) {
        let file = self.directory().join("unreachable");
        if unreachable {
            fs::write(file, "").expect("the temporary directory is writable");
        } else {
            fs::remove_file(file).expect("it was unreachable");
        }
    }

    /// Signs the user out.
    pub fn sign_out(self) {
        fs::remove_file(self.directory().join("signed-in")).expect("somebody was signed in");
    }

    /// Adds a finished run of the release workflow: its trigger, and when it began.
    pub fn add_run(self, event: &str, created: &str) {
        let file = self.directory().join("runs");
        let mut runs = fs::read_to_string(&file).expect("the runs are there");
        let name = "Contract Bundle Release";
        let number = runs.lines().count() + 1;
        let run = format!("completed\tsuccess\t{name}\t{name}\tmain\t{event}\t{number}\t1m2s\t{created}\n");
        runs.push_str(&run);
        fs::write(file, runs).expect("the temporary directory is writable");
    }

    /// What the last dispatch was given.
    pub fn dispatched_inputs(self) -> Option<String> {
        fs::read_to_string(self.directory().join("inputs")).ok()
    }

    fn assets(self, tag: &str) -> PathBuf {
        self.directory().join("releases").join(tag).join("assets")
    }

    fn directory(self) -> PathBuf {
        self.shims.directory.join("github")
    }
}

/// A word of a shell command that means exactly this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
