//! The container files against the programs they run: no container engine is needed to see that they fit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use acceptance::workspace_binary::WorkspaceBinary;
use serde_json::Value;
use streams::embedded_server::{Accounts, BinarySearch, ServerBinary};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn text(file: &str) -> String {
    std::fs::read_to_string(workspace().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn compose() -> Value {
    serde_saphyr::from_str(&text("docker-compose.yml")).expect("docker-compose.yml is YAML")
}

fn services(compose: &Value) -> &serde_json::Map<String, Value> {
    compose["services"].as_object().expect("services")
}

/// The lines of each stage of the Dockerfile, with continued lines joined.
fn stages() -> BTreeMap<String, Vec<String>> {
    let mut stages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut stage = String::new();
    for line in
        text("Dockerfile").replace("\\\n", " ").lines().filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        if let Some(from) = line.strip_prefix("FROM ") {
            stage = from.split(" AS ").nth(1).expect("every stage has a name").to_owned();
        }
        stages.entry(stage.clone()).or_default().push(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    stages
}

/// The program that a stage's image runs.
fn entry_point(stages: &BTreeMap<String, Vec<String>>, stage: &str) -> WorkspaceBinary {
    let lines = stages.get(stage).unwrap_or_else(|| panic!("the Dockerfile has no stage `{stage}`"));
    let words = lines.iter().find_map(|line| line.strip_prefix("ENTRYPOINT ")).expect("an image has an entry point");
    let words: Vec<String> = serde_json::from_str(words).expect("the entry point has the JSON form");
    let program = words[0].strip_prefix("/usr/local/bin/").expect("the program lies in /usr/local/bin");
    let copied = format!("COPY --from=build /out/{program} /usr/local/bin/{program}");
    assert!(lines.contains(&copied), "stage `{stage}` runs {program}, but does not `{copied}`");
    [WorkspaceBinary::Demonctl, WorkspaceBinary::Publisher, WorkspaceBinary::Runtime]
        .into_iter()
        .find(|binary| binary.name() == program)
        .unwrap_or_else(|| panic!("`{program}` is no program of this workspace"))
}

/// The help of a program, or of the subcommand that a container's command begins with.
fn help(binary: WorkspaceBinary, subcommand: Option<&str>) -> String {
    let output = binary.command().args(subcommand).arg("--help").output().expect("the program starts");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("help is text")
}

#[test]
fn every_image_runs_a_program_that_the_build_stage_makes() {
    let stages = stages();
    let build = stages["build"].join("\n");
    for stage in ["publisher", "runtime", "demonctl"] {
        let program = entry_point(&stages, stage).name();
        assert!(build.contains(&format!("target/release/{program}")), "the build stage does not install {program}");
    }
    for package in ["publisher", "subscriber", "demonctl"] {
        assert!(build.contains(&format!("-p {package}")), "the build stage does not build {package}");
        assert!(workspace().join(package).join("Cargo.toml").is_file());
    }
    assert!(stages["base"].iter().any(|line| line == "USER demon"), "nothing runs as root");
}

#[test]
fn every_flag_and_variable_in_the_compose_file_is_one_of_its_program() {
    let (compose, stages) = (compose(), stages());
    let mut built = 0;
    for (name, service) in services(&compose) {
        let Some(target) = service["build"]["target"].as_str() else { continue };
        built += 1;
        let words: Vec<&str> =
            service["command"].as_array().expect("a command").iter().filter_map(Value::as_str).collect();
        let subcommand = words.first().copied().filter(|word| !word.starts_with("--"));
        let help = help(entry_point(&stages, target), subcommand);
        for word in words {
            if word.starts_with("--") {
                assert!(help.contains(&format!("{word} ")), "service `{name}`: `{word}` is no flag");
            }
        }
        for variable in service["environment"].as_object().expect("an environment").keys() {
            assert!(help.contains(&format!("[env: {variable}")), "service `{name}`: `{variable}` is no variable");
        }
    }
    assert_eq!(built, 3, "a publisher and two agents");
}

#[test]
fn every_agent_has_a_volume_of_its_own_and_every_port_is_on_loopback() {
    let compose = compose();
    let mut volumes = BTreeSet::new();
    for agent in ["agent-1", "agent-2"] {
        let service = &services(&compose)[agent];
        assert_eq!(service["environment"]["DEMON_NODE_ID"], agent);
        assert_eq!(service["environment"]["NATS_USER"], agent, "a node's user is its name");
        let volume = service["volumes"][0].as_str().expect("a volume").split(':').next().expect("a name").to_owned();
        assert!(compose["volumes"].as_object().expect("volumes").contains_key(&volume), "{volume}");
        assert!(volumes.insert(volume), "two agents share a volume");
    }
    for (name, service) in services(&compose) {
        for port in service["ports"].as_array().unwrap_or_else(|| panic!("`{name}` has ports")) {
            assert!(port.as_str().expect("text").starts_with("127.0.0.1:"), "{port} is open to the network");
        }
    }
    assert_eq!(services(&compose)["agent-1"]["ports"][0], "127.0.0.1:3000:3000", "where the playbook asks for health");
}

/// Variables that the server's configuration reads.
fn variables_of_the_server() -> BTreeSet<String> {
    text("deploy/nats/nats.conf")
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split("password: $").skip(1))
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn the_server_gets_every_password_it_reads_and_the_script_makes_them() {
    let compose = compose();
    let given: BTreeSet<String> =
        services(&compose)["nats"]["environment"].as_object().expect("an environment").keys().cloned().collect();
    assert_eq!(given, variables_of_the_server());

    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("scripts")).expect("a directory");
    let script = directory.path().join("scripts/compose-passwords.sh");
    std::fs::copy(workspace().join("scripts/compose-passwords.sh"), &script).expect("the script");
    assert!(Command::new("bash").arg(&script).status().expect("bash runs").success());
    let made = std::fs::read_to_string(directory.path().join(".env")).expect("the script wrote .env");
    let names: BTreeSet<String> = made.lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    assert_eq!(names, given);
    let passwords: BTreeSet<&str> = made.lines().filter_map(|line| Some(line.split_once('=')?.1)).collect();
    assert_eq!(passwords.len(), names.len(), "every user has a password of its own");
    assert!(!Command::new("bash").arg(&script).status().expect("bash runs").success(), "passwords are never replaced");
}

#[test]
fn the_servers_configuration_is_valid_and_gives_what_the_embedded_one_gives() {
    let binary = ServerBinary::locate(&BinarySearch::pinned_only()).expect("the pinned nats-server");
    let mut check = Command::new(binary.path);
    check.arg("-t").arg("--config").arg(workspace().join("deploy/nats/nats.conf"));
    for variable in variables_of_the_server() {
        check.env(variable, "p0123456789abcdef");
    }
    let output = check.output().expect("nats-server starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // Every exported, imported, published and subscribed subject, in the form without spaces and quotes.
    let squeeze = |text: &str| text.replace(['"', ' ', ',', '\n'], "");
    let deployed = squeeze(&text("deploy/nats/nats.conf"));
    let nodes = ["agent-1", "agent-2"].map(|name| name.parse().expect("a node name"));
    for line in
        Accounts::generate(nodes).render().lines().filter(|line| line.contains("bundle.") || line.contains("$JS"))
    {
        for subject in line.split('"').skip(1).step_by(2) {
            assert!(deployed.contains(&squeeze(subject)), "`{subject}` of the embedded server is not deployed");
        }
    }
}
