//! What a node finds when its agent starts: each way leads it through other steps.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::json;
use shared::daemon::crash_point::CrashPoint;

use super::{CrashingNode, files_in, json_file};
use crate::handmade_release::contracts_files;

/// Longer than any release is left alone after its last use.
const LONG_AGO: Duration = Duration::from_hours(1);

/// A situation that an agent starts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// The channel has moved.
    NewRelease,
    /// The channel has moved, and somebody deleted the cache.
    EmptyCache,
    /// The channel has moved, and another release stands in the place of the new one.
    OtherReleaseInPlace,
    /// The channel has moved to a release without contracts.
    PlainRelease,
    /// The channel has moved, and the cache holds releases that were last used long ago.
    AgedReleases,
    /// The channel has moved, and staging holds what a killed agent left.
    Leftovers,
    /// The channel has moved, and the memory is under the name that an earlier version gave it.
    EarlierMemory,
    /// The channel has moved, and the memory cannot be read.
    UnreadableMemory,
    /// Somebody put an earlier release into the cache by hand.
    NewPin,
    /// The same, and the channel has moved since.
    EndedPin,
    /// The channel has moved, and an entry of the outbox cannot be read.
    UnreadableEntry,
}

impl Preparation {
    /// The situation that leads an agent to a place; `None` for a place on no way from a start.
    pub fn for_reaching(place: CrashPoint) -> Option<Self> {
        let preparation = match place {
            // Somebody changes the release that runs.
            CrashPoint::RestoredFileWritten | CrashPoint::RestoredFilePlaced => return None,
            CrashPoint::StateTakenFromEarlier => Self::EarlierMemory,
            CrashPoint::CacheDirectoryMade
            | CrashPoint::ViewLinkMade
            | CrashPoint::ViewRenamed
            | CrashPoint::ViewDurable => Self::EmptyCache,
            CrashPoint::ReleaseExchanged | CrashPoint::ReleaseReplaced => Self::OtherReleaseInPlace,
            CrashPoint::ViewRemoved => Self::PlainRelease,
            CrashPoint::ReleaseRetired => Self::AgedReleases,
            CrashPoint::LeftoverFound | CrashPoint::LeftoverRemoved => Self::Leftovers,
            CrashPoint::StateMovedAside => Self::UnreadableMemory,
            CrashPoint::PinSaved => Self::NewPin,
            CrashPoint::PinRemoved => Self::EndedPin,
            CrashPoint::EntrySetAside => Self::UnreadableEntry,
            CrashPoint::StateTakenOver
            | CrashPoint::StateSaving
            | CrashPoint::StateSaved
            | CrashPoint::FileWritten
            | CrashPoint::FileSynced
            | CrashPoint::FileRenamed
            | CrashPoint::StagingMade
            | CrashPoint::StagingLocked
            | CrashPoint::ArchiveCreated
            | CrashPoint::ArchiveChunkWritten
            | CrashPoint::ArchiveWritten
            | CrashPoint::TreeDirectoryMade
            | CrashPoint::TreeFileMade
            | CrashPoint::TreeWritten
            | CrashPoint::TreeEntrySynced
            | CrashPoint::TreeSynced
            | CrashPoint::ReleaseInstalled
            | CrashPoint::ReleaseDurable
            | CrashPoint::StagingClearing
            | CrashPoint::SwitchBegun
            | CrashPoint::OldReleaseTouched
            | CrashPoint::CurrentLinkMade
            | CrashPoint::CurrentRenamed
            | CrashPoint::CurrentDurable
            | CrashPoint::SwitchUnremembered
            | CrashPoint::SwitchUnreported
            | CrashPoint::SwitchReported
            | CrashPoint::ConditionReported
            | CrashPoint::OutboxFileWritten
            | CrashPoint::OutboxFileSynced
            | CrashPoint::OutboxFileRenamed
            | CrashPoint::OutboxLineAdded
            | CrashPoint::OutboxOpened
            | CrashPoint::EventRecorded
            | CrashPoint::EventSealed
            | CrashPoint::EventAnswered
            | CrashPoint::EventConfirmed
            | CrashPoint::EventStored
            | CrashPoint::EntryRemoved => Self::NewRelease,
        };
        Some(preparation)
    }
}

impl CrashingNode<'_> {
    /// Brings the node, whose agent does not run and which has settled before, into a situation.
    pub async fn prepare(&mut self, preparation: Preparation) {
        match preparation {
            Preparation::NewRelease => self.publish().await,
            Preparation::EmptyCache => {
                self.publish().await;
                self.empty_cache();
            }
            Preparation::OtherReleaseInPlace => {
                let tag = self.next_tag();
                let home = self.directories.cache.join("releases").join(&tag);
                fs::create_dir_all(home.join("files")).expect("the cache is writable");
                fs::write(home.join("files/other"), "what somebody put here").expect("the cache is writable");
                self.publish_files(&tag, &contracts_files(&tag)).await;
            }
            Preparation::PlainRelease => {
                let tag = self.next_tag();
                self.publish_files(&tag, &[("policy.json", format!("{{\"of\":\"{tag}\"}}").into_bytes())]).await;
            }
            Preparation::AgedReleases => {
                self.publish().await;
                self.age_releases();
            }
            Preparation::Leftovers => {
                self.publish().await;
                self.leave_leftovers();
            }
            Preparation::EarlierMemory => {
                self.publish().await;
                let memory = self.directories.state.join(format!("state.{}.json", self.bundle));
                fs::rename(memory, self.directories.state.join("state.json")).expect("the state is writable");
            }
            Preparation::UnreadableMemory => {
                self.publish().await;
                self.memories_destroyed += 1;
                let memory = self.directories.state.join(format!("state.{}.json", self.bundle));
                fs::write(memory, "{").expect("the state is writable");
            }
            Preparation::NewPin => self.pin_an_earlier_release(),
            Preparation::EndedPin => {
                self.pin_an_earlier_release();
                self.settle().await;
                self.publish().await;
            }
            Preparation::UnreadableEntry => {
                self.publish().await;
                self.entries_spoiled += 1;
                let waiting = OpenOptions::new().append(true).open(self.outbox().join("waiting.jsonl"));
                let spoiled = waiting.and_then(|mut waiting| waiting.write_all(b"{\n"));
                spoiled.expect("the outbox is writable");
            }
        }
    }

    /// Deletes the cache. No reader can read on in it, so they wait.
    pub fn empty_cache(&mut self) {
        self.held = None;
        let paused = self.readers.pause();
        paused.expect_nothing_current();
        fs::remove_dir_all(&self.directories.cache).expect("its owner may delete the cache");
    }

    /// Makes the cache's releases look unused for long, but for the current one: they may go now, but for those that a
    /// reader holds. Plain readers have no lock and rest on that time, so they wait.
    pub fn age_releases(&mut self) {
        let _paused = self.readers.pause();
        let releases = self.directories.cache.join("releases");
        fs::create_dir_all(releases.join("used-long-ago")).expect("the cache is writable");
        let current = fs::canonicalize(self.directories.cache.join("current")).ok();
        for release in files_in(&releases) {
            if fs::canonicalize(&release).ok() != current {
                age(&release);
            }
        }
    }

    /// Leaves in staging what a killed agent leaves there.
    pub fn leave_leftovers(&mut self) {
        let staging = self.directories.cache.join("staging/0193");
        fs::create_dir_all(staging.join("release/files")).expect("the cache is writable");
        fs::write(staging.join("archive.tar.zst"), "half of it").expect("the cache is writable");
    }

    fn pin_an_earlier_release(&mut self) {
        let releases = self.directories.cache.join("releases");
        let (tag, description) = files_in(&releases)
            .into_iter()
            .filter_map(|home| Some((file_name(&home), json_file(&home.join("release.json"))?)))
            .find(|(tag, _)| ![&self.desired, &self.head].contains(&tag))
            .expect("the cache holds an earlier release");
        let pin = json!({
            "format": 1, "bundle": self.bundle, "tag": tag, "tree_digest": description["tree_digest"],
            "content_digest": description["content_digest"], "actor": null, "time": "2025-09-21T06:00:00Z", "log": null,
        });
        let path = self.directories.cache.with_file_name("contracts.pin");
        fs::write(path, pin.to_string()).expect("the cache's directory is writable");
        self.allowed.insert(tag.clone());
        self.desired = tag;
    }
}

fn age(directory: &Path) {
    let aged = File::open(directory).and_then(|handle| handle.set_modified(SystemTime::now() - LONG_AGO));
    aged.expect("the directory's time can be set");
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
