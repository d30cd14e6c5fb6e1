//! What the node shows over HTTP: brought up to date with each step of the reconcile loop.

use std::fs::File;
use std::io::Read as _;

use chrono::Utc;
use shared::event::TamperMode;
use streams::connection::ConnectionState;
use tokio::task::spawn_blocking;

use super::agent::{Agent, Deafness};
use crate::agent_view::{AgentView, Cause, Integrity, ManifestFacts, Trouble};
use crate::cache::Cache;
use crate::failures::{FailureKey, FailureKind};
use crate::fetch::StageFailure;
use crate::node_state::ReleaseId;
use crate::release_directory::FILES;

/// The file of a contracts release that says when and from what it was made.
const MANIFEST: &str = "manifest.json";
/// Far above what a manifest needs.
const LARGEST_MANIFEST: u64 = 64 << 10;

const WITHDRAWN_REMEDIATION: &str = "move the channel, or this node's pin, to a release that is not withdrawn";
const UNANNOUNCED_PIN_REMEDIATION: &str = "pin one of `demonctl contracts list-releases`, or unset DEMON_CONTRACTS_TAG to \
                                           follow the channel";

impl Agent {
    /// Reads the manifest of the release that runs, once for each release.
    pub(super) async fn read_manifest(&mut self) {
        let Some(active) = self.active().map(|active| active.id.clone()) else { return };
        self.manifest_of(&active).await;
    }

    /// The manifest of a release in the cache, read once.
    pub(super) async fn manifest_of(&mut self, id: &ReleaseId) -> Option<ManifestFacts> {
        if let Some((_, manifest)) = self.manifest.as_ref().filter(|(known, _)| known == id) {
            return manifest.clone();
        }
        let (cache, wanted) = (self.cache.clone(), id.clone());
        let manifest = spawn_blocking(move || manifest(&cache, &wanted)).await.unwrap_or_default();
        self.manifest = Some((id.clone(), manifest.clone()));
        manifest
    }

    /// Remembers why the desired release does not run.
    pub(super) fn note_trouble(&mut self, key: &FailureKey, kind: FailureKind, failure: &StageFailure) {
        let (cause, tag) = (Cause::Failed(kind), key.release.tag.clone());
        let since = self.trouble_since(cause, &tag);
        let (text, remediation) = (failure.text(), failure.remediation().to_owned());
        self.trouble = Some(Trouble { cause, tag, text, remediation, since });
    }

    /// Brings what is shown up to date.
    pub(super) fn show_view(&mut self) {
        self.settle_trouble();
        let status = self.connection.status();
        let active = self.active().map(|active| (active.id.clone(), active.git_sha.clone()));
        let manifest = self.manifest.as_ref().filter(|(of, _)| active.as_ref().is_some_and(|(id, _)| of == id));
        let fresh = AgentView {
            report: self.view.borrow().clone(),
            disabled: false,
            cache: self.target.cache.clone(),
            verifying: self.verifying,
            looked: self.looked,
            connected: status.state == ConnectionState::Connected && self.deafness == Deafness::default(),
            connection_fault: status.last_fault.map(|fault| fault.to_string()),
            manifest: manifest.and_then(|(_, manifest)| manifest.clone()),
            git_sha: active.and_then(|(_, git_sha)| git_sha),
            trouble: self.trouble.clone(),
            trial: self.trial_view(),
            update: self.state.conditions.update.clone(),
            integrity: self.integrity(),
            changed_at: self.shown.borrow().changed_at,
        };
        self.shown.send_if_modified(|shown| {
            let changed = *shown != fresh;
            if changed {
                *shown = AgentView { changed_at: Utc::now(), ..fresh };
            }
            changed
        });
    }

    /// Whether the running release's bytes can be relied on, as far as is known.
    fn integrity(&self) -> Integrity {
        let tampering = self.active().and_then(|active| {
            let tampering = self.state.conditions.tampering.as_ref();
            tampering.filter(|tampering| tampering.release == active.id).cloned()
        });
        Integrity {
            provenance: self.active().map(|active| active.provenance),
            tampering,
            tamper_suspected: self.files.suspected && self.config.integrity.tamper == TamperMode::Strict,
            verification_skipped: self.config.integrity.skip_bundle_verification,
        }
    }

    /// Forgets trouble that is over, and notices what needs no attempt to be known.
    pub(super) fn settle_trouble(&mut self) {
        self.settle_trouble_of_desired();
        if let Some(tag) = self.unannounced_pin.clone() {
            let cause = Cause::Failed(FailureKind::Download);
            let since = self.trouble_since(cause, &tag);
            self.trouble = Some(Trouble {
                cause,
                text: format!("pinned release `{tag}` is not announced"),
                remediation: UNANNOUNCED_PIN_REMEDIATION.to_owned(),
                tag,
                since,
            });
        }
    }

    fn settle_trouble_of_desired(&mut self) {
        let Some(desired) = self.desired.clone() else {
            self.trouble = self.rejection_trouble();
            return;
        };
        let runs = self.active().is_some_and(|active| active.id == desired);
        if runs || self.trouble.as_ref().is_some_and(|trouble| trouble.tag != desired.tag) {
            self.trouble = None;
        }
        if let Some(rejected) = self.rejection_trouble() {
            self.trouble = Some(rejected);
        }
        let content = self.active().filter(|_| runs).map(|active| active.content_digest);
        if self.withdrawn.holds(desired.tree_digest, content) {
            let since = self.trouble_since(Cause::Withdrawn, &desired.tag);
            let instead = if runs {
                "and the node has none that may run instead: it keeps running"
            } else {
                "what ran before or is built in runs instead"
            };
            self.trouble = Some(Trouble {
                cause: Cause::Withdrawn,
                text: format!("release `{}` is withdrawn; {instead}", desired.tag),
                remediation: WITHDRAWN_REMEDIATION.to_owned(),
                tag: desired.tag,
                since,
            });
        }
    }

    /// Since when the same trouble lasts; now, where it is new.
    fn trouble_since(&self, cause: Cause, tag: &shared::identifiers::Tag) -> chrono::DateTime<Utc> {
        let same = self.trouble.as_ref().filter(|trouble| (trouble.cause, &trouble.tag) == (cause, tag));
        same.map_or_else(Utc::now, |trouble| trouble.since)
    }
}

/// The manifest of a release that was verified; `None` where it has none of the known form.
fn manifest(cache: &Cache, id: &ReleaseId) -> Option<ManifestFacts> {
    let file = File::open(cache.release(&id.tag).join(FILES).join(MANIFEST)).ok()?;
    let mut text = Vec::new();
    file.take(LARGEST_MANIFEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
