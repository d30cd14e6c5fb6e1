//! The agent's life: serve the cache, connect, listen, then compare what is desired with what is there, for ever.
//!
//! Wake-ups (a live message, the timer, a new connection, SIGHUP) change when a round runs, never what it does. A round
//! can be dropped at any await; what it leaves on disk is what a crash would leave, and the next start deals with it.

mod agent;
mod cache_watch;
mod disabled;
mod effects;
mod heartbeat;
mod last_resort;
mod look;
mod pinning;
mod resume;
mod show;
mod standing;
mod tamper_check;
mod view;
mod wake_ups;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use streams::connection::{ConnectError, Connection, ConnectionState};
use streams::event_log::EventLog;
use streams::outbox::{Outbox, OutboxError};
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::agent::{Agent, Memory};
use self::wake_ups::WakeUps;
use crate::agent_presence::AgentFacts;
use crate::cache::{Cache, CacheError};
use crate::config::AgentConfig;
use crate::metrics::MetricsPage;
use crate::reports::Reporter;
use crate::state_directory::{StateDirectory, StateError};

/// Everything after the signal to stop takes at most this long, so that with the binary's last wait it is five seconds.
const GRACE: Duration = Duration::from_secs(4);
/// How much of it is given to events that are not yet in the log; they are on disk and go out after the next start.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// An agent that cannot live.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its state directory is another's or cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its cache cannot be made.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Its outbox cannot be opened.
    #[error("the outbox in the state directory cannot be used")]
    Outbox(#[source] OutboxError),
    /// A local file of the connection cannot be used.
    #[error("no connection can be set up")]
    Connect(#[source] ConnectError),
    /// SIGHUP cannot be listened to.
    #[error("SIGHUP cannot be listened to")]
    Signal(#[source] io::Error),
}

/// Runs an agent until `stop` is cancelled. See [`crate::run`].
pub(crate) async fn run(config: AgentConfig, stop: CancellationToken) -> Result<(), AgentError> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let metrics = MetricsPage::install();
    if config.skip_contract_bundle {
        disabled::run(config, metrics, stop).await;
        return Ok(());
    }
    let directory = StateDirectory::open(&config.state_dir)?;
    let state = directory.load(&config.bundle)?;
    directory.introduce(&facts_of(&config))?;
    let outbox = Outbox::open(&directory.outbox(), config.node.clone()).map_err(AgentError::Outbox)?;
    let cache = Cache::new(&config.cache);
    cache.ensure()?;
    // Returns at once; connecting goes on behind the look into the cache.
    let connection = Connection::open_and_retry(&config.connection).await.map_err(AgentError::Connect)?;
    let mut wake_ups = WakeUps::new(&config, &connection, &outbox).map_err(AgentError::Signal)?;
    tracing::info!(
        node.name = %config.node, bundle = %config.bundle, cache = %config.cache.display(),
        server = %config.connection.address, incarnation = %outbox.incarnation(), version = env!("CARGO_PKG_VERSION"),
        "agent starts"
    );

    let (reporter, recorder) = Reporter::new(outbox.clone(), config.bundle.clone());
    let recording = tokio::spawn(recorder.run());
    let memory = Memory { directory: Arc::new(directory), state };
    let mut agent = Agent::new(config.clone(), cache, memory, connection.clone(), outbox.clone(), reporter);
    let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
    start_background(&tasks, &ending, &config, &connection, &outbox, &agent);
    tasks.spawn(crate::http::run(config.http, agent.shown.subscribe(), metrics, ending.clone()));

    let first_look = agent.first_look();
    stop.run_until_cancelled(agent.live(&mut wake_ups)).await;
    tracing::info!("agent stops");
    let ended = timeout(GRACE, async {
        // The reporter goes with the agent; what it said until now is made durable.
        drop(agent);
        if let Err(error) = recording.await {
            tracing::error!(%error, "the last events may not be recorded");
        }
        // A round that was dropped may not have come as far as to let the tasks start.
        first_look.cancel();
        let connected = connection.status().state == ConnectionState::Connected;
        if connected {
            outbox.wait_until_empty(LAST_EVENTS).await;
        }
        ending.cancel();
        tasks.close();
        tasks.wait().await;
        // Without a connection there is nothing to send, and nobody to say goodbye to.
        if connected {
            connection.drain().await;
        }
    });
    if ended.await.is_err() {
        tracing::warn!("the agent did not end in time and is cut off; nothing on disk depends on it");
    }
    Ok(())
}

/// Starts what sends events and heartbeats, once the log was asked for the first time, until `ending` is cancelled.
fn start_background(
    tasks: &TaskTracker,
    ending: &CancellationToken,
    config: &AgentConfig,
    connection: &Connection,
    outbox: &Outbox,
    agent: &Agent,
) {
    let (outbox, log, stop) = (outbox.clone(), EventLog::new(connection.clone()), ending.clone());
    let first_look = agent.first_look();
    tasks.spawn(async move {
        first_look.cancelled().await;
        outbox.run(&log, stop).await;
    });
    let beating = heartbeat::beat(connection.clone(), config.node.clone(), config.interval, agent.view.subscribe());
    let (first_look, stop) = (agent.first_look(), ending.clone());
    let after_first_look = async move {
        first_look.cancelled().await;
        beating.await;
    };
    tasks.spawn(async move {
        stop.run_until_cancelled(after_first_look).await;
    });
}

fn facts_of(config: &AgentConfig) -> AgentFacts {
    AgentFacts {
        node: config.node.clone(),
        bundle: config.bundle.clone(),
        channel: config.follow.channel().cloned(),
        tag: config.follow.tag().cloned(),
        process_id: std::process::id(),
    }
}
