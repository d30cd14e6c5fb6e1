//! From contracts to a GitHub release: the artifacts, the decision, the release and its alias, and the workflow that
//! does it, run step by step with a stand-in for `gh`.

use std::fs;
use std::path::Path;
use std::process::Output;

use acceptance::checkout::{COMMIT_TIME, Checkout, stderr, stdout};
use acceptance::contracts_files::ContractsFiles;
use acceptance::sample_trees::change_one_contract;
use acceptance::shims::REPOSITORY;
use acceptance::workflow::{Context, Workflow, evaluate, expanded};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{World, both_outputs, finished};
use chrono::DateTime;
use serde_json::{Value, json};

const LATEST: &str = "contracts-latest";
const FILES: [&str; 3] = ["bundle.json", "manifest.json", "bundle.sha256"];
const DAY: i64 = 86_400;

fn succeeded(checkout: &Checkout, line: &str) -> String {
    let output = checkout.bash(line).output().expect("bash starts");
    assert_eq!(output.status.code(), Some(0), "`{line}`: {}", both_outputs(&output));
    stdout(&output)
}

fn read(directory: &Path) -> Vec<Vec<u8>> {
    FILES.iter().map(|name| fs::read(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))).collect()
}

/// Builds the artifacts as of a time and releases them.
fn release(checkout: &Checkout, time: i64, variables: &str) -> Output {
    succeeded(checkout, &format!("SOURCE_DATE_EPOCH={time} scripts/build_release_artifacts.sh"));
    let line = format!("{variables} scripts/release-contracts.sh");
    checkout.bash(&line).output().expect("bash starts")
}

fn released(checkout: &Checkout, time: i64, variables: &str) -> String {
    let output = release(checkout, time, variables);
    assert_eq!(output.status.code(), Some(0), "{}", both_outputs(&output));
    stdout(&output)
}

fn tag_of(checkout: &Checkout, time: i64) -> String {
    let day = DateTime::from_timestamp(time, 0).unwrap().format("%Y%m%d");
    format!("contracts-{day}-{}", &checkout.git(&["rev-parse", "HEAD"])[..8])
}

fn assets(checkout: &Checkout, tag: &str) -> Vec<Vec<u8>> {
    let github = checkout.shims.github();
    FILES.iter().map(|name| github.asset(tag, name).unwrap_or_else(|| panic!("{tag} has no {name}"))).collect()
}

#[test]
fn artifacts_are_the_same_bytes_wherever_they_are_built() {
    let checkout = Checkout::new();
    succeeded(&checkout, "scripts/build_release_artifacts.sh");
    let dist = checkout.root().join("dist");
    let first = read(&dist.join("contracts"));
    let manifest: Value = serde_json::from_slice(&first[1]).unwrap();
    assert_eq!(manifest["timestamp"], "2026-02-03T06:00:11Z", "the commit's time");
    assert_eq!(manifest["git"]["sha"], checkout.git(&["rev-parse", "HEAD"]).as_str());
    assert_eq!(manifest["trigger"], "local");
    succeeded(
        &checkout,
        "cd dist && sha256sum --check --strict SHA256SUMS && cd contracts && sha256sum -c bundle.sha256",
    );

    let sums = fs::read(dist.join("SHA256SUMS")).unwrap();
    succeeded(&checkout, "scripts/build_release_artifacts.sh");
    assert_eq!(read(&dist.join("contracts")), first, "again in place");
    for (number, around) in ["umask 077;", "export TZ=Asia/Tokyo LC_ALL=tr_TR.UTF-8;", "cd /;"].iter().enumerate() {
        let target = checkout.work().join(number.to_string());
        let script = checkout.root().join("scripts/build_release_artifacts.sh");
        succeeded(&checkout, &format!("{around} {} {}", script.display(), target.display()));
        assert_eq!(read(&target.join("contracts")), first, "{around}");
        assert_eq!(fs::read(target.join("SHA256SUMS")).unwrap(), sums, "{around}");
        let names: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    }
    succeeded(&checkout, "SOURCE_DATE_EPOCH=0 scripts/build_release_artifacts.sh other");
    let other = read(&checkout.root().join("other/contracts"));
    assert_eq!((&other[0], &other[2]), (&first[0], &first[2]), "the bundle does not know the time");
    assert_ne!(other[1], first[1]);
}

#[test]
fn artifacts_that_cannot_be_built_leave_the_old_ones() {
    let checkout = Checkout::new();
    succeeded(&checkout, "scripts/build_release_artifacts.sh");
    let dist = checkout.root().join("dist/contracts");
    let before = read(&dist);
    fs::write(checkout.root().join("contracts/schemas/broken.json"), "{").unwrap();
    let output = checkout.bash("scripts/build_release_artifacts.sh").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(stderr(&output).contains("broken.json"), "{}", stderr(&output));
    assert_eq!(read(&dist), before);
}

#[test]
fn a_release_has_three_files_and_the_alias_has_the_same() {
    let checkout = Checkout::new();
    let text = released(&checkout, COMMIT_TIME, "DEMON_TRIGGER=workflow_run");
    let tag = tag_of(&checkout, COMMIT_TIME);
    assert!(text.contains(&format!("Released {tag}")), "{text}");
    assert_eq!(checkout.shims.github().tags(), [tag.clone(), LATEST.to_owned()]);
    assert_eq!(assets(&checkout, &tag), assets(&checkout, LATEST));
    assert_eq!(assets(&checkout, &tag), read(&checkout.root().join("dist/contracts")));
    let head = checkout.git(&["rev-parse", "HEAD"]);
    assert_eq!(checkout.shims.github().commit(LATEST).as_ref(), Some(&head));
    let listed = succeeded(&checkout, "gh release list --limit 10 | grep contracts-");
    assert!(listed.contains(&format!("Contract Bundle 1.0.0 ({tag})")), "{listed}");
    assert!(listed.contains("Contract Bundle (Latest)"), "{listed}");
    succeeded(&checkout, "DEMON_CONTRACTS_SOURCE=github scripts/validate-release.sh");
}

#[test]
fn unchanged_content_is_released_when_scheduled_or_forced() {
    let checkout = Checkout::new();
    released(&checkout, COMMIT_TIME, "");
    let first = assets(&checkout, LATEST);
    for quiet in ["", "DEMON_TRIGGER=workflow_run", "FORCE_RELEASE=false", "FORCE_RELEASE=0", "FORCE_RELEASE="] {
        let text = released(&checkout, COMMIT_TIME + DAY, quiet);
        assert!(text.contains("Unchanged"), "{quiet}: {text}");
        assert_eq!(checkout.shims.github().tags().len(), 2, "{quiet}");
        assert_eq!(assets(&checkout, LATEST), first, "{quiet}");
    }
    let output = release(&checkout, COMMIT_TIME, "FORCE_RELEASE=perhaps");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`perhaps`"), "{}", stderr(&output));

    // The same day: the release keeps the manifest it was stored with.
    released(&checkout, COMMIT_TIME + 60, "FORCE_RELEASE=true");
    assert_eq!(checkout.shims.github().tags().len(), 2);
    assert_eq!(assets(&checkout, LATEST), first);

    for (days, variables) in [(1, "DEMON_TRIGGER=schedule"), (2, "FORCE_RELEASE=true DEMON_TRIGGER=workflow_dispatch")]
    {
        let time = COMMIT_TIME + days * DAY;
        released(&checkout, time, variables);
        let tag = tag_of(&checkout, time);
        assert_eq!(checkout.shims.github().tags().last(), Some(&tag), "{variables}");
        assert_eq!(assets(&checkout, &tag), assets(&checkout, LATEST), "{variables}");
        assert_eq!(assets(&checkout, LATEST)[0], first[0], "{variables}");
    }
}

#[test]
fn the_alias_moves_forward_only_and_is_never_missing() {
    let checkout = Checkout::new();
    released(&checkout, COMMIT_TIME, "");
    let old = checkout.git(&["rev-parse", "HEAD"]);
    change_one_contract(&checkout.root().join("contracts"), "changed");
    let new = checkout.commit("Change a contract", COMMIT_TIME + 60);
    released(&checkout, COMMIT_TIME + 60, "DEMON_TRIGGER=workflow_run");
    let github = checkout.shims.github();
    assert_eq!(github.tags().last(), Some(&tag_of(&checkout, COMMIT_TIME + 60)));
    assert_eq!(github.commit(LATEST), Some(new.clone()));
    let latest = assets(&checkout, LATEST);

    // The run for the commit before comes last.
    checkout.git(&["checkout", "--quiet", &old]);
    let text = released(&checkout, COMMIT_TIME + 120, "DEMON_TRIGGER=workflow_run");
    assert!(text.contains("newer"), "{text}");
    assert_eq!((github.commit(LATEST), assets(&checkout, LATEST)), (Some(new), latest));
    let deleted: Vec<_> =
        checkout.shims.calls("gh").into_iter().filter(|call| call.contains(&"delete".into())).collect();
    assert_eq!(deleted, Vec::<Vec<String>>::new());
    released(&checkout, COMMIT_TIME + 120, "FORCE_RELEASE=true");
    assert_eq!(github.commit(LATEST), Some(old), "unless somebody wants it so");
}

#[test]
fn a_release_that_was_cut_off_is_finished_by_the_next_run() {
    let checkout = Checkout::new();
    let tag = tag_of(&checkout, COMMIT_TIME);
    for place in [format!("{tag}/manifest.json"), format!("{LATEST}/bundle.json"), format!("{LATEST}/manifest.json")] {
        let output = release(&checkout, COMMIT_TIME, &format!("GH_SHIM_FAIL_UPLOAD={place}"));
        assert_eq!(output.status.code(), Some(1), "{place}: {}", both_outputs(&output));
    }
    released(&checkout, COMMIT_TIME, "");
    assert_eq!(assets(&checkout, &tag), assets(&checkout, LATEST));

    // An alias that is moved to new content only in part is not taken for the new release.
    change_one_contract(&checkout.root().join("contracts"), "changed");
    checkout.commit("Change a contract", COMMIT_TIME + 60);
    let place = format!("GH_SHIM_FAIL_UPLOAD={LATEST}/manifest.json");
    assert_eq!(release(&checkout, COMMIT_TIME + 60, &place).status.code(), Some(1));
    released(&checkout, COMMIT_TIME + 60, "DEMON_TRIGGER=workflow_run");
    assert_eq!(assets(&checkout, &tag_of(&checkout, COMMIT_TIME + 60)), assets(&checkout, LATEST));
}

#[test]
fn a_name_stands_for_one_content() {
    let checkout = Checkout::new();
    let other = ContractsFiles::with_bundle(b"{\"schemas\": {}}\n", DateTime::from_timestamp(COMMIT_TIME, 0).unwrap());
    let tag = tag_of(&checkout, COMMIT_TIME);
    let files = other.files();
    checkout.shims.github().put(&tag, files.iter().map(|(name, content)| (*name, content.as_slice())));
    let output = release(&checkout, COMMIT_TIME, "FORCE_RELEASE=true");
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(stderr(&output).contains("other content"), "{}", stderr(&output));
    assert_eq!(checkout.shims.github().tags(), std::slice::from_ref(&tag));
    assert_eq!(checkout.shims.github().asset(&tag, "bundle.json"), Some(other.bundle));
}

#[test]
fn nothing_is_guessed_about_a_github_that_does_not_answer() {
    let checkout = Checkout::new();
    checkout.shims.github().set_unreachable(true);
    let output = release(&checkout, COMMIT_TIME, "");
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(stderr(&output).contains("does not say whether"), "{}", stderr(&output));
    checkout.shims.github().set_unreachable(false);
    assert_eq!(checkout.shims.github().tags(), Vec::<String>::new());
}

#[test]
fn the_workflow_starts_when_the_playbook_says_so() {
    let workflow = Workflow::read("contracts-release.yml");
    let file = &workflow.content;
    assert_eq!(file["name"], "Contract Bundle Release");
    let run = json!({"workflows": ["CI"], "types": ["completed"], "branches": ["main"]});
    assert_eq!(file["on"]["workflow_run"], run);
    assert_eq!(Workflow::read("ci.yml").content["name"], "CI", "the workflow it waits for");
    assert_eq!(file["on"]["schedule"], json!([{"cron": "0 6 * * *"}]));
    let input = &file["on"]["workflow_dispatch"]["inputs"]["force_release"];
    assert_eq!((&input["type"], &input["default"]), (&json!("boolean"), &json!(false)));
    assert_eq!(file["permissions"], json!({"contents": "write"}));
    assert_eq!(file["concurrency"]["cancel-in-progress"], false);

    let main = "refs/heads/main";
    for (event, reference, conclusion, cause, runs) in [
        ("schedule", main, "", "", true),
        ("workflow_dispatch", main, "", "", true),
        ("workflow_dispatch", "refs/heads/feature", "", "", false),
        ("workflow_run", main, "success", "push", true),
        ("workflow_run", main, "failure", "push", false),
        ("workflow_run", main, "cancelled", "push", false),
        ("workflow_run", main, "success", "pull_request", false),
    ] {
        let context = Context::from(
            [
                ("github.event_name", event),
                ("github.ref", reference),
                ("github.event.workflow_run.conclusion", conclusion),
                ("github.event.workflow_run.event", cause),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let case = format!("{event} {reference} {conclusion} {cause}");
        assert_eq!(workflow.job_runs("release", &context), runs, "{case}");
    }

    let steps = file["jobs"]["release"]["steps"].as_array().unwrap();
    let checked_out = steps.iter().find(|step| step["uses"] == "actions/checkout@v4").unwrap();
    let reference = checked_out["with"]["ref"].as_str().unwrap();
    let commit = |pairs: &[(&str, &str)]| {
        let context = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        expanded(reference, &context)
    };
    let head = ("github.sha", "head");
    assert_eq!(commit(&[head]), "head");
    assert_eq!(commit(&[head, ("github.event.workflow_run.head_sha", "checked")]), "checked");
    let kept = steps.iter().find(|step| step["uses"] == "actions/upload-artifact@v4").unwrap();
    assert_eq!(kept["with"]["name"], "contract-bundle");
    assert_eq!((&kept["with"]["path"], &kept["with"]["retention-days"]), (&json!("dist/contracts/"), &json!(30)));
}

#[test]
fn ci_runs_what_a_developer_runs() {
    let workflow = Workflow::read("ci.yml");
    assert_eq!(workflow.content["on"]["push"]["branches"], json!(["main"]));
    assert_eq!(workflow.content["on"]["pull_request"]["branches"], json!(["main"]));
    assert_eq!(workflow.content["permissions"], json!({"contents": "read"}));
    let steps = workflow.content["jobs"]["checks"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["run"] == ".ci/run"), "{steps:?}");
}

#[test]
fn the_expressions_of_a_workflow_are_understood() {
    let context = Context::from([("a.b".to_owned(), "x".to_owned())]);
    for (expression, value) in [
        ("a.b", "x"),
        ("a.c || 'y'", "y"),
        ("a.b == 'x' && a.c != ''", ""),
        ("a.b == 'y' || (a.b == 'x' && a.c == '')", "true"),
    ] {
        assert_eq!(evaluate(expression, &context), value, "{expression}");
    }
}

/// What a run of the workflow finds in its context.
fn context(event: &str, more: &[(&str, &str)]) -> Context {
    let fixed = [
        ("github.event_name", event),
        ("github.ref", "refs/heads/main"),
        ("github.repository", REPOSITORY),
        ("github.token", "test-token"),
    ];
    fixed.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A checkout whose `cargo build` finds everything built.
fn checkout_to_build_in() -> Checkout {
    let checkout = Checkout::without_demonctl();
    // The build is the one thing that this checkout does not hold.
    let demonctl = WorkspaceBinary::Demonctl.path();
    let build = format!(
        "#!/bin/sh\n[ \"$*\" = 'build --locked --release -p demonctl' ] || exit 2\n\
         mkdir -p target/release && ln -sf '{}' target/release/demonctl\n",
        demonctl.display()
    );
    checkout.shims.write_program("cargo", &build);
    checkout
}

#[test]
fn the_workflows_steps_release_the_bundle() {
    let checkout = checkout_to_build_in();
    let workflow = Workflow::read("contracts-release.yml");
    let run = |event: &str, force: &str| {
        let run = workflow.run_job("release", &checkout, &context(event, &[("inputs.force_release", force)]));
        let (step, output) = run.steps.last().unwrap();
        assert!(run.succeeded, "step `{step}`: {}", both_outputs(output));
        assert!(stdout(output).contains("nothing is published to NATS"), "{}", both_outputs(output));
        let named: Vec<_> = run.actions.iter().map(|action| action.split_once('@').unwrap().0).collect();
        assert_eq!(named, ["actions/checkout", "actions/cache", "actions/upload-artifact"]);
        run.outputs
    };
    let outputs = run("workflow_run", "");
    assert_eq!(outputs["released"], "true");
    let tag = outputs["tag"].clone();
    assert_eq!(assets(&checkout, &tag), assets(&checkout, LATEST));
    let manifest: Value = serde_json::from_slice(&assets(&checkout, LATEST)[1]).unwrap();
    assert_eq!(manifest["trigger"], "workflow_run");
    assert_eq!(
        (&manifest["git"]["repository"], &manifest["git"]["ref"]),
        (&json!(REPOSITORY), &json!("refs/heads/main"))
    );

    assert_eq!(run("workflow_run", "")["released"], "false");
    assert_eq!(run("workflow_dispatch", "false")["released"], "false");
    assert_eq!(run("workflow_dispatch", "true")["released"], "true");
    assert_eq!(run("schedule", "")["released"], "true");
}

#[tokio::test]
async fn the_workflow_publishes_to_a_server_that_it_has_the_secrets_of() {
    let world = World::start(&[]).await;
    let mut checkout = checkout_to_build_in();
    let login = world.demonctl();
    let secret = |name: &str| {
        let found = login.get_envs().find(|(known, _)| *known == name).and_then(|(_, value)| value);
        found.and_then(|value| value.to_str()).expect("the operator has a login").to_owned()
    };
    let [url, user, password] = ["NATS_URL", "NATS_USER", "NATS_PASSWORD"].map(secret);
    let secrets = [("secrets.NATS_URL", &*url), ("secrets.NATS_USER", &*user), ("secrets.NATS_PASSWORD", &*password)];
    let workflow = Workflow::read("contracts-release.yml");
    let run = workflow.run_job("release", &checkout, &context("workflow_run", &secrets));
    for (step, output) in &run.steps {
        assert!(run.succeeded, "step `{step}`: {}", both_outputs(output));
        assert!(!both_outputs(output).contains(&password), "step `{step}` shows the password");
    }
    checkout.connect(&world);
    let fetch = "target/release/demonctl contracts fetch-bundle --tag contracts-latest --dest fetched";
    let output = finished(checkout.bash(fetch)).await;
    assert!(output.status.success(), "{}", both_outputs(&output));
    assert_eq!(
        read(&checkout.root().join("fetched"))[..2],
        assets(&checkout, LATEST)[..2],
        "one release in both places"
    );
}

#[test]
fn a_dry_run_decides_and_writes_nothing() {
    let checkout = Checkout::new();
    succeeded(&checkout, "scripts/build_release_artifacts.sh");
    let text = succeeded(&checkout, "scripts/release-contracts.sh --dry-run");
    let tag = tag_of(&checkout, COMMIT_TIME);
    assert!(text.starts_with(&format!("Would release {tag}")), "{text}");
    assert_eq!(checkout.shims.github().tags(), Vec::<String>::new());
    succeeded(&checkout, "scripts/release-contracts.sh");
    assert!(succeeded(&checkout, "scripts/release-contracts.sh --dry-run").starts_with("Unchanged"));
}

#[test]
fn the_release_logic_is_tried_without_releasing() {
    let checkout = Checkout::new();
    let text = succeeded(&checkout, "scripts/test-release-logic.sh");
    assert!(text.contains(&tag_of(&checkout, COMMIT_TIME)) && text.contains("byte for byte"), "{text}");
    assert_eq!(checkout.shims.calls("gh"), Vec::<Vec<String>>::new(), "GitHub is asked on demand only");
    let text = succeeded(&checkout, "scripts/test-release-logic.sh --github");
    assert!(text.contains("Would release"), "{text}");
    assert_eq!(checkout.shims.github().tags(), Vec::<String>::new());
    assert_eq!(checkout.temporary_files(), Vec::<std::path::PathBuf>::new());
}
