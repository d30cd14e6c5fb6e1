//! The command line as a user meets it, without a server. Being an integration test, it also makes
//! `cargo test --workspace` build the program for the acceptance tests.

use std::process::{Command, Output};

fn demonctl(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demonctl"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("NATS_") || name.starts_with("DEMON_")
    }) {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied()).output().expect("demonctl starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_teaches_every_command_and_hides_the_inner_ones() {
    let output = demonctl(&["--help"], &[]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for command in ["demo", "up", "events", "channel", "fleet"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is missing in\n{help}");
    }
    assert!(!help.contains("supervise") && !help.contains("run-agent"), "{help}");
    assert!(help.contains("Exit codes: 0 ok, 1 refused or failed, 2 wrong usage"));
}

#[test]
fn every_option_of_a_command_has_a_variable() {
    for command in [&["demo"][..], &["up"], &["events", "list"], &["channel", "list"], &["fleet", "status"]] {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        let help = text(&demonctl(&arguments, &[]).stdout);
        let options = help.split("\n\n").flat_map(|block| block.split("\n      --").skip(1)).count();
        let with_variable = help.matches("[env: ").count();
        assert!(options > 0, "{help}");
        assert!(with_variable >= options, "{command:?}: {options} options, {with_variable} variables\n{help}");
    }
}

#[test]
fn the_effective_settings_are_shown_without_secrets() {
    let variables = [("NATS_URL", "nats://ada:hunter2@127.0.0.1:4222"), ("NATS_PASSWORD", "swordfish")];
    let output = demonctl(&["events", "list", "--print-config"], &variables);
    assert!(output.status.success());
    let shown = text(&output.stdout);
    assert!(!shown.contains("hunter2") && !shown.contains("swordfish"), "{shown}");
    let settings: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(settings["connection"]["address"], "nats://ada:***@127.0.0.1:4222");
    assert_eq!(settings["output"], "table");
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [&["events", "list", "--from", "first"][..], &["up", "--agents", "101"], &["nonsense"], &[]] {
        assert_eq!(demonctl(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn an_unreachable_server_is_one_line_without_the_password() {
    // Port 1 on loopback: nothing listens there.
    let output = demonctl(&["fleet", "status"], &[("NATS_URL", "nats://ada:hunter2@127.0.0.1:1")]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("demonctl: cannot connect to `nats://ada:***@127.0.0.1:1`"), "{error}");
    assert!(!error.contains("hunter2"));
}

#[test]
fn missing_contracts_are_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_demonctl"))
        .arg("demo")
        .current_dir(directory.path())
        .output()
        .expect("demonctl starts");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("name one with --contracts"), "{error}");
}

#[test]
fn a_flag_can_be_set_by_its_variable_in_the_usual_words() {
    for word in ["1", "true", "yes", "on"] {
        let output = demonctl(&["demo"], &[("DEMON_PRINT_CONFIG", word), ("DEMON_DEMO_KEEP", "0")]);
        assert!(output.status.success(), "{word}: {}", text(&output.stderr));
        let settings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(settings["keep"], false);
    }
    let output = demonctl(&["demo"], &[("DEMON_PRINT_CONFIG", "perhaps")]);
    assert_eq!(output.status.code(), Some(2));
}
