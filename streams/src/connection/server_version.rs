//! What the server says of itself.

use super::Connection;

impl Connection {
    /// Version of the server that this is connected to; empty before the first connect.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Gives this connection up and makes another one, to another server of the cluster where one can be reached.
    pub(crate) async fn change_server(&self) {
        tracing::debug!("two requests without an answer: another server of the cluster is tried");
        // An error means that the connection is closed, which the next request says.
        let _ = self.client.force_reconnect().await;
    }

    /// Whether the server is one of a cluster, which at times has no leader. As of the last connect.
    pub fn is_clustered(&self) -> bool {
        self.client.server_info().cluster.is_some_and(|cluster| !cluster.is_empty())
    }
}
