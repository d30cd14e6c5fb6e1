//! A node agent as a real process, with its own cache, state and credentials.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Process;
use crate::waiting::{PATIENCE, eventually, satisfied};

/// One agent and the directories it was given.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    cache: PathBuf,
    state: PathBuf,
}

impl Agent {
    /// Starts an agent. Its log is called `name`.
    pub fn start(name: &str, mut command: Command, directories: AgentDirectories, logs: &Path) -> Self {
        let AgentDirectories { cache, state } = directories;
        command.arg("--cache").arg(&cache).arg("--state-dir").arg(&state);
        Self { process: Process::start(name, command, logs), cache, state }
    }

    /// Its cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where it keeps things, to start another on the same.
    pub fn directories(&self) -> AgentDirectories {
        AgentDirectories { cache: self.cache.clone(), state: self.state.clone() }
    }

    /// The release its cache points at.
    pub fn active_tag(&self) -> Option<String> {
        active_tag(&self.cache)
    }

    /// Where its HTTP interface listens, once it does.
    pub async fn http_address(&mut self) -> SocketAddr {
        let listens = |line: &str| line.contains("HTTP interface listens");
        let line = self.process.log_line("its HTTP address", PATIENCE, listens).await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("a log line is JSON");
        line["address"].as_str().expect("the line names the address").parse().expect("it is one")
    }

    /// Waits until its cache points at a release.
    pub async fn switched_to(&mut self, tag: &str) {
        let what = format!("`{}` to run {tag}", self.process.name());
        eventually(&what, PATIENCE, async || match active_tag(&self.cache) {
            Some(active) if active == tag => Ok(()),
            Some(active) => Err(format!("it runs {active}")),
            None if self.process.runs() => Err("it runs nothing yet".to_owned()),
            None => Err("it has ended".to_owned()),
        })
        .await;
    }

    /// Waits until the names directly in the cache lead to the release. In an empty cache they are placed just after
    /// the switch.
    pub async fn flat_view_leads_to(&self, tag: &str) {
        let what = format!("the flat view of `{}` to lead to {tag}", self.process.name());
        let release = self.cache.join("releases").join(tag);
        eventually(&what, PATIENCE, async || {
            for name in ["bundle.json", "manifest.json", "bundle.sha256"] {
                let file = fs::canonicalize(self.cache.join(name)).map_err(|error| format!("`{name}`: {error}"))?;
                let release = fs::canonicalize(&release).map_err(|error| error.to_string())?;
                satisfied(file.starts_with(release), || format!("`{name}` leads to `{}`", file.display()))?;
            }
            Ok(())
        })
        .await;
    }

    /// The files it serves now, by path within the release.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let root = self.cache.join("current/files").canonicalize().expect("a release is active");
        let mut files = BTreeMap::new();
        collect(&root, &root, &mut files);
        files
    }
}

/// The two directories that make an agent.
#[derive(Debug, Clone)]
pub struct AgentDirectories {
    /// Where releases are served from.
    pub cache: PathBuf,
    /// Where it keeps what it knows.
    pub state: PathBuf,
}

impl AgentDirectories {
    /// A cache and a state directory below `parent`, not created yet.
    pub fn below(parent: &Path, name: &str) -> Self {
        let root = parent.join(name);
        Self { cache: root.join("contracts"), state: root.join("agent") }
    }
}

/// The release that a cache points at.
pub fn active_tag(cache: &Path) -> Option<String> {
    let target = fs::read_link(cache.join("current")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn collect(root: &Path, directory: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).expect("the file lies below it").to_string_lossy().into_owned();
            files.insert(name, fs::read(&path).expect("the file can be read"));
        }
    }
}
