//! The last resort: when nothing that was released can run, the schemas that are compiled into the agent do.

use std::time::Duration;

use chrono::Utc;
use rand::RngExt as _;
use shared::daemon::ErrorChain;
use shared::event::{FetchStrategy, LoadSource};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::agent::Agent;
use crate::embedded::EmbeddedContracts;
use crate::failures::{FailureKey, FailureKind};
use crate::fetch::{StagedRelease, id_of, unpack};
use crate::node_state::ReleaseId;
use crate::plan::Embedded;

/// How long the log may take to say what is desired before the node stops waiting for it: a server that comes up together
/// with its nodes is no outage.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the announcement of a desired release is looked for before it counts as one that cannot be had.
const LOOKS_FOR_ANNOUNCEMENT: u32 = 3;

impl Agent {
    /// The last resort, where there is one for this bundle and its time has come: what is desired is known (and then the
    /// planner says whether it can be had), or has been waited for long enough.
    pub(super) fn last_resort(&mut self) -> Option<Embedded> {
        let due = if self.desired.is_some() {
            self.unannounced == 0 || self.unannounced >= LOOKS_FOR_ANNOUNCEMENT
        } else {
            !self.asked && self.patience_left().is_zero()
        };
        if due { self.embedded() } else { None }
    }

    /// When the last resort's time comes, where nothing else will wake the agent for it.
    pub(super) fn last_resort_in(&self) -> Option<Duration> {
        let waited_for = self.active().is_none() && !self.asked && EmbeddedContracts::serves(&self.target.bundle);
        let left = self.patience_left();
        (waited_for && !left.is_zero()).then(|| left + Duration::from_millis(1))
    }

    fn patience_left(&self) -> Duration {
        let lived = (Utc::now() - self.started_at).to_std().unwrap_or_default();
        PATIENCE.saturating_sub(lived)
    }

    /// The embedded release's name; made on first use.
    pub(super) fn embedded(&mut self) -> Option<Embedded> {
        if !EmbeddedContracts::serves(&self.target.bundle) {
            return None;
        }
        if self.embedded.is_none() {
            let made = EmbeddedContracts::make();
            let made = made.inspect_err(|error| tracing::error!(error = %ErrorChain(error), "no last resort"));
            let release = made.ok()?.release().clone();
            self.embedded = Some(Embedded { id: id_of(&release), content_digest: release.content_digest() });
        }
        self.embedded.clone()
    }

    /// Puts the embedded release into the cache, verified like any other.
    pub(super) async fn embed(&mut self, id: &ReleaseId) {
        let decided = Instant::now();
        let made = spawn_blocking(|| {
            let embedded = EmbeddedContracts::make()?;
            let archive = embedded.archive()?;
            Ok::<_, crate::embedded::EmbeddedError>((embedded.release().clone(), archive))
        });
        let problem = match made.await {
            Ok(Ok((release, archive))) => match unpack(&self.cache, &release, archive, self.limits).await {
                Ok(verified) => {
                    self.damaged.remove(id);
                    self.stage(
                        id,
                        StagedRelease { verified, strategy: FetchStrategy::Archive, wire_bytes: 0 },
                        LoadSource::Embedded,
                        decided,
                    );
                    return;
                }
                Err(failure) => failure.text(),
            },
            Ok(Err(error)) => ErrorChain(&error).to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(tag = %id.tag, error = problem, "the embedded schemas cannot be put into the cache");
        let (retry, spread) = (self.config.timing.retry(), rand::rng().random());
        let delay = |attempts| retry.delay(attempts, spread);
        let key = FailureKey { release: id.clone(), announcement: 0 };
        self.state.failures.note(key, FailureKind::Download, &problem, Utc::now(), delay);
    }
}
