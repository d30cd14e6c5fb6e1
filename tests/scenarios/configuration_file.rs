//! The file that the systemd units read: changed by the command, obeyed by an agent, and the units themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use acceptance::http_request::get;
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{World, both_outputs, finished, succeeded};

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

fn config(file: &Path, arguments: &[&str]) -> Command {
    let mut command = WorkspaceBinary::Demonctl.command();
    command.arg("config").args(arguments).arg("--file").arg(file);
    command
}

#[tokio::test]
async fn what_is_set_can_be_read_back_and_secrets_stay_hidden() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("demon/runtime.env");
    let set = ["set", "DEMON_CHANNEL=staging", "AGENT_API_KEY=a \"quoted\" $secret", "NATS_URL=nats://u:geheim@h:4222"];
    succeeded(config(&file, &set)).await;
    assert_eq!(fs::metadata(&file).expect("it is written").permissions().mode() & 0o777, 0o600);

    let listed = both_outputs(&succeeded(config(&file, &["list"])).await);
    assert!(listed.contains("staging") && listed.contains("***@h:4222"), "{listed}");
    assert!(!listed.contains("quoted") && !listed.contains("geheim"), "{listed}");
    let hidden = succeeded(config(&file, &["get", "AGENT_API_KEY"])).await;
    assert_eq!(String::from_utf8_lossy(&hidden.stdout), "***\n");
    let shown = succeeded(config(&file, &["get", "AGENT_API_KEY", "--reveal"])).await;
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "a \"quoted\" $secret\n");

    // A shell reads the same from it as systemd does.
    let mut shell = Command::new("sh");
    shell.args(["-c", ". \"$0\"; printf %s \"$AGENT_API_KEY\""]).arg(&file);
    assert_eq!(String::from_utf8_lossy(&succeeded(shell).await.stdout), "a \"quoted\" $secret");

    let unknown = both_outputs(&succeeded(config(&file, &["set", "DEMON_CHANEL=x"])).await);
    assert!(unknown.contains("no program of ours reads `DEMON_CHANEL`"), "{unknown}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("its owner may change it");
    succeeded(config(&file, &["unset", "DEMON_CHANEL"])).await;
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o640, "rights stay");
    assert_eq!(finished(config(&file, &["get", "DEMON_CHANEL"])).await.status.code(), Some(1));

    let before = fs::read(&file).expect("the file can be read");
    let refused = finished(config(&file, &["set", "GOOD=1", "BAD NAME=geheim"])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(!both_outputs(&refused).contains("geheim"));
    assert_eq!(fs::read(&file).expect("the file can be read"), before, "nothing of a refused command is written");
}

#[tokio::test]
async fn an_agent_started_with_the_file_obeys_it() {
    let world = World::start(&["n1"]).await;
    let file = world.directory().join("runtime.env");
    let key = "a-key-of-more-than-16";
    succeeded(config(&file, &["set", &format!("AGENT_API_KEY={key}")])).await;
    // As systemd does it: every line of the file is a variable of the process.
    let mut with_file = Command::new("sh");
    with_file.args(["-c", "set -a; . \"$0\"; exec \"$@\""]).arg(&file);
    let agent_command = world.agent_command("n1");
    with_file.arg(agent_command.get_program()).args(agent_command.get_args());
    with_file.envs(agent_command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let directories = acceptance::agent::AgentDirectories::below(world.directory(), "n1");
    let mut agent = acceptance::agent::Agent::start("n1", with_file, directories, world.directory());
    let address = agent.http_address().await;
    assert_eq!(get(address, "/api/contracts/status", &[]).await.status, 401);
    assert_eq!(get(address, "/api/contracts/status", &[&format!("x-api-key: {key}")]).await.status, 200);
}

#[tokio::test]
async fn the_units_are_valid_and_hardened() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (unit, program, environment) in [
        ("demon-runtime.service", WorkspaceBinary::Runtime, "EnvironmentFile=-/etc/demon/runtime.env"),
        ("demon-publisher.service", WorkspaceBinary::Publisher, "EnvironmentFile=-/etc/demon/publisher.env"),
    ] {
        let text = fs::read_to_string(units().join(unit)).expect("the unit is in the repository");
        for line in
            [environment, "Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="]
        {
            assert!(text.lines().any(|found| found == line), "{unit}: {line}");
        }
        // The unit's own directives decide over its defaults only where the file comes after them.
        let place = |what: &str| text.lines().position(|line| line.starts_with(what)).expect("the line is there");
        assert!(place("Environment=") < place("EnvironmentFile="), "{unit}");

        // The program of this build stands where the unit expects the installed one.
        let built = program.command().get_program().to_string_lossy().into_owned();
        let line = text.lines().find(|line| line.starts_with("ExecStart=")).expect("a unit starts something");
        let installed = line["ExecStart=".len()..].split(' ').next().expect("a program is named");
        let copy = directory.path().join(unit);
        fs::write(&copy, text.replace(installed, &built)).expect("the directory is writable");
        if !Path::new("/usr/bin/systemd-analyze").exists() {
            continue;
        }
        let mut verify = Command::new("/usr/bin/systemd-analyze");
        verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&copy).stdin(Stdio::null());
        let said = both_outputs(&succeeded(verify).await);
        assert!(!said.contains(unit), "{said}");
    }
}

#[tokio::test]
async fn completions_and_man_pages_cover_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = WorkspaceBinary::Demonctl.command();
        command.args(["completions", shell]);
        let script = both_outputs(&succeeded(command).await);
        assert!(script.contains("doctor") && script.contains("withdraw"), "{shell}");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = WorkspaceBinary::Demonctl.command();
    command.arg("man").arg(directory.path());
    succeeded(command).await;
    for page in ["demonctl.1", "demonctl-doctor.1", "demonctl-config-set.1"] {
        assert!(directory.path().join(page).is_file(), "{page}");
    }
}
