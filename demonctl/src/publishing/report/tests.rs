//! The forms for scripts and for people.

use publisher::announcement::AnnouncedRelease;
use publisher::channel_history::ChannelHead;
use serde_json::{Value, json};
use shared::event::{Promoted, PromotionCause};

use super::*;

fn published() -> Published {
    let object = |name: &str| ObjectReference { name: name.to_owned(), size: 700, sha256: Sha256Digest::of(b"abc") };
    Published {
        bundle: "contracts".parse().unwrap(),
        tag: "v2".parse().unwrap(),
        tree_digest: Sha256Digest::of(b"abc"),
        content_digest: Sha256Digest::of(b"abc"),
        files: 3,
        total_bytes: 1234,
        archive: object("contracts/v2.tar.zst"),
        release: object("contracts/v2.release.json"),
        deltas: Vec::new(),
        git: None,
        trigger: Trigger::Schedule,
        actor: "ada".parse().unwrap(),
    }
}

fn head(tag: &str, hold: Hold) -> ChannelHead {
    let promoted = Promoted {
        bundle: "contracts".parse().unwrap(),
        channel: "latest".parse().unwrap(),
        tag: tag.parse().unwrap(),
        tree_digest: Sha256Digest::of(b"abc"),
        previous_tag: Some("v1".parse().unwrap()),
        cause: PromotionCause::Publish,
        hold,
        reason: None,
        actor: "ada".parse().unwrap(),
    };
    ChannelHead { promoted, stream_sequence: 9 }
}

fn report(novelty: Novelty, promotion: Option<AutomaticPromotion>) -> PublishReport {
    let release = AnnouncedRelease { published: published(), stream_sequence: 7, already_announced: false };
    PublishReport { release, novelty, promotion, compatibility: None }
}

#[test]
fn the_form_for_scripts_is_fixed() {
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let moved = Some(AutomaticPromotion::Promoted(head("v2", Hold::None)));
    let row = serde_json::to_value(PublishedRow::of(&report(Novelty::Announced, moved))).unwrap();
    let expected = json!({
        "bundle": "contracts",
        "tag": "v2",
        "dry_run": false,
        "novelty": "announced",
        "tree_digest": digest,
        "content_digest": digest,
        "files": 3,
        "total_bytes": 1234,
        "archive": { "name": "contracts/v2.tar.zst", "size": 700, "sha256": digest },
        "deltas": [],
        "sequence": 7,
        "trigger": "schedule",
        "git": null,
        "channel": { "name": "latest", "effect": "moved", "from": "v1", "to": "v2", "hold": "none" },
        "base": null,
        "compared": false,
        "breaking": []
    });
    assert_eq!(row, expected);
    let row = serde_json::to_value(PublishedRow::of(&report(Novelty::AnnouncedAgain, None))).unwrap();
    assert_eq!((&row["novelty"], &row["channel"]), (&json!("announced_again"), &Value::Null));
}

#[test]
fn each_outcome_has_its_words() {
    let channel = |promotion: AutomaticPromotion| {
        PublishedRow::of(&report(Novelty::Unchanged, Some(promotion))).lines().remove(1)
    };
    assert_eq!(channel(AutomaticPromotion::Promoted(head("v2", Hold::None))), "channel latest: moved from v1 to v2");
    assert_eq!(channel(AutomaticPromotion::AlreadyActive(head("v2", Hold::None))), "channel latest: points at it");
    assert_eq!(
        channel(AutomaticPromotion::Held(head("v1", Hold::Held))),
        "channel latest: held, stays at v1 until it is promoted or thawed"
    );
    assert_eq!(channel(AutomaticPromotion::Frozen(head("v1", Hold::Frozen))), "channel latest: frozen, stays at v1");
    assert_eq!(
        channel(AutomaticPromotion::MovedAwaySince(head("v3", Hold::None))),
        "channel latest: was moved away from it since, stays at v3"
    );
    for (novelty, word) in [
        (Novelty::Announced, "published: v2 "),
        (Novelty::AnnouncedAgain, "announced again: v2 "),
        (Novelty::AlreadyAnnounced, "published before: v2 "),
        (Novelty::Unchanged, "unchanged: v2 has this content "),
    ] {
        let lines = PublishedRow::of(&report(novelty, None)).lines();
        assert!(lines.len() == 1 && lines[0].starts_with(word), "{lines:?}");
    }
}

#[test]
fn a_preview_says_would_and_names_the_nodes() {
    let preview = PublishPreview {
        release: published(),
        stream_sequence: None,
        novelty: Novelty::Announced,
        channel: Some(PreviewedMove::Move { from: None }),
        frozen: None,
        compatibility: Some(Comparison { base: Some("v1".parse().unwrap()), breaking: Vec::new() }),
    };
    let channel = "latest".parse().unwrap();
    let row = PublishedRow::previewed(&preview, Some(&channel), vec!["n1".parse().unwrap()]);
    let lines = row.lines();
    assert!(lines[0].starts_with("would publish: v2 "), "{lines:?}");
    assert_eq!(lines[1..], ["channel latest: would move from nothing to v2", "compatible with v1", "nodes: 1 (n1)"]);
}
