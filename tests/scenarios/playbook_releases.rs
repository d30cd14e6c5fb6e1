//! The operators' playbook on releases, its commands word for word: releasing by hand, watching the schedule,
//! validating, finding out why a download fails, going back to an older release.

use std::fs;
use std::process::{Command, Output};

use acceptance::checkout::{COMMIT_TIME, Checkout, stderr, stdout};
use acceptance::contracts_files::{ContractsFiles, workspace};
use acceptance::sample_trees::change_one_contract;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished};
use chrono::Utc;
use serde_json::Value;

const NODE: &str = "edge-1";

fn run(checkout: &Checkout, line: &str) -> Output {
    checkout.bash(line).output().expect("bash starts")
}

fn succeeded(checkout: &Checkout, line: &str) -> String {
    let output = run(checkout, line);
    assert_eq!(output.status.code(), Some(0), "`{line}`: {}", both_outputs(&output));
    stdout(&output)
}

async fn done(command: Command) -> String {
    let output = finished(command).await;
    assert_eq!(output.status.code(), Some(0), "{}", both_outputs(&output));
    stdout(&output)
}

/// Publishes what the checkout holds after a change, and returns the tag.
async fn publish(checkout: &Checkout, change: &str, time: i64) -> String {
    change_one_contract(&checkout.root().join("contracts"), change);
    checkout.commit(change, time);
    let line = format!("SOURCE_DATE_EPOCH={time} demonctl contracts publish contracts --output json");
    done(checkout.bash(&line)).await;
    let commit = checkout.git(&["rev-parse", "HEAD"]);
    let day = chrono::DateTime::from_timestamp(time, 0).unwrap().format("%Y%m%d").to_string();
    format!("contracts-{day}-{}", &commit[..8])
}

#[test]
fn a_release_is_triggered_by_hand() {
    let checkout = Checkout::new();
    let github = checkout.shims.github();
    for (line, inputs) in [
        ("gh workflow run contracts-release.yml", "\n"),
        ("gh workflow run contracts-release.yml -f force_release=true", "force_release=true\n"),
    ] {
        assert!(succeeded(&checkout, line).contains("contracts-release.yml"));
        assert_eq!(github.dispatched_inputs().as_deref(), Some(inputs));
    }
    for minute in 0..5 {
        github.add_run("workflow_run", &format!("2026-02-03T06:0{minute}:00Z"));
    }
    let listed = succeeded(&checkout, "gh run list --workflow=contracts-release.yml --limit 5");
    assert_eq!(listed.lines().count(), 5, "{listed}");
    assert!(listed.starts_with("completed\tsuccess"), "newest first: {listed}");
}

#[test]
fn the_daily_release_is_watched() {
    let checkout = Checkout::new();
    let github = checkout.shims.github();
    let today = "TODAY=$(date +%Y-%m-%d)\ngh run list --workflow=contracts-release.yml --created=\"$TODAY\" | grep schedule || echo \"No scheduled release today\"";
    github.add_run("schedule", "2025-01-01T06:00:00Z");
    github.add_run("workflow_run", &Utc::now().format("%Y-%m-%dT06:00:00Z").to_string());
    assert_eq!(succeeded(&checkout, today), "No scheduled release today\n");
    let date = succeeded(&checkout, "date +%Y-%m-%d").trim().to_owned();
    github.add_run("schedule", &format!("{date}T06:00:00Z"));
    assert!(succeeded(&checkout, today).contains("schedule"));
    let listed = succeeded(&checkout, "gh run list --workflow=contracts-release.yml --event=schedule --limit 5");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.lines().all(|line| line.contains("\tschedule\t")), "{listed}");
}

#[test]
fn github_is_looked_at_when_downloads_fail() {
    let checkout = Checkout::new();
    let line = "gh release list --limit 10 | grep contracts-";
    assert_eq!(run(&checkout, line).status.code(), Some(1), "there is none");
    let files = ContractsFiles::fresh().files();
    checkout.shims.github().put("contracts-latest", files.iter().map(|(name, content)| (*name, content.as_slice())));
    assert!(succeeded(&checkout, line).contains("contracts-latest"));
    succeeded(&checkout, "gh auth status");
    checkout.shims.github().sign_out();
    assert_eq!(run(&checkout, "gh auth status").status.code(), Some(1));
}

#[tokio::test]
async fn a_release_is_validated_step_by_step() {
    let world = World::start(&[NODE]).await;
    let mut checkout = Checkout::new();
    checkout.connect(&world);
    publish(&checkout, "one", COMMIT_TIME).await;
    let steps = "set -e
        demonctl contracts fetch-bundle --tag contracts-latest --dest ./validation
        cd validation
        shasum -a 256 -c bundle.sha256
        demonctl contracts validate bundle.json
        jq '.' manifest.json >/dev/null
        jq '.git.sha, .timestamp' manifest.json";
    let text = done(checkout.bash_in(&checkout.work(), steps)).await;
    assert!(text.contains("bundle.json: OK\n"), "{text}");
    let facts: Vec<_> = text.lines().rev().take(2).collect();
    let head = checkout.git(&["rev-parse", "HEAD"]);
    assert_eq!(facts, ["\"2026-02-03T06:00:11Z\"".to_owned(), format!("\"{head}\"")]);
}

#[tokio::test]
async fn releases_of_the_server_are_validated_as_the_playbook_says() {
    let world = World::start(&[NODE]).await;
    let mut checkout = Checkout::without_demonctl();
    checkout.connect(&world);
    checkout.link_built_demonctl("release");
    checkout.shims.link("demonctl", &checkout.root().join("target/release/demonctl"));
    let now = Utc::now().timestamp();
    let tag = publish(&checkout, "one", now).await;
    for line in [
        "./scripts/validate-release.sh".to_owned(),
        format!("./scripts/validate-release.sh {tag}"),
        "./scripts/validate-release.sh --verbose contracts-latest".to_owned(),
        "DEMONCTL_BIN=./target/release/demonctl ./scripts/validate-release.sh".to_owned(),
        "DEMON_CONTRACTS_SOURCE=nats ./scripts/smoke-verify-release.sh contracts-latest".to_owned(),
    ] {
        let text = done(checkout.bash(&line)).await;
        assert!(text.contains(&checkout.git(&["rev-parse", "HEAD"])), "`{line}`: {text}");
    }
    let output = finished(checkout.bash("./scripts/validate-release.sh contracts-20200101-00000000")).await;
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(stderr(&output).contains("could not be downloaded from nats"), "{}", stderr(&output));

    // As cron runs it: nothing in the environment but what the crontab sets, from the root directory, without a terminal.
    checkout.shims.remove("demonctl");
    let script = checkout.root().join("scripts/validate-release.sh");
    let log = checkout.work().join("bundle-validation.log");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{} >> {} 2>&1", script.display(), log.display()));
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin");
    let login = world.demonctl();
    command.envs(login.get_envs().filter_map(|(name, value)| Some((name, value?))));
    done(command).await;
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("Step 9/9") && text.contains("is good") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_crontab_is_added_to_and_not_replaced() {
    let checkout = Checkout::new();
    let entry = "0 */6 * * * /path/to/demon/scripts/validate-release.sh >> /var/log/bundle-validation.log 2>&1";
    checkout.shims.set_crontab("15 3 * * * backup\n");
    let page = documentation();
    let append =
        page.lines().find(|line| line.ends_with(" ) | crontab -")).expect("the page shows the form that appends");
    succeeded(&checkout, append);
    let crontab = checkout.shims.crontab().unwrap();
    assert!(crontab.starts_with("15 3 * * * backup\n0 */6 * * * ") && crontab.lines().count() == 2, "{crontab}");
    // The playbook's own form is for a user without a crontab.
    succeeded(&checkout, &format!("echo \"{entry}\" | crontab -"));
    assert_eq!(checkout.shims.crontab().as_deref(), Some(&*format!("{entry}\n")));
}

#[tokio::test]
async fn a_node_is_pinned_to_a_release_by_its_unit_and_a_restart() {
    let world = World::start(&[NODE]).await;
    let mut checkout = Checkout::new();
    checkout.connect(&world);
    let mut tags = Vec::new();
    for day in 0..3 {
        tags.push(publish(&checkout, &format!("day {day}"), COMMIT_TIME + day * 86_400).await);
    }
    let cache = checkout.work().join(".demon/contracts");
    let mut agent = world.agent_command(NODE);
    agent.arg("--cache").arg(&cache).arg("--state-dir").arg(checkout.work().join(".demon/agent"));
    checkout.shims.unit_command(&agent);
    let restart = async |tag: &str| {
        let text = |value: &std::ffi::OsStr| value.to_str().expect("the settings are text").to_owned();
        let mut file: Vec<_> = agent.get_envs().filter_map(|(name, value)| Some((text(name), text(value?)))).collect();
        file.push(("DEMON_CONTRACTS_TAG".to_owned(), tag.to_owned()));
        checkout.shims.unit_environment(&file);
        done(checkout.bash("systemctl restart demon-runtime")).await;
    };
    let runs = async |tag: &str| {
        eventually(&format!("the node to run {tag}"), PATIENCE, async || {
            let active = fs::read_link(cache.join("current")).ok().map(|target| target.file_name().unwrap().to_owned());
            satisfied(active.as_deref() == Some(tag.as_ref()), || {
                format!("it runs {active:?}; its log: {}", checkout.shims.unit_log())
            })
        })
        .await;
    };
    restart("contracts-latest").await;
    runs(&tags[2]).await;
    restart(&tags[0]).await;
    runs(&tags[0]).await;
    // The shell's variables do not reach a unit: systemd does not pass them on.
    done(checkout.bash(&format!("export DEMON_CONTRACTS_TAG={}\nsystemctl restart demon-runtime", tags[1]))).await;
    runs(&tags[0]).await;
    assert!(checkout.shims.unit_process().is_some());
    restart("contracts-latest").await;
    runs(&tags[2]).await;
}

#[tokio::test]
async fn a_cache_is_restored_from_a_known_good_release() {
    let world = World::start(&[NODE]).await;
    let mut checkout = Checkout::new();
    checkout.connect(&world);
    let good = publish(&checkout, "one", COMMIT_TIME).await;
    publish(&checkout, "two", COMMIT_TIME + 86_400).await;
    let lines = format!(
        "set -e
        mkdir -p .demon/contracts && echo corrupted > .demon/contracts/bundle.json
        rm -rf .demon/contracts/
        demonctl contracts fetch-bundle --tag {good}
        shasum -a 256 -c .demon/contracts/bundle.sha256
        cd .demon/contracts/
        shasum -a 256 bundle.json
        jq -r '.bundle_sha256' manifest.json"
    );
    let text = done(checkout.bash_in(&checkout.work(), &lines)).await;
    let mut last = text.lines().rev();
    let (stated, computed) = (last.next().unwrap(), last.next().unwrap());
    assert_eq!(computed, format!("{stated}  bundle.json"), "{text}");
    let manifest = fs::read(checkout.work().join(".demon/contracts/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["timestamp"], "2026-02-03T06:00:11Z");
}

/// The programs in `scripts/`.
fn scripts(checkout: &Checkout) -> Vec<String> {
    let listed = succeeded(checkout, "cd scripts && ls *.sh");
    listed.lines().map(str::to_owned).collect()
}

/// What a script prints about itself; it only writes passwords, and takes no options, where there is nothing.
fn help(checkout: &Checkout, script: &str) -> Option<String> {
    (script != "compose-passwords.sh").then(|| succeeded(checkout, &format!("scripts/{script} --help")))
}

#[test]
fn scripts_are_programs_with_help() {
    let checkout = Checkout::without_demonctl();
    let scripts = scripts(&checkout);
    for name in &scripts {
        succeeded(&checkout, &format!("test -x scripts/{name} && bash -n scripts/{name}"));
        if let Some(help) = help(&checkout, name) {
            assert!(help.starts_with(&format!("Usage: {name}")), "{name}: {help}");
        }
    }
    for named in ["validate-release.sh", "smoke-verify-release.sh", "build_release_artifacts.sh"] {
        assert!(scripts.iter().any(|name| name == named), "{named} of the playbook is missing: {scripts:?}");
    }
    assert_eq!(checkout.git(&["status", "--porcelain"]), "", "help changes nothing");
}

#[test]
fn every_script_and_every_variable_of_its_help_is_documented() {
    let checkout = Checkout::without_demonctl();
    let page = documentation();
    let mut variables = 0;
    for name in scripts(&checkout) {
        assert!(page.contains(&format!("| `{name}")), "`{name}` is not in the table");
        let help = help(&checkout, &name).unwrap_or_default();
        let word = |symbol: char| symbol.is_ascii_uppercase() || symbol.is_ascii_digit() || symbol == '_';
        let ours = |text: &&str| {
            ["DEMON_", "DEMONCTL_", "GH_", "GITHUB_", "NATS_"].iter().any(|start| text.starts_with(start))
        };
        for variable in help.split(|symbol| !word(symbol)).filter(ours) {
            assert!(page.contains(variable), "`{variable}` of `{name}` is not documented");
            variables += 1;
        }
    }
    assert!(variables > 20, "{variables} variables");
}

fn documentation() -> String {
    fs::read_to_string(workspace().join("docs/scripts.md")).expect("the page is there")
}
