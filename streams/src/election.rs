//! A cluster that elects a leader, or has lost its majority: which failures pass by themselves, how long they are given,
//! and what is said of those that do not.
//!
//! While nobody leads, a request is refused with codes of its own, is answered by nobody, or is not answered at all. An
//! election takes some seconds; a missing majority lasts until people bring a server back.

use std::time::Duration;

use rand::RngExt as _;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::connection::{Connection, RequestError};
use crate::jetstream_api::{ApiError, code};

/// How long one request is asked again: longer than an election of nats-server (4 to 9 seconds), and bounded.
pub const ELECTION_PATIENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Requests without an answer after which another server of a cluster is tried.
const MOST_SILENT: u32 = 2;

/// A cluster that gave no leader's answer for as long as one is waited for.
#[derive(Debug, Error)]
#[error(
    "the cluster has no leader for `{subject}` since {} s: a majority of its servers must run and reach each other; look \
     with `nats server report jetstream` and run this again",
    waited.as_secs()
)]
pub struct NoLeader {
    /// What was asked.
    pub subject: String,
    /// How long.
    pub waited: Duration,
    /// What the last attempt met.
    #[source]
    pub source: Box<ApiError>,
}

/// Whether a failure may pass by itself, because a leader will be elected. Silence and an absent responder mean that
/// only of servers that form a cluster.
pub(crate) fn may_pass(error: &ApiError, clustered: bool) -> bool {
    match error {
        ApiError::Refused(refusal) => code::PASSING.contains(&refusal.err_code),
        ApiError::Request(RequestError::TimedOut { .. } | RequestError::NoResponders { .. }) => clustered,
        ApiError::Request(
            RequestError::PermissionDenied { .. } | RequestError::TooLarge { .. } | RequestError::Closed,
        )
        | ApiError::Malformed { .. }
        | ApiError::NoLeader(_) => false,
    }
}

/// Repeats one request with growing pauses, for so long and no longer.
#[derive(Debug)]
pub(crate) struct Repeated {
    begun: Instant,
    patience: Duration,
    pause: Duration,
    /// Attempts since the last answer, or since the server was changed.
    silent: u32,
}

impl Repeated {
    pub(crate) fn at_most(patience: Duration) -> Self {
        Self { begun: Instant::now(), patience, pause: FIRST_PAUSE, silent: 0 }
    }

    /// Since the first attempt.
    pub(crate) fn waited(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes in that an attempt got no answer at all: after two of them the server of the cluster that we are connected to
    /// may be the one that is stopped, which nothing else would tell for a while. Another one is tried.
    pub(crate) async fn note_silence(&mut self, connection: &Connection) {
        self.silent += 1;
        if self.silent == MOST_SILENT && connection.is_clustered() {
            self.silent = 0;
            connection.change_server().await;
        }
    }

    /// Waits before the next attempt, for a connection too where there is none; says whether there may be another.
    pub(crate) async fn again(&mut self, connection: &Connection) -> bool {
        let left = self.patience.saturating_sub(self.waited());
        if left.is_zero() || !connection.wait_until_connected(left).await {
            return false;
        }
        let pause = self.pause.mul_f64(rand::rng().random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        sleep(pause.min(left)).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jetstream_api::ServerRefusal;

    #[test]
    fn an_election_passes_and_a_refusal_does_not() {
        let refused = |err_code| ApiError::Refused(ServerRefusal { err_code, description: String::new() });
        for clustered in [false, true] {
            assert!(may_pass(&refused(10008), clustered));
            assert!(may_pass(&refused(10158), clustered));
            assert!(!may_pass(&refused(10077), clustered), "a full stream");
            assert!(!may_pass(&refused(10039), clustered), "no JetStream in this account");
            let subject = "s".to_owned();
            assert!(!may_pass(&ApiError::Request(RequestError::PermissionDenied { subject }), clustered));
        }
        let silent = ApiError::Request(RequestError::NoResponders { subject: "s".to_owned() });
        assert!(may_pass(&silent, true) && !may_pass(&silent, false), "a single server elects nobody");
    }
}
