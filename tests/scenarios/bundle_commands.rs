//! `demonctl bundle fetch|list|show|diff` on releases of any form.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use acceptance::handmade_release::{HandmadeRelease, contracts_files};
use acceptance::sample_trees::plain;
use acceptance::shell::Shell;
use acceptance::world::{World, succeeded};
use serde_json::Value;
use streams::release_store::ReleaseStore;

/// A server with two releases of bundle `policies`, made by the publisher from a directory, and a shell.
struct Operator {
    shell: Shell,
    world: World,
}

impl Operator {
    async fn with_policies() -> Self {
        let world = World::start(&[]).await;
        let source = plain(&world.subdirectory("source"));
        let shell = Shell::new(&world.subdirectory("work"), &world.demonctl());
        let operator = Self { shell, world };
        operator.publish(&source, "policies-1").await;
        fs::write(source.join("policy.rego"), "package demon\n\ndefault allow := true\n").expect("writable");
        fs::rename(source.join("config/limits.json"), source.join("config/bounds.json")).expect("writable");
        fs::set_permissions(source.join("bin/check"), fs::Permissions::from_mode(0o644)).expect("ours");
        fs::remove_file(source.join("empty")).expect("writable");
        fs::write(source.join("new"), "new").expect("writable");
        operator.publish(&source, "policies-2").await;
        operator
    }

    async fn publish(&self, source: &std::path::Path, tag: &str) {
        let mut command = self.world.publisher();
        command.args(["--bundle", "policies", "--tag", tag]).arg("--source").arg(source);
        succeeded(command).await;
    }

    async fn json(&self, script: &str) -> Value {
        let text = self.shell.types(script).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

#[tokio::test]
async fn a_release_is_fetched_as_it_was_published_and_replaces_only_its_own_kind() {
    let operator = Operator::with_policies().await;
    let shell = &operator.shell;
    let source = operator.world.directory().join("source/plain");
    let said = shell.types("demonctl bundle fetch --bundle policies --dest out").await;
    assert!(said.starts_with("Release policies-2 of policies fetched and verified: "), "{said}");
    shell.types(&format!("diff -r {} out", source.display())).await;
    let again = operator.json("demonctl bundle fetch --bundle policies --dest out --output json").await;
    assert_eq!((&again["found"], &again["tag"]), (&Value::Bool(true), &Value::from("policies-2")));

    // An earlier release takes the whole place: nothing of the later one stays.
    shell.types("demonctl bundle fetch --bundle policies --tag policies-1 --dest out").await;
    let executable = |path: &str| {
        let mode = fs::metadata(shell.directory().join(path)).expect("the file is there").permissions().mode();
        mode & 0o111 != 0
    };
    assert!(executable("out/bin/check") && !executable("out/policy.rego"));
    shell.types("test -f out/empty -a ! -e out/new -a -f out/config/limits.json -a ! -e out/config/bounds.json").await;

    // Somebody's own work is not replaced, unless asked for, and then kept.
    shell.types("echo mine > out/mine").await;
    let refused = shell.fails("demonctl bundle fetch --bundle policies --dest out", 1).await;
    assert!(refused.contains("belong to no release of `policies`") && refused.contains("--force"), "{refused}");
    assert_eq!(shell.types("cat out/mine; ls -A").await, "mine\nout\n");
    shell.types("demonctl bundle fetch --bundle policies --dest out --force && test ! -e out/mine").await;
    assert_eq!(shell.types("cat out.before-*/mine").await, "mine\n");
    shell.types("ln -s out linked && demonctl bundle fetch --bundle policies --tag policies-1 --dest linked").await;
    shell.types("test -L linked && test -f out/empty").await;
    let file = shell.fails("echo x > file; demonctl bundle fetch --bundle policies --dest file", 1).await;
    assert_eq!(file.lines().count(), 1, "{file}");
    shell.fails("demonctl bundle fetch --bundle policies", 2).await;
}

#[tokio::test]
async fn an_empty_directory_and_the_working_directory_are_filled() {
    let operator = Operator::with_policies().await;
    let shell = &operator.shell;
    shell.types("mkdir empty here && demonctl bundle fetch --bundle policies --dest empty && test -f empty/new").await;
    // The shell that stands in it sees the files.
    shell.types("cd here && demonctl bundle fetch --bundle policies --dest . && test -f new -a -f bin/check").await;
    shell
        .types(
            "cd here && demonctl bundle fetch --bundle policies --tag policies-1 --dest . && test -f empty -a ! -e new",
        )
        .await;
    assert_eq!(shell.types("ls -A").await, "empty\nhere\n");
}

#[tokio::test]
async fn releases_are_listed_with_their_channels_and_withdrawals() {
    let operator = Operator::with_policies().await;
    let (log, store) = (operator.world.log().await, ReleaseStore::new(operator.world.operator().await));
    let contracts = HandmadeRelease::stored(&store, "contracts", "v1", &contracts_files("1")).await;
    contracts.announced(&log).await;
    contracts.withdrawn(&log).await;
    let all = operator.json("demonctl bundle list --output json").await;
    let tags: Vec<_> = all.as_array().expect("an array").iter().map(|row| row["tag"].as_str().unwrap_or("")).collect();
    assert_eq!(tags, ["v1", "policies-2", "policies-1"]);
    assert_eq!(all[0]["withdrawn"]["reason"], "it breaks everything");
    assert_eq!(all[1]["channels"], serde_json::json!(["latest"]));
    assert_eq!(all[2]["channels"], serde_json::json!([]));
    let table = operator.shell.types("demonctl bundle list --bundle policies").await;
    assert!(table.lines().count() == 3 && !table.contains("v1"), "{table}");

    let shown = operator.json("demonctl bundle show policies-2 --bundle policies --files --output json").await;
    assert_eq!((&shown["tag"], &shown["files"]), (&Value::from("policies-2"), &Value::from(6)));
    assert_eq!(shown["file_list"].as_array().expect("files").len(), 6);
    assert_eq!(shown["archive"]["name"], "policies/policies-2.tar.zst");
    let table = operator.shell.types("demonctl bundle show v1 --files").await;
    assert!(table.contains("Withdrawn       by tests at ") && table.contains("bundle.json"), "{table}");
    let unknown = operator.shell.fails("demonctl bundle show nope", 1).await;
    assert!(unknown.contains("Release tag 'nope' not found"), "{unknown}");
}

#[tokio::test]
async fn differences_are_named_file_by_file() {
    let operator = Operator::with_policies().await;
    let shell = &operator.shell;
    let found = operator.json("demonctl bundle diff policies-1 policies-2 --bundle policies --output json").await;
    let found: Vec<(&str, &str)> = found
        .as_array()
        .expect("an array")
        .iter()
        .map(|row| (row["change"].as_str().unwrap_or(""), row["path"].as_str().unwrap_or("")))
        .collect();
    let expected = [
        ("mode", "bin/check"),
        ("renamed", "config/bounds.json"),
        ("removed", "empty"),
        ("added", "new"),
        ("changed", "policy.rego"),
    ];
    assert_eq!(found, expected);
    let table = shell.types("demonctl bundle diff policies-1 latest --bundle policies").await;
    assert!(table.contains("config/limits.json => config/bounds.json"), "{table}");
    let source = operator.world.directory().join("source/plain");
    let same = format!("demonctl bundle diff latest {} --bundle policies --exit-code", source.display());
    assert_eq!(shell.types(&same).await, "no differences\n");
    shell.fails("demonctl bundle diff policies-1 latest --bundle policies --exit-code", 1).await;
    shell.fails("demonctl bundle diff policies-1 ./nowhere --bundle policies", 1).await;
}
