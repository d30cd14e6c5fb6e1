//! Events that nodes report, written in their name: what a test needs of a node that is not there.

use chrono::{DateTime, Utc};
use shared::digest::Sha256Digest;
use shared::event::{BundleEvent, DownloadFailed, LoadSource, Loaded};
use shared::event_chain::EventDraft;
use shared::identifiers::NodeName;
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
