//! Releases altered in the store between putting and announcing: no agent activates a byte of them.

use acceptance::agent::Agent;
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::raw_client::RawClient;
use acceptance::stored_log::{event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually};
use acceptance::world::World;
use serde_json::Value;
use streams::release_store::{ReleaseStore, Tampering};

/// Fields end in this order: the agents before the directory that they write into.
struct Fleet {
    agents: Vec<Agent>,
    store: ReleaseStore,
    operator: RawClient,
    world: World,
}

impl Fleet {
    /// Two agents that run a good release.
    async fn running_good() -> Self {
        let world = World::start(&["n1", "n2"]).await;
        let store = ReleaseStore::new(world.operator().await);
        let operator = world.raw_operator().await;
        let agents = vec![world.start_agent("n1"), world.start_agent("n2")];
        let mut fleet = Self { agents, store, operator, world };
        let good = fleet.stored("good").await;
        fleet.announced_and_promoted(&good).await;
        for agent in &mut fleet.agents {
            agent.switched_to("good").await;
        }
        fleet
    }

    async fn stored(&self, tag: &str) -> HandmadeRelease {
        HandmadeRelease::stored(&self.store, "contracts", tag, &contracts_files(tag)).await
    }

    async fn announced_and_promoted(&self, release: &HandmadeRelease) {
        release.announced(&self.world.log().await).await;
    }

    /// What each node said when it refused the release.
    async fn refusals(&self, tag: &str) -> Vec<Value> {
        let mut refusals = Vec::new();
        for node in ["n1", "n2"] {
            let what = format!("{node} to refuse {tag}");
            let refusal = eventually(&what, PATIENCE, async || {
                let log = event_log(&self.operator).await;
                let said = of_node(&log, "bundle.verification_failed", node);
                let of_tag = said.iter().map(|message| message.data()).find(|data| data["tag"] == tag);
                of_tag.ok_or_else(|| format!("it refused {} times", said.len()))
            });
            refusals.push(refusal.await);
        }
        refusals
    }

    /// The good release runs everywhere, and of the other nothing is visible.
    fn only_good_is_visible(&self, tag: &str) {
        for agent in &self.agents {
            assert_eq!(agent.active_tag().as_deref(), Some("good"));
            assert!(!agent.cache().join("releases").join(tag).exists(), "{tag} is visible");
            let left: Vec<_> = walk(&agent.cache().join("staging"));
            assert!(left.is_empty(), "staging holds {left:?}");
        }
    }
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() { directories.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files
}

#[tokio::test]
async fn a_release_whose_every_object_was_altered_is_refused_with_both_digests() {
    let fleet = Fleet::running_good().await;
    for (tag, tampering) in [("meta-kept", Tampering::KeepMeta), ("meta-recomputed", Tampering::RecomputeMeta)] {
        let release = fleet.stored(tag).await;
        let mut actual = Vec::new();
        for object in release.objects() {
            actual.push((object.name.clone(), fleet.store.tamper(&object.name, tampering).await.expect("altered")));
        }
        fleet.announced_and_promoted(&release).await;
        for refusal in fleet.refusals(tag).await {
            assert_eq!(refusal["check"], "object", "{refusal}");
            let object = release.objects().into_iter().find(|object| refusal["item"] == object.name.as_str());
            let object = object.unwrap_or_else(|| panic!("no object of the release is named: {refusal}"));
            assert_eq!(refusal["expected"], object.sha256.to_string());
            let (_, altered) = actual.iter().find(|(name, _)| name == &object.name).expect("it was altered");
            assert_eq!(refusal["actual"], altered.to_string());
            assert_eq!(refusal["running_tag"], "good");
        }
        fleet.only_good_is_visible(tag);
    }
}

#[tokio::test]
async fn an_altered_archive_alone_is_refused_before_anything_is_decoded() {
    let fleet = Fleet::running_good().await;
    let release = fleet.stored("archive-altered").await;
    let archive = release.objects().into_iter().find(|object| object.name.ends_with(".tar.zst")).expect("an archive");
    fleet.store.tamper(&archive.name, Tampering::RecomputeMeta).await.expect("altered");
    fleet.announced_and_promoted(&release).await;
    for refusal in fleet.refusals("archive-altered").await {
        assert_eq!((&refusal["check"], &refusal["item"]), (&"object".into(), &archive.name.as_str().into()));
        assert_eq!(refusal["expected"], archive.sha256.to_string());
    }
    fleet.only_good_is_visible("archive-altered");
}

#[tokio::test]
async fn a_promotion_that_names_another_tree_than_the_announcement_is_refused() {
    let fleet = Fleet::running_good().await;
    let log = fleet.world.log().await;
    let (release, other) = (fleet.stored("announced").await, fleet.stored("other").await);
    release.announced_and_promoted_as(&log, other.tree_digest()).await;
    for refusal in fleet.refusals("announced").await {
        assert_eq!(refusal["check"], "tree");
        assert_eq!(refusal["expected"], other.tree_digest().to_string());
        assert_eq!(refusal["actual"], release.tree_digest().to_string());
    }
    fleet.only_good_is_visible("announced");
}

#[tokio::test]
async fn a_good_release_after_a_refused_one_is_taken_at_once() {
    let mut fleet = Fleet::running_good().await;
    let bad = fleet.stored("bad").await;
    for object in bad.objects() {
        fleet.store.tamper(&object.name, Tampering::KeepMeta).await.expect("altered");
    }
    fleet.announced_and_promoted(&bad).await;
    fleet.refusals("bad").await;
    let better = fleet.stored("better").await;
    fleet.announced_and_promoted(&better).await;
    for agent in &mut fleet.agents {
        agent.switched_to("better").await;
    }
}
