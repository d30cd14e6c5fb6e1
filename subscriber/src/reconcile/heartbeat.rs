//! The node's one entry in the node table, renewed at each interval and soon after something changed about any bundle.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use rand::RngExt as _;
use shared::daemon::ErrorChain;
use shared::identifiers::NodeName;
use streams::connection::Connection;
use streams::node_table::{ENTRY_LIFETIME, NodeTable};
use tokio::sync::watch;
use tokio::time::sleep;

use super::node_alarms::NodeAlarms;
use crate::node_report::{NodeHeartbeat, NodeReport};

/// A change is shown within this time; spread, because a whole fleet changes at once.
const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// Writes the entry for ever.
pub(super) async fn beat(
    connection: Connection,
    node: NodeName,
    interval: Duration,
    alarms: Arc<NodeAlarms>,
    mut bundles: Vec<watch::Receiver<NodeReport>>,
) {
    let table = NodeTable::new(connection.clone());
    // Three missed heartbeats, whatever the interval is.
    let lifetime = ENTRY_LIFETIME.max(interval.mul_f64(3.6));
    let mut last_error = None;
    loop {
        let reports = bundles.iter_mut().map(|bundle| bundle.borrow_and_update().clone()).collect();
        let Some(entry) = NodeHeartbeat::of(reports, alarms.texts()) else { return };
        if connection.wait_until_connected(interval).await {
            let error = table.put(&node, &entry, lifetime).await.err().map(|error| ErrorChain(&error).to_string());
            if let Some(text) = &error
                && error != last_error
            {
                tracing::warn!(error = text, "the node's entry cannot be written");
            }
            last_error = error;
        }
        tokio::select! {
            () = sleep(jittered(interval)) => {}
            (changed, ..) = select_all(bundles.iter_mut().map(|bundle| Box::pin(bundle.changed()))) => {
                if changed.is_err() {
                    return;
                }
                let hold = LONGEST_HOLD.mul_f64(rand::rng().random());
                sleep(hold).await;
            }
        }
    }
}

/// The interval, give or take a fifth, so that a fleet that started at once does not beat at once.
pub(super) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.8..1.2))
}
