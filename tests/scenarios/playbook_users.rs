//! The playbook's commands on a node, typed by whoever owns it: as the user that runs these tests and, where that is root,
//! as an ordinary user as well.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acceptance::agent::active_tag;
use acceptance::process::Process;
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{World, both_outputs, finished, succeeded};
use serde_json::Value;
use tempfile::TempDir;

const NODE: &str = "edge-1";
/// Debian's `nobody`: a user without any rights. Only the number matters.
const ORDINARY_USER: u32 = 65534;

/// Somebody with a home, a directory to work in, and the product's programs.
struct Person {
    directory: TempDir,
    /// Another user than ours.
    user: Option<u32>,
    environment: Vec<(String, String)>,
}

impl Person {
    fn new(user: Option<u32>, world: &World) -> Self {
        let directory = TempDir::with_prefix("person-").expect("there is a temporary directory");
        let (from, to) = (WorkspaceBinary::path, directory.path());
        for part in ["programs", "home", "work"] {
            fs::create_dir(to.join(part)).expect("it is writable");
        }
        for program in [WorkspaceBinary::Demonctl, WorkspaceBinary::Runtime] {
            // The build directory may lie where only we can look.
            let copy = to.join("programs").join(program.name());
            fs::hard_link(from(program), &copy)
                .or_else(|_| fs::copy(from(program), &copy).map(|_| ()))
                .expect("a copy");
        }
        fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("it is ours");
        for part in ["home", "work"] {
            chown(to.join(part), user, user).expect("root may give away, and ours stays ours");
        }
        let text = |text: &std::ffi::OsStr| text.to_str().expect("the settings are text").to_owned();
        let command = world.agent_command(NODE);
        let given = command.get_envs().filter_map(|(name, value)| Some((text(name), text(value?))));
        let mut environment: Vec<(String, String)> = given.collect();
        environment.push(("NATS_URL".to_owned(), world.server.url()));
        environment.push(("DEMON_NODE_ID".to_owned(), NODE.to_owned()));
        environment.push(("LOGNAME".to_owned(), "tester".to_owned()));
        Self { directory, user, environment }
    }

    fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    fn cache(&self) -> PathBuf {
        self.work().join(".demon/contracts")
    }

    /// A command of this person, in its directory.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                let user = user.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs", "--", program]);
                command
            }
            None => Command::new(program),
        };
        let programs = self.directory.path().join("programs").display().to_string();
        command.args(arguments).current_dir(self.work()).env_clear();
        command.env("PATH", format!("{programs}:/usr/bin:/bin")).env("HOME", self.directory.path().join("home"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    async fn types(&self, line: &str) -> Output {
        finished(self.command("/bin/bash", &["-c", &format!("set -o pipefail; {line}")])).await
    }

    async fn succeeds(&self, line: &str) -> String {
        let output = self.types(line).await;
        assert!(output.status.success(), "`{line}`: {}", both_outputs(&output));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    async fn runs(&self, agent: &Process, tag: &str) {
        let what = format!("the node to run {tag}");
        eventually(&what, PATIENCE, async || {
            let (active, flat) = (active_tag(&self.cache()), self.cache().join("bundle.sha256").exists());
            satisfied(active.as_deref() == Some(tag) && flat, || format!("it runs {active:?}: {}", agent.log()))
        })
        .await;
    }
}

/// Everything below a directory that belongs to somebody else.
fn foreign(directory: &Path, owner: u32, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let facts = fs::symlink_metadata(&path).expect("it is there");
        if facts.uid() != owner {
            found.push(path.clone());
        }
        if facts.is_dir() {
            foreign(&path, owner, found);
        }
    }
}

async fn through_the_playbook(user: Option<u32>) {
    let world = World::start(&[NODE]).await;
    let mut publish = world.publisher();
    publish.args(["--tag", "v1"]).arg("--source").arg(contracts(world.directory()));
    succeeded(publish).await;
    let person = Person::new(user, &world);
    let mut agent = Process::start("agent", person.command("demon-runtime", &[]), world.directory());
    person.runs(&agent, "v1").await;

    let line = agent.log_line("its HTTP address", PATIENCE, |line| line.contains("HTTP interface listens")).await;
    let line: Value = serde_json::from_str(&line).expect("a log line is JSON");
    let address = line["address"].as_str().expect("an address").to_owned();
    let rule = format!("connect-to = \"localhost:3000:{address}\"\n");
    fs::write(person.directory.path().join("home/.curlrc"), rule).expect("it is writable");
    let status = "curl -s localhost:3000/api/contracts/status | jq '.contractBundle.status'";
    eventually("the status", PATIENCE, async || {
        let said = person.succeeds(status).await;
        satisfied(said == "\"loaded\"", || said)
    })
    .await;
    assert!(person.succeeds("curl localhost:3000/metrics | grep demon_bundle").await.contains("demon_bundle_status"));
    person.succeeds("curl -fsS http://localhost:3000/healthz && curl -fsS http://localhost:3000/healthz/strict").await;

    // Both documented ways of comparing digests, and the listing.
    let check = "ls -la .demon/contracts/ && (cd .demon/contracts && shasum -a 256 -c bundle.sha256) && \
                 shasum -a 256 -c .demon/contracts/bundle.sha256";
    person.succeeds(check).await;
    let digest = person.succeeds("shasum -a 256 .demon/contracts/bundle.json | cut -d' ' -f1").await;
    assert_eq!(person.succeeds("jq -r '.bundle_sha256' .demon/contracts/manifest.json").await, digest);

    // The cache may be deleted while the agent serves.
    person.succeeds("rm -rf .demon/contracts/").await;
    person.runs(&agent, "v1").await;
    person.succeeds(check).await;

    // As in the section on corruption: delete, fetch by hand, restart.
    agent.kill();
    person.succeeds("rm -rf .demon/contracts/ && demonctl contracts fetch-bundle --tag contracts-latest").await;
    person.succeeds(check).await;
    person.succeeds("rm -rf .demon/contracts/").await;
    let events =
        person.succeeds("demonctl bootstrap | jq -r 'select(.event | startswith(\"bundle.\"))' | jq -r .event").await;
    assert_eq!(events.lines().collect::<Vec<_>>(), ["bundle.refresh_attempt", "bundle.staged", "bundle.loaded"]);
    let agent = Process::start("agent", person.command("demon-runtime", &[]), world.directory());
    person.runs(&agent, "v1").await;

    let owner = fs::metadata(person.work()).expect("it is there").uid();
    assert_eq!(user.unwrap_or(owner), owner);
    let mut others = Vec::new();
    foreign(&person.work(), owner, &mut others);
    assert_eq!(others, Vec::<PathBuf>::new(), "everything belongs to whoever runs the node");
}

#[tokio::test]
async fn the_playbook_works_for_the_user_that_runs_the_tests() {
    through_the_playbook(None).await;
}

#[tokio::test]
async fn the_playbook_works_for_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        // The other test is this one then: the user that runs it is an ordinary one.
        return;
    }
    through_the_playbook(Some(ORDINARY_USER)).await;
}
