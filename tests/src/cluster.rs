//! Three nats-servers that form a cluster on this machine.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::raw_client::RawClient;
use crate::reserved_port::ReservedPort;
use crate::server::{Server, ServerSetup};
use crate::waiting::{PATIENCE, eventually, satisfied};
use crate::world::World;

/// How many servers a cluster has: the fewest of which one may be lost.
pub const SERVERS: usize = 3;

/// How long a stream's leader may take to answer, where there is one.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

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

/// What the cluster says of a stream's copies; an error while nobody leads.
async fn copies_of(operator: &RawClient, stream: &str) -> Result<Value, String> {
    let asked = operator.client().request(format!("$JS.API.STREAM.INFO.{stream}"), Vec::new().into());
    let answer = timeout(ANSWER_LIMIT, asked).await.map_err(|_| "nobody answers".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let mut info: Value = serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
    Ok(info["cluster"].take())
}

/// Waits until a stream has a leader, and returns which server that is, counted from 0.
pub async fn elected(operator: &RawClient, stream: &str) -> usize {
    eventually(&format!("a leader of `{stream}`"), PATIENCE, async || {
        let copies = copies_of(operator, stream).await?;
        let leader = copies["leader"].as_str().and_then(|name| name.strip_prefix("server-")?.parse().ok());
        leader.ok_or_else(|| format!("it has none: {copies}"))
    })
    .await
}

/// Waits until all copies of a stream are there and none lags.
pub async fn in_step(world: &World, stream: &str) {
    let operator = world.raw_operator().await;
    eventually(&format!("all copies of `{stream}` to be the same"), PATIENCE, async || {
        let copies = copies_of(&operator, stream).await?;
        let followers = copies["replicas"].as_array().cloned().unwrap_or_default();
        let current = |follower: &Value| follower["current"] == true && follower["lag"].as_u64().unwrap_or(0) == 0;
        satisfied(followers.len() == SERVERS - 1 && followers.iter().all(current), || copies.to_string())
    })
    .await;
}
