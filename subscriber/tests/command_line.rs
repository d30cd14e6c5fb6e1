//! What `demon-runtime` does with its command line, before it does anything else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use subscriber::cache::Cache;
use tempfile::TempDir;

/// Runs the binary in a directory of its own, with nothing of this process's environment.
fn run(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demon-runtime"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(directory)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_names_every_variable_and_unit() {
    let directory = directory();
    let output = run(directory.path(), &["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for variable in [
        "DEMON_NODE_ID",
        "DEMON_BUNDLE",
        "DEMON_CHANNEL",
        "DEMON_CONTRACTS_TAG",
        "DEMON_CONTRACTS_CACHE",
        "DEMON_STATE_DIR",
        "DEMON_INTERVAL",
        "DEMON_KEEP_RELEASES",
        "DEMON_LOG_FORMAT",
        "NATS_URL",
        "NATS_CREDS_PATH",
    ] {
        assert!(help.contains(variable), "{variable}");
    }
    assert!(help.contains("`ms`, `s` or `m`"), "{help}");
}

#[test]
fn shown_settings_are_the_effective_ones_without_secrets() {
    let directory = directory();
    let environment = [
        ("DEMON_NODE_ID", "edge-17"),
        ("DEMON_CONTRACTS_TAG", "contracts-latest"),
        ("NATS_URL", "nats://edge:geheim@127.0.0.1:4222"),
        ("NATS_PASSWORD", "hunter2"),
        ("NATS_USER", "edge-17"),
    ];
    let output = run(directory.path(), &["--print-config", "--interval", "5s"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(!shown.contains("geheim") && !shown.contains("hunter2"), "{shown}");
    let settings: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(settings["node"], "edge-17");
    assert_eq!(settings["interval"], "5s");
    let bundle = &settings["bundles"][0];
    assert_eq!((&bundle["bundle"], &bundle["follow"]["channel"]), (&"contracts".into(), &"latest".into()));
    assert_eq!(settings["connection"]["password"], "***");
    assert!(!directory.path().join(".demon").exists(), "showing settings touches nothing");
}

#[test]
fn faults_are_all_in_one_line_and_exit_with_2() {
    let directory = directory();
    let output = run(directory.path(), &["--node", "not a name", "--interval", "soon"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("`not a name`") && error.contains("`soon`"), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn an_unknown_option_exits_with_2() {
    assert_eq!(run(directory().path(), &["--frobnicate"], &[]).status.code(), Some(2));
}

#[test]
fn a_cache_that_is_no_directory_is_one_line_and_exits_with_1() {
    let directory = directory();
    std::fs::create_dir(directory.path().join("cache")).unwrap();
    std::fs::write(directory.path().join("cache/contracts"), "a file").unwrap();
    let cache = directory.path().join("cache/contracts");
    let output = run(directory.path(), &["--node", "n1", "--cache", cache.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(Cache::new(cache).ensure().is_err());
}

#[test]
fn variables_that_are_set_to_nothing_count_as_not_set() {
    let directory = directory();
    let empty =
        ["NATS_USER", "NATS_CREDS_PATH", "DEMON_BUNDLE", "DEMON_INTERVAL", "PORT", "DEMON_SKIP_CONTRACT_BUNDLE"];
    let environment: Vec<(&str, &str)> = empty.iter().map(|name| (*name, "")).collect();
    let output = run(directory.path(), &["--node", "edge-17", "--print-config"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let settings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&settings["bundles"][0]["bundle"], &settings["interval"]), (&"contracts".into(), &"30s".into()));
    assert_eq!(settings["skip_contract_bundle"], false);
}
