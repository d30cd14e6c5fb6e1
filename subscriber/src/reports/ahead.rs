//! What is said of a release that could not be fetched before it was promoted: nothing is amiss with the node.

use shared::daemon::AUDIT_TARGET;
use shared::event::{DownloadFailed, VerificationFailed};
use shared::identifiers::Tag;

use super::{Reporter, shortened};
use crate::fetch::StageFailure;
use crate::metrics::Operation;
use crate::node_state::ReleaseId;

impl Reporter {
    /// A release could not be had ahead. `tell` says whether the fleet's log is told, which it is once for each release.
    pub(crate) async fn not_had_ahead(
        &self,
        release: &ReleaseId,
        failure: &StageFailure,
        running: Option<&Tag>,
        tell: bool,
    ) {
        self.metrics.count(Operation::NotStagedAhead);
        let (error, remediation) = (failure.text(), failure.remediation());
        let refused = failure.refusal();
        let event = if refused.is_some() { "bundle.verification_failed" } else { "bundle.download_failed" };
        tracing::warn!(
            target: AUDIT_TARGET, event, bundle = %self.bundle, tag = %release.tag, error, remediation, ahead = true,
            running_tag = running.map(Tag::as_str), "release cannot be had before it is promoted"
        );
        if !tell {
            return;
        }
        let (bundle, tag, remediation) = (self.bundle.clone(), release.tag.clone(), remediation.to_owned());
        let running_tag = running.cloned();
        if let Some(refused) = refused {
            let event = VerificationFailed {
                bundle,
                tag,
                tree_digest: release.tree_digest,
                check: refused.check,
                item: shortened(&refused.item),
                expected: shortened(&refused.expected),
                actual: shortened(&refused.actual),
                remediation,
                running_tag,
                repeats: 0,
                ahead: true,
            };
            self.record(event).await;
        } else {
            let network_error = failure.network_error();
            let event =
                DownloadFailed { bundle, tag, error, network_error, remediation, running_tag, repeats: 0, ahead: true };
            self.record(event).await;
        }
    }
}
