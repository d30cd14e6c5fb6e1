//! The agent's life: serve the caches, connect, listen, then compare what is desired with what is there, for ever.
//!
//! Each bundle of the node has a loop of its own ([`agent`]): its own feed, memory, pin and failures, and none waits for
//! another. The connection, the outbox (events are numbered by one writer), the heartbeat and HTTP are the node's.
//!
//! Wake-ups (a live message, the timer, a new connection, SIGHUP) change when a round runs, never what it does. A round
//! can be dropped at any await; what it leaves on disk is what a crash would leave, and the next start deals with it.

mod after_switch;
mod agent;
mod cache_watch;
mod disabled;
mod effects;
mod heartbeat;
mod last_resort;
pub(crate) mod log_watch;
mod look;
mod memory;
mod node_alarms;
mod pinning;
mod prefetch;
mod resume;
mod rounds;
mod show;
mod standing;
mod tamper_check;
mod trial;
mod view;
mod wake_ups;
mod watchdog;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::identifiers::BundleName;
use shared::limits::ReleaseLimits;
use streams::connection::{ConnectError, Connection, ConnectionState};
use streams::event_log::EventLog;
use streams::outbox::{Outbox, OutboxError};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::agent::{Agent, Common, Memory};
use self::node_alarms::NodeAlarms;
use self::wake_ups::WakeUps;
use crate::agent_presence::{AgentFacts, AgentPresence, BundleFacts};
use crate::agent_view::AgentView;
use crate::cache::{Cache, CacheError, Current};
use crate::config::{AgentConfig, BundleConfig, overlap};
use crate::metrics::{BundleMetrics, MetricsPage};
use crate::node_report::NodeReport;
use crate::release_directory::ReleaseDirectory;
use crate::reports::{Recorder, Reporter};
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
    /// Two of its bundles are in each other's way.
    #[error("{0}")]
    Overlap(String),
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

/// Runs an agent until `stop` is cancelled. See [`crate::run`]. `observe` is given what the agent shows of each
/// bundle, once there is something.
pub(crate) async fn run(
    config: AgentConfig,
    stop: CancellationToken,
    observe: impl FnOnce(Vec<watch::Receiver<AgentView>>),
) -> Result<(), AgentError> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let metrics = MetricsPage::install(&config);
    if config.emergency.skip_contract_bundle {
        disabled::run(config, metrics, stop).await;
        return Ok(());
    }
    let config = Arc::new(config);
    let directory = Arc::new(StateDirectory::open(&config.bundles.state_dir)?);
    let mut targets = Vec::new();
    for target in &config.bundles.bundles {
        Cache::new(&target.cache).ensure()?;
        let state = directory.load(&target.bundle)?;
        targets.push((target.clone(), Memory { directory: Arc::clone(&directory), state }));
    }
    check_apart_on_disk(&config.bundles.bundles)?;
    let last = AgentPresence::find(&config.bundles.state_dir).and_then(|presence| presence.facts);
    check_same_owner(last.as_ref(), &config.bundles.bundles)?;
    directory.introduce(&facts_of(&config))?;
    let limit = usize::try_from(config.outbox_limit).unwrap_or(usize::MAX);
    let outbox =
        Outbox::open_with_limit(&directory.outbox(), config.node.clone(), limit).map_err(AgentError::Outbox)?;
    // Returns at once; connecting goes on behind the look into the caches.
    let connection = Connection::open_and_retry(&config.connection).await.map_err(AgentError::Connect)?;
    tracing::info!(
        node.name = %config.node, bundles = bundles_text(&config.bundles.bundles),
        server = %config.connection.address, incarnation = %outbox.incarnation(), version = env!("CARGO_PKG_VERSION"),
        "agent starts"
    );

    let node_alarms = Arc::new(NodeAlarms::new(config.node.clone(), connection.clone(), outbox.clone()));
    let (tasks, ending, first_look) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let common = Common {
        config: Arc::clone(&config),
        connection: connection.clone(),
        outbox: outbox.clone(),
        node_alarms,
        first_look: first_look.clone(),
    };
    let (voice, recorder) = Recorder::new(outbox.clone());
    let recording = tokio::spawn(recorder.run());
    let mut agents = Vec::new();
    for (target, memory) in targets {
        let wake_ups = WakeUps::new(&target, &connection, &outbox).map_err(AgentError::Signal)?;
        let reporter = Reporter::new(&voice, target.bundle.clone(), BundleMetrics::new(&config, &target.bundle));
        agents.push((Agent::new(common.clone(), target, memory, reporter), wake_ups));
    }
    drop(voice);
    start_background(&tasks, &ending, &common, agents.iter().map(|(agent, _)| agent.view.subscribe()).collect());
    let shown: Vec<_> = agents.iter().map(|(agent, _)| agent.shown.subscribe()).collect();
    observe(shown.clone());
    tasks.spawn(crate::http::run(config.http.clone(), shown, metrics, ending.clone()));

    live(agents, &stop).await;
    tracing::info!("agent stops");
    let ended = timeout(GRACE, async {
        // The reporters went with the agents; what they said until now is made durable.
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

/// Lets every bundle's loop live in a task of its own until `stop` is cancelled, and drops them.
async fn live(agents: Vec<(Agent, WakeUps)>, stop: &CancellationToken) {
    let mut living = JoinSet::new();
    for (mut agent, mut wake_ups) in agents {
        let stop = stop.clone();
        living.spawn(async move {
            stop.run_until_cancelled(agent.live(&mut wake_ups)).await;
        });
    }
    while let Some(ended) = living.join_next().await {
        // A bug in one loop ends the process, as it would with a single bundle: whoever supervises it starts it again.
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Starts what sends events and heartbeats, once the log was asked for the first time, until `ending` is cancelled.
fn start_background(
    tasks: &TaskTracker,
    ending: &CancellationToken,
    common: &Common,
    bundles: Vec<watch::Receiver<NodeReport>>,
) {
    let Common { config, connection, outbox, node_alarms, first_look } = common.clone();
    let (log, stop, asked) = (EventLog::new(connection.clone()), ending.clone(), first_look.clone());
    tasks.spawn(async move {
        asked.cancelled().await;
        outbox.run(&log, stop).await;
    });
    let beating = heartbeat::beat(connection, config.node.clone(), config.timing.interval, node_alarms, bundles);
    let stop = ending.clone();
    let after_first_look = async move {
        first_look.cancelled().await;
        beating.await;
    };
    tasks.spawn(async move {
        stop.run_until_cancelled(after_first_look).await;
    });
}

/// Two caches that are one directory, or lie within each other, by links that the settings do not show.
fn check_apart_on_disk(bundles: &[BundleConfig]) -> Result<(), AgentError> {
    let resolved = |bundle: &BundleConfig| bundle.cache.canonicalize().unwrap_or_else(|_| bundle.cache.clone());
    let caches: Vec<(&BundleName, PathBuf)> = bundles.iter().map(|bundle| (&bundle.bundle, resolved(bundle))).collect();
    for (place, (name, cache)) in caches.iter().enumerate() {
        for (other, its) in &caches[..place] {
            if let Some(fault) = overlap((other, its), (name, cache)) {
                return Err(AgentError::Overlap(fault));
            }
        }
    }
    Ok(())
}

/// A cache that still holds what another bundle put there when this agent last ran: a slip in the settings, which would
/// replace one by the other.
fn check_same_owner(last: Option<&AgentFacts>, bundles: &[BundleConfig]) -> Result<(), AgentError> {
    for target in bundles {
        let other = |facts: &&BundleFacts| facts.bundle != target.bundle && facts.cache.as_ref() == Some(&target.cache);
        let Some(other) = last.and_then(|last| last.bundles.iter().find(other)) else { continue };
        let (cache, name, other) = (target.cache.display(), &target.bundle, &other.bundle);
        if holds_release_of(&Cache::new(&target.cache), other) {
            return Err(AgentError::Overlap(format!(
                "cache `{cache}` holds bundle `{other}`: give bundle `{name}` a directory of its own, \
                 --bundle {name}=DIRECTORY, or delete that one"
            )));
        }
    }
    Ok(())
}

fn holds_release_of(cache: &Cache, bundle: &BundleName) -> bool {
    let Ok(Current::Release(tag)) = cache.current() else { return false };
    let directory = ReleaseDirectory::open(&cache.release(&tag), &ReleaseLimits::default());
    directory.is_ok_and(|directory| directory.release().bundle() == bundle)
}

/// The bundles and their caches, for the log.
fn bundles_text(bundles: &[BundleConfig]) -> String {
    let texts: Vec<String> =
        bundles.iter().map(|bundle| format!("{}={}", bundle.bundle, bundle.cache.display())).collect();
    texts.join(";")
}

fn facts_of(config: &AgentConfig) -> AgentFacts {
    let facts = |target: &BundleConfig| BundleFacts {
        bundle: target.bundle.clone(),
        channel: target.follow.channel().cloned(),
        tag: target.follow.tag().cloned(),
        cache: Some(target.cache.clone()),
    };
    AgentFacts {
        node: config.node.clone(),
        bundles: config.bundles.bundles.iter().map(facts).collect(),
        process_id: std::process::id(),
    }
}
