//! The life of one bundle's agent: round after round, what is known is compared with the log. Each bundle has such a loop
//! of its own; none waits for another.

use std::future::pending;
use std::time::Duration;

use chrono::Utc;
use streams::connection::ConnectionState;
use tokio::time::Instant;

use super::agent::{Agent, Next};
use super::heartbeat::jittered;
use super::look::catch_up_pause;
use super::memory::time_to_forget;
use super::resume::is_current;
use super::wake_ups::{Wake, WakeUps};
use crate::desired::Extent;
use crate::failures::FailureKind;
use crate::node_state::Provenance;

/// Going back takes two steps, and each may be followed by a wish to look at the log first.
const MOST_STEPS_BACK: u32 = 6;

impl Agent {
    /// Lives for ever; ends by being dropped.
    pub(super) async fn live(&mut self, wake_ups: &mut WakeUps) {
        self.refresh_pin().await;
        // What ran before serves on while its files are compared.
        self.recognise().await;
        self.read_manifest().await;
        self.show();
        self.resume().await;
        self.read_manifest().await;
        self.show();
        // Offline, the last good release is put back in place if it is here.
        self.converge(wake_ups).await;
        wake_ups.listen().await;
        self.prefetch.catch_up();
        let mut because = Wake::Connected;
        loop {
            let rest = self.round(wake_ups, because).await;
            self.tend_prefetch().await;
            self.read_manifest().await;
            self.note_conditions().await;
            self.show();
            wake_ups.expect_in_cache(self.active().map(|active| &active.id.tag), self.pin_stamp()).await;
            self.watch_files(wake_ups).await;
            let timer = Instant::now() + rest;
            loop {
                let forgotten = self.forgotten;
                let wake = tokio::select! {
                    biased;
                    wake = self.changed_beside() => wake,
                    wake = wake_ups.next(timer) => wake,
                    () = time_to_forget(forgotten) => Wake::Memory,
                };
                because = wake;
                match wake {
                    Wake::Outbox | Wake::Connection => self.show(),
                    Wake::Memory => self.save().await,
                    Wake::Prefetch => {
                        self.tend_prefetch().await;
                        self.show();
                    }
                    // Nothing that should run now: one question beside the rounds.
                    Wake::Announced(floor) => {
                        self.prefetch.announced(floor);
                        self.tend_prefetch().await;
                    }
                    // A release that failed is exchanged at once, whatever the network does.
                    Wake::AfterSwitch => self.settle_after_switch(wake_ups).await,
                    Wake::Files => {
                        self.files.hint(Instant::now());
                        self.show();
                        break;
                    }
                    Wake::Live | Wake::Cache | Wake::Timer => break,
                    Wake::Connected => {
                        self.fruitless = 0;
                        self.prefetch.catch_up();
                        self.state.failures.retry_now(Utc::now(), &[FailureKind::Download]);
                        break;
                    }
                    Wake::Hangup => {
                        tracing::info!(bundle = %self.target.bundle, "SIGHUP: looking now");
                        let all = [FailureKind::Download, FailureKind::Verification];
                        self.state.failures.retry_now(Utc::now(), &all);
                        self.unsaved |= self.state.trials.forgive_all();
                        // Somebody may have repaired them; they are compared before they are used.
                        self.damaged.clear();
                        self.prefetch.catch_up();
                        break;
                    }
                }
            }
        }
    }

    /// Waits until something that goes on beside the rounds has come further. Cancel safe.
    async fn changed_beside(&mut self) -> Wake {
        let Self { after_switch, prefetch, .. } = self;
        let after_switch = async {
            match after_switch {
                Some(after) => after.changed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = after_switch => Wake::AfterSwitch,
            () = prefetch.changed() => Wake::Prefetch,
        }
    }

    /// Takes over what the last switch has come to, and brings back what ran before where its release failed.
    async fn settle_after_switch(&mut self, wake_ups: &mut WakeUps) {
        self.settle_trial().await;
        for _ in 0..MOST_STEPS_BACK {
            let failed =
                self.active().is_some_and(|active| self.state.trials.rejection(active.id.tree_digest).is_some());
            if !failed || self.converge(wake_ups).await != Next::Look {
                break;
            }
        }
        if self.unsaved {
            self.save().await;
        }
        self.show();
    }

    /// Looks at the log and does what follows from it. Returns how long to rest at most.
    async fn round(&mut self, wake_ups: &mut WakeUps, because: Wake) -> Duration {
        self.report_waiting().await;
        self.look_after_feed(wake_ups).await;
        self.refresh_pin().await;
        self.check_current();
        self.check_files(wake_ups).await;
        if self.collect_at.is_some_and(|at| at <= Instant::now()) {
            self.collect_at = None;
            self.collect().await;
        }
        let rest = loop {
            if self.connection.status().state != ConnectionState::Connected {
                // A new connection wakes the agent. What is in the cache needs none.
                let Next::Rest(rest) = self.converge(wake_ups).await else { continue };
                break rest;
            }
            let extent = if because == Wake::Live { Extent::Move(wake_ups.guess()) } else { Extent::Whole };
            let mut rest = match self.look(wake_ups, extent).await {
                Ok(()) => match self.converge(wake_ups).await {
                    Next::Look => continue,
                    Next::Rest(rest) => rest,
                },
                Err(pause) => match self.converge(wake_ups).await {
                    Next::Look => pause,
                    Next::Rest(rest) => rest.min(pause),
                },
            };
            if wake_ups.looked(self.state.position.read_up_to) {
                rest = rest.min(catch_up_pause(self.behind));
                self.behind = self.behind.saturating_add(1);
            } else {
                self.behind = 0;
            }
            break rest;
        };
        if self.unsaved {
            self.save().await;
        }
        let collect_in = self.collect_at.map(|at| at.saturating_duration_since(Instant::now()));
        let feed_in = wake_ups.feed_due_in();
        let files_in = self.files.rest(Instant::now());
        let interval = jittered(self.config.timing.interval);
        rest.min(interval).min(collect_in.unwrap_or(Duration::MAX)).min(feed_in).min(files_in)
    }

    /// Asks the system for hints about the running release's files, after each change of the directory.
    async fn watch_files(&mut self, wake_ups: &mut WakeUps) {
        let watched = self.active().filter(|active| active.provenance != Provenance::Unverified);
        match watched.map(|active| self.cache.release(&active.id.tag)) {
            Some(home) if self.files.replaced => {
                wake_ups.watch_files(home).await;
                self.files.replaced = false;
            }
            Some(_) => {}
            None => wake_ups.stop_watching_files(),
        }
    }

    /// Notices when somebody deleted the cache or pointed `current` elsewhere.
    fn check_current(&mut self) {
        let Some(active) = self.active() else { return };
        if !is_current(&self.cache, &active.id.tag) {
            tracing::warn!("the cache does not show the release that this node switched to: looking what should run");
            self.intact = false;
            self.staged = None;
            self.state.ahead.staged = None;
        }
    }
}
