//! What git knows about a source directory. Git may be absent, and the directory need not be in a repository.

use std::path::Path;
use std::process::{Command, Stdio};

pub use shared::contracts_form::NO_COMMIT;
use shared::event::GitFacts;

/// Whether a source directory holds exactly what its commit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeState {
    /// It does, so the commit names the content.
    Clean,
    /// It does not: changed, untracked or ignored files lie in it.
    Dirty,
}

/// The commit a source directory stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The facts that events and manifest carry.
    pub facts: GitFacts,
    /// Whether the directory is what the commit says.
    pub tree: TreeState,
}

/// Whether the text is a commit's sum as we carry it.
pub fn is_commit_sum(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Asks git about a directory; `None` where there is no git, no repository or no commit yet. Blocks: call it on a
/// blocking thread.
pub fn read_commit(directory: &Path) -> Option<Commit> {
    let sha = git(directory, &["rev-parse", "--verify", "HEAD"]).filter(|sha| is_commit_sum(sha))?;
    // Ignored files count: they would travel without the commit knowing them.
    let status = git(directory, &["status", "--porcelain", "--ignored", "--untracked-files=all", "--", "."]);
    let tree = if status.is_some_and(|status| status.is_empty()) { TreeState::Clean } else { TreeState::Dirty };
    let repository = git(directory, &["remote", "get-url", "origin"]).and_then(|url| repository_name(&url));
    let reference = git(directory, &["symbolic-ref", "--quiet", "HEAD"]).filter(|reference| !reference.is_empty());
    Some(Commit { facts: GitFacts { sha, repository, reference }, tree })
}

/// Runs one git command that changes nothing; its output where it succeeded.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        // Not even the index is refreshed on disk.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout).ok().map(|text| text.trim_end().to_owned())
}

/// `owner/repository` of a remote's address. Nothing else of it is kept: an address may hold a password.
fn repository_name(url: &str) -> Option<String> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        // The short form of ssh: `git@host:owner/repository`.
        None => url.split_once(':')?.1,
    };
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let valid = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    (path.split('/').count() >= 2 && path.split('/').all(valid)).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_without_its_host_and_password() {
        for (url, name) in [
            ("https://github.com/acme/contracts.git", Some("acme/contracts")),
            ("https://user:secret@github.com/acme/contracts", Some("acme/contracts")),
            ("git@github.com:acme/contracts.git", Some("acme/contracts")),
            ("ssh://git@host:22/group/sub/project.git/", Some("group/sub/project")),
            ("/srv/git/contracts", None),
            ("https://github.com", None),
            ("https://github.com/a b/c", None),
        ] {
            assert_eq!(repository_name(url).as_deref(), name, "{url}");
        }
    }

    #[test]
    fn commits_are_forty_lowercase_hex_digits() {
        assert!(is_commit_sum(NO_COMMIT));
        assert!(!is_commit_sum("0658FB8B7c6a59483726150413f2e1d0c9b8a796"));
        assert!(!is_commit_sum("0658fb8b"));
    }

    fn run(directory: &Path, arguments: &[&str]) -> bool {
        Command::new("git")
            .arg("-C")
            .arg(directory)
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    #[test]
    fn a_directory_is_clean_only_if_it_holds_exactly_the_commit() {
        let repository = tempfile::tempdir().unwrap();
        let root = repository.path();
        assert_eq!(read_commit(root), None, "no repository");
        if !run(root, &["init", "--initial-branch=main"]) {
            return; // Without git there is nothing to ask: the line above is the whole behaviour.
        }
        assert_eq!(read_commit(root), None, "no commit");
        std::fs::create_dir(root.join("contracts")).unwrap();
        std::fs::write(root.join("contracts/a.json"), "{}").unwrap();
        std::fs::write(root.join(".gitignore"), "*.tmp\n").unwrap();
        assert!(run(root, &["add", "."]) && run(root, &["commit", "--message", "first"]));

        let state = || read_commit(&root.join("contracts")).unwrap().tree;
        assert_eq!(state(), TreeState::Clean);
        std::fs::write(root.join("elsewhere"), "x").unwrap();
        assert_eq!(state(), TreeState::Clean, "only the source directory counts");
        std::fs::write(root.join("contracts/ignored.tmp"), "x").unwrap();
        assert_eq!(state(), TreeState::Dirty, "an ignored file would travel");
        std::fs::remove_file(root.join("contracts/ignored.tmp")).unwrap();
        std::fs::write(root.join("contracts/a.json"), "[]").unwrap();
        assert_eq!(state(), TreeState::Dirty);

        let facts = read_commit(root).unwrap().facts;
        assert!(is_commit_sum(&facts.sha));
        assert_eq!((facts.repository, facts.reference.as_deref()), (None, Some("refs/heads/main")));
    }
}
