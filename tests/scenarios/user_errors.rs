//! Every mistake that a user can make ends in one line that says what, where and what to do, with a documented exit code:
//! 1 refused or failed, 2 wrong usage. Nothing prints the inside of a program.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use acceptance::certificates::Authority;
use acceptance::sample_trees::contracts;
use acceptance::small_disk::SmallDisk;
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{World, finished};
use tokio::time::timeout;

/// What no user wants to read.
const INSIDES: [&str; 10] =
    ["panicked", "RUST_BACKTRACE", "Error {", "Error(", "Os {", "Some(", "None)", "kind:", "\\n", "Custom {"];

struct Case {
    what: String,
    command: Command,
    code: i32,
    /// What its line has to name.
    words: Vec<String>,
}

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, what: &str, code: i32, words: &[&str], command: Command) {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        self.0.push(Case { what: what.to_owned(), command, code, words });
    }

    /// Runs them all, and says of each what is wrong with how it ended.
    async fn check(self) {
        let mut faults = Vec::new();
        let mut cases = self.0.into_iter();
        loop {
            let few: Vec<_> = cases.by_ref().take(4).collect();
            if few.is_empty() {
                break;
            }
            let ended = few.into_iter().map(|case| async move {
                let Case { what, command, code, words } = case;
                let output = timeout(acceptance::waiting::PATIENCE, finished(command)).await;
                match output {
                    Ok(output) => fault(&output, code, &words).map(|fault| format!("{what}: {fault}")),
                    Err(_) => Some(format!("{what}: it hangs")),
                }
            });
            faults.extend(futures_util::future::join_all(ended).await.into_iter().flatten());
        }
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }
}

/// What is wrong with how a program ended.
fn fault(output: &Output, code: i32, words: &[String]) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    // A service writes its log before it ends.
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with('{')).collect();
    let shown = format!("{} {said:?}", output.status);
    if output.status.code() != Some(code) {
        return Some(format!("not exit code {code}: {shown}"));
    }
    // The parser of command lines adds usage and a tip.
    let by_parser = code == 2 && said.starts_with("error: ") && said.contains("--help");
    if lines.len() != 1 && !by_parser {
        return Some(format!("{} lines: {shown}", lines.len()));
    }
    if let Some(inside) = INSIDES.iter().find(|inside| said.contains(**inside)) {
        return Some(format!("it shows `{inside}`: {shown}"));
    }
    words.iter().find(|word| !said.contains(word.as_str())).map(|word| format!("it does not name `{word}`: {shown}"))
}

fn operator(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.demonctl();
    command.args(arguments).env("DEMON_ACTOR", "ada").env("NATS_TIMEOUT", "2s");
    command
}

fn publisher(world: &World, source: &Path) -> Command {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Several run at a time, and each state directory is one publisher's.
    let state = world.subdirectory("states").join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let whole = world.publisher();
    let mut command = Command::new(whole.get_program());
    let without_state = whole.get_args().take_while(|argument| *argument != "--state-dir");
    command.args(without_state).arg("--state-dir").arg(state).arg("--source").arg(source);
    for (name, value) in whole.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("NATS_TIMEOUT", "2s");
    command
}

fn agent(world: &World, below: &Path) -> Command {
    let mut command = world.agent_command("n1");
    command.arg("--cache").arg(below.join("contracts")).arg("--state-dir").arg(below.join("agent"));
    command
}

fn with(mut command: Command, name: &str, value: &str) -> Command {
    command.env(name, value);
    command
}

fn plus(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("it is text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_used_is_named_in_one_line() {
    let world = World::start(&["n1"]).await;
    let directory = world.directory().to_owned();
    let source = contracts(&directory);
    let authority = Authority::new(&directory, "authority");
    let (file, missing) = (directory.join("file.json"), directory.join("missing.creds"));
    fs::write(&file, b"{ not JSON \xff").expect("the directory is writable");
    let mut cases = Cases::default();
    for (program, make) in [
        ("publish", &(|| publisher(&world, &source)) as &dyn Fn() -> Command),
        ("promote", &|| operator(&world, &["channel", "promote", "latest", "v1"])),
        ("list", &|| operator(&world, &["events", "list"])),
        ("fleet", &|| operator(&world, &["fleet", "status"])),
    ] {
        let url = |url: &str| plus_url(&make(), url);
        cases.add(&format!("{program}, refused"), 1, &["127.0.0.1:1", "refused"], url("nats://127.0.0.1:1"));
        cases.add(&format!("{program}, unknown host"), 1, &["nowhere.invalid"], url("nats://nowhere.invalid:4222"));
        cases.add(&format!("{program}, bad scheme"), 2, &["NATS_URL"], url("gopher://127.0.0.1:4222"));
        cases.add(&format!("{program}, bad port"), 2, &[], url("nats://127.0.0.1:99999"));
        cases.add(&format!("{program}, no URL"), 2, &[], url("nats://"));
        let wrong = with(make(), "NATS_PASSWORD", "wrong");
        cases.add(&format!("{program}, wrong password"), 1, &["refuses the credentials"], wrong);
        let wrong = with(make(), "NATS_TIMEOUT", "soon");
        cases.add(&format!("{program}, bad timeout"), 2, &["soon"], wrong);
        let lost = with(make(), "NATS_CREDS_PATH", text(&missing));
        cases.add(&format!("{program}, no credentials file"), 1, &["missing.creds"], lost);
        let folder = with(make(), "NATS_CREDS_PATH", text(&directory));
        cases.add(&format!("{program}, credentials are a directory"), 1, &[text(&directory)], folder);
        let broken = with(make(), "NATS_CREDS_PATH", text(&file));
        cases.add(&format!("{program}, credentials are no credentials"), 1, &["file.json"], broken);
        let lost = with(make(), "NATS_TLS_CA", text(&missing));
        cases.add(&format!("{program}, no authority"), 1, &["missing.creds"], lost);
        let plain = with(make(), "NATS_TLS_CA", text(authority.file()));
        cases.add(&format!("{program}, TLS with a server without"), 1, &["TLS"], plain);
    }
    cases.check().await;
}

/// The same with another address: options win over variables, and the publisher is given its own as an option.
fn plus_url(command: &Command, url: &str) -> Command {
    let mut other = Command::new(command.get_program());
    let mut arguments = command.get_args();
    while let Some(argument) = arguments.next() {
        if argument == "--nats-url" {
            arguments.next();
        } else {
            other.arg(argument);
        }
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other.env("NATS_URL", url);
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_streams_or_without_trust_is_named_in_one_line() {
    let bare = World::unprovisioned(&["n1"]).await;
    let directory = bare.directory().to_owned();
    let authority = Authority::new(&directory, "authority");
    let stranger = Authority::new(&directory, "stranger");
    let encrypted = World::with_tls(&["n1"], authority.server(&directory)).await;
    let source = contracts(&directory);
    let mut cases = Cases::default();
    for arguments in [
        &["channel", "promote", "latest", "v1"][..],
        &["events", "list"],
        &["events", "verify"],
        &["fleet", "status"],
        &["node", "show", "n1"],
        &["store", "verify"],
        &["channel", "list"],
        &["bundle", "list"],
        &["log", "show"],
        &["release", "withdraw", "v1", "--reason", "it is bad", "--yes"],
    ] {
        cases.add(&format!("no streams: {arguments:?}"), 1, &[], operator(&bare, arguments));
    }
    for (what, command) in
        [("publish", publisher(&encrypted, &source)), ("events list", operator(&encrypted, &["events", "list"]))]
    {
        let unknown = with(command, "NATS_TLS_CA", text(stranger.file()));
        cases.add(&format!("{what}, a stranger's certificate"), 1, &["TLS"], unknown);
    }
    cases.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_options_and_ports_that_cannot_be_used_are_named_in_one_line() {
    let world = World::start(&["n1"]).await;
    let directory = world.directory().to_owned();
    let source = contracts(&directory);
    let (file, missing, empty) = (directory.join("file.json"), directory.join("missing"), directory.join("empty"));
    fs::write(&file, b"{ not JSON \xff").expect("the directory is writable");
    fs::create_dir(&empty).expect("the directory is writable");
    let broken = directory.join("broken");
    fs::create_dir_all(broken.join("schemas")).expect("the directory is writable");
    fs::write(broken.join("schemas/one.json"), b"{ \"broken\": ").expect("the directory is writable");
    let binary = directory.join("binary");
    fs::create_dir_all(binary.join("schemas")).expect("the directory is writable");
    fs::write(binary.join("schemas/one.json"), b"{\"a\": \"\xff\xfe\"}").expect("the directory is writable");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("a listener has an address");
    let listen = taken.1.to_string();
    let mut cases = Cases::default();

    let publish = |source: &Path| publisher(&world, source);
    cases.add("missing source", 2, &["missing"], publish(&missing));
    cases.add("source is a file", 2, &["file.json"], publish(&file));
    cases.add("empty source", 1, &[], publish(&empty));
    cases.add("broken JSON", 1, &["one.json"], publish(&broken));
    cases.add("no UTF-8", 1, &["one.json"], publish(&binary));
    let usage: [(&str, &[&str], &str); 8] = [
        ("tag", &["--tag", "a b"], "--tag"),
        ("bundle", &["--bundle", "log"], "--bundle"),
        ("channel", &["--channel", "a.b"], "--channel"),
        ("deltas", &["--deltas", "99"], "--deltas"),
        ("replicas", &["--replicas", "0"], "--replicas"),
        ("time", &["--timestamp", "yesterday"], "--timestamp"),
        ("commit", &["--git-sha", "abc"], "--git-sha"),
        ("monitoring", &["--nats-monitor-url", "ftp://x"], "--nats-monitor-url"),
    ];
    for (what, arguments, word) in usage {
        cases.add(&format!("publisher's {what}"), 2, &[word], plus(publish(&source), arguments));
    }
    let mut at_file = WorkspaceBinary::Publisher.command();
    at_file.args(["publish", "--nats-url", &world.url(), "--tag", "v1"]).arg("--source").arg(&source);
    at_file.arg("--state-dir").arg(&file);
    cases.add("the publisher's state is a file", 1, &["file.json"], at_file);
    let mut serve = world.publisher_service();
    serve.arg("--source").arg(&source).env("DEMON_PUBLISHER_LISTEN", &listen);
    cases.add("the publisher's port is taken", 1, &[&listen], serve);

    for (what, arguments, code, word) in [
        ("unknown release", &["channel", "promote", "latest", "nothing"][..], 1, "nothing"),
        ("unknown channel", &["channel", "show", "nowhere"], 1, "nowhere"),
        ("unknown node", &["node", "show", "nobody"], 1, "nobody"),
        ("unknown release, withdrawn", &["release", "withdraw", "nothing", "--reason", "bad", "--yes"], 1, "nothing"),
        ("nothing to roll back to", &["channel", "rollback", "latest"], 1, "latest"),
        ("bad channel name", &["channel", "show", "a.b"], 2, "a.b"),
        ("bad instant", &["state", "--at", "yesterday evening"], 2, "yesterday evening"),
        ("no command", &["channel", "burn"], 2, "burn"),
        ("missing export", &["events", "verify", "--from", text(&missing)], 1, "missing"),
        ("export is a directory", &["events", "verify", "--from", text(&empty)], 1, "a directory"),
        ("export is no export", &["events", "verify", "--from", text(&file)], 1, "file.json"),
        ("missing source", &["contracts", "publish", text(&missing)], 1, "missing"),
        ("missing contracts", &["contracts", "validate", text(&missing)], 1, "missing"),
        ("missing checkpoint", &["events", "verify", "--checkpoint", text(&missing)], 1, "missing"),
        ("empty reason", &["channel", "promote", "latest", "v1", "--reason", ""], 2, "--reason"),
        ("unknown output", &["events", "list", "--output", "xml"], 2, "xml"),
    ] {
        cases.add(&format!("demonctl: {what}"), code, &[word], operator(&world, arguments));
    }

    let run = || agent(&world, &directory.join("run"));
    for (what, arguments, word) in [
        ("node", &["--node", "a.b"][..], "--node"),
        ("interval", &["--interval", "soon"], "--interval"),
        ("outbox limit", &["--outbox-limit", "3"], "--outbox-limit"),
        ("retry", &["--retry-first", "10m"], "--retry-longest"),
        ("keep", &["--keep-releases", "many"], "--keep-releases"),
        ("tolerance", &["--log-lag-tolerance", "1"], "--log-lag-tolerance"),
        ("channel", &["--channel", "a b"], "--channel"),
    ] {
        let wrong = plus(run(), arguments);
        cases.add(&format!("agent's {what}"), 2, &[word], wrong);
    }
    let mut at_file = world.agent_command("n1");
    at_file.arg("--cache").arg(&file).arg("--state-dir").arg(directory.join("other"));
    cases.add("the agent's cache is a file", 1, &["file.json"], at_file);
    let mut at_file = world.agent_command("n1");
    at_file.arg("--cache").arg(directory.join("third")).arg("--state-dir").arg(&file);
    cases.add("the agent's state is a file", 1, &["file.json"], at_file);
    cases.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_and_empty_variables_are_told_in_one_line_or_not_at_all() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let mut cases = Cases::default();
    let disk = SmallDisk::mount(&world.directory().join("full-disk"), 1 << 20);
    if let Some(disk) = &disk {
        disk.fill();
        let mut full = WorkspaceBinary::Publisher.command();
        full.args(["publish", "--nats-url", &world.url(), "--tag", "v1"]).arg("--source").arg(&source);
        full.arg("--state-dir").arg(disk.path().join("state"));
        cases.add("the publisher's disk is full", 1, &["No space left"], full);
        let full = agent(&world, disk.path());
        cases.add("the agent's disk is full", 1, &["No space left"], full);
    }
    cases.check().await;
    // A variable that is set to nothing counts as not set: what runs without it runs so too.
    let mut command = publisher(&world, &source);
    command.args(["--tag", "v1"]);
    for name in ["NATS_CREDS_PATH", "NATS_TLS_CA", "DEMON_CHANNEL", "DEMON_NATS_MONITOR_URL", "DEMON_GIT_SHA"] {
        command.env(name, "");
    }
    let output = finished(command).await;
    assert!(output.status.success(), "{}", acceptance::world::both_outputs(&output));
}
