//! Named places between two steps of durable work, at which a test can end the process.
//!
//! In a build with debug assertions `DEMON_CRASH_AT=<name>` makes the process kill itself (SIGKILL) when it reaches that
//! place, `DEMON_CRASH_AT=<name>#<n>` when it reaches it for the n-th time. Nothing is flushed, dropped or reported: it is
//! what the kernel does to a process that runs out of memory. In a build without debug assertions (every release build)
//! [`CrashPoint::reach`] is empty and the variable is not read.
//!
//! Every name stands here. That each of them is reached, and that no step of the agent that changes the disk lacks one,
//! is checked by the acceptance tests. Reasons: ADR 0016.

/// Declares the places with their names.
macro_rules! crash_points {
    ($($(#[doc = $text:literal])+ $place:ident = $name:literal,)+) => {
        /// A place at which a test can end the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CrashPoint {
            $($(#[doc = $text])+ $place,)+
        }

        impl CrashPoint {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$place,)+];

            /// What the variable calls it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$place => $name,)+
                }
            }
        }
    };
}

crash_points! {
    /// A directory of the cache was made; others may be missing.
    CacheDirectoryMade = "cache.directory-made",
    /// The state directory is this process's; nothing was read from it.
    StateTakenOver = "state.taken-over",
    /// A memory that cannot be read was moved aside.
    StateMovedAside = "state.moved-aside",
    /// The memory of an earlier version was taken over and its file removed.
    StateTakenFromEarlier = "state.taken-from-earlier",
    /// The memory is about to be replaced.
    StateSaving = "state.saving",
    /// The memory is durable.
    StateSaved = "state.saved",
    /// A small file of the agent stands under its temporary name, not synced.
    FileWritten = "file.written",
    /// Its content is synced.
    FileSynced = "file.synced",
    /// It has its name; the directory is not synced.
    FileRenamed = "file.renamed",
    /// A staging directory exists that nobody has locked.
    StagingMade = "staging.made",
    /// A staging directory is locked and empty.
    StagingLocked = "staging.locked",
    /// The file for the archive exists, empty.
    ArchiveCreated = "archive.created",
    /// A part of the archive is written.
    ArchiveChunkWritten = "archive.chunk-written",
    /// All of the archive is written; nothing is unpacked.
    ArchiveWritten = "archive.written",
    /// A directory of the tree was made.
    TreeDirectoryMade = "tree.directory-made",
    /// A file of the tree was made, empty.
    TreeFileMade = "tree.file-made",
    /// All files are written and compared with their digests; nothing is synced.
    TreeWritten = "tree.written",
    /// A file or directory of the tree is synced; others may not be.
    TreeEntrySynced = "tree.entry-synced",
    /// The tree is durable, in staging.
    TreeSynced = "tree.synced",
    /// The release stands in its place; the directory is not synced.
    ReleaseInstalled = "release.installed",
    /// The release stands in its place, durably. It is not current.
    ReleaseDurable = "release.durable",
    /// What stood in a release's place has changed places with it and lies in staging.
    ReleaseExchanged = "release.exchanged",
    /// What stood in a release's place lies aside and waits to be removed.
    ReleaseReplaced = "release.replaced",
    /// A file that goes back into a running release is written and compared, and lies aside.
    RestoredFileWritten = "restored-file.written",
    /// It stands in its place; the directory is not synced.
    RestoredFilePlaced = "restored-file.placed",
    /// The emptied staging directory is about to be removed.
    StagingClearing = "staging.clearing",
    /// The switch holds the lock and has changed nothing.
    SwitchBegun = "switch.begun",
    /// The release that was current has the time of its last use.
    OldReleaseTouched = "switch.old-touched",
    /// The new `current` stands under its temporary name.
    CurrentLinkMade = "current.link-made",
    /// The new release is current; the directory is not synced.
    CurrentRenamed = "current.renamed",
    /// The new release is current, durably.
    CurrentDurable = "current.durable",
    /// A link of the flat view stands under its temporary name.
    ViewLinkMade = "view.link-made",
    /// It has its name; the directory is not synced.
    ViewRenamed = "view.renamed",
    /// It is durable.
    ViewDurable = "view.durable",
    /// A link of the flat view was removed, because the release has no such file.
    ViewRemoved = "view.removed",
    /// The switch is done; no memory of it is on disk.
    SwitchUnremembered = "switch.unremembered",
    /// The memory of the switch is durable; its event is not recorded.
    SwitchUnreported = "switch.unreported",
    /// The event of the switch is recorded; the memory still says that it is not.
    SwitchReported = "switch.reported",
    /// An event about how the node stands is recorded; the memory still says that it is not.
    ConditionReported = "condition.reported",
    /// An old release was taken out of `releases/`.
    ReleaseRetired = "retention.retired",
    /// Something in staging that nobody uses is about to be removed.
    LeftoverFound = "retention.leftover-found",
    /// It is gone.
    LeftoverRemoved = "retention.leftover-removed",
    /// The local pin is written, durably.
    PinSaved = "pin.saved",
    /// The local pin is removed.
    PinRemoved = "pin.removed",
    /// A file of a writer or outbox stands under its temporary name, not synced.
    OutboxFileWritten = "outbox-file.written",
    /// Its content is synced.
    OutboxFileSynced = "outbox-file.synced",
    /// It has its name; the directory is not synced.
    OutboxFileRenamed = "outbox-file.renamed",
    /// A line that needs no sync was added to a file of an outbox.
    OutboxLineAdded = "outbox-line.added",
    /// The writer's directory is locked; its state was not read.
    OutboxOpened = "outbox.opened",
    /// An event is durable in the outbox; whoever recorded it does not know.
    EventRecorded = "event.recorded",
    /// An event is numbered, sealed and durable; it was not sent.
    EventSealed = "event.sealed",
    /// The log has answered to an event; nobody has looked at the answer.
    EventAnswered = "event.answered",
    /// The log has confirmed an event; the writer's file does not say so.
    EventConfirmed = "event.confirmed",
    /// The writer knows that the event is stored, and its file may not say so; its entry still waits in the outbox.
    EventStored = "event.stored",
    /// The entry is gone from the outbox.
    EntryRemoved = "event.entry-removed",
    /// An entry that can never be sent was set aside.
    EntrySetAside = "event.entry-set-aside",
}

impl CrashPoint {
    /// Ends the process here where a test asked for it, else nothing. Empty without debug assertions.
    #[inline]
    pub fn reach(self) {
        #[cfg(debug_assertions)]
        armed::reach(self);
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::CrashPoint;

    const VARIABLE: &str = "DEMON_CRASH_AT";

    #[derive(Debug)]
    pub(super) struct Order {
        pub(super) point: CrashPoint,
        /// How often it will be passed before.
        pub(super) passes: AtomicU32,
    }

    pub(super) fn reach(point: CrashPoint) {
        static ORDER: OnceLock<Option<Order>> = OnceLock::new();
        let order = ORDER.get_or_init(|| std::env::var(VARIABLE).ok().as_deref().and_then(parse));
        if order.as_ref().is_some_and(|order| order.is_due(point)) {
            // Cannot fail: a process may always kill itself.
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }

    impl Order {
        fn is_due(&self, point: CrashPoint) -> bool {
            let passed = || self.passes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
            self.point == point && passed().is_err()
        }
    }

    /// A text that names no place is no order: the test that gave it finds the process alive.
    pub(super) fn parse(text: &str) -> Option<Order> {
        let (name, time) = text.split_once('#').unwrap_or((text, "1"));
        let point = CrashPoint::ALL.iter().copied().find(|point| point.name() == name)?;
        let passes = time.parse::<u32>().ok()?.checked_sub(1)?;
        Some(Order { point, passes: AtomicU32::new(passes) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_order_is_due_at_its_place_and_at_no_other_once_it_was_passed_often_enough() {
            let order = parse("file.synced#3").unwrap();
            let due = [CrashPoint::FileSynced, CrashPoint::FileWritten, CrashPoint::FileSynced, CrashPoint::FileSynced];
            assert_eq!(due.map(|point| order.is_due(point)), [false, false, false, true]);
            assert!(parse("file.synced").unwrap().is_due(CrashPoint::FileSynced));
        }

        #[test]
        fn what_names_no_place_is_no_order() {
            for text in ["", "file", "file.synced#0", "file.synced#x", "file.synced#"] {
                assert!(parse(text).is_none(), "{text}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_place_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), CrashPoint::ALL.len());
    }
}
