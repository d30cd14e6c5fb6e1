//! `scripts/validate-release.sh` and `scripts/smoke-verify-release.sh` on good and bad releases, as operators and
//! cron call them. The releases come from a stand-in for `gh`; those from a server are in `playbook_releases`.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::Duration;

use acceptance::checkout::{Checkout, stderr, stdout};
use acceptance::contracts_files::{ContractsFiles, GIT_SHA};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::both_outputs;
use chrono::Utc;
use serde_json::json;

const LATEST: &str = "contracts-latest";
const TAG: &str = "contracts-20250921-0658fb8b";
const STEPS: [&str; 9] = [
    "download release",
    "files present",
    "SHA-256 checksum",
    "bundle structure",
    "manifest fields",
    "manifest cross-check",
    "freshness",
    "git SHA",
    "summary",
];

fn checkout() -> Checkout {
    let mut checkout = Checkout::new();
    checkout.set("DEMON_CONTRACTS_SOURCE", "github");
    checkout
}

fn serve(checkout: &Checkout, tag: &str, release: &ContractsFiles) {
    let files = release.files();
    checkout.shims.github().put(tag, files.iter().map(|(name, content)| (*name, content.as_slice())));
}

fn run(checkout: &Checkout, line: &str) -> Output {
    checkout.bash(line).output().expect("bash starts")
}

fn succeeded(checkout: &Checkout, line: &str) -> String {
    let output = run(checkout, line);
    assert_eq!(output.status.code(), Some(0), "`{line}`: {}", both_outputs(&output));
    stdout(&output)
}

fn failed(checkout: &Checkout, line: &str) -> Output {
    let output = run(checkout, line);
    assert_eq!(output.status.code(), Some(1), "`{line}`: {}", both_outputs(&output));
    assert_eq!(checkout.temporary_files(), Vec::<std::path::PathBuf>::new(), "`{line}` leaves files behind");
    output
}

#[test]
fn a_good_release_passes_nine_steps_in_order() {
    let checkout = checkout();
    let release = ContractsFiles::fresh();
    serve(&checkout, LATEST, &release);
    let text = succeeded(&checkout, "./scripts/validate-release.sh");
    let mut rest = text.as_str();
    for (number, name) in STEPS.iter().enumerate() {
        let line = format!("Step {}/9: {name}", number + 1);
        let (_, after) = rest.split_once(&line).unwrap_or_else(|| panic!("no `{line}` where it belongs in {text}"));
        rest = after;
    }
    let digest = release.manifest["bundle_sha256"].as_str().unwrap();
    let timestamp = release.manifest["timestamp"].as_str().unwrap();
    let size = release.bundle.len();
    for line in [
        format!("Tag:        {LATEST}"),
        "Version:    1.0.0".to_owned(),
        format!("Timestamp:  {timestamp}"),
        format!("Git SHA:    {GIT_SHA}"),
        format!("Bundle SHA: {digest}"),
        "Age:        0 h".to_owned(),
        format!("Size:       {size} bytes"),
    ] {
        assert!(rest.contains(&line), "no `{line}` in {rest}");
    }
    assert!(!text.contains("WARN") && !text.contains('\u{1b}'), "{text}");
    assert_eq!(checkout.temporary_files(), Vec::<std::path::PathBuf>::new());
    // Outside a checkout gh does not know which repository is meant.
    let calls = checkout.shims.calls("gh");
    assert!(calls[0].windows(2).any(|pair| pair == ["--repo", "afewell-hh/demon"]), "{calls:?}");
}

#[test]
fn the_tag_and_the_options_come_in_any_order() {
    let checkout = checkout();
    serve(&checkout, LATEST, &ContractsFiles::fresh());
    serve(&checkout, TAG, &ContractsFiles::fresh());
    let cases = [
        ("./scripts/validate-release.sh", LATEST, false),
        ("./scripts/validate-release.sh contracts-20250921-0658fb8b", TAG, false),
        ("./scripts/validate-release.sh --verbose contracts-latest", LATEST, true),
        ("./scripts/validate-release.sh --verbose                    # Detailed output", LATEST, true),
        ("./scripts/validate-release.sh contracts-20250921-0658fb8b -v", TAG, true),
        ("VERBOSE=true ./scripts/validate-release.sh", LATEST, true),
    ];
    for (line, tag, verbose) in cases {
        let before = checkout.shims.calls("gh").len();
        let text = succeeded(&checkout, line);
        let asked: Vec<_> = checkout.shims.calls("gh").split_off(before);
        assert_eq!((asked.len(), asked[0][2].as_str()), (1, tag), "`{line}`: {asked:?}");
        assert_eq!(text.contains("bundle.json: "), verbose, "`{line}`: {text}");
        assert_eq!(text.contains(&format!("git.sha: {GIT_SHA}")), verbose, "`{line}`: {text}");
    }
    for (line, word) in [
        ("./scripts/validate-release.sh --quick", "unknown option `--quick`"),
        ("./scripts/validate-release.sh one two", "one tag at a time"),
        ("DEMON_CONTRACTS_SOURCE=ftp ./scripts/validate-release.sh", "`ftp`"),
    ] {
        let output = failed(&checkout, line);
        assert!(stderr(&output).contains(word), "`{line}`: {}", stderr(&output));
    }
}

#[test]
fn every_defect_fails_its_own_step() {
    let checkout = checkout();
    let good = ContractsFiles::fresh();
    let manifest = |pointer: &str, name: &str, value: Option<&str>| {
        let mut release = good.clone();
        let object = release.manifest.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => object.insert(name.to_owned(), json!(value)),
            None => object.remove(name),
        };
        release
    };
    let digest_file = |text: String| ContractsFiles { digest_file: text, ..good.clone() };
    let digest = good.manifest["bundle_sha256"].as_str().unwrap();
    let other = "0".repeat(64);
    let mut flipped = good.clone();
    flipped.bundle[100] ^= 1;
    let malformed = ContractsFiles::with_bundle(b"{\"version\": \"1.0.0\"}\n", Utc::now());
    let no_json = ContractsFiles::with_bundle(b"schemas: none\n", Utc::now());
    let cases = [
        ("a flipped byte", flipped, 3, digest),
        ("a wrong digest file", digest_file(format!("{other}  bundle.json\n")), 3, digest),
        ("a digest file of another file", digest_file(format!("{digest}  other.json\n")), 3, "other.json"),
        ("a digest file of two lines", digest_file(format!("{digest}  bundle.json\n").repeat(2)), 3, "one line"),
        ("a digest file without a name", digest_file(format!("{digest}\n")), 3, "bundle.sha256"),
        ("no schemas", malformed, 4, "validate"),
        ("no JSON", no_json, 4, "validate"),
        ("no version", manifest("", "version", None), 5, "version"),
        ("no timestamp", manifest("", "timestamp", None), 5, "timestamp"),
        ("no git.sha", manifest("/git", "sha", None), 5, "git.sha"),
        ("no git", manifest("", "git", None), 5, "git.sha"),
        ("git is no object", manifest("", "git", Some("main")), 5, "git.sha"),
        ("no bundle_sha256", manifest("", "bundle_sha256", None), 5, "bundle_sha256"),
        ("another bundle_sha256", manifest("", "bundle_sha256", Some(&other)), 6, digest),
        ("a git.sha of 39 digits", manifest("/git", "sha", Some(&GIT_SHA[1..])), 8, "40"),
        ("a git.sha with a line's end", manifest("/git", "sha", Some(&format!("{GIT_SHA}\n"))), 8, "40"),
        ("a git.sha in capitals", manifest("/git", "sha", Some(&GIT_SHA.to_uppercase())), 8, "40"),
    ];
    for (what, release, step, word) in cases {
        serve(&checkout, LATEST, &release);
        let error = stderr(&failed(&checkout, "./scripts/validate-release.sh"));
        let named = format!("ERROR: step {step}/9 ({})", STEPS[step - 1]);
        assert!(error.contains(&named) && error.contains(word), "{what}: no `{named}` with `{word}` in {error}");
    }
    for missing in ["bundle.json", "manifest.json", "bundle.sha256"] {
        serve(&checkout, LATEST, &good);
        checkout.shims.github().remove_asset(LATEST, missing);
        let error = stderr(&failed(&checkout, "./scripts/validate-release.sh"));
        assert!(error.contains("ERROR: step 2/9 (files present)") && error.contains(missing), "{missing}: {error}");
    }
    serve(&checkout, LATEST, &good);
    succeeded(&checkout, "./scripts/validate-release.sh");
}

#[test]
fn a_release_that_cannot_be_downloaded_is_named() {
    let checkout = checkout();
    serve(&checkout, LATEST, &ContractsFiles::fresh());
    let error = stderr(&failed(&checkout, "./scripts/validate-release.sh contracts-20250921-0658fb8b"));
    assert!(error.contains("step 1/9") && error.contains(TAG) && error.contains("could not be downloaded"), "{error}");
    assert!(error.contains("release not found"), "what gh said is missing: {error}");

    checkout.shims.github().set_unreachable(true);
    failed(&checkout, "./scripts/validate-release.sh");
    checkout.shims.remove("gh");
    let error = stderr(&failed(&checkout, "./scripts/validate-release.sh"));
    assert!(error.contains("gh is not installed"), "{error}");
}

#[test]
fn a_check_that_is_stopped_leaves_nothing_behind() {
    let checkout = checkout();
    // Ctrl-C in the middle of the download.
    checkout.shims.write_program("gh", "#!/bin/sh\ntrap '' TERM\nkill -TERM 0\n");
    let output = run(&checkout, "setsid --wait ./scripts/validate-release.sh");
    assert_eq!(output.status.code(), Some(143), "{}", both_outputs(&output));
    assert_eq!(checkout.temporary_files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_old_bundle_is_a_warning() {
    let checkout = checkout();
    // Half an hour more, so that the hours of the summary do not depend on how long the test takes.
    let aged = |hours: u64| ContractsFiles::aged(Duration::from_hours(hours) + Duration::from_mins(30));
    let cases = [(0, None), (47, None), (48, Some("aging")), (50, Some("aging")), (167, Some("aging"))];
    for (hours, warning) in cases.into_iter().chain([(168, Some("quite old")), (200, Some("quite old"))]) {
        serve(&checkout, LATEST, &aged(hours));
        let text = succeeded(&checkout, "./scripts/validate-release.sh");
        assert!(text.contains(&format!("Age:        {hours} h")), "{hours}: {text}");
        let warned = text.lines().find(|line| line.contains("WARN"));
        assert_eq!(warned.is_some(), warning.is_some(), "{hours}: {text}");
        if let (Some(line), Some(warning)) = (warned, warning) {
            assert!(line.contains(warning) && line.contains(&hours.to_string()), "{hours}: {line}");
        }
    }
    for (timestamp, word) in [("2999-01-01T00:00:00Z", "future"), ("yesterday", "unknown")] {
        let mut release = ContractsFiles::fresh();
        release.manifest["timestamp"] = json!(timestamp);
        serve(&checkout, LATEST, &release);
        let text = succeeded(&checkout, "./scripts/validate-release.sh");
        assert!(text.lines().any(|line| line.contains("WARN") && line.contains(word)), "{timestamp}: {text}");
    }
    let mut release = ContractsFiles::fresh();
    let in_offset = Utc::now() - Duration::from_mins(150) + Duration::from_hours(2);
    release.manifest["timestamp"] = json!(in_offset.format("%Y-%m-%dT%H:%M:%S.250+02:00").to_string());
    serve(&checkout, LATEST, &release);
    assert!(succeeded(&checkout, "./scripts/validate-release.sh").contains("Age:        2 h"));
}

#[test]
fn demonctl_is_the_one_that_was_named() {
    let checkout = Checkout::without_demonctl();
    serve(&checkout, LATEST, &ContractsFiles::fresh());
    let real = WorkspaceBinary::Demonctl.path();
    let witness = |path: &std::path::Path| {
        let script = format!("#!/bin/sh\necho \"$0 $*\" >>{}\nexec {} \"$@\"\n", "\"$WITNESS\"", real.display());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, script).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let told = checkout.work().join("told");
    let run = |line: &str| {
        let _ = std::fs::remove_file(&told);
        let mut command = checkout.bash(line);
        let output = command.env("DEMON_CONTRACTS_SOURCE", "github").env("WITNESS", &told).output().unwrap();
        (output, std::fs::read_to_string(&told).unwrap_or_default())
    };
    let (output, _) = run("./scripts/validate-release.sh");
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(&output));
    assert!(stderr(&output).contains("demonctl was not found"), "{}", stderr(&output));

    // From what is looked at last to what comes first.
    let root = checkout.root();
    for (place, line) in [
        (root.join("target/debug/demonctl"), "./scripts/validate-release.sh"),
        (root.join("target/release/demonctl"), "./scripts/validate-release.sh"),
        (checkout.shims.program("demonctl"), "./scripts/validate-release.sh"),
        (root.join("target/release/demonctl"), "DEMONCTL_BIN=./target/release/demonctl ./scripts/validate-release.sh"),
        (root.join("other/demonctl"), "cd other && DEMONCTL_BIN=./demonctl ../scripts/validate-release.sh"),
        (root.join("other/demonctl"), "DEMONCTL_BIN=\"$PWD/other/demonctl\" ./scripts/validate-release.sh"),
        (checkout.shims.program("demonctl"), "DEMONCTL_BIN=demonctl ./scripts/validate-release.sh"),
    ] {
        witness(&place);
        let (output, told) = run(line);
        assert_eq!(output.status.code(), Some(0), "`{line}`: {}", both_outputs(&output));
        let validated = told.lines().find(|call| call.contains("contracts validate")).unwrap_or_default();
        assert!(validated.starts_with(&*place.to_string_lossy()), "`{line}` called `{validated}`");
        assert!(validated.ends_with("contracts validate bundle.json"), "{validated}");
    }
    for missing in ["./target/profiling/demonctl", "/does/not/exist", "nowhere"] {
        let (output, told) = run(&format!("DEMONCTL_BIN={missing} ./scripts/validate-release.sh"));
        assert_eq!((output.status.code(), told.as_str()), (Some(1), ""), "{missing}: {}", both_outputs(&output));
        assert!(stderr(&output).contains(missing), "{}", stderr(&output));
    }
}

#[test]
fn a_manifest_does_not_draw_on_the_terminal() {
    let checkout = checkout();
    let mut release = ContractsFiles::fresh();
    release.manifest["version"] = json!("1.0\u{1b}[2J.0");
    serve(&checkout, LATEST, &release);
    for line in ["./scripts/validate-release.sh --verbose", "./scripts/smoke-verify-release.sh"] {
        let text = succeeded(&checkout, line);
        assert!(text.contains("1.0?[2J.0") && !text.contains('\u{1b}'), "`{line}`: {text}");
    }
}

#[test]
fn monitoring_sees_the_exit_code() {
    let checkout = checkout();
    let line = "./scripts/validate-release.sh && echo \"✅ Release validation passed\" || echo \"❌ Release validation failed\"";
    let text = succeeded(&checkout, line);
    assert_eq!(text.lines().last(), Some("❌ Release validation failed"), "{text}");
    serve(&checkout, LATEST, &ContractsFiles::fresh());
    let text = succeeded(&checkout, line);
    assert_eq!(text.lines().last(), Some("✅ Release validation passed"), "{text}");
}

#[test]
fn colours_are_for_terminals() {
    let checkout = checkout();
    serve(&checkout, LATEST, &ContractsFiles::fresh());
    let on_terminal = |variables: &str| {
        let line = format!("{variables} script --quiet --return --command ./scripts/validate-release.sh /dev/null");
        succeeded(&checkout, &line)
    };
    assert!(on_terminal("TERM=xterm").contains("\u{1b}[32mok"));
    for plain in ["TERM=xterm NO_COLOR=1", "TERM=dumb"] {
        assert!(!on_terminal(plain).contains('\u{1b}'), "{plain}");
    }
}

#[test]
fn the_smoke_test_stops_at_the_first_defect() {
    let checkout = checkout();
    let good = ContractsFiles::fresh();
    serve(&checkout, LATEST, &good);
    let text = succeeded(&checkout, "./scripts/smoke-verify-release.sh contracts-latest");
    for part in ["files", "checksum", "structure", "manifest", "schemas", "cross-check"] {
        assert!(text.contains(&format!("✓ {part}: ")), "{part}: {text}");
    }
    assert!(text.contains("Release summary") && text.contains(GIT_SHA), "{text}");

    let without = |schema: &str| {
        let mut bundle = acceptance::contracts_files::workspace_bundle();
        bundle["schemas"].as_object_mut().unwrap().remove(schema).unwrap();
        ContractsFiles::with_bundle(bundle.to_string().as_bytes(), Utc::now())
    };
    let mut flipped = good.clone();
    flipped.bundle[100] ^= 1;
    let mut no_sha = good.clone();
    no_sha.manifest["git"] = json!({});
    let mut other_digest = good.clone();
    other_digest.manifest["bundle_sha256"] = json!("0".repeat(64));
    let malformed = ContractsFiles::with_bundle(b"{}\n", Utc::now());
    for (release, part) in [
        (flipped, "checksum"),
        (malformed, "structure"),
        (no_sha, "manifest"),
        (without("result-envelope.json"), "schemas"),
        (without("bootstrap.bundle.v0.json"), "schemas"),
        (other_digest, "cross-check"),
    ] {
        serve(&checkout, LATEST, &release);
        let error = stderr(&failed(&checkout, "./scripts/smoke-verify-release.sh"));
        assert!(error.starts_with(&format!("✗ {part}: ")), "{part}: {error}");
    }
    let error = stderr(&failed(&checkout, "./scripts/smoke-verify-release.sh contracts-20250921-0658fb8b"));
    assert!(error.contains("✗ download: ") && error.contains(TAG), "{error}");
}

#[test]
fn the_smoke_test_cleans_its_directory_up_and_nothing_else() {
    let checkout = Checkout::without_demonctl();
    serve(&checkout, LATEST, &ContractsFiles::fresh());
    let work = checkout.work();
    let demonctl = WorkspaceBinary::Demonctl.path();
    let run = |directory: &str, variables: &str| {
        let script = "./scripts/smoke-verify-release.sh contracts-latest";
        let line = format!("DEMON_CONTRACTS_SOURCE=github {variables} {script} {directory} {}", demonctl.display());
        succeeded(&checkout, &line);
    };
    let own = work.join("own");
    run(&own.to_string_lossy(), "");
    assert!(!own.exists(), "a directory made for the check is removed");
    run(&own.to_string_lossy(), "CI=true");
    assert!(own.join("release/bundle.json").exists(), "CI keeps it");
    std::fs::write(own.join("notes"), "mine").unwrap();
    run(&own.to_string_lossy(), "");
    assert!(own.join("notes").exists() && !own.join("release").exists(), "what else lay there stays");
}
