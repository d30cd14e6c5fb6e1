//! Telling the application of each switch, and what happens where that fails.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::http_request::get;
use acceptance::operations::publish_contracts;
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;

fn start(world: &World, command: Command, log: &str) -> Agent {
    Agent::start(log, command, AgentDirectories::below(world.directory(), "n1"), world.directory())
}

async fn published(world: &World, tag: &str) {
    publish_contracts(world, &contracts(world.directory()), tag).await;
}

async fn says(path: &Path, expected: &str) {
    eventually(&format!("`{expected}` in `{}`", path.display()), PATIENCE, async || {
        let text = fs::read_to_string(path).unwrap_or_default();
        satisfied(text == expected, || text.clone())
    })
    .await;
}

/// A command that notes what it is told, without the agent's password.
fn noting(directory: &Path) -> String {
    let script = directory.join("hook.sh");
    let text = "echo \"$DEMON_SWITCH_CAUSE $DEMON_PREVIOUS_TAG>$DEMON_TAG $DEMON_ACTIVATION_EPOCH$NATS_PASSWORD\" >> \"$1\"\n\
                test -r \"$DEMON_RELEASE_FILES/bundle.json\"\n";
    fs::write(&script, text).expect("the directory is writable");
    format!("sh {} {}", script.display(), directory.join("told").display())
}

#[tokio::test]
async fn a_command_is_told_of_every_switch_and_of_every_revert() {
    let world = World::start(&["n1"]).await;
    let directory = world.subdirectory("application");
    let mut command = world.agent_command("n1");
    command.env("DEMON_ON_SWITCH", noting(&directory));
    let check = directory.join("check.sh");
    fs::write(&check, "test \"$DEMON_TAG\" != v2\n").expect("the directory is writable");
    command.env("DEMON_HEALTH_CHECK", format!("sh {}", check.display()));
    command.env("DEMON_HEALTH_WINDOW", "200ms").env("DEMON_HEALTH_GRACE", "0s").env("DEMON_HEALTH_INTERVAL", "50ms");
    let mut agent = start(&world, command, "n1");
    published(&world, "v1").await;
    agent.process.log_line("a proven release", PATIENCE, |line| line.contains("has proved itself")).await;
    published(&world, "v2").await;
    says(&directory.join("told"), "switch >v1 1\nswitch v1>v2 2\nrevert v2>v1 3\n").await;
    agent.switched_to("v1").await;
}

#[tokio::test]
async fn an_application_that_cannot_be_told_is_an_alert_and_holds_up_nothing() {
    let world = World::start(&["n1"]).await;
    let directory = world.subdirectory("application");
    let mut command = world.agent_command("n1");
    command.env("DEMON_ON_SWITCH", format!("signal:USR1:pidfile={}", directory.join("app.pid").display()));
    let mut agent = start(&world, command, "n1");
    let address = agent.http_address().await;
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    eventually("the alert", PATIENCE, async || {
        let status = get(address, "/api/contracts/status", &[]).await;
        let told = status.body.contains("could not be told of the switch") && status.body.contains("app.pid");
        satisfied(told, || status.body.clone())
    })
    .await;
    // The next switch happens all the same, and clears the alert once the application takes the signal.
    let mut application = Signalled::start(&directory);
    published(&world, "v2").await;
    agent.switched_to("v2").await;
    application.ended_by_the_signal().await;
    eventually("the end of the alert", PATIENCE, async || {
        let status = get(address, "/api/contracts/status", &[]).await;
        satisfied(!status.body.contains("could not be told"), || status.body.clone())
    })
    .await;
}

#[tokio::test]
async fn an_application_that_was_not_told_before_the_agent_ended_is_told_by_the_next() {
    let world = World::start(&["n1"]).await;
    let directory = world.subdirectory("application");
    let mut command = world.agent_command("n1");
    command.env("DEMON_ON_SWITCH", "sleep 600").env("DEMON_ON_SWITCH_TIMEOUT", "10m");
    let mut agent = start(&world, command, "n1");
    published(&world, "v1").await;
    agent.switched_to("v1").await;
    agent.process.log_line("the switch", PATIENCE, |line| line.contains("bundle active")).await;
    // The switch is remembered before the application is told.
    eventually("the switch to be remembered", PATIENCE, async || {
        let state = fs::read_to_string(agent.state().join("state.contracts.json")).unwrap_or_default();
        satisfied(state.contains("\"activation_epoch\": 1"), || state.clone())
    })
    .await;
    agent.process.kill();
    let mut command = world.agent_command("n1");
    command.env("DEMON_ON_SWITCH", noting(&directory));
    let _agent = start(&world, command, "again");
    says(&directory.join("told"), "switch >v1 1\n").await;
}

/// A process that ends by the signal, and the file that names it.
struct Signalled(Child);

impl Signalled {
    fn start(directory: &Path) -> Self {
        let child = Command::new("sleep").arg("600").spawn().expect("sleep is there");
        fs::write(directory.join("app.pid"), child.id().to_string()).expect("the directory is writable");
        Self(child)
    }

    async fn ended_by_the_signal(&mut self) {
        eventually("the signal", PATIENCE, async || match self.0.try_wait() {
            Ok(Some(status)) => satisfied(!status.success(), || status.to_string()),
            Ok(None) => Err("it runs on".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }
}

impl Drop for Signalled {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
