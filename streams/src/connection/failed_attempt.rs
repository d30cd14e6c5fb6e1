//! Why an attempt to connect failed, as a person needs to know it.
//!
//! The client library files a failed TLS handshake under input/output errors, and while it retries in the background
//! it says no more than that. The first is told apart here by the type of the cause; for the second, one attempt of
//! our own is made in each outage, because only that gives the cause.

use std::error::Error;
use std::io;

use async_nats::rustls;
use async_nats::{ConnectError as AttemptError, ConnectErrorKind};
use shared::daemon::ErrorChain;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use super::{ConnectError, Connection, ConnectionState, ConnectionStatus};
use crate::connection_settings::ConnectionSettings;
use crate::server_fault::ServerFault;

/// The error of a failed attempt.
pub(super) fn connect_error(source: AttemptError, settings: &ConnectionSettings) -> ConnectError {
    let address = settings.address.to_string();
    match source.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            ConnectError::CredentialsRefused { address, user: settings.user.clone() }
        }
        // Signing failed on this side, before the server was asked: the file holds no usable seed.
        ConnectErrorKind::Authentication => match settings.credentials.as_ref().or(settings.nkey.as_ref()) {
            Some(path) => ConnectError::CredentialsFile { path: path.clone(), source: io::Error::other(source) },
            None => ConnectError::CredentialsRefused { address, user: settings.user.clone() },
        },
        ConnectErrorKind::Tls => ConnectError::Tls { address, source },
        ConnectErrorKind::Io if is_tls(&source) => ConnectError::Tls { address, source },
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => ConnectError::Unreachable { address, source },
    }
}

/// Whether some cause of the error is one of TLS, which may be wrapped in an input/output error.
fn is_tls(error: &AttemptError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        if let Some(wrapped) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && wrapped.is::<rustls::Error>()
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Finds out, once in each outage, why connecting fails, and says so. Ends with the connection.
pub(super) async fn explain_outages(
    settings: ConnectionSettings,
    mut faults: broadcast::Receiver<ServerFault>,
    status: watch::Sender<ConnectionStatus>,
) {
    let mut explained_at = None;
    loop {
        match faults.recv().await {
            Ok(ServerFault::ConnectFailed { .. }) => {}
            Ok(_) | Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        }
        let connects = status.borrow().connects;
        if explained_at == Some(connects) {
            continue;
        }
        explained_at = Some(connects);
        match Connection::open_once(&settings).await {
            Err(error) => {
                let reason = ErrorChain(&error).to_string();
                let fault = match error {
                    ConnectError::CredentialsRefused { .. } => ServerFault::CredentialsRefused { reason },
                    ConnectError::Unreachable { .. }
                    | ConnectError::Tls { .. }
                    | ConnectError::TlsFile { .. }
                    | ConnectError::CredentialsFile { .. } => ServerFault::ConnectFailed { reason },
                };
                tracing::warn!("nats: {fault}; trying again");
                status.send_modify(|status| {
                    if status.state != ConnectionState::Connected {
                        status.last_fault = Some(fault);
                    }
                });
            }
            // It is back, and the client will notice too.
            Ok(connection) => connection.drain().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_cannot_sign_is_the_files_fault_and_not_the_servers() {
        let mut settings = ConnectionSettings::new("nats://host".parse().unwrap(), "test");
        let failed = |settings: &ConnectionSettings, kind| connect_error(AttemptError::new(kind), settings);
        let refused = failed(&settings, ConnectErrorKind::AuthorizationViolation);
        assert!(matches!(refused, ConnectError::CredentialsRefused { .. }));

        settings.nkey = Some("seed.txt".into());
        let error = failed(&settings, ConnectErrorKind::Authentication);
        assert_eq!(error.to_string(), "credentials file `seed.txt` cannot be used");
        let refused = failed(&settings, ConnectErrorKind::AuthorizationViolation);
        assert!(matches!(refused, ConnectError::CredentialsRefused { .. }));
    }
}
