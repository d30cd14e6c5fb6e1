//! `idle`: an agent that has nothing to do: its memory, its processor time, its messages.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::Value;
use streams::connection_arguments::parse_duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::CommonArguments;
use crate::agent_fleet;
use crate::bench_server::{BenchServer, Durability};
use crate::event_maker::node_name;
use crate::measurement::{Samples, as_number};
use crate::process_usage;
use crate::report::{Limit, Report};
use crate::sample_releases::{BenchPublisher, TreeArguments};

const MEBIBYTE: f64 = 1_048_576.0;
const LIMIT: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_micros(500);
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct IdleArguments {
    /// How long an agent is watched while it idles. Its interval is one second here, so that there is something to see.
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = parse_duration)]
    watched: Duration,
    #[command(flatten)]
    tree: TreeArguments,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

/// Messages that the server counts for one connection.
#[derive(Debug, Clone, Copy)]
struct Messages {
    from_agent: u64,
    to_agent: u64,
    subscriptions: u64,
}

pub(crate) async fn run(arguments: &IdleArguments) -> anyhow::Result<Report> {
    let IdleArguments { watched, tree, common } = arguments;
    let mut report = Report::new("idle");
    report.setting("watched_ms", u64::try_from(watched.as_millis())?);
    report.setting("rounds", common.rounds);
    let server = BenchServer::start(common.directory.as_deref(), Durability::Synced).await?;
    let mut publisher = BenchPublisher::new(&server.connection("bench publisher").await?, *tree)?;
    let release = publisher.publish().await?;
    publisher.promote(&release.published.tag).await?;
    let cache = server.subdirectory("node")?.join("cache");
    let name = node_name(0);

    let (mut resident, mut processor) = (Samples::default(), Samples::default());
    let (mut sent, mut received, mut serving) = (Samples::default(), Samples::default(), Samples::default());
    // The first start fetches; from then on the release is in the cache.
    start(&server, &cache)?.until_connected(&server, &name).await?.end().await?;
    for _ in 0..common.rounds {
        let begun = Instant::now();
        let agent = start(&server, &cache)?;
        agent.until_locked(&cache, begun, &mut serving).await?;
        let agent = agent.until_connected(&server, &name).await?;
        // What a start costs is not idling.
        sleep(2 * INTERVAL).await;
        let (before, usage_before) = (messages(&server, &name).await?, agent.usage()?);
        let begun = Instant::now();
        sleep(*watched).await;
        let (after, usage) = (messages(&server, &name).await?, agent.usage()?);
        let intervals = begun.elapsed().as_secs_f64() / INTERVAL.as_secs_f64();
        resident.add(as_number(usage.resident) / MEBIBYTE);
        let used = usage.processor.saturating_sub(usage_before.processor);
        processor.add(used.as_secs_f64() * 1000.0 / intervals);
        sent.add(as_number(after.from_agent - before.from_agent) / intervals);
        received.add(as_number(after.to_agent - before.to_agent) / intervals);
        ensure!(after.from_agent > before.from_agent, "the agent says nothing: it is not alive");
        report.setting("subscriptions", after.subscriptions);
        agent.end().await?;
    }
    report.row("memory of an idle agent", "MiB", &resident);
    report.row("processor time an interval", "ms", &processor);
    report.row("messages it sends an interval", "messages", &sent);
    report.row("messages it gets an interval", "messages", &received);
    report.row("start → agent has its state and serves its cache", "ms", &serving);
    report.ratio("memory / 12 MiB", resident.median(), 12.0, Some(Limit::at_most(1.0, 0.67)));
    report.ratio("messages sent / heartbeat and one read", sent.median(), 2.0, Some(Limit::at_most(1.5, 1.25)));
    report.ratio("start / 40 ms", serving.median(), 40.0, Some(Limit::at_most(1.0, 0.4)));
    report.fact("release that the agent serves", release.published.tag.to_string());
    server.stop().await?;
    Ok(report)
}

/// An agent in a process of its own.
struct AgentProcess {
    child: Child,
    id: u32,
}

fn start(server: &BenchServer, cache: &std::path::Path) -> anyhow::Result<AgentProcess> {
    let own = std::env::current_exe().context("this program cannot be found")?;
    let mut command = Command::new(own);
    // The first word of the command line is the program's name, which is the hidden subcommand's here.
    command.args(agent_fleet::arguments(&server.url(), cache, &node_name(0), "1s")?);
    command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.kill_on_drop(true).spawn().context("the agent does not start")?;
    let id = child.id().context("the agent has ended")?;
    Ok(AgentProcess { child, id })
}

impl AgentProcess {
    /// Waits until its connection stands and it runs a release.
    async fn until_connected(mut self, server: &BenchServer, name: &str) -> anyhow::Result<Self> {
        let deadline = Instant::now() + LIMIT;
        while messages(server, name).await.is_err() {
            ensure!(self.child.try_wait()?.is_none(), "the agent has ended");
            ensure!(Instant::now() < deadline, "the agent does not connect");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(self)
    }

    /// Waits until it has locked its state, which is when it has begun to serve what its cache holds.
    async fn until_locked(&self, cache: &std::path::Path, begun: Instant, serving: &mut Samples) -> anyhow::Result<()> {
        let introduced = cache.with_file_name("agent");
        let deadline = Instant::now() + LIMIT;
        let own = format!("{}", self.id);
        loop {
            let said = std::fs::read_dir(&introduced)?.filter_map(Result::ok).any(|entry| {
                std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&own) && text.len() < 4096)
            });
            if said {
                serving.add_time(begun.elapsed());
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the agent never took its state directory");
            sleep(LOOK_AGAIN).await;
        }
    }

    fn usage(&self) -> anyhow::Result<process_usage::ProcessUsage> {
        process_usage::of(self.id).context("what the agent uses is not to be known on this system")
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }
}

/// What the server's monitoring says of the agent's connection.
async fn messages(server: &BenchServer, node: &str) -> anyhow::Result<Messages> {
    let address = server.monitoring()?;
    let address = address.trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(&address).await.context("no monitoring page")?;
    connection.write_all(b"GET /connz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (_, body) = text.split_once("\r\n\r\n").context("the monitoring page has no body")?;
    let page: Value = serde_json::from_str(body).context("the monitoring page is no JSON")?;
    let connections = page["connections"].as_array().context("the monitoring page names no connections")?;
    let mut named = connections.iter().filter(|one| one["name"].as_str().is_some_and(|name| name.ends_with(node)));
    let found = named.next().context("the agent is not connected")?;
    let number = |field: &str| found[field].as_u64().context("the monitoring page lacks a number");
    Ok(Messages {
        from_agent: number("in_msgs")?,
        to_agent: number("out_msgs")?,
        subscriptions: number("subscriptions")?,
    })
}
