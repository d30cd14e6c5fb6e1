//! Three nats-servers that form a cluster on this machine.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::fault_proxy::{Fault, FaultProxy};
use crate::raw_client::RawClient;
use crate::reserved_port::ReservedPort;
use crate::server::{Server, ServerSetup};
use crate::waiting::{PATIENCE, eventually, satisfied};
use crate::world::World;

/// How many servers a cluster has: the fewest of which one may be lost.
pub const SERVERS: usize = 3;

/// How long a stream's leader may take to answer, where there is one.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The lines between the servers of a cluster: whoever connects to whom, it goes through a proxy of its own.
#[derive(Debug)]
pub struct Routes {
    /// From the server that connects to the one that is connected to.
    lines: Vec<(usize, usize, FaultProxy)>,
}

impl Routes {
    fn between(ports: &[u16]) -> Self {
        let pairs = (0..ports.len()).flat_map(|from| (0..ports.len()).map(move |to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from != to);
        Self { lines: pairs.map(|(from, to)| (from, to, FaultProxy::start(ports[to]))).collect() }
    }

    /// Where a server finds the others, and itself: it counts how many they are by this.
    fn urls_of(&self, server: usize, own: u16) -> String {
        let others = self.lines.iter().filter(|(from, ..)| *from == server).map(|(.., proxy)| proxy.url());
        let all = others.chain([format!("nats://127.0.0.1:{own}")]);
        all.map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(", ")
    }

    /// Takes one server from the others: nothing passes between them any more, in either direction.
    pub fn isolate(&self, server: usize, fault: Fault) {
        for (from, to, proxy) in &self.lines {
            if *from == server || *to == server {
                proxy.set(fault);
            }
        }
    }

    /// What a server says reaches nobody; what the others say reaches it.
    pub fn mute(&self, server: usize) {
        for (from, to, proxy) in &self.lines {
            if *from == server {
                proxy.set(Fault::Deaf);
            } else if *to == server {
                proxy.set(Fault::HalfOpen);
            }
        }
    }

    /// What the others say does not reach a server; what it says reaches them.
    pub fn deafen(&self, server: usize) {
        for (from, to, proxy) in &self.lines {
            if *from == server {
                proxy.set(Fault::HalfOpen);
            } else if *to == server {
                proxy.set(Fault::Deaf);
            }
        }
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.lines.iter().for_each(|(.., proxy)| proxy.heal());
    }
}

/// Starts them, without streams. They are all there, and have perhaps not elected anybody yet.
pub(crate) async fn start_cluster(accounts: &str) -> (Vec<Server>, Routes) {
    let ports: Vec<ReservedPort> = (0..SERVERS).map(|_| ReservedPort::take()).collect();
    let routes = Routes::between(&ports.iter().map(ReservedPort::port).collect::<Vec<_>>());
    let mut servers = Vec::new();
    for (number, route) in ports.into_iter().enumerate() {
        let own = route.port();
        let all = routes.urls_of(number, own);
        // Nobody is told another way to a server than through its proxies: nothing listens on port 1.
        let accounts = format!(
            "{accounts}\nserver_name: server-{number}\n\
             cluster {{ name: tests, listen: \"127.0.0.1:{own}\", advertise: \"127.0.0.1:1\", routes: [{all}] }}\n"
        );
        let port = Some(ReservedPort::take());
        let setup = ServerSetup { accounts, port, route: Some(route), ..ServerSetup::default() };
        servers.push(Server::start(setup).await);
    }
    (servers, routes)
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
