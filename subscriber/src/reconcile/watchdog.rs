//! Looking after the live feed: see [`crate::feed_watchdog`].

use super::agent::Agent;
use super::wake_ups::WakeUps;
use crate::alarms::Subject;

impl Agent {
    /// Judges the feed, subscribes anew where that may help, and says so.
    pub(super) async fn look_after_feed(&mut self, wake_ups: &mut WakeUps) {
        if wake_ups.look_after_feed().await {
            self.prefetch.catch_up();
        }
        let fault = wake_ups.feed_fault();
        self.deafness.feed_silent = fault.is_some();
        self.alarms.set(Subject::Feed, fault);
    }
}
