//! Comparing the running release with what was announced, while it runs, and putting back what is its own.

use std::time::Duration;

use chrono::Utc;
use shared::event::{TamperDetected, TamperMode};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::agent::Agent;
use super::heartbeat::jittered;
use super::wake_ups::WakeUps;
use crate::alarms::Subject;
use crate::conditions::{ConditionEvent, Tampering};
use crate::desired::announcement;
use crate::embedded::EmbeddedContracts;
use crate::fetch::{StageFailure, Way, fetch, unpack};
use crate::node_state::{LoadedRelease, Provenance};
use crate::tamper::{Damage, Stamps, compare_since, put_back_missing, rebuild};

/// Between two comparisons that hints cause: somebody who edits in a loop does not keep the agent reading.
const HINT_SPACING: Duration = Duration::from_secs(5);
const WHOLE_AGAIN: &str = "nothing: the files are those of the release again; find out who writes into the cache";
const REPORT_REMEDIATION: &str = "find out who writes into the cache; `rm -rf` it and the agent fills it again, or set \
                                  DEMON_TAMPER=heal";
const NOT_HEALED_REMEDIATION: &str = "the agent tries again: check its connection, the disk, and whether the release is \
                                      still announced";

/// How much is read to compare the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// All of it.
    EveryByte,
    /// What the file system says was touched since it was last read.
    Touched,
}

/// When the files are compared next, and what is suspected until then.
#[derive(Debug, Default)]
pub(super) struct FileChecks {
    /// The next comparison; `None` until a release runs.
    due: Option<Instant>,
    /// The next one that reads every byte, whatever the file system says.
    whole_due: Option<Instant>,
    /// The last one.
    last: Option<Instant>,
    /// What was read and found right in this process.
    stamps: Stamps,
    /// Something changed since the last comparison, the system says.
    pub(super) suspected: bool,
    /// The directory was replaced: what watches it watches the old one.
    pub(super) replaced: bool,
}

impl FileChecks {
    /// The system says that something changed.
    pub(super) fn hint(&mut self, now: Instant) {
        self.suspected = true;
        let earliest = self.last.map_or(now, |last| last + HINT_SPACING);
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// The files were compared just now: every byte of them, or what was touched since.
    fn compared(&mut self, now: Instant, interval: Duration, depth: Depth) {
        let next = now + interval;
        if depth == Depth::EveryByte {
            self.whole_due = Some(next);
        }
        self.last = Some(now);
        self.due = Some(self.whole_due.map_or(next, |due| due.min(next)));
        self.suspected = false;
    }

    /// How much a comparison has to read now: what was touched where a hint brought it forward, else everything.
    fn depth(&self, now: Instant) -> Depth {
        let waits = self.whole_due.is_some_and(|due| now < due);
        if waits && !self.stamps.is_empty() { Depth::Touched } else { Depth::EveryByte }
    }

    /// How long until the next comparison.
    pub(super) fn rest(&self, now: Instant) -> Duration {
        self.due.map_or(Duration::MAX, |due| due.saturating_duration_since(now))
    }
}

impl Agent {
    /// The release that ran was verified byte for byte a moment ago.
    pub(super) fn files_are_fresh(&mut self) {
        self.state.conditions.tampering = None;
        let unsaid = self.state.conditions.unsaid_for().unwrap_or(Duration::MAX);
        self.files.compared(
            Instant::now(),
            jittered(self.config.integrity.tamper_interval.min(unsaid)),
            Depth::EveryByte,
        );
        self.files.replaced = true;
        self.alarms.clear(Subject::Tamper);
    }

    /// Compares the running release, where it is time to, and acts as the settings say.
    pub(super) async fn check_files(&mut self, wake_ups: &mut WakeUps) {
        let Some(active) = self.active().cloned() else { return };
        if self.files.due.is_none() {
            // Verified when it was switched to, or at the start.
            self.files_are_fresh();
        }
        // Of an unverified release nobody knows what its files should be.
        if active.provenance == Provenance::Unverified || !self.files.rest(Instant::now()).is_zero() {
            return;
        }
        let depth = self.files.depth(Instant::now());
        let Some(found) = self.compare_files(&active, depth).await else { return };
        let left = if found.is_none() { Damage::default() } else { self.restore(&active, &found, wake_ups).await };
        self.note_files(&active, &found, &left);
        let tampered = self.state.conditions.tampering.is_some();
        let soon =
            tampered.then(|| self.config.timing.retry().longest).into_iter().chain(self.state.conditions.unsaid_for());
        let next = soon.fold(self.config.integrity.tamper_interval, Duration::min);
        self.files.compared(Instant::now(), jittered(next), depth);
        self.save().await;
        self.report_waiting().await;
    }

    async fn compare_files(&mut self, active: &LoadedRelease, depth: Depth) -> Option<Damage> {
        let (home, id, limits) = (self.cache.release(&active.id.tag), active.id.clone(), self.limits);
        let mut stamps = std::mem::take(&mut self.files.stamps);
        if depth == Depth::EveryByte {
            stamps = Stamps::default();
        }
        let compared = spawn_blocking(move || {
            let damage = compare_since(&home, &id, &limits, &mut stamps);
            (damage, stamps)
        });
        match compared.await {
            Ok((Ok(damage), stamps)) => {
                self.files.stamps = stamps;
                Some(damage)
            }
            Ok((Err(error), _)) => {
                self.alarms.raise(Subject::Disk, format!("the running release cannot be read: {error}"));
                self.files.compared(Instant::now(), jittered(self.config.timing.interval), Depth::EveryByte);
                None
            }
            Err(_) => None,
        }
    }

    /// Puts back what is to be put back. Returns what is wrong after it.
    async fn restore(&mut self, active: &LoadedRelease, found: &Damage, wake_ups: &mut WakeUps) -> Damage {
        let only_missing = self.config.integrity.tamper == TamperMode::Report;
        if only_missing && found.missing == 0 {
            return found.clone();
        }
        let restored = match self.restore_from_cache(active, only_missing).await {
            Ok(true) => Ok(()),
            Ok(false) => self.restore_whole(active, wake_ups).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = restored {
            tracing::error!(tag = %active.id.tag, error = failure.text(), "the running release cannot be made whole");
            return found.clone();
        }
        self.files.replaced = true;
        self.compare_files(active, Depth::EveryByte).await.unwrap_or_else(|| found.clone())
    }

    async fn restore_from_cache(&mut self, active: &LoadedRelease, only_missing: bool) -> Result<bool, StageFailure> {
        let lock = self.cache.lock().await?;
        let (cache, id, limits) = (self.cache.clone(), active.id.clone(), self.limits);
        let work = move || {
            if only_missing {
                put_back_missing(&cache, &lock, &id, &limits)
            } else {
                rebuild(&cache, &lock, &id, &limits)
            }
        };
        let restored = spawn_blocking(work).await??;
        if restored {
            self.repair_links(active).await?;
        }
        Ok(restored)
    }

    /// Puts the whole release in the place of the damaged one: from the agent itself, or fetched again.
    async fn restore_whole(&mut self, active: &LoadedRelease, wake_ups: &mut WakeUps) -> Result<(), StageFailure> {
        if active.provenance == Provenance::Embedded {
            let made = EmbeddedContracts::make().and_then(|embedded| {
                let archive = embedded.archive()?;
                Ok((embedded.release().clone(), archive))
            });
            let (release, archive) = made.map_err(|error| StageFailure::Archive(std::io::Error::other(error)))?;
            unpack(&self.cache, &release, archive, self.limits).await?;
            return self.repair_links(active).await;
        }
        let announced = announcement(&self.log, &self.target.bundle, &active.id.tag).await;
        let announced = announced.ok().flatten().map(|(_, published)| published);
        let Some(announced) = announced.filter(|announced| announced.tree_digest == active.id.tree_digest) else {
            let reason = "the cache has no other copy, and the log cannot be asked for its announcement now";
            return Err(StageFailure::Archive(std::io::Error::other(reason)));
        };
        // Its own files are what is in doubt: nothing here is taken as a base.
        let failed = self.trial_failed();
        tokio::select! {
            fetched = fetch(&self.store, &self.cache, &announced, &Way::Archive, self.limits, &()) => { fetched?; }
            // What is to be exchanged anyway is not waited for.
            () = self.superseded(&active.id, wake_ups) => return Err(put_off("another release is desired now")),
            () = failed => return Err(put_off("it failed its health check")),
        }
        self.repair_links(active).await
    }

    /// The flat view and the checksum file of the running release.
    async fn repair_links(&mut self, active: &LoadedRelease) -> Result<(), StageFailure> {
        let (home, limits) = (self.cache.release(&active.id.tag), self.limits);
        let opened = spawn_blocking(move || {
            crate::release_directory::ReleaseDirectory::open(&home, &limits)
                .map(|directory| directory.release().clone())
        });
        let release = opened.await??;
        self.repair_view(&release).await
    }

    /// Notes what was found and what is left of it, and says so where that is news.
    fn note_files(&mut self, active: &LoadedRelease, found: &Damage, left: &Damage) {
        let now = Utc::now();
        let mode = self.config.integrity.tamper;
        let tampering = (!left.is_none()).then(|| Tampering {
            release: active.id.clone(),
            since: now,
            changed: left.changed,
            missing: left.missing,
            extra: left.extra,
            paths: left.paths.clone(),
        });
        let healed = left.is_none();
        let conditions = &mut self.state.conditions;
        let news = conditions.enter_tampering(tampering, now)
            || (healed && !found.is_none() && conditions.may_speak_of_files(now));
        self.alarms.set(Subject::Tamper, conditions.tampering.as_ref().map(Tampering::describe));
        if !news {
            if !found.is_none() {
                tracing::warn!(tag = %active.id.tag, healed, damage = %found, "files of the running release changed again");
            }
            return;
        }
        let remediation = match (healed, mode) {
            (true, _) => WHOLE_AGAIN,
            (false, TamperMode::Report) => REPORT_REMEDIATION,
            (false, TamperMode::Heal | TamperMode::Strict) => NOT_HEALED_REMEDIATION,
        };
        self.tell(ConditionEvent::TamperDetected(TamperDetected {
            bundle: self.target.bundle.clone(),
            tag: active.id.tag.clone(),
            tree_digest: active.id.tree_digest,
            changed: found.changed,
            missing: found.missing,
            extra: found.extra,
            paths: found.paths.clone(),
            mode,
            healed,
            remediation: remediation.to_owned(),
        }));
    }
}

fn put_off(why: &str) -> StageFailure {
    StageFailure::Archive(std::io::Error::new(std::io::ErrorKind::Interrupted, format!("put off: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_bring_the_comparison_forward_but_not_more_often_than_every_five_seconds() {
        let (mut checks, start) = (FileChecks::default(), Instant::now());
        assert_eq!(checks.rest(start), Duration::MAX);
        checks.compared(start, Duration::from_mins(5), Depth::EveryByte);
        assert_eq!(checks.rest(start), Duration::from_mins(5));
        checks.hint(start + Duration::from_secs(1));
        assert!(checks.suspected);
        assert_eq!(checks.rest(start + Duration::from_secs(1)), Duration::from_secs(4));
        checks.compared(start + Duration::from_secs(5), Duration::from_mins(5), Depth::EveryByte);
        assert!(!checks.suspected);
        checks.hint(start + Duration::from_mins(1));
        assert_eq!(checks.rest(start + Duration::from_mins(1)), Duration::ZERO);
    }

    #[test]
    fn a_hint_reads_what_was_touched_and_puts_off_no_comparison_of_every_byte() {
        let (mut checks, start) = (FileChecks::default(), Instant::now());
        let at = |minutes| start + Duration::from_mins(minutes);
        assert_eq!(checks.depth(start), Depth::EveryByte);
        checks.compared(start, Duration::from_mins(5), Depth::EveryByte);
        assert_eq!(checks.depth(at(1)), Depth::EveryByte, "nothing was read in this process yet");
        for minute in 1..5 {
            checks.hint(at(minute));
            checks.compared(at(minute), Duration::from_mins(5), Depth::Touched);
            assert_eq!(checks.rest(at(minute)), Duration::from_mins(5 - minute));
        }
        assert_eq!(checks.depth(at(5)), Depth::EveryByte);
    }
}
