//! What a node says of itself: over HTTP, and in the log of the fleet.

use std::net::SocketAddr;

use serde_json::Value;

use crate::http_request::get;
use crate::stored_log::{event_log, of_node};
use crate::waiting::{PATIENCE, eventually, satisfied};
use crate::world::World;

/// The node's `contractBundle`.
pub async fn status(address: SocketAddr) -> Value {
    let answer = get(address, "/api/contracts/status", &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["contractBundle"].clone()
}

/// Waits until the node's status is as wanted, and returns it.
pub async fn status_when(address: SocketAddr, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, PATIENCE, async || {
        let status = status(address).await;
        satisfied(wanted(&status), || status.to_string())?;
        Ok(status)
    })
    .await
}

/// Data of the node's events of a type, in stream order.
pub async fn told(world: &World, node: &str, event_type: &str) -> Vec<Value> {
    let log = event_log(&world.raw_operator().await).await;
    of_node(&log, event_type, node).iter().map(|message| message.data()).collect()
}

/// Waits until the node has told of so many events of a type; more are a failure.
pub async fn told_times(world: &World, node: &str, event_type: &str, times: usize) -> Vec<Value> {
    eventually(&format!("{times} of {event_type}"), PATIENCE, async || {
        let told = told(world, node, event_type).await;
        assert!(told.len() <= times, "more than {times} of {event_type}: {told:?}");
        satisfied(told.len() == times, || format!("{told:?}"))?;
        Ok(told)
    })
    .await
}
