//! Three nats-servers that form a cluster on this machine.

use serde_json::{Value, json};

use crate::raw_client::RawClient;
use crate::reserved_port::ReservedPort;
use crate::server::{Server, ServerSetup};
use crate::waiting::{PATIENCE, eventually, satisfied};
use crate::world::World;

/// How many servers a cluster has: the fewest of which one may be lost.
pub const SERVERS: usize = 3;

/// Starts them, without streams. They are all there, and have perhaps not elected anybody yet.
pub(crate) async fn start_cluster(accounts: &str) -> Vec<Server> {
    let routes: Vec<ReservedPort> = (0..SERVERS).map(|_| ReservedPort::take()).collect();
    let all: Vec<String> = routes.iter().map(|route| format!("\"nats://127.0.0.1:{}\"", route.port())).collect();
    let all = all.join(", ");
    let mut servers = Vec::new();
    for (number, route) in routes.into_iter().enumerate() {
        let own = route.port();
        let accounts = format!(
            "{accounts}\nserver_name: server-{number}\n\
             cluster {{ name: tests, listen: \"127.0.0.1:{own}\", routes: [{all}] }}\n"
        );
        let port = Some(ReservedPort::take());
        let setup = ServerSetup { accounts, port, route: Some(route), ..ServerSetup::default() };
        servers.push(Server::start(setup).await);
    }
    servers
}

/// Which server leads a stream, counted from 0, where one does.
pub async fn leader_of(operator: &RawClient, stream: &str) -> Option<usize> {
    let info = operator.api(&format!("STREAM.INFO.{stream}"), &json!({})).await;
    info["cluster"]["leader"].as_str()?.strip_prefix("server-")?.parse().ok()
}

/// Waits until a stream has a leader, and returns it.
pub async fn elected(operator: &RawClient, stream: &str) -> usize {
    eventually(&format!("a leader of `{stream}`"), PATIENCE, async || {
        leader_of(operator, stream).await.ok_or_else(|| "it has none".to_owned())
    })
    .await
}

/// Waits until all copies of a stream are there and none lags.
pub async fn in_step(world: &World, stream: &str) {
    eventually(&format!("all copies of `{stream}` to be the same"), PATIENCE, async || {
        let operator = world.raw_operator().await;
        let info = operator.api(&format!("STREAM.INFO.{stream}"), &json!({})).await;
        let followers = info["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
        let current = |follower: &Value| follower["current"] == true && follower["lag"].as_u64().unwrap_or(0) == 0;
        satisfied(followers.len() == SERVERS - 1 && followers.iter().all(current), || info["cluster"].to_string())
    })
    .await;
}
