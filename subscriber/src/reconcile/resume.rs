//! The start: what the last run left in the cache is cleaned up, verified and served before anything is asked for.

use std::path::Path;
use std::time::SystemTime;

use chrono::Utc;
use shared::daemon::ErrorChain;
use shared::daemon::crash_point::CrashPoint;
use shared::event::{LoadSource, Loaded};
use shared::identifiers::Tag;
use shared::limits::ReleaseLimits;
use shared::release::Release;
use shared::verification::{EmergencyFlag, VerificationFailure};
use streams::event_writer::new_event_id;
use tokio::task::spawn_blocking;

use super::agent::Agent;
use crate::activation::repair_flat_view;
use crate::alarms::Subject;
use crate::cache::{Cache, CacheLock, Current};
use crate::fetch::{StageFailure, check_stored_without_digests, id_of};
use crate::node_state::{LoadedRelease, Provenance, ReleaseId};
use crate::release_directory::{FILES, RELEASE_JSON, ReleaseDirectory, says_to_be};
use crate::reports::{log_loaded, log_reverted};
use crate::retention::{RetentionError, collect};

impl Agent {
    /// Shows the release that this node switched to last, where it still stands in its place by its names and its own
    /// word. Readers see it already; whether its files are intact is found out by [`Agent::resume`].
    pub(super) async fn recognise(&mut self) {
        let Some(active) = self.state.active.as_ref().map(|active| active.id.clone()) else { return };
        let cache = self.cache.clone();
        let stands = move || is_current(&cache, &active.tag) && says_to_be(&cache.release(&active.tag), &active);
        self.verifying = spawn_blocking(stands).await.unwrap_or(false);
        self.intact = self.verifying;
    }

    /// Finds out which release is current and whether it is intact; finishes what an interrupted switch left.
    pub(super) async fn resume(&mut self) {
        self.collect().await;
        self.verify_current().await;
        self.verifying = false;
    }

    async fn verify_current(&mut self) {
        // Until it is verified it is not more than a name.
        self.intact = false;
        let tag = match self.cache.current() {
            Ok(Current::Release(tag)) => tag,
            Ok(Current::Absent) => return tracing::info!("the cache has no current release"),
            Ok(Current::Foreign) => {
                return tracing::warn!("`current` does not point at a release of this cache and will be replaced");
            }
            Err(error) => return self.alarms.raise(Subject::Disk, ErrorChain(&error).to_string()),
        };
        let (home, wanted, limits) = (self.cache.release(&tag), tag.clone(), self.limits);
        let verified = spawn_blocking(move || verify_tag(&home, &wanted, &limits)).await;
        let verified = verified.map_err(StageFailure::from).flatten();
        let (verified, checked) = match self.let_through(&tag, &verified).await {
            Some(unverified) => (Ok(unverified), false),
            None => (verified, true),
        };
        match verified {
            Ok(release) if release.bundle() == &self.target.bundle => self.adopt(&release, checked).await,
            Ok(release) => tracing::warn!(found = %release.bundle(), "the current release belongs to another bundle"),
            Err(failure) => {
                tracing::error!(%tag, error = failure.text(), "the current release is damaged");
                let known = self.state.active.as_ref().map(|active| active.id.clone()).filter(|id| id.tag == tag);
                if let (Some(id), StageFailure::Refused(_)) = (&known, &failure) {
                    self.reporter.failed(id, &failure, None, Some(0)).await;
                }
                self.damaged.extend(known);
            }
        }
    }

    /// Where the emergency flag is raised, the current release serves although its digests do not match.
    async fn let_through(&self, tag: &Tag, verified: &Result<Release, StageFailure>) -> Option<Release> {
        let flag = EmergencyFlag::raised(self.config.integrity.skip_bundle_verification)?;
        let failure = verified.as_ref().err().filter(|failure| failure.is_of_digests())?;
        let (home, wanted, limits) = (self.cache.release(tag), tag.clone(), self.limits);
        let checked = spawn_blocking(move || check_stored_without_digests(&home, &wanted, &limits, flag)).await;
        let release = checked.ok()?.ok()?.release().clone();
        tracing::error!(
            %tag, error = failure.text(),
            "DEMON_SKIP_BUNDLE_VERIFICATION is set: the current release runs UNVERIFIED although its digests do not match"
        );
        Some(release)
    }

    /// Takes the verified current release as the active one. A release that this node does not remember switching to is
    /// reported: the process ended between the switch and its record, or the memory was lost.
    async fn adopt(&mut self, release: &Release, verified: bool) {
        self.intact = true;
        self.files_are_fresh();
        let id = id_of(release);
        let known = self.state.active.clone().filter(|active| active.id == id);
        let git_sha = known.as_ref().and_then(|active| active.git_sha.clone());
        let is_embedded = known.as_ref().map_or_else(
            || self.embedded().is_some_and(|embedded| embedded.id == id),
            |known| known.provenance == Provenance::Embedded,
        );
        let known = known.is_some();
        let source = if is_embedded { LoadSource::Embedded } else { LoadSource::Cache };
        let loaded = Loaded { verified, ..self.loaded(release, source, 0, 0) };
        if known && let Some(active) = &mut self.state.active {
            active.provenance = match (is_embedded, verified) {
                (true, _) => Provenance::Embedded,
                (false, true) => Provenance::Verified,
                (false, false) => Provenance::Unverified,
            };
        }
        if known {
            // The fleet's log knows it since the switch; this process's log starts with it.
            let activation_epoch = self.state.activation_epoch;
            log_loaded(&Loaded { activation_epoch, previous_tag: None, ..loaded }, git_sha.as_deref());
            self.resume_after_switch().await;
        } else {
            if !is_embedded {
                log_loaded(&loaded, None);
            }
            self.remember_switch(id, release, None, loaded).await;
        }
        if let Err(error) = self.repair_view(release).await {
            self.alarms.raise(Subject::Disk, error.text());
        }
    }

    pub(super) async fn repair_view(&self, release: &Release) -> Result<(), StageFailure> {
        let lock = self.cache.lock().await?;
        let (cache, release) = (self.cache.clone(), release.clone());
        Ok(spawn_blocking(move || repair_flat_view(&cache, &lock, &release)).await??)
    }

    /// Removes old releases and leftovers. What cannot be removed is tried again later.
    pub(super) async fn collect(&mut self) {
        // The first one always stays: the one that has proved itself, where the running release still has to.
        let proven = self.state.previous.iter().find(|release| self.state.trials.is_good(&release.id));
        let first = proven.map(|release| release.id.tag.clone());
        let rest =
            self.state.previous.iter().map(|release| release.id.tag.clone()).filter(|tag| Some(tag) != first.as_ref());
        let previous: Vec<Tag> = first.clone().into_iter().chain(rest).collect();
        let ahead = self.state.ahead.staged.iter().map(|staged| &staged.id);
        let awaited: Vec<Tag> = ahead.chain(&self.desired).map(|id| id.tag.clone()).collect();
        let (cache, keep) = (self.cache.clone(), self.config.keep_releases);
        let collected = async {
            let lock = cache.lock().await?;
            let work = move |lock: CacheLock| collect(&cache, &lock, &previous, keep, &awaited, SystemTime::now());
            spawn_blocking(move || work(lock)).await.unwrap_or(Ok(0))
        };
        let collected: Result<usize, RetentionError> = collected.await;
        match collected {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "old releases and leftovers removed"),
            Err(error) => tracing::warn!(error = %ErrorChain(&error), "old releases cannot be removed"),
        }
    }

    /// Remembers a switch, durably, and then records its event.
    pub(super) async fn remember_switch(
        &mut self,
        id: ReleaseId,
        release: &Release,
        git_sha: Option<String>,
        loaded: Loaded,
    ) {
        let provenance = match (loaded.source, loaded.verified) {
            (LoadSource::Embedded, _) => Provenance::Embedded,
            (LoadSource::Cache | LoadSource::Download | LoadSource::Delta, true) => Provenance::Verified,
            (LoadSource::Cache | LoadSource::Download | LoadSource::Delta, false) => Provenance::Unverified,
        };
        let content_digest = release.content_digest();
        let release = LoadedRelease { id, content_digest, git_sha, loaded_at: Utc::now(), provenance };
        let reverted = self.note_trial(&release.id, &loaded);
        let is_revert = reverted.is_some();
        if reverted.is_none() {
            // The release before failed, and another one than the one before it follows.
            self.note_rejection();
        }
        if let Some(reverted) = &reverted {
            log_reverted(reverted);
        }
        self.state.switched_to(release, loaded, reverted, new_event_id());
        self.state.conditions.forget_tampering();
        if provenance == Provenance::Embedded && !is_revert {
            // Going over to the last resort is said as what it is, in place of a `bundle.loaded`.
            // Also where it ran before and its files were gone: each switch is told.
            self.state.unreported_switches.pop_back();
            self.state.conditions.fallback = None;
            self.note_fallback();
        }
        self.save().await;
        self.follow_switch(is_revert).await;
        CrashPoint::SwitchUnreported.reach();
        self.report_waiting().await;
    }
}

/// Verifies the release directory that is current by reading every file of it.
fn verify_tag(home: &Path, tag: &Tag, limits: &ReleaseLimits) -> Result<Release, StageFailure> {
    let directory = ReleaseDirectory::open(home, limits)?;
    let found = directory.release().tag();
    if found != tag {
        return Err(VerificationFailure::rule(RELEASE_JSON, tag.to_string(), found.to_string()).into());
    }
    Ok(directory.verify()?.release().clone())
}

/// Whether the cache still shows this release as current: a look at names, not at content.
pub(super) fn is_current(cache: &Cache, tag: &Tag) -> bool {
    let home = cache.release(tag);
    cache.current().is_ok_and(|current| current == Current::Release(tag.clone()))
        && home.join(RELEASE_JSON).is_file()
        && home.join(FILES).is_dir()
}
