//! Events for the tests of the folds.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use crate::digest::Sha256Digest;
use crate::event::{
    BundleEvent, DownloadFailed, FallbackActivated, FallbackCause, FallbackSource, FetchStrategy, GitFacts, Hold,
    LoadSource, Loaded, ObjectReference, Promoted, PromotionCause, Published, RefreshAttempt, RestoredRelease,
    Reverted, TamperDetected, TamperMode, Trigger, Withdrawn,
};
use crate::event_chain::{EventChain, EventDraft};
use crate::identifiers::{EventId, Incarnation};

pub(crate) fn promoted(channel: &str, tag: &str) -> BundleEvent {
    Promoted {
        bundle: "contracts".parse().unwrap(),
        channel: channel.parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        previous_tag: None,
        cause: PromotionCause::Promote,
        hold: Hold::None,
        reason: Some("because".to_owned()),
        actor: "ada".parse().unwrap(),
    }
    .into()
}

pub(crate) fn published(tag: &str) -> BundleEvent {
    let digest = Sha256Digest::of(tag.as_bytes());
    let object = |name: &str| ObjectReference { name: name.to_owned(), size: 1, sha256: digest };
    Published {
        bundle: "contracts".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: digest,
        content_digest: digest,
        files: 3,
        total_bytes: 1,
        archive: object("archive"),
        release: object("release"),
        deltas: Vec::new(),
        git: Some(GitFacts { sha: "0".repeat(40), repository: None, reference: None }),
        trigger: Trigger::Local,
        actor: "main".parse().unwrap(),
    }
    .into()
}

pub(crate) fn withdrawn(tag: &str) -> BundleEvent {
    Withdrawn {
        bundle: "contracts".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        content_digest: Sha256Digest::of(tag.as_bytes()),
        reason: "broken".to_owned(),
        actor: "ada".parse().unwrap(),
    }
    .into()
}

pub(crate) fn loaded(tag: &str) -> BundleEvent {
    Loaded {
        bundle: "contracts".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        content_digest: Sha256Digest::of(tag.as_bytes()),
        channel: Some("latest".parse().unwrap()),
        source: LoadSource::Download,
        wire_bytes: 1,
        previous_tag: None,
        duration_ms: 1,
        activation_epoch: 1,
        unrecorded_switches: 0,
        verified: true,
    }
    .into()
}

pub(crate) fn attempt(tag: &str) -> BundleEvent {
    RefreshAttempt {
        bundle: "contracts".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        base_tag: None,
        strategy: FetchStrategy::Archive,
    }
    .into()
}

pub(crate) fn download_failed(tag: &str) -> BundleEvent {
    DownloadFailed {
        bundle: "contracts".parse().unwrap(),
        tag: tag.parse().unwrap(),
        error: "object is missing".to_owned(),
        network_error: None,
        remediation: "publish it again".to_owned(),
        running_tag: None,
        repeats: 0,
        ahead: false,
    }
    .into()
}

pub(crate) fn fallback(source: FallbackSource, tag: &str) -> BundleEvent {
    FallbackActivated {
        bundle: "contracts".parse().unwrap(),
        source,
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        content_digest: Sha256Digest::of(tag.as_bytes()),
        wanted_tag: None,
        cause: FallbackCause::DownloadFailed,
        reason: "object is missing".to_owned(),
        remediation: "publish it again".to_owned(),
        activation_epoch: 2,
    }
    .into()
}

pub(crate) fn tampered(tag: &str, healed: bool) -> BundleEvent {
    TamperDetected {
        bundle: "contracts".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        changed: 1,
        missing: 0,
        extra: 0,
        paths: Vec::new(),
        mode: TamperMode::Report,
        healed,
        remediation: "put it back".to_owned(),
    }
    .into()
}

pub(crate) fn reverted(failed: &str, restored: Option<&str>) -> BundleEvent {
    let restored = restored.map(|tag| RestoredRelease {
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(tag.as_bytes()),
        content_digest: Sha256Digest::of(tag.as_bytes()),
        source: LoadSource::Cache,
        verified: true,
    });
    Reverted {
        bundle: "contracts".parse().unwrap(),
        tag: failed.parse().unwrap(),
        tree_digest: Sha256Digest::of(failed.as_bytes()),
        restored,
        failed_epoch: 2,
        activation_epoch: 3,
        check: "status 1".to_owned(),
        remediation: "publish a better one".to_owned(),
        duration_ms: 4,
    }
    .into()
}

/// A minute of the test's clock.
pub(crate) fn minute(number: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(number)
}

/// Subject and payload of an event that happened at the test clock's beginning.
pub(crate) fn stored(source: &str, event: BundleEvent) -> (String, Vec<u8>) {
    stored_at(source, event, 0)
}

/// Subject and payload of an event that happened at a minute of the test's clock.
pub(crate) fn stored_at(source: &str, event: BundleEvent, happened: i64) -> (String, Vec<u8>) {
    let draft = EventDraft { id: EventId::from_uuid(Uuid::from_u128(9)), time: minute(happened), event };
    let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(1)), None);
    let sealed = chain.seal(&source.parse().unwrap(), &draft).unwrap();
    (sealed.subject.to_string(), sealed.bytes)
}

/// An event of some kind, of a type this version does not know, or garbage.
pub(crate) fn any_message() -> impl Strategy<Value = (String, Vec<u8>)> {
    let tag = "v[0-3]";
    let node = |name: String| format!("/nodes/{name}");
    prop_oneof![
        (("latest|production"), tag).prop_map(|(channel, tag)| stored("/operators/ada", promoted(&channel, &tag))),
        tag.prop_map(|tag| stored("/publishers/main", published(&tag))),
        tag.prop_map(|tag| stored("/operators/ada", withdrawn(&tag))),
        ("a|b", tag, 0_i64..9).prop_map(move |(name, tag, happened)| stored_at(&node(name), loaded(&tag), happened)),
        ("a|b", tag).prop_map(move |(name, tag)| stored(&node(name), attempt(&tag))),
        ("a|b", tag, 0_i64..9).prop_map(move |(name, tag, happened)| stored_at(
            &node(name),
            download_failed(&tag),
            happened
        )),
        ("a|b", tag, any::<bool>()).prop_map(move |(name, tag, embedded)| {
            let source = if embedded { FallbackSource::Embedded } else { FallbackSource::LastGood };
            stored(&node(name), fallback(source, &tag))
        }),
        ("a|b", tag, any::<bool>()).prop_map(move |(name, tag, healed)| stored(&node(name), tampered(&tag, healed))),
        ("a|b", tag, proptest::option::of(tag))
            .prop_map(move |(name, failed, restored)| stored(&node(name), reverted(&failed, restored.as_deref()))),
        tag.prop_map(|tag| of_unknown_type(&tag)),
        ("bundle\\.[a-z_]{1,8}\\.x\\.node\\.a", proptest::collection::vec(any::<u8>(), 0..40)),
    ]
}

/// An event whose type this version does not know.
pub(crate) fn of_unknown_type(tag: &str) -> (String, Vec<u8>) {
    let (_, payload) = stored("/operators/ada", promoted("latest", tag));
    let text = String::from_utf8(payload).unwrap().replace("\"bundle.promoted\"", "\"bundle.approved\"");
    ("bundle.approved.contracts.channel.latest".to_owned(), text.into_bytes())
}
