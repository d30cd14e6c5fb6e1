//! `demonctl up`: server and agents in the foreground, with data, port and passwords kept between runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use shared::daemon::{ErrorChain, stop_signal};

use publisher::progress::Silent;
use publisher::publish_cycle::{Novelty, PublishError, publish as publish_content};
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;

use crate::operator::ActorArguments;
use crate::output::{note, print_line};
use crate::stack::publishing::read_contracts;
use crate::stack::{self, LocalStack, StackOptions};

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// How many agents to run: edge-1, edge-2, …
    #[arg(long, env = "DEMON_UP_AGENTS", default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=100))]
    agents: u16,
    /// Where data, port and passwords are kept.
    #[arg(long, env = "DEMON_UP_DATA", default_value = ".demon/up", value_name = "DIR")]
    data: PathBuf,
    /// Contracts to publish at the start where they changed. Default: `contracts` here or in a directory above,
    /// if there is one.
    #[arg(long, env = "DEMON_UP_CONTRACTS", value_name = "DIR")]
    contracts: Option<PathBuf>,
    /// Where the first agent answers over HTTP, if that port is free; 0 takes any free one, which its log names.
    #[arg(long, env = "DEMON_UP_PORT", default_value_t = 3000, value_name = "PORT")]
    port: u16,
    #[command(flatten)]
    actor: ActorArguments,
}

impl UpArguments {
    /// The effective settings.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let actor = self.actor.name()?;
        Ok(
            json!({ "agents": self.agents, "data": self.data, "contracts": self.contracts, "port": self.port, "actor": actor }),
        )
    }
}

/// Runs until Ctrl-C or SIGTERM (exit code 0), or until the server or an agent ends by itself (exit code 1).
pub(crate) async fn run(arguments: UpArguments) -> anyhow::Result<ExitCode> {
    let stop = stop_signal().context("cannot listen for signals")?;
    let options = StackOptions { directory: arguments.data.clone(), nodes: stack::node_names(arguments.agents)? };
    let mut stack = tokio::select! {
        stack = LocalStack::start(&options) => stack?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    let result = tokio::select! {
        result = serve(&mut stack, &arguments) => result,
        () = stop.cancelled() => Ok(()),
    };
    note("stopping");
    stack.stop().await;
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(stack: &mut LocalStack, arguments: &UpArguments) -> anyhow::Result<()> {
    print_line(&stack.describe_server())?;
    stack.provision(&arguments.actor.name()?).await?;
    if let Some(contracts) = arguments.contracts.clone().or_else(|| stack::find_contracts().ok()) {
        print_line(&publish(stack, contracts).await?)?;
    }
    stack.start_agents(arguments.port)?;
    for agent in stack.agents() {
        print_line(&format!("agent {} runs as process {}", agent.node(), agent.process_id().unwrap_or_default()))?;
    }
    print_line("")?;
    for line in stack.commands_to_look_around()? {
        print_line(&line)?;
    }
    print_line("Runs until Ctrl-C; the data stays.")?;
    bail!("{}", stack.first_end().await?)
}

/// Publishes the contracts where they differ from the newest release, and says in one line what became of it.
async fn publish(stack: &LocalStack, contracts: PathBuf) -> anyhow::Result<String> {
    let (content, request) = read_contracts(contracts).await?;
    let connection = stack.connect_publisher().await?;
    let (log, bucket) = (EventLog::new(connection.clone()), ReleaseStore::new(connection.clone()));
    let report = publish_content(&log, &bucket, &mut stack.publisher()?, &content, &request, &Silent::shared()).await;
    connection.drain().await;
    let report = match report {
        // What was decided about them earlier stands, and is no reason not to show the stack.
        Err(decided @ (PublishError::Withdrawn { .. } | PublishError::Frozen(_) | PublishError::Defects { .. })) => {
            return Ok(format!("nothing is published: {}", ErrorChain(&decided)));
        }
        report => report?,
    };
    let tag = &report.release.published.tag;
    Ok(match report.novelty {
        Novelty::Unchanged | Novelty::AlreadyAnnounced => format!("contracts are unchanged since {tag}"),
        Novelty::Announced | Novelty::AnnouncedAgain => format!("published {tag}"),
    })
}
