//! What the server says of itself.

use super::Connection;

impl Connection {
    /// Version of the server that this is connected to; empty before the first connect.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }
}
