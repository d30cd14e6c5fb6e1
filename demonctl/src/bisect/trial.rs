//! One trial: a release on disk, and the user's command in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use publisher::channel_history::ChannelHead;
use publisher::release_register::ReleaseRegister;
use serde::Serialize;
use shared::digest::Sha256Digest;
use shared::identifiers::Tag;
use streams::connection::Connection;
use streams::release_store::ReleaseStore;
use subscriber::checkout::{Foreign, Origin, into_directory};
use tokio::process::Command;

use super::search::Verdict;
use crate::fetch_progress::FetchProgress;
use crate::output::note;

/// "Cannot say", as for other tools of this kind.
const CANNOT_SAY: i32 = 125;
/// Beyond it, shells report commands that they cannot run, and signals: neither says anything about a release.
const LAST_BAD: i32 = 124;

/// A promotion that was tried.
#[derive(Debug, Serialize)]
pub(super) struct Tried {
    sequence: u64,
    tag: Tag,
    verdict: Verdict,
    /// The command's exit code; absent where the release was judged before, under another promotion.
    exit_code: Option<i32>,
}

/// The trials of one search.
pub(super) struct Trials<'a> {
    store: ReleaseStore,
    register: &'a ReleaseRegister,
    command: &'a [String],
    verdicts: BTreeMap<Sha256Digest, Verdict>,
    tried: Vec<Tried>,
}

impl<'a> Trials<'a> {
    pub(super) fn new(connection: &Connection, register: &'a ReleaseRegister, command: &'a [String]) -> Self {
        let store = ReleaseStore::new(connection.clone());
        Self { store, register, command, verdicts: BTreeMap::new(), tried: Vec::new() }
    }

    /// Judges a promotion; nothing where the command wants the search to end. The same files are judged once.
    pub(super) async fn judge(&mut self, head: &ChannelHead) -> anyhow::Result<Option<Verdict>> {
        let promoted = &head.promoted;
        let (verdict, exit_code) = if let Some(verdict) = self.verdicts.get(&promoted.tree_digest) {
            (*verdict, None)
        } else {
            let status = self.run(head).await?;
            match verdict_of(status) {
                Some(verdict) => (verdict, status.code()),
                None => return Ok(None),
            }
        };
        let words = match verdict {
            Verdict::Good => "good",
            Verdict::Bad => "bad",
            Verdict::Skip => "cannot say",
        };
        note(&format!("{} (event {}): {words}", promoted.tag, head.stream_sequence));
        self.verdicts.insert(promoted.tree_digest, verdict);
        let (sequence, tag) = (head.stream_sequence, promoted.tag.clone());
        self.tried.push(Tried { sequence, tag, verdict, exit_code });
        Ok(Some(verdict))
    }

    /// What was tried, in order.
    pub(super) fn into_tried(self) -> Vec<Tried> {
        self.tried
    }

    async fn run(&self, head: &ChannelHead) -> anyhow::Result<ExitStatus> {
        let promoted = &head.promoted;
        let Some((published, _)) = self.register.find(&promoted.tag) else {
            bail!("release `{}` was never announced, so it cannot be fetched", promoted.tag);
        };
        if published.tree_digest != promoted.tree_digest {
            bail!("release `{}` was announced with another tree digest than it was promoted with", promoted.tag);
        }
        let directory = tempfile::Builder::new().prefix("demon-bisect-").tempdir();
        let directory = directory.context("no temporary directory can be made")?;
        let files = directory.path().join("files");
        let progress = FetchProgress::new(published.archive.size);
        let origin = Origin::Store { store: &self.store, published, progress: &progress };
        into_directory(&origin, &files, BTreeSet::new(), Foreign::Refuse).await?;
        drop(progress);
        let Some((program, arguments)) = self.command.split_first() else { bail!("there is no command to run") };
        let status = Command::new(program)
            .args(arguments)
            .current_dir(&files)
            .env("DEMON_BISECT_BUNDLE", promoted.bundle.as_str())
            .env("DEMON_BISECT_CHANNEL", promoted.channel.as_str())
            .env("DEMON_BISECT_TAG", promoted.tag.as_str())
            .env("DEMON_BISECT_SEQUENCE", head.stream_sequence.to_string())
            .env("DEMON_BISECT_TREE_DIGEST", promoted.tree_digest.to_string())
            .env("DEMON_BISECT_DIRECTORY", &files)
            .stdin(Stdio::null())
            // Standard output is for the result.
            .stdout(Stdio::from(rustix::io::dup(io::stderr()).context("standard error cannot be shared")?))
            .kill_on_drop(true)
            .status()
            .await;
        status.with_context(|| format!("command `{program}` cannot be run"))
    }
}

/// Nothing where the search should end.
fn verdict_of(status: ExitStatus) -> Option<Verdict> {
    match status.code()? {
        0 => Some(Verdict::Good),
        CANNOT_SAY => Some(Verdict::Skip),
        1..=LAST_BAD => Some(Verdict::Bad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn exit_codes_are_verdicts() {
        let verdict = |code: i32| verdict_of(ExitStatus::from_raw(code << 8));
        assert_eq!(verdict(0), Some(Verdict::Good));
        assert_eq!((verdict(1), verdict(124)), (Some(Verdict::Bad), Some(Verdict::Bad)));
        assert_eq!(verdict(125), Some(Verdict::Skip));
        assert_eq!((verdict(127), verdict(255)), (None, None), "a command that is not there judges nothing");
        assert_eq!(verdict_of(ExitStatus::from_raw(9)), None, "killed");
    }
}
