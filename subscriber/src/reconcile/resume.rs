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
use shared::verification::VerificationFailure;
use streams::event_writer::new_event_id;
use tokio::task::spawn_blocking;

use super::agent::Agent;
use crate::activation::repair_flat_view;
use crate::alarms::Subject;
use crate::cache::{Cache, CacheLock, Current};
use crate::fetch::{StageFailure, id_of};
use crate::node_state::{LoadedRelease, ReleaseId};
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
        match verified.map_err(StageFailure::from).flatten() {
            Ok(release) if release.bundle() == &self.target.bundle => self.adopt(&release).await,
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

    /// Takes the verified current release as the active one. A release that this node does not remember switching to is
    /// reported: the process ended between the switch and its record, or the memory was lost.
    async fn adopt(&mut self, release: &Release) {
        self.intact = true;
        let id = id_of(release);
        let known = self.state.active.as_ref().filter(|active| active.id == id);
        let git_sha = known.and_then(|active| active.git_sha.clone());
        let loaded = self.loaded(release, LoadSource::Cache, 0, 0);
        if known.is_some() {
            // The fleet's log knows it since the switch; this process's log starts with it.
            let activation_epoch = self.state.activation_epoch;
            log_loaded(&Loaded { activation_epoch, previous_tag: None, ..loaded }, git_sha.as_deref());
            self.resume_after_switch().await;
        } else {
            log_loaded(&loaded, None);
            self.remember_switch(id, release, None, loaded).await;
        }
        if let Err(error) = self.repair_view(release).await {
            self.alarms.raise(Subject::Disk, error.text());
        }
    }

    async fn repair_view(&self, release: &Release) -> Result<(), StageFailure> {
        let lock = self.cache.lock().await?;
        let (cache, release) = (self.cache.clone(), release.clone());
        Ok(spawn_blocking(move || repair_flat_view(&cache, &lock, &release)).await??)
    }

    /// Removes old releases and leftovers. What cannot be removed is tried again later.
    pub(super) async fn collect(&mut self) {
        let previous: Vec<Tag> = self.state.previous.iter().map(|release| release.id.tag.clone()).collect();
        let (cache, keep) = (self.cache.clone(), self.config.keep_releases);
        let collected = async {
            let lock = cache.lock().await?;
            let work = move |lock: CacheLock| collect(&cache, &lock, &previous, keep, SystemTime::now());
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
        let release = LoadedRelease { id, content_digest: release.content_digest(), git_sha, loaded_at: Utc::now() };
        let reverted = self.note_trial(&release.id, &loaded);
        if reverted.is_none() {
            // The release before failed, and another one than the one before it follows.
            self.report_rejection().await;
        }
        let is_revert = reverted.is_some();
        if let Some(reverted) = &reverted {
            log_reverted(reverted);
        }
        self.state.switched_to(release, loaded, reverted, new_event_id());
        self.save().await;
        self.follow_switch(is_revert).await;
        CrashPoint::SwitchUnreported.reach();
        self.report_switches().await;
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
