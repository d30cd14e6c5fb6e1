//! What must be true of the log whatever happened, checked over everything that stands in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit_trail::AuditTrail;
use crate::operations::operated;
use crate::stored_log::{StoredMessage, text};
use crate::world::World;

/// What programs have said is done: by ending with exit code 0.
#[derive(Debug, Default, Clone)]
pub struct Acknowledged {
    /// Tags of releases.
    pub published: BTreeSet<String>,
    /// Tags that a channel was moved to, with the reason given for the move, which is unique.
    pub moved: BTreeSet<(String, String)>,
}

/// Reads the whole log and holds it against the promises.
///
/// # Panics
/// Where an acknowledged event is missing, one is there twice, a chain has a gap, a switch of a node is missing or told
/// twice, a node went back to an older head, or the product's own audit finds anything.
pub async fn assert_kept(world: &World, acknowledged: &Acknowledged, nodes: &[&str]) -> AuditTrail {
    let operator = world.raw_operator().await;
    let mut trail = AuditTrail::default();
    trail.read_on(&operator).await;
    trail.assert_chains_unbroken();
    assert_acknowledged(trail.log(), acknowledged);
    for node in nodes {
        trail.assert_each_switch_once(node, 0);
        assert_never_back(trail.log(), node);
    }
    operated(world, &["events", "verify"]).await;
    operated(world, &["store", "verify"]).await;
    trail
}

/// # Panics
/// Where the log lacks what was acknowledged, or says twice what may be said once.
pub fn assert_acknowledged(log: &[StoredMessage], acknowledged: &Acknowledged) {
    let mut announced: BTreeMap<String, usize> = BTreeMap::new();
    let mut moved = BTreeSet::new();
    for message in log {
        match message.event_type().as_str() {
            "bundle.published" => *announced.entry(text(&message.data(), "tag")).or_default() += 1,
            "bundle.promoted" => {
                let data = message.data();
                let reason = data["reason"].as_str().unwrap_or_default().to_owned();
                let new = moved.insert((text(&data, "tag"), reason.clone()));
                assert!(new || reason.is_empty(), "a move of the channel stands in the log twice: {data}");
            }
            _ => {}
        }
    }
    let doubled: Vec<_> = announced.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "announced more than once: {doubled:?}");
    let lost: Vec<_> = acknowledged.published.iter().filter(|tag| !announced.contains_key(*tag)).collect();
    assert!(lost.is_empty(), "acknowledged releases that are not in the log: {lost:?}");
    let lost: Vec<_> = acknowledged.moved.difference(&moved).collect();
    assert!(lost.is_empty(), "acknowledged moves that are not in the log: {lost:?}");
}

/// Every switch of the node follows a move of its channel, and none follows an older move than the switch before did.
///
/// # Panics
/// Where one does.
pub fn assert_never_back(log: &[StoredMessage], node: &str) {
    let moves: Vec<(u64, String)> = of_type(log, "bundle.promoted").map(|(at, _, tag)| (at, tag)).collect();
    let subject = format!(".node.{node}");
    let mut followed = 0;
    for (at, _, tag) in of_type(log, "bundle.loaded").filter(|(_, message, _)| message.subject.ends_with(&subject)) {
        let next = moves.iter().skip(followed).position(|(moved, to)| *to == tag && *moved < at);
        let next = next.unwrap_or_else(|| {
            panic!("`{node}` went back: it switched to {tag} (event {at}) after it had followed {:?}", moves[followed])
        });
        followed += next;
    }
}

fn of_type<'a>(log: &'a [StoredMessage], kind: &str) -> impl Iterator<Item = (u64, &'a StoredMessage, String)> {
    let subjects = format!("{kind}.");
    let of_type = move |message: &&StoredMessage| message.subject.starts_with(&subjects);
    log.iter().filter(of_type).map(|message| (message.sequence, message, text(&message.data(), "tag")))
}
