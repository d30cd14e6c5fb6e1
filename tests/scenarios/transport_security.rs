//! Logins and encryption as operators set them up: TLS, client certificates, credentials files, and what is said where
//! one of them is wrong.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::certificates::Authority;
use acceptance::operator_mode::OperatorMode;
use acceptance::raw_client::RawClient;
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::server::{Server, ServerSetup};
use acceptance::stored_log::{StoredMessage, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{World, both_outputs, finished, succeeded};
use async_nats::ConnectOptions;
use tempfile::TempDir;

/// How soon an agent says why it has no connection.
const SOON: Duration = Duration::from_secs(10);

/// A server that speaks TLS only, with the authority that vouches for it and a directory for certificates.
async fn encrypted(nodes: &[&str]) -> (World, Authority, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new(directory.path(), "authority");
    let world = World::with_tls(nodes, authority.server(directory.path())).await;
    (world, authority, directory)
}

/// A publisher that publishes the contracts once under a tag.
fn once(mut publisher: Command, tag: &str, source: &Path) -> Command {
    publisher.args(["--tag", tag]).arg("--source").arg(source);
    publisher
}

fn start_agent(world: &World, command: Command, name: &str) -> Agent {
    Agent::start(name, command, AgentDirectories::below(world.directory(), name), world.directory())
}

/// The same command with another address for the world's server.
fn at(url: &str, command: &Command, world: &World) -> Command {
    let usual = world.server.url();
    let mut other = Command::new(command.get_program());
    other.args(command.get_args().map(|argument| if argument == usual.as_str() { url.as_ref() } else { argument }));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Waits until a node's switches are in the log, and returns the log.
async fn log_with_switches(operator: &RawClient, node: &str, switches: usize) -> Vec<StoredMessage> {
    eventually(&format!("{switches} switches of {node} in the log"), PATIENCE, async || {
        let log = event_log(operator).await;
        let loaded = of_node(&log, "bundle.loaded", node).len();
        satisfied(loaded == switches, || format!("{loaded} are there"))?;
        Ok(log)
    })
    .await
}

/// The publisher ended with exit code 1 and said why in one line, which has these words in it.
fn refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}", both_outputs(output));
    assert!(said.starts_with("demon-publisher: "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for words in words {
        assert!(said.contains(words), "`{words}` is missing in {said}");
    }
    assert!(!both_outputs(output).contains("panicked"), "{}", both_outputs(output));
}

/// An agent says why it has no connection, keeps running, and runs nothing.
async fn waits_and_says(agent: &mut Agent, words: &str) {
    let line = agent.process.log_line(words, SOON, |line| line.contains(words)).await;
    assert!(line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\""), "{line}");
    assert!(agent.process.runs(), "it has ended");
    assert!(!agent.process.log().contains("panicked"));
    assert_eq!(agent.active_tag(), None);
}

#[tokio::test]
async fn publisher_and_agent_do_the_whole_job_over_tls() {
    let (world, authority, _directory) = encrypted(&["n1", "n2"]).await;
    let source = contracts(world.directory());
    let mut publisher = world.publisher();
    publisher.arg("--tls-ca").arg(authority.file());
    succeeded(once(publisher, "first", &source)).await;

    // Once by its option, once by its variable.
    let mut command = world.agent_command("n1");
    command.arg("--tls-ca").arg(authority.file());
    let by_option = start_agent(&world, command, "n1");
    let mut command = world.agent_command("n2");
    command.env("NATS_TLS_CA", authority.file());
    let by_variable = start_agent(&world, command, "n2");
    let mut agents = [by_option, by_variable];
    for agent in &mut agents {
        agent.switched_to("first").await;
    }

    change_one_contract(&source, "second");
    let mut publisher = world.publisher();
    publisher.env("NATS_TLS_CA", authority.file());
    succeeded(once(publisher, "second", &source)).await;
    for agent in &mut agents {
        agent.switched_to("second").await;
        assert!(String::from_utf8_lossy(&agent.files()["bundle.json"]).contains("second"));
    }

    let login = world.operator_login();
    let options = ConnectOptions::with_user_and_password(login.user, login.password);
    let options = options.add_root_certificates(authority.file().to_owned()).require_tls(true);
    let operator = RawClient::connect_with(&login.url, options).await;
    for node in ["n1", "n2"] {
        log_with_switches(&operator, node, 2).await;
    }
}

#[tokio::test]
async fn a_server_vouched_for_by_another_authority_is_refused_by_publisher_and_agent() {
    let (world, authority, directory) = encrypted(&["n1"]).await;
    let source = contracts(world.directory());
    let other = Authority::new(directory.path(), "other");
    let mut publisher = world.publisher();
    publisher.arg("--tls-ca").arg(other.file());
    refused(
        &finished(once(publisher, "first", &source)).await,
        &["no TLS connection to server `tls://127.0.0.1:", "invalid peer certificate: UnknownIssuer"],
    );

    let mut command = world.agent_command("n1");
    command.env("NATS_TLS_CA", other.file());
    let mut agent = start_agent(&world, command, "n1");
    waits_and_says(&mut agent, "invalid peer certificate: UnknownIssuer").await;

    // The authority alone was wrong.
    let mut publisher = world.publisher();
    publisher.arg("--tls-ca").arg(authority.file());
    succeeded(once(publisher, "first", &source)).await;
}

#[tokio::test]
async fn a_plain_url_to_a_server_that_speaks_tls_only_is_told_in_one_line() {
    let (world, _authority, _directory) = encrypted(&["n1"]).await;
    let source = contracts(world.directory());
    let plain = format!("nats://127.0.0.1:{}", world.server.port());
    // The client notices that the server wants TLS, and finds nobody who vouches for it.
    let output = finished(once(at(&plain, &world.publisher(), &world), "first", &source)).await;
    refused(&output, &[&format!("server `{plain}`"), "invalid peer certificate: UnknownIssuer"]);
    let mut agent = start_agent(&world, at(&plain, &world.agent_command("n1"), &world), "n1");
    waits_and_says(&mut agent, "no TLS connection to server").await;
}

#[tokio::test]
async fn a_server_that_asks_for_client_certificates_gets_them_from_publisher_and_agent() {
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new(directory.path(), "authority");
    let clients = Authority::new(directory.path(), "clients");
    let mut tls = authority.server(directory.path());
    tls.client_authorities = Some(clients.file().to_owned());
    let world = World::with_tls(&["n1"], tls).await;
    let source = contracts(world.directory());
    // A certificate that names no use serves a client as well.
    let certificate = clients.server(&world.subdirectory("client"));
    let with_files = |mut command: Command| {
        command.env("NATS_TLS_CA", authority.file());
        command.env("NATS_TLS_CERT", &certificate.certificate).env("NATS_TLS_KEY", &certificate.key);
        command
    };

    let mut without = world.publisher();
    without.arg("--tls-ca").arg(authority.file());
    refused(&finished(once(without, "first", &source)).await, &["server `tls://127.0.0.1:", "CertificateRequired"]);

    succeeded(once(with_files(world.publisher()), "first", &source)).await;
    let mut agent = start_agent(&world, with_files(world.agent_command("n1")), "n1");
    agent.switched_to("first").await;
}

#[test]
fn one_tls_provider_is_in_the_whole_tree() {
    // Two make every connection over TLS panic, and connections without it never show that.
    let tree = |provider: &str| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.args(["tree", "--workspace", "--offline", "--locked", "-e", "normal,build", "-i", provider]);
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (provider, complaints) = tree("aws-lc-rs");
    assert!(provider.starts_with("aws-lc-rs v") && provider.contains("rustls v"), "{provider}{complaints}");
    let (ring, complaints) = tree("ring");
    assert_eq!(ring, "", "a second provider");
    // Nothing was printed because there is none, not because the question failed.
    let none = ["nothing to print", "did not match any packages"];
    assert!(none.iter().any(|words| complaints.contains(words)), "{complaints}");
}

#[tokio::test]
async fn credentials_files_are_all_that_publisher_and_agent_need_in_operator_mode() {
    let mode = OperatorMode::generate();
    let server = Server::start(ServerSetup { accounts: mode.server_config(), ..ServerSetup::default() }).await;
    let directory = server.directory();
    let publisher_file = mode.operator_credentials(directory);
    let node_file = mode.node_credentials("n1", directory);
    let source = contracts(directory);
    let publisher = |credentials: &Path| {
        let mut command = WorkspaceBinary::Publisher.command();
        command.args(["publish", "--nats-url", &server.url()]).arg("--state-dir").arg(directory.join("publisher"));
        command.env("NATS_CREDS_PATH", credentials);
        command
    };
    succeeded(once(publisher(&publisher_file), "first", &source)).await;

    let mut command = WorkspaceBinary::Runtime.command();
    command.args(["--node", "n1", "--nats-url", &server.url()]).env("NATS_CREDS_PATH", &node_file);
    let mut agent = Agent::start("n1", command, AgentDirectories::below(directory, "n1"), directory);
    agent.switched_to("first").await;
    change_one_contract(&source, "second");
    succeeded(once(publisher(&publisher_file), "second", &source)).await;
    agent.switched_to("second").await;

    let options = ConnectOptions::with_credentials_file(&publisher_file).await.expect("the file is valid");
    let operator = RawClient::connect_with(&server.url(), options).await;
    let log = log_with_switches(&operator, "n1", 2).await;

    // Valid credentials of a node are none of a publisher's; those of another operator and a missing file are none.
    change_one_contract(&source, "third");
    refused(&finished(once(publisher(&node_file), "third", &source)).await, &["the streams cannot be provisioned"]);
    let strangers = directory.join("strangers");
    fs::create_dir(&strangers).expect("the directory is writable");
    let stranger = OperatorMode::generate().operator_credentials(&strangers);
    refused(&finished(once(publisher(&stranger), "third", &source)).await, &["refuses the credentials"]);
    let missing = directory.join("missing.creds");
    let shown = format!("credentials file `{}` cannot be used: ", missing.display());
    refused(&finished(once(publisher(&missing), "third", &source)).await, &[&shown]);
    assert_eq!(event_log(&operator).await, log, "a refused publisher has written to the log");
}

#[tokio::test]
async fn a_wrong_password_is_told_by_publisher_and_agent() {
    let world = World::start(&["n1"]).await;
    let source = contracts(world.directory());
    let mut publisher = world.publisher();
    publisher.env("NATS_PASSWORD", "not-the-password");
    let output = finished(once(publisher, "first", &source)).await;
    refused(&output, &["refuses the credentials of user `publisher`"]);
    assert!(!both_outputs(&output).contains("not-the-password"), "a password is shown");

    let mut command = world.agent_command("n1");
    command.env("NATS_PASSWORD", "not-the-password");
    let mut agent = start_agent(&world, command, "n1");
    waits_and_says(&mut agent, "the server refuses the credentials").await;
    assert!(!agent.process.log().contains("not-the-password"), "a password is shown");
}
