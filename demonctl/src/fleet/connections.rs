//! Through which connections the fleet is read.

use streams::connection::Connection;
use streams::connection_arguments::ConnectionArguments;

use crate::operator;

/// One for each large part of the answer: on a single connection the parts arrive, and are read, one after the other.
#[derive(Debug, Clone)]
pub(super) struct FleetConnections {
    /// For the events of the log.
    pub(super) log: Connection,
    /// For the names of its subjects.
    pub(super) names: Connection,
    /// For the node table.
    pub(super) table: Connection,
}

impl FleetConnections {
    /// One connection for everything: for who reads again and again and is in no hurry.
    pub(super) fn single(connection: &Connection) -> Self {
        Self { log: connection.clone(), names: connection.clone(), table: connection.clone() }
    }

    /// As many as there are parts. Where the server takes only the first one, that serves for all.
    pub(super) async fn open(arguments: &ConnectionArguments) -> anyhow::Result<Self> {
        let log = operator::connect(arguments).await?;
        let another = async || operator::connect(arguments).await.unwrap_or_else(|_| log.clone());
        let (names, table) = tokio::join!(another(), another());
        Ok(Self { log, names, table })
    }
}
