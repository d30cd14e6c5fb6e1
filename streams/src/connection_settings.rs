//! Everything needed to reach a server, as plain data: no environment, no files are read here.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::secret::Secret;
use crate::server_address::ServerAddress;

/// How long any one request may take unless said otherwise: long enough for a cluster that elects a leader,
/// short enough that a denied request, which is never answered, is noticed.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to connect and as whom. Serialising it masks every secret, so that it can be shown to an operator.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionSettings {
    /// The server or servers.
    pub address: ServerAddress,
    /// A credentials file (JWT and seed). Read when connecting; a rotated file is seen at the next start.
    pub credentials: Option<PathBuf>,
    /// A file with an `NKey` seed.
    pub nkey: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// Password of [`ConnectionSettings::user`].
    pub password: Option<Secret>,
    /// A PEM file with the authorities to trust instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// A PEM file with the client's certificate.
    pub tls_certificate: Option<PathBuf>,
    /// A PEM file with the key of [`ConnectionSettings::tls_certificate`].
    pub tls_key: Option<PathBuf>,
    /// Speak TLS before the server says anything (`handshake_first`).
    pub tls_first: bool,
    /// What the subjects of replies begin with. A node's permissions hang on it.
    pub inbox_prefix: String,
    /// How long one request may take.
    #[serde(serialize_with = "as_seconds_text")]
    pub request_timeout: Duration,
    /// What the server's monitoring calls this connection.
    pub connection_name: String,
}

impl ConnectionSettings {
    /// Settings without a login of their own (an address may carry one), without TLS and with the default inbox.
    pub fn new(address: ServerAddress, connection_name: impl Into<String>) -> Self {
        Self {
            address,
            credentials: None,
            nkey: None,
            user: None,
            password: None,
            tls_ca: None,
            tls_certificate: None,
            tls_key: None,
            tls_first: false,
            inbox_prefix: "_INBOX".to_owned(),
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            connection_name: connection_name.into(),
        }
    }

    /// The same with a user and a password.
    #[must_use]
    pub fn with_login(mut self, user: impl Into<String>, password: Secret) -> Self {
        self.user = Some(user.into());
        self.password = Some(password);
        self
    }

    /// The same with another inbox prefix.
    #[must_use]
    pub fn with_inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = prefix.into();
        self
    }
}

fn as_seconds_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}s", duration.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_settings_hold_no_secret() {
        let settings = ConnectionSettings::new("nats://a:geheim@host".parse().unwrap(), "test")
            .with_login("operator", "hunter2".into());
        let shown = serde_json::to_string(&settings).unwrap() + &format!("{settings:?}");
        assert!(!shown.contains("geheim") && !shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("\"request_timeout\":\"5s\""), "{shown}");
    }
}
