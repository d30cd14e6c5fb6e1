//! One copy of a cluster's three is damaged while its server is down: what the others hold is what counts.

use std::fs;
use std::path::Path;

use acceptance::cluster::{SERVERS, elected, in_step};
use acceptance::operations::{operator_command, text_of};
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::contracts;
use acceptance::server_store::{flip_bit_after, message_blocks, truncate_last};
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM};
use acceptance::world::{World, both_outputs, finished};

use super::{publish_until_done, say};

#[derive(Debug, Clone, Copy)]
enum Damage {
    FlippedEvent,
    CutOffEvents,
    FlippedChunk,
    CutOffChunks,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_of_three_moves_no_node_is_healed_or_named_and_can_be_replaced() {
    damaged(&[Damage::FlippedEvent, Damage::CutOffChunks]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other two kinds of damage: half a minute more of the same"]
async fn the_other_damages_of_a_copy_of_three_do_no_more() {
    damaged(&[Damage::CutOffEvents, Damage::FlippedChunk]).await;
}

async fn damaged(damages: &[Damage]) {
    let mut world = World::cluster(&["n1"]).await;
    let everybody = world.url();
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    for tag in ["first", "second"] {
        publish_until_done(&world, &source, tag, &mut done).await;
    }
    let mut agent = world.start_agent("n1");
    agent.switched_to("second").await;
    for (number, &damage) in damages.iter().enumerate() {
        let stream = match damage {
            Damage::FlippedEvent | Damage::CutOffEvents => EVENT_STREAM,
            Damage::FlippedChunk | Damage::CutOffChunks => RELEASE_STREAM,
        };
        in_step(&world, stream).await;
        let victim = (elected(&world.raw_operator().await, stream).await + 1) % SERVERS;
        world.server_at(victim).kill().await;
        damage_copy(&world, victim, stream, damage);
        world.server_at(victim).start_again().await;
        // Publishing and switching go on, whatever the third copy has become.
        let tag = format!("beside-{number}");
        publish_until_done(&world, &source, &tag, &mut done).await;
        agent.switched_to(&tag).await;

        // Through the damaged server: as good as the others again, or named. Never a clean bill for less.
        let here = world.server_at(victim).url();
        world.reached_by(Some(here));
        let what = if stream == EVENT_STREAM { ["events", "verify"] } else { ["store", "verify"] };
        let audit = finished(operator_command(&world, &what)).await;
        let words = both_outputs(&audit);
        assert!(matches!(audit.status.code(), Some(0 | 1)), "{damage:?}: {words}");
        say(&format!("{damage:?}: {} by {what:?}", if audit.status.success() { "healed" } else { "named" }));
        if audit.status.code() == Some(1) {
            assert!(!text_of(&audit.stdout).is_empty() || words.contains("demonctl:"), "{damage:?}: {words}");
        }
        world.reached_by(Some(everybody.clone()));

        // The remedy that always works: without its copy the server fetches it from the others.
        world.server_at(victim).kill().await;
        for copy in directories_of(&world.server_ref(victim).store(), stream) {
            fs::remove_dir_all(&copy).expect("the copy can be removed");
        }
        world.server_at(victim).start_again().await;
        in_step(&world, stream).await;
        let here = world.server_at(victim).url();
        world.reached_by(Some(here));
        let audit = finished(operator_command(&world, &what)).await;
        assert!(audit.status.success(), "{damage:?}, replaced: {}", both_outputs(&audit));
        world.reached_by(Some(everybody.clone()));
    }
    assert_kept(&world, &done, &["n1"]).await;
}

fn damage_copy(world: &World, victim: usize, stream: &str, damage: Damage) {
    let blocks = message_blocks(world.server_ref(victim), stream);
    match damage {
        Damage::FlippedEvent => flip_bit_after(&blocks, b"bundle.published.contracts.release.second", 60),
        Damage::FlippedChunk => flip_bit_after(&blocks, b"$O.BUNDLES.C.", 60),
        Damage::CutOffEvents | Damage::CutOffChunks => truncate_last(&blocks, 1, 2),
    }
}

/// The directories in which a server keeps its copy of a stream.
fn directories_of(store: &Path, stream: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name == stream) {
            found.push(path);
        } else if path.is_dir() {
            found.extend(directories_of(&path, stream));
        }
    }
    found
}
