//! `contracts fetch-bundle` and `list-releases` as the operators' playbook types them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use acceptance::fake_github::{FakeGitHub, FakeRelease};
use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::shell::Shell;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs};
use serde_json::Value;
use streams::release_store::{ReleaseStore, Tampering};

const NEWEST: &str = "contracts-20250921-0658fb8b";
const OLDER: &str = "contracts-20250920-4c99ca47";

/// A server with two releases, the newer of them in channel `latest`, and an operator's shell.
struct Operator {
    shell: Shell,
    store: ReleaseStore,
    world: World,
}

impl Operator {
    async fn with_two_releases() -> Self {
        let world = World::start(&["edge-1"]).await;
        let store = ReleaseStore::new(world.operator().await);
        let shell = Shell::new(&world.subdirectory("work"), &world.demonctl());
        let operator = Self { shell, store, world };
        operator.publish(OLDER).await;
        operator.publish(NEWEST).await;
        operator
    }

    async fn publish(&self, tag: &str) -> HandmadeRelease {
        let release = HandmadeRelease::stored(&self.store, "contracts", tag, &contracts_files(tag)).await;
        release.announced(&self.world.log().await).await;
        release
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.shell.directory().join(name)
    }
}

fn released(tag: &str) -> BTreeMap<String, Vec<u8>> {
    contracts_files(tag).into_iter().map(|(name, content)| (name.to_owned(), content)).collect()
}

/// The files directly in a directory, links followed.
fn files_in(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_file() {
            let content = fs::read(entry.path()).expect("the file can be read");
            files.insert(entry.file_name().to_string_lossy().into_owned(), content);
        }
    }
    files
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_playbook_fetches_and_checks_a_release_in_a_directory_of_its_own() {
    let operator = Operator::with_two_releases().await;
    let shell = &operator.shell;
    let printed = shell.types("demonctl contracts fetch-bundle --tag contracts-latest --dest ./validation").await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..2], ["Fetching contract bundle", "Destination: ./validation"]);
    assert_eq!(*lines.last().expect("a last line"), "Bundle downloaded to: ./validation/bundle.json");
    assert_eq!(files_in(&operator.path("validation")), released(NEWEST));
    assert_eq!(names_in(shell.directory()), ["validation"], "nothing else is left");

    let checked = shell.types("cd validation && shasum -a 256 -c bundle.sha256 && sha256sum -c bundle.sha256").await;
    assert_eq!(checked, "bundle.json: OK\nbundle.json: OK\n");
    // The digest in the manifest is the file's.
    shell.types("cd validation && test $(shasum -a 256 bundle.json | cut -d' ' -f1) = $(grep -o '\"bundle_sha256\":\"[0-9a-f]*' manifest.json | cut -d'\"' -f4)").await;
    let tampered = shell.fails("cd validation && printf x >> bundle.json && shasum -a 256 -c bundle.sha256", 1).await;
    assert!(tampered.contains("bundle.json: FAILED"), "{tampered}");

    // Again: damaged files and earlier releases are replaced, files of others stay.
    let fetch = format!("demonctl contracts fetch-bundle --tag {OLDER} --dest validation/");
    shell.types(&fetch).await;
    assert_eq!(files_in(&operator.path("validation")), released(OLDER));
    fs::write(operator.path("validation/notes.txt"), "mine").expect("the directory is writable");
    shell.types("cd validation && demonctl contracts fetch-bundle --dest .").await;
    let mut expected = released(NEWEST);
    expected.insert("notes.txt".to_owned(), b"mine".to_vec());
    assert_eq!(files_in(&operator.path("validation")), expected);
    assert_eq!(names_in(shell.directory()), ["validation"]);
}

#[tokio::test]
async fn the_playbook_repairs_backs_up_and_restores_the_cache() {
    let operator = Operator::with_two_releases().await;
    let shell = &operator.shell;
    shell.types("demonctl contracts fetch-bundle --tag contracts-latest").await;
    for check in
        ["shasum -a 256 -c .demon/contracts/bundle.sha256", "cd .demon/contracts/ && shasum -a 256 -c bundle.sha256"]
    {
        assert!(shell.types(check).await.trim_end().ends_with("bundle.json: OK"), "{check}");
    }
    shell.types("cp -r .demon/contracts/ .demon/contracts.backup.$(date +%Y%m%d)").await;
    shell
        .types("cd .demon/contracts.backup.* && test $(shasum -a 256 bundle.json | cut -d' ' -f1) = $(cut -d' ' -f1 bundle.sha256)")
        .await;

    // Corrupted: both documented repairs.
    shell.types("chmod u+w .demon/contracts/bundle.json && printf x >> .demon/contracts/bundle.json").await;
    shell.fails("shasum -a 256 -c .demon/contracts/bundle.sha256", 1).await;
    shell.types("demonctl contracts fetch-bundle && shasum -a 256 -c .demon/contracts/bundle.sha256").await;
    let restore = format!(
        "set -e\nrm -rf .demon/contracts/\ndemonctl contracts fetch-bundle --tag {OLDER}\nshasum -a 256 -c .demon/contracts/bundle.sha256"
    );
    shell.types(&restore).await;
    let flat = files_in(&operator.path(".demon/contracts"));
    assert_eq!(flat["bundle.json"], released(OLDER)["bundle.json"]);
    assert_eq!(flat["manifest.json"], released(OLDER)["manifest.json"]);
    assert!(operator.path(".demon/contracts/current").read_link().is_ok_and(|to| to.ends_with(OLDER)));

    // What is there and intact is not fetched again; the release before stays.
    shell.types("demonctl contracts fetch-bundle").await;
    assert_eq!(names_in(&operator.path(".demon/contracts/releases")), [OLDER, NEWEST]);
    let again = shell.types("for i in {1..10}; do demonctl contracts fetch-bundle --tag contracts-latest; done").await;
    assert_eq!(again.matches("Already there and intact").count(), 10, "{again}");
    assert_eq!(names_in(&operator.path(".demon/contracts/staging")), [""; 0]);
}

#[tokio::test]
async fn a_dry_run_looks_the_tag_up_and_writes_nothing() {
    let operator = Operator::with_two_releases().await;
    let shell = &operator.shell;
    let printed = shell.types("demonctl contracts fetch-bundle --dry-run --tag contracts-latest").await;
    let expected = [
        "Fetching contract bundle",
        "Dry run mode",
        "Destination: .demon/contracts",
        "Would fetch tag: contracts-latest",
        "Release: contracts-20250921-0658fb8b",
    ];
    assert_eq!(printed.lines().take(5).collect::<Vec<_>>(), expected);
    let json = shell.types("demonctl contracts fetch-bundle --dry-run --format json").await;
    assert_eq!(json.lines().next(), Some(r#"{"phase": "fetch", "dry_run": true}"#));
    assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{json}");
    assert_eq!(names_in(shell.directory()), [""; 0]);

    let unknown = shell.fails("demonctl contracts fetch-bundle --dry-run --tag contracts-20200101-00000000", 1).await;
    assert!(unknown.ends_with("Release tag 'contracts-20200101-00000000' not found\n"), "{unknown}");
    let down =
        shell.fails("NATS_URL=nats://127.0.0.1:1 demonctl contracts fetch-bundle --dry-run --format json", 1).await;
    let error: Value = serde_json::from_str(down.lines().nth(1).expect("two lines")).expect("JSON");
    assert!(
        error["phase"] == "fetch" && error["error"].as_str().is_some_and(|text| text.contains("cannot be reached"))
    );
}

#[tokio::test]
async fn scripts_get_one_json_object_a_line() {
    let operator = Operator::with_two_releases().await;
    let json = operator.shell.types("demonctl contracts fetch-bundle --format json --dest out").await;
    let lines: Vec<&str> = json.lines().collect();
    assert_eq!(lines[0], r#"{"phase": "fetch", "dry_run": false}"#);
    assert_eq!(*lines.last().expect("a last line"), r#"{"phase": "complete", "bundle_path": "out/bundle.json"}"#);
    let help =
        operator.shell.types("demonctl contracts fetch-bundle --help; demonctl contracts list-releases --help").await;
    for text in [
        "Fetch contract bundle from GitHub releases",
        "List available contract bundle releases",
        "--tag",
        "--dest",
        "--dry-run",
        "--limit",
    ] {
        assert!(help.contains(text), "{text}: {help}");
    }
}

#[tokio::test]
async fn a_nodes_credentials_suffice() {
    let operator = Operator::with_two_releases().await;
    let shell = Shell::new(operator.shell.directory(), &operator.world.demonctl())
        .with("NATS_USER", "edge-1")
        .with("NATS_PASSWORD", operator.world.password("edge-1").expose())
        .with("DEMON_NODE_ID", "edge-1");
    shell.types("demonctl contracts fetch-bundle --dest validation && demonctl contracts fetch-bundle").await;
    assert_eq!(files_in(&operator.path("validation")), released(NEWEST));
    let listed = shell
        .types(
            "demonctl contracts list-releases --format json; demonctl bundle list; demonctl bundle show latest --files",
        )
        .await;
    assert!(listed.contains(OLDER) && listed.contains(NEWEST), "{listed}");
}

#[tokio::test]
async fn altered_objects_and_withdrawn_releases_are_refused_and_the_destination_stays() {
    let operator = Operator::with_two_releases().await;
    let shell = &operator.shell;
    shell.types("demonctl contracts fetch-bundle --dest validation && demonctl contracts fetch-bundle").await;
    let before = (files_in(&operator.path("validation")), files_in(&operator.path(".demon/contracts")));
    let bad = "contracts-20250922-00000000";
    let release = operator.publish(bad).await;
    // The archive alone, then its description too.
    for object in release.objects() {
        operator.store.tamper(&object.name, Tampering::RecomputeMeta).await.expect("altered");
        for dest in ["validation", "new", ".demon/contracts", "fresh/contracts"] {
            let fetch = format!("demonctl contracts fetch-bundle --cache fresh/contracts --tag {bad} --dest {dest}");
            let refused = shell.fails(&fetch, 1).await;
            let line = refused.lines().last().expect("an error");
            assert!(line.contains("SHA-256 mismatch: expected ") && line.contains(", got "), "{refused}");
            assert!(line.contains(&object.name), "{refused}");
        }
    }
    assert_eq!((files_in(&operator.path("validation")), files_in(&operator.path(".demon/contracts"))), before);
    assert_eq!(names_in(shell.directory()), [".demon", "fresh", "validation"]);
    assert_eq!(names_in(&operator.path("fresh")), ["contracts.lock"], "no empty cache either");

    let withdrawn = operator.publish("contracts-20250923-00000000").await;
    withdrawn.withdrawn(&operator.world.log().await).await;
    let refused = shell.fails("demonctl contracts fetch-bundle --dest validation", 1).await;
    assert!(refused.contains("was withdrawn by tests on ") && refused.contains("it breaks everything"), "{refused}");
    assert_eq!(files_in(&operator.path("validation")), before.0);
    let listed = shell.types("demonctl contracts list-releases").await;
    assert!(!listed.contains("20250923"), "{listed}");
}

#[tokio::test]
async fn a_killed_fetch_leaves_no_destination_and_the_next_one_clears_up() {
    let operator = Operator::with_two_releases().await;
    let mut files = contracts_files("large");
    let noise = acceptance::sample_trees::noise(48 << 20, 7);
    files.push(("noise.bin", noise));
    let release = HandmadeRelease::stored(&operator.store, "policies", "policies-1", &files).await;
    release.announced(&operator.world.log().await).await;
    let mut command = operator.shell.command("exec demonctl bundle fetch --bundle policies --dest out");
    let mut child = command.spawn().expect("the shell starts");
    let staging = || names_in(operator.shell.directory()).into_iter().find(|name| name.starts_with(".out.fetch-"));
    eventually("the fetch to begin", PATIENCE, async || satisfied(staging().is_some(), || "nothing yet".to_owned()))
        .await;
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(!operator.path("out").exists(), "nothing partial is visible");
    operator.shell.types("demonctl bundle fetch --bundle policies --dest out").await;
    assert_eq!(names_in(operator.shell.directory()), ["out"]);
    assert_eq!(files_in(&operator.path("out")).len(), 4);
}

#[tokio::test]
async fn releases_are_listed_newest_first_and_a_dead_source_stops_no_script() {
    let operator = Operator::with_two_releases().await;
    let shell = &operator.shell;
    for day in 1..=10 {
        operator.publish(&format!("contracts-202510{day:02}-00000000")).await;
    }
    let listed = shell.types("demonctl contracts list-releases").await;
    assert_eq!(listed, shell.types("demonctl contracts list-releases --limit 10").await);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[0], "Available contract releases:");
    assert_eq!(lines[1], format!("{:<30} {:<20} Name", "Tag", "Published"));
    assert_eq!(lines[2], "-".repeat(70));
    assert_eq!(lines.len(), 3 + 10);
    assert!(lines[3].starts_with("contracts-20251010-00000000    2"), "{listed}");
    assert!(lines[3].ends_with(" Contract Bundle 1.0.0 (contracts-20251010-00000000)"), "{listed}");

    let json = shell.types("demonctl contracts list-releases --limit 3 --format json").await;
    assert_eq!(json.lines().count(), 1);
    let rows: Vec<Value> = serde_json::from_str(&json).expect("an array");
    assert_eq!(rows.len(), 3);
    let keys: Vec<_> = rows[0].as_object().expect("an object").keys().collect();
    assert_eq!(keys.len(), 3);
    assert!(rows[0]["published_at"].as_str().is_some_and(|time| time.ends_with('Z')));

    let down =
        shell.run("set -e; demonctl contracts list-releases --limit 3 --format json; echo 'Check complete'").await;
    assert!(down.status.success());
    let dead = "set -e; export NATS_URL=nats://127.0.0.1:1; demonctl contracts list-releases --format json; demonctl contracts list-releases; echo done";
    let output = shell.run(dead).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\ndone\n", "{}", both_outputs(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("Failed to fetch releases: ").count(), 2);
    shell.fails("demonctl contracts list-releases --limit 0", 2).await;
    let none = shell.types("DEMON_BUNDLE=other demonctl contracts list-releases").await;
    assert_eq!(none, "No contract releases found\n");
}

#[tokio::test]
async fn github_releases_go_the_same_way() {
    let operator = Operator::with_two_releases().await;
    let github = FakeGitHub::start("acme", "contracts");
    let bundle = contracts_files("from GitHub").swap_remove(0).1;
    github.publish(FakeRelease::contracts("contracts-latest", bundle.clone()));
    github.publish(FakeRelease::contracts("contracts-20260203-1f0e9d8c", bundle.clone()));
    github.publish(FakeRelease::new("v1.0.0"));
    // No server is asked: the login leads nowhere.
    let shell = Shell::new(operator.shell.directory(), &operator.world.demonctl())
        .with("NATS_URL", "nats://127.0.0.1:1")
        .with("DEMON_CONTRACTS_SOURCE", "github")
        .with("GH_OWNER", "acme")
        .with("GH_REPO", "contracts")
        .with("DEMONCTL_GITHUB_API_URL", &github.url());
    shell.types("demonctl contracts fetch-bundle --dry-run && test ! -e .demon").await;
    assert!(github.paths().iter().all(|path| !path.ends_with("bundle.json")), "{:?}", github.paths());
    shell
        .types("demonctl contracts fetch-bundle --dest validation && cd validation && shasum -a 256 -c bundle.sha256")
        .await;
    assert_eq!(files_in(&operator.path("validation"))["bundle.json"], bundle);
    shell.types("demonctl contracts fetch-bundle && shasum -a 256 -c .demon/contracts/bundle.sha256").await;
    assert_eq!(names_in(&operator.path(".demon/contracts/releases")), ["contracts-20260203-1f0e9d8c"]);
    let listed = shell.types("demonctl contracts list-releases").await;
    assert!(listed.contains("contracts-latest") && !listed.contains("v1.0.0"), "{listed}");
    let unknown = shell.fails("demonctl contracts fetch-bundle --tag contracts-nope --dest x", 1).await;
    assert!(unknown.contains("Release tag 'contracts-nope' not found"), "{unknown}");

    let altered = FakeRelease::contracts("contracts-20260204-00000000", bundle).asset("bundle.json", "{}");
    github.publish(altered);
    let refused =
        shell.fails("demonctl contracts fetch-bundle --tag contracts-20260204-00000000 --dest validation", 1).await;
    assert!(refused.contains("SHA-256 mismatch") || refused.contains("expected"), "{refused}");
    assert!(!operator.path("x").exists());
}
