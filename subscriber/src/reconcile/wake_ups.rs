//! What makes the agent look: live messages, a new connection, SIGHUP, the outbox, its cache, the timer.
//!
//! Anybody in the account can forge a live message. One says that looking is worthwhile and how far the log should go
//! by now; the latter is believed for ten seconds and costs a few reads.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rand::RngExt as _;
use shared::event::BundleEvent;
use shared::event_envelope::EventEnvelope;
use shared::event_type::EventType;
use shared::identifiers::Tag;
use shared::subjects::{EventSubject, LIVE_PREFIX, Scope, live_wake_ups};
use streams::connection::{ConnectedAgain, Connection, ConnectionStatus};
use streams::live_feed::{LiveFeed, WakeUp};
use streams::outbox::{Outbox, OutboxStatus};
use streams::server_fault::{DeniedOperation, ServerFault};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::cache_watch::CacheWatch;
use crate::cache::Cache;
use crate::config::{BundleConfig, Follow};
use crate::desired::Head;
use crate::feed_watchdog::{FeedCare, FeedWatchdog};
use crate::file_watch::FileWatch;
use crate::local_pin::PinStamp;

/// How long a claimed place in the log is waited for.
const FLOOR_LIFETIME: Duration = Duration::from_secs(10);
/// Time between two looks that live messages cause: a flood of them costs a bounded number of reads.
const SPACING: Duration = Duration::from_millis(10);
const FIRST_SUBSCRIBE_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_SUBSCRIBE_PAUSE: Duration = Duration::from_secs(5);

/// Why to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Something was stored, so a message says.
    Live,
    /// The connection was made, again or for the first time.
    Connected,
    /// SIGHUP: an operator wants it to look now.
    Hangup,
    /// The cache or its pin is not what this agent left there.
    Cache,
    /// Time has passed.
    Timer,
    /// The system says that files of the running release changed.
    Files,
    /// The outbox has something to show; the log need not be read for that.
    Outbox,
    /// The connection or what the server said about it changed; the log need not be read for that.
    Connection,
    /// The memory's file holds what is recorded elsewhere by now; the log need not be read for that.
    Memory,
    /// What the last switch began has come further.
    AfterSwitch,
}

/// Everything that wakes the agent.
pub(super) struct WakeUps {
    connection: Connection,
    feed: Option<LiveFeed>,
    again: ConnectedAgain,
    hangup: Signal,
    outbox: watch::Receiver<OutboxStatus>,
    status: watch::Receiver<ConnectionStatus>,
    faults: broadcast::Receiver<ServerFault>,
    watchdog: FeedWatchdog,
    relevance: Relevance,
    cache: CacheWatch,
    files: FileWatch,
    floor: Option<Floor>,
    /// Where the followed channel moved to, as the last message about it claims.
    guess: Option<Tag>,
    /// No look because of a live message before this.
    earliest: Instant,
    /// A live message that matters was taken from the feed, and nobody was told.
    untold: bool,
}

/// A place in the log that a message claims to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Floor {
    sequence: u64,
    until: Instant,
}

impl WakeUps {
    pub(super) fn new(target: &BundleConfig, connection: &Connection, outbox: &Outbox) -> io::Result<Self> {
        Ok(Self {
            connection: connection.clone(),
            feed: None,
            again: connection.connected_again(),
            hangup: signal(SignalKind::hangup())?,
            outbox: outbox.status(),
            status: connection.watch_status(),
            faults: connection.server_faults(),
            watchdog: FeedWatchdog::default(),
            relevance: Relevance { target: target.clone(), awaited: None },
            cache: CacheWatch::new(Cache::new(&target.cache)),
            files: FileWatch::default(),
            floor: None,
            guess: None,
            earliest: Instant::now(),
            untold: false,
        })
    }

    /// Subscribes to the live subjects, trying for as long as it takes. From then on nothing is missed but what the
    /// connection loses, and that is read again when it is back.
    pub(super) async fn listen(&mut self) {
        let mut pause = FIRST_SUBSCRIBE_PAUSE;
        while self.feed.is_none() {
            match LiveFeed::subscribe(&self.connection, live_wake_ups(&self.relevance.target.bundle)).await {
                Ok(feed) => self.feed = Some(feed),
                Err(error) => {
                    tracing::warn!(%error, "live messages cannot be subscribed to yet");
                    let spread = pause.mul_f64(rand::rng().random_range(0.8..1.2));
                    sleep(spread).await;
                    pause = (pause * 2).min(LONGEST_SUBSCRIBE_PAUSE);
                }
            }
        }
    }

    /// Announcements of this release matter from now on, because the node needs it.
    pub(super) fn await_announcement(&mut self, tag: Option<&Tag>) {
        self.relevance.awaited = tag.cloned();
    }

    /// What the agent left in its cache: anything else there is a reason to look.
    pub(super) async fn expect_in_cache(&mut self, current: Option<&Tag>, pin: PinStamp) {
        self.cache.expect(current, pin).await;
    }

    /// Asks for hints about the files of this release directory from now on.
    pub(super) async fn watch_files(&mut self, home: PathBuf) {
        self.files.watch(home).await;
    }

    /// Asks for no more hints.
    pub(super) fn stop_watching_files(&mut self) {
        self.files.stop();
    }

    /// The next reason to look, `timer` at the latest. Cancel safe.
    pub(super) async fn next(&mut self, timer: Instant) -> Wake {
        if !self.untold {
            let wake = tokio::select! {
                biased;
                _ = self.hangup.recv() => Wake::Hangup,
                () = again(&mut self.again) => Wake::Connected,
                () = self.relevance.live(&mut self.feed, &mut self.floor, &mut self.guess, &mut self.watchdog) => Wake::Live,
                Ok(()) = self.outbox.changed() => Wake::Outbox,
                Ok(()) = self.status.changed() => Wake::Connection,
                () = self.cache.changed() => Wake::Cache,
                () = self.files.changed() => Wake::Files,
                () = sleep_until(timer) => Wake::Timer,
            };
            if wake != Wake::Live {
                return wake;
            }
            self.untold = true;
        }
        // Dropped here, it is told the next time.
        sleep_until(self.earliest).await;
        // One look answers all that came in the meantime.
        while self.news() {}
        self.untold = false;
        Wake::Live
    }

    /// Waits until a live message that matters arrives. Cancel safe.
    pub(super) async fn live(&mut self) {
        self.relevance.live(&mut self.feed, &mut self.floor, &mut self.guess, &mut self.watchdog).await;
        sleep_until(self.earliest).await;
    }

    /// Whether a live message that matters is here already.
    pub(super) fn news(&mut self) -> bool {
        let live = self.relevance.live(&mut self.feed, &mut self.floor, &mut self.guess, &mut self.watchdog);
        tokio::pin!(live);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        live.as_mut().poll(&mut context).is_ready()
    }

    /// The release that is worth asking for beside the head.
    pub(super) fn guess(&self) -> Option<Tag> {
        self.guess.clone()
    }

    /// Notes where a read showed the followed head: the feed should have delivered that too.
    pub(super) fn read_head(&mut self, head: &Head) {
        if let Head::Channel(sequence, _) = head {
            let connects = self.status.borrow().connects;
            self.watchdog.read(*sequence, connects, Instant::now());
        }
    }

    /// Judges the feed and subscribes anew where that may help.
    pub(super) async fn look_after_feed(&mut self) {
        // What has arrived and was not looked at yet counts.
        while self.news() {}
        loop {
            match self.faults.try_recv() {
                Ok(ServerFault::PermissionDenied { operation: DeniedOperation::Subscribe, subject })
                    if subject.starts_with(LIVE_PREFIX) =>
                {
                    self.watchdog.denied(subject, Instant::now());
                }
                Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if self.watchdog.care(Instant::now()) == FeedCare::Resubscribe {
            tracing::warn!("live messages do not arrive: subscribing anew");
            self.feed = None;
            self.listen().await;
        }
    }

    /// How soon the feed is to be judged again.
    pub(super) fn feed_due_in(&self) -> Duration {
        let now = Instant::now();
        match self.watchdog.care_at(now) {
            Some(at) => at.saturating_duration_since(now).max(Duration::from_millis(1)),
            None => Duration::MAX,
        }
    }

    /// What is wrong with the feed, for operators.
    pub(super) fn feed_fault(&self) -> Option<String> {
        self.watchdog.fault()
    }

    /// Notes a look at the log that went up to this sequence. Says whether the log should go further by now.
    pub(super) fn looked(&mut self, up_to_sequence: u64) -> bool {
        let now = Instant::now();
        self.earliest = now + SPACING;
        match self.floor {
            Some(floor) if up_to_sequence >= floor.sequence => self.floor = None,
            Some(floor) if now >= floor.until => {
                tracing::warn!(
                    event.sequence = floor.sequence,
                    up_to_sequence,
                    "a live message names an event that the log does not hold: forged, or all replicas lag"
                );
                self.floor = None;
            }
            Some(_) | None => {}
        }
        self.floor.is_some()
    }
}

/// Which live messages matter.
struct Relevance {
    target: BundleConfig,
    /// The release whose announcement the node waits for.
    awaited: Option<Tag>,
}

impl Relevance {
    /// Waits for a message that matters and raises the floor to what it claims. For ever, where there is no feed.
    async fn live(
        &self,
        feed: &mut Option<LiveFeed>,
        floor: &mut Option<Floor>,
        guess: &mut Option<Tag>,
        watchdog: &mut FeedWatchdog,
    ) {
        let Some(live) = feed else { return std::future::pending().await };
        loop {
            // The connection is closed for good: this process is ending.
            let Some(message) = live.next().await else { return std::future::pending().await };
            if self.matters(&message.subject) {
                if let Some(sequence) = message.stream_sequence {
                    watchdog.delivered(sequence);
                }
                raise(floor, &message, Instant::now());
                if let Some(tag) = promoted_tag(&message) {
                    *guess = Some(tag);
                }
                return;
            }
        }
    }

    fn matters(&self, subject: &str) -> bool {
        let Ok(subject) = subject.parse::<EventSubject>() else { return false };
        if subject.bundle() != Some(&self.target.bundle) {
            return false;
        }
        match (subject.event_type(), subject.scope()) {
            (EventType::Withdrawn, Scope::Release(_)) => true,
            (EventType::Promoted, Scope::Channel(channel)) => self.target.follow.channel() == Some(channel),
            (EventType::Published, Scope::Release(tag)) => {
                self.awaited.as_ref() == Some(tag) || self.target.follow == Follow::Tag(tag.clone())
            }
            (
                EventType::Withdrawn
                | EventType::Promoted
                | EventType::Published
                | EventType::RefreshAttempt
                | EventType::Staged
                | EventType::Loaded
                | EventType::VerificationFailed
                | EventType::DownloadFailed
                | EventType::FallbackActivated
                | EventType::StaleDetected
                | EventType::UpdateDetected
                | EventType::TamperDetected
                | EventType::Reverted
                | EventType::EpochStarted
                | EventType::Checkpointed
                | EventType::Other(_),
                _,
            ) => false,
        }
    }
}

/// The release that a message claims a channel was moved to.
fn promoted_tag(message: &WakeUp) -> Option<Tag> {
    let event = EventEnvelope::parse(&message.payload).ok()?.event;
    if let BundleEvent::Promoted(promoted) = event { Some(promoted.tag) } else { None }
}

fn raise(floor: &mut Option<Floor>, message: &WakeUp, now: Instant) {
    if let Some(sequence) = message.stream_sequence
        && floor.is_none_or(|floor| floor.sequence < sequence)
    {
        *floor = Some(Floor { sequence, until: now + FLOOR_LIFETIME });
    }
}

async fn again(connected: &mut ConnectedAgain) {
    // `None`: closed for good, this process is ending.
    if connected.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clap::Parser;

    use super::*;
    use crate::config::AgentArguments;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        agent: AgentArguments,
    }

    fn relevance(arguments: &[&str], awaited: Option<&str>) -> Relevance {
        let arguments = [&["demon-runtime", "--node", "n1"], arguments].concat();
        let config = Program::try_parse_from(arguments).unwrap().agent.check().unwrap();
        let [target] = &config.bundles.bundles[..] else { panic!("one bundle") };
        Relevance { target: target.clone(), awaited: awaited.map(|tag| tag.parse().unwrap()) }
    }

    #[test]
    fn only_what_can_move_this_node_matters() {
        let following = relevance(&[], Some("v2"));
        for (subject, matters) in [
            ("bundle.promoted.contracts.channel.latest", true),
            ("bundle.promoted.contracts.channel.production", false),
            ("bundle.promoted.policies.channel.latest", false),
            ("bundle.published.contracts.release.v1", false),
            ("bundle.published.contracts.release.v2", true),
            ("bundle.withdrawn.contracts.release.v1", true),
            ("bundle.loaded.contracts.node.n1", false),
            ("nonsense", false),
        ] {
            assert_eq!(following.matters(subject), matters, "{subject}");
        }
        let pinned = relevance(&["--tag", "v1"], None);
        assert!(pinned.matters("bundle.published.contracts.release.v1"));
        assert!(!pinned.matters("bundle.promoted.contracts.channel.latest"));
    }

    #[test]
    fn a_floor_rises_and_repeating_it_does_not_prolong_it() {
        let message = |stream_sequence| WakeUp {
            subject: "bundle.promoted.c.channel.latest".to_owned(),
            stream_sequence,
            payload: Bytes::new(),
        };
        let (mut floor, start) = (None, Instant::now());
        raise(&mut floor, &message(None), start);
        assert_eq!(floor, None);
        raise(&mut floor, &message(Some(7)), start);
        raise(&mut floor, &message(Some(7)), start + FLOOR_LIFETIME);
        raise(&mut floor, &message(Some(3)), start + FLOOR_LIFETIME);
        assert_eq!(floor, Some(Floor { sequence: 7, until: start + FLOOR_LIFETIME }));
    }
}
