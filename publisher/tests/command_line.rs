//! The binary as people and scripts meet it before it has spoken to any server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

fn publisher(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demon-publisher"));
    // Nothing of the environment of whoever runs the tests.
    command.current_dir(directory).env_clear();
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn help_names_every_option_with_variable_default_and_unit() {
    let directory = tempfile::tempdir().unwrap();
    let (code, help, _) = run(publisher(directory.path()).args(["serve", "--help"]));
    assert_eq!(code, Some(0));
    for part in [
        "DEMON_PUBLISHER_SOURCE",
        "DEMON_BUNDLE",
        "DEMON_CHANNEL",
        "DEMON_PUBLISHER_NAME",
        "DEMON_PUBLISHER_STATE",
        "DEMON_PUBLISHER_INTERVAL",
        "DEMON_GIT_SHA",
        "NATS_URL",
        "NATS_CREDS_PATH",
        "[default: 60s]",
        "`ms`, `s` or `m`",
        "DEMON_PUBLISHER_SCHEDULE",
        "DEMON_PUBLISHER_LISTEN",
        "DEMON_PUBLISHER_TRIGGER_KEY_FILE",
        "DEMON_PUBLISHER_TRIGGER_KEY]",
        "GH_REPO",
        "[default: \"0 6 * * *\"]",
        "[default: 127.0.0.1:8070]",
    ] {
        assert!(help.contains(part), "{part} is missing:\n{help}");
    }
    let (code, help, _) = run(publisher(directory.path()).args(["publish", "--help"]));
    assert_eq!(code, Some(0));
    for part in ["SOURCE_DATE_EPOCH", "DEMON_PUBLISHER_TAG", "DEMON_FORCE_RELEASE", "NATS_URL"] {
        assert!(help.contains(part), "{part} is missing:\n{help}");
    }
    let (code, help, _) = run(publisher(directory.path()).arg("--help"));
    assert_eq!(code, Some(0));
    assert!(help.contains("Exit codes") && help.contains("serve") && help.contains("publish"), "{help}");
}

#[test]
fn printed_settings_show_variables_and_mask_secrets() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("contracts")).unwrap();
    let mut command = publisher(directory.path());
    command.args(["serve", "--print-config", "--channel", "staging"]);
    command.env("NATS_URL", "nats://ada:geheim@example.com:4333").env("NATS_PASSWORD", "hunter2");
    command
        .env("DEMON_PUBLISHER_NAME", "nightly")
        .env("DEMON_PUBLISHER_TRIGGER_KEY", "sesam-oeffne-dich")
        .env("GH_TOKEN", "ghp_geheim");
    let (code, settings, errors) = run(&mut command);
    assert_eq!(code, Some(0), "{errors}");
    assert!(!settings.contains("geheim") && !settings.contains("hunter2"), "{settings}");
    assert!(!settings.contains("sesam"), "{settings}");
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["channel"], "staging");
    assert_eq!(settings["name"], "nightly");
    assert_eq!(settings["interval"], "60s");
    assert_eq!(settings["schedule"], "0 6 * * *");
    assert_eq!(settings["listen"]["address"], "127.0.0.1:8070");
    assert_eq!(settings["connection"]["password"], "***");

    let mut command = publisher(directory.path());
    command
        .args(["publish", "--print-config"])
        .env("SOURCE_DATE_EPOCH", "1758434400")
        .env("DEMON_FORCE_RELEASE", "true");
    let (code, settings, errors) = run(&mut command);
    assert_eq!(code, Some(0), "{errors}");
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    assert_eq!((&settings["timestamp"], &settings["force"]), (&"2025-09-21T06:00:00Z".into(), &true.into()));

    let mut command = publisher(directory.path());
    command.args(["serve", "--print-config", "--source-kind", "github"]).env("GH_TOKEN", "ghp_geheim");
    let (code, settings, errors) = run(&mut command);
    assert_eq!(code, Some(0), "{errors}");
    assert!(!settings.contains("geheim"), "{settings}");
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["source"]["github"]["repository"], "afewell-hh/demon");
}

#[test]
fn wrong_usage_is_told_in_one_line_and_exits_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let (code, _, _) = run(publisher(directory.path()).arg("--no-such-option"));
    assert_eq!(code, Some(2));
    let (code, output, help) = run(&mut publisher(directory.path()));
    assert_eq!((code, output.as_str()), (Some(2), ""), "without a subcommand there is nothing to do");
    assert!(help.contains("Usage: demon-publisher"), "{help}");
    let missing = ["serve", "--source", "missing", "--interval", "soon", "--schedule", "61 6 * * *"];
    let (code, output, errors) = run(publisher(directory.path()).args(missing));
    assert_eq!((code, output.as_str()), (Some(2), ""));
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("`missing` does not exist") && errors.contains("--interval"), "{errors}");
    assert!(errors.contains("--schedule"), "{errors}");
}

#[test]
fn a_server_that_is_not_there_is_told_in_one_line_and_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("contracts")).unwrap();
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = publisher(directory.path());
    command.arg("publish").env("NATS_URL", format!("nats://127.0.0.1:{port}"));
    let (code, _, errors) = run(&mut command);
    assert_eq!(code, Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("cannot be reached"), "{errors}");
}

#[test]
fn variables_that_are_set_to_nothing_count_as_not_set() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("contracts")).unwrap();
    let mut command = publisher(directory.path());
    command.args(["serve", "--print-config"]);
    for name in ["NATS_USER", "NATS_CREDS_PATH", "DEMON_BUNDLE", "DEMON_PUBLISHER_INTERVAL", "DEMON_PUBLISHER_SCHEDULE"]
    {
        command.env(name, "");
    }
    let (code, settings, errors) = run(&mut command);
    assert_eq!(code, Some(0), "{errors}");
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["bundle"], "contracts", "{settings}");
}
