//! Commands as the operators' playbook prints them: typed into a real shell, in a directory of the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::workspace_binary::WorkspaceBinary;
use crate::world::{both_outputs, finished};

/// A shell that finds the workspace's programs first, with somebody's login in its environment.
#[derive(Debug)]
pub struct Shell {
    directory: PathBuf,
    login: Vec<(String, Option<String>)>,
}

impl Shell {
    /// A shell in a directory, with the environment that a prepared command has.
    pub fn new(directory: &Path, prepared: &Command) -> Self {
        let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
        let login = prepared.get_envs().map(|(name, value)| (text(name), value.map(text))).collect();
        Self { directory: directory.to_owned(), login }
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.login.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    /// Where it stands.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The command, not started yet.
    pub fn command(&self, script: &str) -> Command {
        let programs = WorkspaceBinary::Demonctl.path();
        let programs = programs.parent().expect("a program lies in a directory").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(&self.directory);
        for (name, value) in &self.login {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("PATH", format!("{programs}:{path}"));
        command
    }

    /// Runs a script to its end, whatever that is.
    pub async fn run(&self, script: &str) -> Output {
        finished(self.command(script)).await
    }

    /// Runs a script that must succeed, and returns its standard output.
    ///
    /// # Panics
    /// Where it fails, with both its outputs.
    pub async fn types(&self, script: &str) -> String {
        let output = self.run(script).await;
        assert!(output.status.success(), "`{script}` ended with {}: {}", output.status, both_outputs(&output));
        String::from_utf8(output.stdout).expect("what is printed is text")
    }

    /// Runs a script that must end with this code, and returns both its outputs.
    ///
    /// # Panics
    /// Where it ends otherwise.
    pub async fn fails(&self, script: &str, code: i32) -> String {
        let output = self.run(script).await;
        assert_eq!(output.status.code(), Some(code), "`{script}`: {}", both_outputs(&output));
        both_outputs(&output)
    }
}
