//! What the server says of itself.

use super::Connection;

impl Connection {
    /// Version of the server that this is connected to; empty before the first connect.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Whether the server is one of a cluster, which at times has no leader. As of the last connect.
    pub fn is_clustered(&self) -> bool {
        self.client.server_info().cluster.is_some_and(|cluster| !cluster.is_empty())
    }
}
