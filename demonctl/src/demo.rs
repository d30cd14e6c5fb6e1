//! `demonctl demo`: the main job end to end, on a real server started for it, in numbered steps.
//!
//! Nothing is left behind: the data lies in a temporary directory, and every process it starts ends with it, also
//! after Ctrl-C, a failed step or a `kill -9` (the children's standard input closes).

mod altered_contracts;
mod progress;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use shared::daemon::{ErrorChain, stop_signal};
use shared::identifiers::NodeName;

use self::progress::{Progress, Stopped};
use self::steps::Demo;
use crate::output::{note, print_line};
use crate::stack::{self, LocalStack, StackOptions};

/// Nodes of the demo.
const NODES: u16 = 3;
const STEPS: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Leave everything running at the end until Ctrl-C, and print commands to look around with.
    #[arg(long, env = "DEMON_DEMO_KEEP", value_parser = clap::builder::BoolishValueParser::new())]
    keep: bool,
    /// The contracts to publish as release A. Default: `contracts` here or in a directory above.
    #[arg(long, env = "DEMON_DEMO_CONTRACTS", value_name = "DIR")]
    contracts: Option<PathBuf>,
}

impl DemoArguments {
    /// The effective settings.
    pub(crate) fn settings(&self) -> Value {
        json!({ "keep": self.keep, "contracts": self.contracts })
    }
}

/// Runs the demo; 130 when a signal ended it.
pub(crate) async fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let stop = stop_signal().context("cannot listen for signals")?;
    let contracts = match arguments.contracts {
        Some(contracts) => contracts,
        None => stack::find_contracts()?,
    };
    let directory =
        tempfile::Builder::new().prefix("demon-demo-").tempdir().context("cannot make a temporary directory")?;
    let mut progress = Progress::new(STEPS, stop.clone());
    let mut running = None;
    let shown = show(&mut progress, &mut running, directory.path(), &contracts).await;
    if let (Ok(()), true, Some(demo)) = (&shown, arguments.keep, &running) {
        print_line("")?;
        for line in demo.stack.commands_to_look_around()? {
            print_line(&line)?;
        }
        print_line("Everything stays up until Ctrl-C.")?;
        stop.cancelled().await;
    }
    if let Some(demo) = running {
        demo.stack.stop().await;
    }
    // What a step that failed early has started ends by itself, but not at once.
    stack::wait_until_ended(directory.path()).await;
    drop(directory);
    match shown {
        Ok(()) => {
            print_line("demo complete; every process it started has ended")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.root_cause().is::<Stopped>() => {
            note(&format!("demonctl demo: {}; every process it started has ended", ErrorChain(error.as_ref())));
            Ok(ExitCode::from(130))
        }
        Err(error) => Err(error.context("demo")),
    }
}

/// The steps in order. Leaves what runs in `running`, also when a step fails, so that it can be stopped.
async fn show(
    progress: &mut Progress,
    running: &mut Option<Demo>,
    directory: &std::path::Path,
    contracts: &std::path::Path,
) -> anyhow::Result<()> {
    let nodes: Vec<NodeName> = stack::node_names(NODES)?;
    let options = StackOptions { directory: directory.to_owned(), nodes };
    let start = async {
        let stack = LocalStack::start(&options).await?;
        let line = stack.describe_server();
        Ok((stack, vec![line]))
    };
    let stack = progress.step("start a real nats-server with two accounts", start).await?;
    let provisioned = async {
        let demo = Demo::new(stack, contracts.to_owned()).await?;
        let lines = demo.provision().await?;
        Ok((demo, lines))
    };
    let provision = "provision event stream, release bucket and node table";
    let demo = running.insert(progress.step(provision, provisioned).await?);
    let a = progress.step("publish release A: the contracts of this repository", demo.publish_a()).await?;
    progress.step("start three agents; each fetches, verifies and switches to A", demo.start_agents(&a)).await?;
    let b = progress.step("publish release B, one file changed; all switch", demo.publish_b()).await?;
    progress
        .step("release C, altered in the bucket, its meta left alone: every agent refuses it", demo.refuse_c(&b))
        .await?;
    progress
        .step("release D, altered in the bucket, its meta recomputed: every agent refuses it", demo.refuse_d(&b))
        .await?;
    progress.step("an agent's own credentials cannot promote", demo.refuse_promotion(&b)).await?;
    progress.step("roll the channel back to A; all switch", demo.roll_back(&a)).await?;
    progress.step("replay the history from sequence 1", demo.replay()).await?;
    demo.print_history()
}
