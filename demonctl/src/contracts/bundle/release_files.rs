//! The three files of a contracts release, written to a directory.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use publisher::contracts_bundle::{CONTRACTS_BUNDLE, ContractsBundle};
use publisher::git_facts::{Commit, TreeState};
use publisher::release_facts::ReleaseFacts;
use publisher::tag::derive_tag;
use shared::event::{GitFacts, Trigger};
use tempfile::NamedTempFile;

/// What everybody may do with the files, whatever the caller's mask says.
const MODE: u32 = 0o644;

/// Writes the release's files. Each takes the place of its predecessor in one step, and only when all are complete and
/// on the disk: a failure on the way leaves what was there. Blocks.
pub(super) fn write(
    directory: &Path,
    bundle: &ContractsBundle,
    timestamp: DateTime<Utc>,
    git: Option<GitFacts>,
    trigger: Trigger,
) -> anyhow::Result<()> {
    let failed = || format!("the release cannot be written to `{}`", directory.display());
    let name = CONTRACTS_BUNDLE.parse()?;
    let commit = git.clone().map(|facts| Commit { facts, tree: TreeState::Clean });
    let tag = derive_tag(&name, timestamp, commit.as_ref(), bundle.digest())?;
    let tree = bundle.tree(&ReleaseFacts { bundle: name, tag, timestamp, git, trigger })?;
    fs::create_dir_all(directory).with_context(failed)?;
    let mut staged = Vec::new();
    for file in tree.files() {
        let mut content = Vec::new();
        tree.open(&file.path).and_then(|mut reader| reader.read_to_end(&mut content)).with_context(failed)?;
        staged.push((directory.join(file.path.as_str()), stage(directory, &content).with_context(failed)?));
    }
    for (path, file) in staged {
        file.persist(path).with_context(failed)?;
    }
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(failed)
}

fn stage(directory: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".release-").tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(MODE))?;
    file.as_file().sync_all()?;
    Ok(file)
}
