//! A checkout of the repository as an operator has it: scripts, contracts and workflows in a git repository of its own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::contracts_files::workspace;
use crate::shims::Shims;
use crate::workspace_binary::WorkspaceBinary;
use crate::world::{World, both_outputs};

/// When its first commit was made, in seconds since 1970.
pub const COMMIT_TIME: i64 = 1_770_098_411;

/// A checkout with stand-ins on `PATH`, and what commands in it are given.
#[derive(Debug)]
pub struct Checkout {
    /// The stand-ins.
    pub shims: Shims,
    temporary: TempDir,
    environment: Vec<(OsString, OsString)>,
}

impl Checkout {
    /// A checkout in which nothing was built. `demonctl` is on `PATH`.
    pub fn new() -> Self {
        let checkout = Self::without_demonctl();
        checkout.shims.link("demonctl", &WorkspaceBinary::Demonctl.path());
        checkout
    }

    /// The same without `demonctl` on `PATH`.
    pub fn without_demonctl() -> Self {
        let temporary = TempDir::with_prefix("checkout-").expect("there is a temporary directory");
        let shims = Shims::install(temporary.path());
        let checkout = Self { shims, temporary, environment: Vec::new() };
        for folder in ["scripts", "contracts", ".github"] {
            copy(&workspace().join(folder), &checkout.root().join(folder));
        }
        fs::copy(workspace().join(".gitignore"), checkout.root().join(".gitignore")).expect("it can be copied");
        for (part, content) in [("home", None), ("temporary", None), ("work", None), ("home/.curlrc", Some(""))] {
            let path = checkout.directory().join(part);
            match content {
                Some(content) => fs::write(path, content).expect("the temporary directory is writable"),
                None => fs::create_dir_all(path).expect("the temporary directory is writable"),
            }
        }
        checkout.git(&["init", "--quiet", "--initial-branch", "main"]);
        checkout.commit("Start", COMMIT_TIME);
        checkout
    }

    /// Lets its commands log in to a world's server as the operator.
    pub fn connect(&mut self, world: &World) {
        let command = world.demonctl();
        let variables = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        self.environment.extend(variables);
    }

    /// Sets a variable for its commands.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Sends what goes to `localhost:3000` to another address, as the playbook's commands name that one.
    pub fn serve_status_at(&self, address: std::net::SocketAddr) {
        let rule = format!("connect-to = \"localhost:3000:{}:{}\"\n", address.ip(), address.port());
        fs::write(self.directory().join("home/.curlrc"), rule).expect("the temporary directory is writable");
    }

    /// The repository's directory.
    pub fn root(&self) -> PathBuf {
        self.directory().join("repository")
    }

    /// An empty directory to work in, outside the repository.
    pub fn work(&self) -> PathBuf {
        self.directory().join("work")
    }

    /// Where its commands put temporary files.
    pub fn temporary_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory().join("temporary")).expect("the directory is there");
        entries.map(|entry| entry.expect("it can be listed").path()).collect()
    }

    /// Puts `demonctl` where cargo would have built it.
    pub fn link_built_demonctl(&self, profile: &str) {
        let directory = self.root().join("target").join(profile);
        fs::create_dir_all(&directory).expect("the temporary directory is writable");
        symlink(WorkspaceBinary::Demonctl.path(), directory.join("demonctl")).expect("nothing was built there yet");
    }

    /// A shell command line in the repository's directory, word for word.
    pub fn bash(&self, line: &str) -> Command {
        self.bash_in(&self.root(), line)
    }

    /// The same in another directory.
    pub fn bash_in(&self, directory: &Path, line: &str) -> Command {
        let mut command = Command::new("/bin/bash");
        command.args(["-c", line]).current_dir(directory).env_clear();
        command.env("PATH", self.shims.path()).env("HOME", self.directory().join("home"));
        command.env("TMPDIR", self.directory().join("temporary")).env("LOGNAME", "tester");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs git in it and returns what it printed.
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = self.git_command(arguments).output().expect("git starts");
        assert!(output.status.success(), "git {arguments:?}: {}", both_outputs(&output));
        String::from_utf8(output.stdout).expect("git prints text").trim().to_owned()
    }

    /// Commits everything in it at a given time, in seconds since 1970, and returns the commit.
    pub fn commit(&self, subject: &str, time: i64) -> String {
        self.git(&["add", "--all"]);
        let mut command = self.git_command(&["commit", "--quiet", "--allow-empty", "--message", subject]);
        let date = format!("{time} +0000");
        let output = command.env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date).output();
        let output = output.expect("git starts");
        assert!(output.status.success(), "{}", both_outputs(&output));
        self.git(&["rev-parse", "HEAD"])
    }

    fn git_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.current_dir(self.root()).args(["-c", "user.name=Tester", "-c", "user.email=tester@example.com"]);
        // Neither the user's settings nor the system's.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").args(arguments);
        command
    }

    fn directory(&self) -> &Path {
        self.temporary.path()
    }
}

impl Default for Checkout {
    fn default() -> Self {
        Self::new()
    }
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Copies a directory with the permissions of its files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the temporary directory is writable");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("`{}`: {error}", from.display())) {
        let entry = entry.expect("the directory can be listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its kind is known").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the file can be copied");
        }
    }
}
