//! Events that nodes report, written in their name: what a test needs of a node that is not there.

use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;
use shared::event::{
    BundleEvent, DownloadFailed, FallbackActivated, FallbackCause, FallbackSource, FetchStrategy, LoadSource, Loaded,
    RefreshAttempt, RestoredRelease, Reverted, Staged, TamperDetected, TamperMode,
};
use shared::event_chain::EventDraft;
use shared::identifiers::{BundleName, NodeName, Tag};
use shared::source::Source;
use streams::event_log::{EventLog, Expectation, Reader};
use streams::event_writer::{EventWriter, new_event_id};

use crate::waiting::PATIENCE;

/// Appends what a node reports, with the time at which it happened by the node's own clock; returns the stream sequence.
pub async fn reported(
    log: &EventLog,
    writer: &mut EventWriter,
    event: impl Into<BundleEvent>,
    happened_at: DateTime<Utc>,
) -> u64 {
    let Source::Node(node) = writer.source().clone() else { panic!("the writer is no node") };
    let last = log.last_on(&shared::subjects::node_filter(&node), Reader::Leader).await.expect("the log can be read");
    let expectation = Expectation::OnNode { node, last: last.map_or(0, |last| last.stream_sequence) };
    let draft = EventDraft { id: new_event_id(), time: happened_at, event: event.into() };
    let appended = writer.append(log, &draft, expectation, PATIENCE).await.expect("the log takes the event");
    appended.stream_sequence
}

/// A writer of a node's events.
pub fn writer_of(node: &str) -> EventWriter {
    EventWriter::in_memory(Source::Node(node.parse::<NodeName>().expect("a valid node name")))
}

/// A switch of bundle `contracts` on channel `latest`.
pub fn loaded(tag: &str, activation_epoch: u64) -> Loaded {
    let digest = Sha256Digest::of(tag.as_bytes());
    Loaded {
        bundle: "contracts".parse().expect("a valid bundle name"),
        tag: tag.parse().expect("a valid tag"),
        tree_digest: digest,
        content_digest: digest,
        channel: Some("latest".parse().expect("a valid channel name")),
        source: LoadSource::Download,
        wire_bytes: 1,
        previous_tag: None,
        duration_ms: 1,
        activation_epoch,
        unrecorded_switches: 0,
        verified: true,
    }
}

/// A fetch of bundle `contracts` that failed.
pub fn download_failed(tag: &str) -> DownloadFailed {
    DownloadFailed {
        bundle: "contracts".parse().expect("a valid bundle name"),
        tag: tag.parse().expect("a valid tag"),
        error: "object is missing".to_owned(),
        network_error: None,
        remediation: "publish it again".to_owned(),
        running_tag: None,
        repeats: 0,
        ahead: false,
    }
}

/// A report of some kind about a bundle: switches up to 3, then attempts, stagings, failures, fallbacks, reverts, tampering.
pub fn any_report(kind: u64, bundle: &str, tag: &str, epoch: u64) -> BundleEvent {
    let (tree_digest, remediation) = (Sha256Digest::of(tag.as_bytes()), "put it right".to_owned());
    let bundle: BundleName = bundle.parse().expect("a valid bundle name");
    let tag: Tag = tag.parse().expect("a valid tag");
    match kind {
        0..4 => Loaded { bundle, ..loaded(tag.as_str(), epoch) }.into(),
        4 => RefreshAttempt { bundle, tag, tree_digest, base_tag: None, strategy: FetchStrategy::Archive }.into(),
        5 => {
            Staged { bundle, tag, tree_digest, strategy: FetchStrategy::Archive, wire_bytes: 9, duration_ms: 7 }.into()
        }
        6 => DownloadFailed { bundle, ..download_failed(tag.as_str()) }.into(),
        7 => FallbackActivated {
            bundle,
            source: FallbackSource::LastGood,
            tag,
            tree_digest,
            content_digest: tree_digest,
            wanted_tag: None,
            cause: FallbackCause::DownloadFailed,
            reason: "object is missing".to_owned(),
            remediation,
            activation_epoch: epoch,
        }
        .into(),
        8 => Reverted {
            bundle,
            tag,
            tree_digest,
            restored: epoch.is_multiple_of(2).then(|| RestoredRelease {
                tag: "v0".parse().expect("a valid tag"),
                tree_digest: Sha256Digest::of(b"v0"),
                content_digest: Sha256Digest::of(b"v0"),
                source: LoadSource::Cache,
                verified: true,
            }),
            failed_epoch: epoch,
            activation_epoch: epoch + 1,
            check: "status 1".to_owned(),
            remediation,
            duration_ms: 4,
        }
        .into(),
        _ => TamperDetected {
            bundle,
            tag,
            tree_digest,
            changed: 1,
            missing: 0,
            extra: 0,
            paths: Vec::new(),
            mode: TamperMode::Report,
            healed: false,
            remediation,
        }
        .into(),
    }
}
