//! A kill while files of the running release are put back.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::node_status::told_times;
use acceptance::operations::publish_contracts;
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use rustix::process::Signal;
use shared::daemon::crash_point::CrashPoint;

/// The places on the way, and whether a file is changed (and the release is built anew) or only gone.
const PLACES: [(CrashPoint, bool); 6] = [
    (CrashPoint::RestoredFileWritten, false),
    (CrashPoint::RestoredFilePlaced, false),
    (CrashPoint::TreeWritten, true),
    (CrashPoint::TreeSynced, true),
    (CrashPoint::ReleaseExchanged, true),
    (CrashPoint::ReleaseReplaced, true),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_release_is_healed_leaves_it_whole_after_the_next_start() {
    let world = World::start(&["n1"]).await;
    publish_contracts(&world, &contracts(world.directory()), "v0").await;
    let directories = AgentDirectories::below(world.directory(), "n1");
    let start = |name: &str, crash_at: Option<&str>, mode: &str| {
        let mut command = world.agent_command("n1");
        command.env("DEMON_TAMPER", mode).env("DEMON_TAMPER_INTERVAL", "1s");
        if let Some(place) = crash_at {
            command.env("DEMON_CRASH_AT", place);
        }
        Agent::start(name, command, directories.clone(), world.directory())
    };
    let mut agent = start("first", None, "heal");
    agent.switched_to("v0").await;
    told_times(&world, "n1", "bundle.loaded", 1).await;
    let good = agent.files();
    agent.process.kill();
    let file = agent.cache().join("releases/v0/files/manifest.json");
    copy_release(&agent.cache().join("releases"), "v0", "beside");

    for (place, is_changed) in PLACES {
        let name = place.name();
        let mut agent = start(name, Some(name), if is_changed { "heal" } else { "report" });
        // Verified at the start: from now on a change is one while it runs.
        agent.process.log_line("the release that runs", PATIENCE, |line| line.contains("\"bundle.loaded\"")).await;
        if is_changed {
            let other = agent.cache().join("other.json");
            fs::write(&other, "{}").and_then(|()| fs::rename(&other, &file)).expect("the directory is ours");
        } else {
            fs::remove_file(&file).expect("the file is ours");
        }
        let status = agent.process.ended(PATIENCE).await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{name}: the agent ended with {status}");

        let mut agent = start(&format!("after-{name}"), None, "heal");
        eventually("the file to be whole", PATIENCE, async || {
            satisfied(fs::read(&file).ok().as_ref() == good.get("manifest.json"), || name.to_owned())
        })
        .await;
        agent.process.log_line("the release that runs", PATIENCE, |line| line.contains("\"bundle.loaded\"")).await;
        assert_eq!((agent.files(), agent.active_tag().as_deref()), (good.clone(), Some("v0")), "{name}");
        agent.process.kill();
    }
}

/// Another copy of a release, from which its files can be put back.
fn copy_release(releases: &Path, release: &str, copy: &str) {
    let (from, to) = (releases.join(release), releases.join(copy));
    fs::create_dir_all(to.join("files")).expect("the cache is writable");
    for name in ["release.json", "files/bundle.json", "files/bundle.sha256", "files/manifest.json"] {
        fs::copy(from.join(name), to.join(name)).expect("the cache is writable");
    }
}
