//! The scripts that run beside a node: daily check, weekly update, load test. Releases come from a real server, the
//! node is a real agent under a stand-in for systemd, and its status page says what the test wants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use acceptance::checkout::{COMMIT_TIME, Checkout, stderr, stdout};
use acceptance::sample_trees::change_one_contract;
use acceptance::status_server::StatusServer;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished};

const NODE: &str = "edge-1";
const DAILY: &str = include_str!("playbook/daily-bundle-check.sh");
const WEEKLY: &str = include_str!("playbook/weekly-bundle-update.sh");
const LOAD: &str = include_str!("playbook/bundle-load-test.sh");

/// A server, a checkout on the node's machine, and the node's status page.
struct Site {
    world: World,
    checkout: Checkout,
    status: StatusServer,
}

impl Site {
    async fn start() -> Self {
        let world = World::start(&[NODE]).await;
        let mut checkout = Checkout::new();
        checkout.connect(&world);
        let status = StatusServer::start("loaded").await;
        checkout.serve_status_at(status.address());
        Self { world, checkout, status }
    }

    /// Publishes what the checkout holds, and returns the tag.
    async fn publish(&self, change: &str, minutes: i64) -> String {
        change_one_contract(&self.checkout.root().join("contracts"), change);
        let time = COMMIT_TIME + minutes * 60;
        let commit = self.checkout.commit(change, time);
        let command = self.checkout.bash(&format!("SOURCE_DATE_EPOCH={time} demonctl contracts publish contracts"));
        let output = finished(command).await;
        assert!(output.status.success(), "{}", both_outputs(&output));
        format!("contracts-20260203-{}", &commit[..8])
    }

    /// Runs a line in the node's directory.
    async fn run(&self, line: &str) -> Output {
        finished(self.checkout.bash_in(&self.checkout.work(), line)).await
    }

    async fn succeeded(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(0), "`{line}`: {}", both_outputs(&output));
        stdout(&output)
    }

    fn script(&self, name: &str) -> String {
        self.checkout.root().join("scripts").join(name).display().to_string()
    }

    /// Makes the unit `demon-runtime` the node's agent on the cache of the node's directory, and starts it.
    async fn start_unit(&self) {
        let mut command = self.world.agent_command(NODE);
        command.arg("--cache").arg(self.cache()).arg("--state-dir").arg(self.checkout.work().join(".demon/agent"));
        self.checkout.shims.unit_command(&command);
        let text = |value: &std::ffi::OsStr| value.to_str().expect("the settings are text").to_owned();
        let variables: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((text(name), text(value?)))).collect();
        self.checkout.shims.unit_environment(&variables);
        self.succeeded("systemctl start demon-runtime").await;
    }

    /// Waits until the cache points at a release.
    async fn switched_to(&self, tag: &str) {
        eventually(&format!("the node to run {tag}"), PATIENCE, async || {
            let active = active_tag(&self.cache());
            let flat = self.cache().join("bundle.sha256").exists();
            satisfied(active.as_deref() == Some(tag) && flat, || {
                format!("it runs {active:?}; its log: {}", self.checkout.shims.unit_log())
            })
        })
        .await;
    }

    fn cache(&self) -> PathBuf {
        self.checkout.work().join(".demon/contracts")
    }

    fn backups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.checkout.work().join(".demon")).expect("the node has a directory");
        let mut backups: Vec<_> = entries
            .map(|entry| entry.expect("it can be listed").path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".backup.")))
            .collect();
        backups.sort();
        backups
    }

    fn restarts(&self) -> usize {
        self.checkout.shims.calls("systemctl").iter().filter(|call| *call == &["restart", "demon-runtime"]).count()
    }
}

fn active_tag(cache: &Path) -> Option<String> {
    let target = fs::read_link(cache.join("current")).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

#[tokio::test]
async fn the_daily_check_reports_and_never_stops_halfway() {
    let site = Site::start().await;
    let tags = [site.publish("one", 0).await, site.publish("two", 1).await];
    let script = site.script("daily-bundle-check.sh");
    site.succeeded("demonctl contracts fetch-bundle --tag contracts-latest").await;
    for (form, line) in [("the playbook's text", DAILY), ("the script", script.as_str())] {
        site.status.set("loaded");
        let variables = format!("export DEMON_STATUS_URL=http://{}\n{line}", site.status.address());
        let text = site.succeeded(&variables).await;
        assert!(
            text.starts_with("=== Daily Bundle Health Check ===\nBundle status: loaded\nLatest releases:\n"),
            "{form}: {text}"
        );
        assert!(text.ends_with("✓ Verification passed\n=== Check complete ===\n"), "{form}: {text}");
        assert!(tags.iter().all(|tag| text.contains(tag)), "{form}: {text}");
        assert!(!text.contains("WARNING"), "{form}: {text}");

        for status in ["download_error", "stale", "disabled", "using_fallback"] {
            site.status.set(status);
            let text = site.succeeded(&variables).await;
            assert!(
                text.contains(&format!("Bundle status: {status}\nWARNING: Bundle not loaded properly\n")),
                "{form}: {text}"
            );
            assert!(text.contains(&format!("\"message\": \"the bundle is {status}\"")), "{form}: {text}");
            assert!(text.ends_with("=== Check complete ===\n"), "{form}: {text}");
        }
        // No server to list releases from.
        let text = site.succeeded(&format!("export NATS_URL=nats://127.0.0.1:9\n{variables}")).await;
        assert!(text.ends_with("✓ Verification passed\n=== Check complete ===\n"), "{form}: {text}");
    }
    let text = site.succeeded(&format!("DEMON_STATUS_URL=http://127.0.0.1:9 {script}")).await;
    assert!(text.contains("Bundle status: unknown\nWARNING") && text.ends_with("=== Check complete ===\n"), "{text}");

    let bundle = site.cache().join("releases").join(&tags[1]);
    let damaged =
        format!("chmod -R u+w '{0}' && echo x >>'{1}'", bundle.display(), site.cache().join("bundle.json").display());
    site.succeeded(&damaged).await;
    for line in [DAILY, &script] {
        let text = site.succeeded(line).await;
        assert!(text.contains("✗ Verification failed") && text.ends_with("=== Check complete ===\n"), "{text}");
    }
    fs::remove_dir_all(site.cache()).unwrap();
    let text = site.succeeded(&script).await;
    assert!(text.contains("✗ Verification failed") && text.ends_with("=== Check complete ===\n"), "{text}");
}

#[tokio::test]
async fn the_weekly_update_moves_a_node_to_the_newest_release() {
    let site = Site::start().await;
    let first = site.publish("one", 0).await;
    site.start_unit().await;
    site.switched_to(&first).await;
    let before = site.checkout.shims.unit_process();
    // The playbook waits for the restart; the status page of this test answers at once.
    site.checkout.shims.write_program("sleep", "#!/bin/sh\n[ \"$1\" = 10 ]\n");
    for (number, line) in [WEEKLY.to_owned(), site.script("weekly-bundle-update.sh")].iter().enumerate() {
        let tag = site.publish(&format!("update {number}"), 10 + i64::try_from(number).unwrap()).await;
        // The playbook copies the cache with `cp -r`, which may not meet a download that is going on.
        site.switched_to(&tag).await;
        // Twice a day is as good as once.
        for again in 1..=2 {
            let text = site
                .succeeded(&format!(
                    "DEMON_STATUS_URL=http://{}; export DEMON_STATUS_URL\n{line}",
                    site.status.address()
                ))
                .await;
            assert!(text.starts_with("=== Weekly Bundle Update ===\n"), "{text}");
            assert!(text.contains("bundle.json: OK\n"), "{text}");
            assert!(text.ends_with("✓ Bundle update successful\n=== Update complete ===\n"), "{text}");
            assert_eq!(active_tag(&site.cache()), Some(tag.clone()));
            assert_eq!(site.restarts(), number * 2 + again);
            assert_eq!(site.backups(), Vec::<PathBuf>::new());
        }
    }
    assert!(site.checkout.shims.unit_process().is_some(), "{}", site.checkout.shims.unit_log());
    assert_ne!(site.checkout.shims.unit_process(), before, "it was restarted");
    site.succeeded(
        "shasum -a 256 -c .demon/contracts/bundle.sha256 && cd .demon/contracts && shasum -a 256 -c bundle.sha256",
    )
    .await;
}

#[tokio::test]
async fn a_weekly_update_that_fails_leaves_the_old_bundle_and_a_backup() {
    let site = Site::start().await;
    let old = site.publish("one", 0).await;
    site.succeeded("demonctl contracts fetch-bundle --tag contracts-latest").await;
    let bundle = fs::read(site.cache().join("bundle.json")).unwrap();
    site.publish("two", 1).await;
    let script = format!("DEMON_READY_SECONDS=1 {}", site.script("weekly-bundle-update.sh"));
    let still_old = |what: &str, output: &Output, backups: usize| {
        assert_eq!(output.status.code(), Some(1), "{what}: {}", both_outputs(output));
        assert!(stdout(output).ends_with("✗ Bundle update failed - check logs\n"), "{what}: {}", both_outputs(output));
        assert_eq!(fs::read(site.cache().join("bundle.json")).unwrap(), bundle, "{what}");
        assert_eq!(active_tag(&site.cache()).as_ref(), Some(&old), "{what}");
        assert_eq!(site.backups().len(), backups, "{what}: {:?}", site.backups());
        for backup in site.backups() {
            assert_eq!(fs::read(backup.join("bundle.json")).unwrap(), bundle, "{what}: a usable copy");
            assert!(!backup.join("contracts").exists(), "{what}: a copy in a copy");
        }
    };
    let output = site.run(&format!("NATS_URL=nats://127.0.0.1:9 {script}")).await;
    still_old("no server", &output, 1);
    assert_eq!(site.restarts(), 0, "nothing was fetched, so nothing is restarted");
    let output = site.run(&format!("DEMON_CONTRACTS_TAG=contracts-20200101-00000000 {script}")).await;
    still_old("no such release", &output, 2);
    site.status.set("verification_failed");
    let output = site.run(&script).await;
    still_old("not loaded afterwards", &output, 3);
    assert!(stderr(&output).contains("verification_failed"), "{}", stderr(&output));
    assert_eq!(site.restarts(), 2, "with the new bundle and with the old one again");
    let output = site.run(&format!("DEMON_RUNTIME_UNIT=no-such-unit {script}")).await;
    still_old("no such unit", &output, 4);
    // The source loses the old release meanwhile: only the backup has it.
    let forgetful = format!("#!/bin/sh\ncase \"$*\" in *{old}*) exit 1 ;; esac\nexec demonctl \"$@\"\n");
    site.checkout.shims.write_program("forgetful", &forgetful);
    site.status.set("download_error");
    let output = site.run(&format!("DEMONCTL_BIN=forgetful {script}")).await;
    still_old("the source lost it", &output, 5);
    let left: Vec<_> =
        fs::read_dir(site.checkout.work().join(".demon")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".failed.")), "{left:?}");

    site.succeeded("demonctl contracts validate \"$(ls -d .demon/contracts.backup.* | head -n 1)/bundle.json\"").await;
    site.status.set("loaded");
    site.succeeded(&script).await;
    assert_ne!(fs::read(site.cache().join("bundle.json")).unwrap(), bundle);
    assert_eq!(site.backups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn the_load_test_counts_its_rounds() {
    let site = Site::start().await;
    site.publish("one", 0).await;
    let script = format!("DEMON_STATUS_URL=http://{} {}", site.status.address(), site.script("bundle-load-test.sh"));
    for (line, rounds) in [(LOAD, 10), (&*format!("DEMON_LOAD_ITERATIONS=3 {script}"), 3)] {
        let asked = site.status.requests();
        let output = site.run(line).await;
        assert_eq!(output.status.code(), Some(0), "{}", both_outputs(&output));
        let mut expected: Vec<_> = (1..=rounds).map(|round| format!("Iteration {round} complete")).collect();
        expected.push("Load test complete".to_owned());
        assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), expected);
        assert_eq!(site.status.requests() - asked, 5, "status requests");
        assert_eq!(site.checkout.temporary_files(), Vec::<PathBuf>::new());
    }
    let output = site.run(&format!("NATS_URL=nats://127.0.0.1:9 {script}")).await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    let output = site
        .run(&format!("DEMON_LOAD_ITERATIONS=1 {script}").replace(&site.status.address().to_string(), "127.0.0.1:9"))
        .await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(stderr(&output).contains("5 of 5"), "{}", stderr(&output));
}
