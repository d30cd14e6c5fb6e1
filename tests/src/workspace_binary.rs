//! The workspace's own programs, as the test run that is going on has built them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkspaceBinary {
    /// The operator's command line.
    Demonctl,
    /// The publisher.
    Publisher,
    /// The node agent.
    Runtime,
}

impl WorkspaceBinary {
    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demonctl => "demonctl",
            Self::Publisher => "demon-publisher",
            Self::Runtime => "demon-runtime",
        }
    }

    /// The file beside the running test's own: `target/<profile>/<name>`.
    ///
    /// # Panics
    /// Where it was not built: nothing is built from here.
    pub fn path(self) -> PathBuf {
        let test = std::env::current_exe().expect("a test knows its own file");
        // target/<profile>/deps/scenarios-<hash>
        let profile = test.parent().and_then(Path::parent).expect("a test lies in target/<profile>/deps");
        let path = profile.join(self.name());
        assert!(
            path.is_file(),
            "`{}` is missing: `cargo test --workspace` builds it (one package alone does not)",
            path.display()
        );
        path
    }

    /// A command that runs it without the settings of whoever runs the tests.
    pub fn command(self) -> Command {
        let mut command = Command::new(self.path());
        remove_outer_settings(&mut command);
        command
    }
}

/// Takes away what would configure one of our programs, but for where tools are cached.
fn remove_outer_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["NATS_", "DEMON_", "DEMONCTL_", "GH_"].iter().any(|prefix| text.starts_with(prefix))
            || ["RUST_LOG", "NO_COLOR", "GITHUB_TOKEN", "GITHUB_API_URL", "PORT", "BIND_ADDR", "AGENT_API_KEY"]
                .contains(&&*text);
        if ours && text != "DEMON_TOOL_CACHE" {
            command.env_remove(&name);
        }
    }
}
