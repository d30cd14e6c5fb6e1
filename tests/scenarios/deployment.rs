//! The Makefile's commands and the Kubernetes manifest, against the programs they run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acceptance::shims::Shims;
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::both_outputs;
use serde_json::{Value, json};
use tempfile::TempDir;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// A copy of the Makefile and what it calls, with a stand-in for docker.
struct Site {
    directory: TempDir,
    shims: Shims,
}

impl Site {
    fn new() -> Self {
        let directory = TempDir::with_prefix("makefile-").expect("there is a temporary directory");
        std::fs::create_dir(directory.path().join("scripts")).expect("it is writable");
        for file in ["Makefile", "scripts/compose-passwords.sh"] {
            std::fs::copy(workspace().join(file), directory.path().join(file)).expect("it can be copied");
        }
        let shims = Shims::install(directory.path());
        // Keeps its calls as the stand-in for kubectl does.
        let record = std::fs::read_to_string(shims.program("kubectl")).expect("the stand-in is a script");
        shims.write_program("docker", &record);
        std::fs::write(directory.path().join("shims/calls/docker"), "").expect("it is writable");
        Self { directory, shims }
    }

    fn make(&self, target: &str) -> Output {
        let mut command = Command::new("make");
        command.arg(target).current_dir(self.directory.path()).env_clear().env("PATH", self.shims.path());
        command.output().expect("make starts")
    }
}

#[test]
fn the_playbooks_make_commands_run_compose_and_delete_no_data() {
    let site = Site::new();
    for target in ["docker-build", "docker-up", "docker-logs", "docker-down"] {
        let output = site.make(target);
        assert!(output.status.success(), "make {target}: {}", both_outputs(&output));
    }
    let calls: Vec<String> = site.shims.calls("docker").iter().map(|call| call.join(" ")).collect();
    assert_eq!(
        calls,
        ["compose build", "compose up --detach --build", "compose logs --follow", "compose down"],
        "nothing that removes a volume"
    );
    let passwords = std::fs::read(site.directory.path().join(".env")).expect("passwords are made");
    assert!(site.make("docker-up").status.success());
    assert_eq!(std::fs::read(site.directory.path().join(".env")).expect("they are there"), passwords, "and kept");
}

#[test]
fn every_target_is_listed_with_what_it_does() {
    let site = Site::new();
    let listed = String::from_utf8(site.make("help").stdout).expect("text");
    for target in ["build", "test", "lint", "demo", "docker-build", "docker-up", "docker-logs", "docker-down"] {
        let line = listed.lines().find(|line| line.split('\t').next() == Some(target));
        assert!(line.is_some_and(|line| line.contains('\t')), "{target}: {listed}");
    }
}

fn manifest() -> Value {
    let text = std::fs::read_to_string(workspace().join("deploy/k8s/agent.yaml")).expect("the manifest is there");
    serde_saphyr::from_str(&text).expect("it is YAML")
}

fn agent(manifest: &Value) -> &Value {
    let containers = manifest["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
    assert_eq!(containers.len(), 1);
    &containers[0]
}

#[test]
fn every_node_runs_an_agent_that_the_cluster_probes() {
    let manifest = manifest();
    assert_eq!((&manifest["apiVersion"], &manifest["kind"]), (&json!("apps/v1"), &json!("DaemonSet")));
    let agent = agent(&manifest);
    assert_eq!(agent["livenessProbe"]["httpGet"], json!({ "path": "/healthz", "port": "http" }));
    assert_eq!(agent["readinessProbe"]["httpGet"], json!({ "path": "/healthz/strict", "port": "http" }));
    let port = agent["ports"][0]["containerPort"].as_u64().expect("a number").to_string();
    assert_eq!(agent["ports"][0]["name"], "http");
    let variable = |name: &str| {
        let variables = agent["env"].as_array().expect("variables");
        variables.iter().find(|variable| variable["name"] == name).cloned().unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(variable("PORT")["value"], *port, "the agent listens where the probes ask");
    assert_eq!(variable("BIND_ADDR")["value"], "0.0.0.0", "probes come from outside the pod");
    assert_eq!(variable("DEMON_NODE_ID")["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    let labels = &manifest["spec"]["template"]["metadata"]["labels"];
    for (label, value) in manifest["spec"]["selector"]["matchLabels"].as_object().expect("labels") {
        assert_eq!(&labels[label], value, "the selector finds its pods");
    }
}

/// The C library's own variable, see mallopt(3).
const ALLOCATOR: &str = "MALLOC_TRIM_THRESHOLD_";

#[test]
fn the_manifest_names_only_options_of_the_agent() {
    let help = WorkspaceBinary::Runtime.command().arg("--help").output().expect("the program starts");
    let help = String::from_utf8(help.stdout).expect("help is text");
    let manifest = manifest();
    let agent = agent(&manifest);
    for variable in agent["env"].as_array().expect("variables") {
        let name = variable["name"].as_str().expect("a name");
        let known = help.contains(&format!("[env: {name}")) || name == ALLOCATOR;
        assert!(known, "`{name}` is no variable");
    }
    for word in agent["args"].as_array().expect("arguments").iter().filter_map(Value::as_str) {
        assert!(!word.starts_with("--") || help.contains(&format!("{word} ")), "`{word}` is no flag");
    }
}

#[test]
fn the_pod_has_no_privileges_and_its_secrets_stand_elsewhere() {
    let manifest = manifest();
    let pod = &manifest["spec"]["template"]["spec"];
    let agent = agent(&manifest);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["runAsUser"]),
        (&json!(true), &json!(10001))
    );
    let dockerfile = std::fs::read_to_string(workspace().join("Dockerfile")).expect("it is there");
    assert!(dockerfile.contains("useradd --uid 10001"), "the image has that user");
    for container in [agent, &pod["initContainers"][0]] {
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
    }
    assert_eq!(agent["securityContext"]["capabilities"]["add"], Value::Null);
    // Everything the agent writes lies in a volume.
    for name in ["DEMON_CONTRACTS_CACHE", "DEMON_STATE_DIR"] {
        let variable = agent["env"].as_array().expect("variables").iter().find(|variable| variable["name"] == name);
        let path = variable.expect("it is set")["value"].as_str().expect("a path");
        let mounts = agent["volumeMounts"].as_array().expect("mounts").iter();
        let mut writable =
            mounts.filter(|mount| mount["readOnly"] != true).filter_map(|mount| mount["mountPath"].as_str());
        assert!(writable.any(|mount| path.starts_with(&format!("{mount}/"))), "{name}={path}");
    }
    for variable in agent["env"].as_array().expect("variables") {
        let name = variable["name"].as_str().expect("a name");
        let is_secret = ["KEY", "PASSWORD", "TOKEN"].iter().any(|word| name.contains(word));
        assert_eq!(is_secret, variable["valueFrom"]["secretKeyRef"].is_object(), "{name}");
    }
    let credentials = pod["volumes"].as_array().expect("volumes").iter().find(|volume| volume["secret"].is_object());
    assert_eq!(credentials.expect("a secret")["name"], "credentials");
}
