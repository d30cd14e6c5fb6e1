//! One connection to a server: opening it, what it complains about, and requests that always end.
//!
//! Reconnecting is the client library's work, with our delay: jittered, so that a fleet does not return at once.
//! Every request is bounded in time, and one that the server denies ends at once with a typed error, although the
//! protocol reports a denial outside the request.

mod failed_attempt;
mod request;
mod server_version;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use rand::RngExt as _;
use thiserror::Error;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;

use self::failed_attempt::explain_outages;
pub(crate) use self::request::Answers;
pub use self::request::RequestError;
use crate::connection_settings::ConnectionSettings;
use crate::server_address::Login;
use crate::server_fault::{DeniedOperation, ServerFault};

/// A peer that vanished without a word is noticed after two or three of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// One attempt to connect, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait in one subscription; more are dropped by the client library and reported as a fault.
/// The largest batch we ask for stays below it, so only live wake-ups can be lost, which cost nothing but time.
const SUBSCRIPTION_CAPACITY: usize = 4096;
/// Complaints kept for a listener that is slow.
const FAULT_CAPACITY: usize = 256;
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(30);
/// The first attempts of a fleet that lost its server at once are spread over this span.
const FIRST_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// A connection that could not be opened.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The server refuses the credentials.
    #[error("server `{address}` refuses the credentials{}", as_user(.user.as_deref()))]
    CredentialsRefused {
        /// The server, passwords masked.
        address: String,
        /// The user name, where there is one.
        user: Option<String>,
    },
    /// Nothing answers there.
    #[error("server `{address}` cannot be reached")]
    Unreachable {
        /// The server, passwords masked.
        address: String,
        /// What went wrong.
        #[source]
        source: async_nats::ConnectError,
    },
    /// TLS could not be set up.
    #[error("no TLS connection to server `{address}`")]
    Tls {
        /// The server, passwords masked.
        address: String,
        /// What went wrong.
        #[source]
        source: async_nats::ConnectError,
    },
    /// A file of certificates or keys cannot be read.
    #[error("TLS file `{}` cannot be read", path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A credentials or seed file cannot be used.
    #[error("credentials file `{}` cannot be used", path.display())]
    CredentialsFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

fn as_user(user: Option<&str>) -> String {
    user.map(|user| format!(" of user `{user}`")).unwrap_or_default()
}

/// Whether the server can be spoken to at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Not yet, for the first time.
    Connecting,
    /// Yes.
    Connected,
    /// Not any more; the client keeps trying.
    Disconnected,
    /// Closed by us, for good.
    Closed,
}

/// State of a connection and how often it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// The state.
    pub state: ConnectionState,
    /// How often a connection was made; grows by one with each reconnect.
    pub connects: u64,
    /// The last complaint since the last connect.
    pub last_fault: Option<ServerFault>,
}

/// A connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Client,
    request_timeout: Duration,
    faults: broadcast::Sender<ServerFault>,
    status: watch::Receiver<ConnectionStatus>,
}

impl Connection {
    /// Connects once. Fails at once where nothing answers or the credentials are refused; later losses of the
    /// connection are repaired in the background.
    pub async fn open(settings: &ConnectionSettings) -> Result<Self, ConnectError> {
        let connection = Self::open_once(settings).await?;
        connection.wait_until_connected(CONNECT_TIMEOUT).await;
        Ok(connection)
    }

    async fn open_once(settings: &ConnectionSettings) -> Result<Self, ConnectError> {
        Ok(Self::start(settings, ConnectOptions::new()).await?.0)
    }

    /// Returns at once and keeps trying in the background for as long as it lives, whatever is wrong; complaints
    /// (refused credentials included) are logged and reach [`Connection::server_faults`].
    /// Only unusable local files are an error.
    pub async fn open_and_retry(settings: &ConnectionSettings) -> Result<Self, ConnectError> {
        let (connection, status) = Self::start(settings, ConnectOptions::new().retry_on_initial_connect()).await?;
        tokio::spawn(explain_outages(settings.clone(), connection.server_faults(), status));
        Ok(connection)
    }

    async fn start(
        settings: &ConnectionSettings,
        options: ConnectOptions,
    ) -> Result<(Self, watch::Sender<ConnectionStatus>), ConnectError> {
        let (faults, _) = broadcast::channel(FAULT_CAPACITY);
        let (status_sender, status) =
            watch::channel(ConnectionStatus { state: ConnectionState::Connecting, connects: 0, last_fault: None });
        let (fault_sender, noted) = (faults.clone(), status_sender.clone());
        let attempted = AtomicBool::new(false);
        readable(settings).await?;

        let mut options = with_login(options, settings)
            .await?
            .name(&settings.connection_name)
            .custom_inbox_prefix(&settings.inbox_prefix)
            .request_timeout(Some(settings.request_timeout))
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .max_reconnects(None)
            .reconnect_delay_callback(move |attempt| {
                // Only the very first attempt of a process is not spread out: nobody else was thrown out with it.
                if attempted.swap(true, Ordering::Relaxed) {
                    reconnect_delay(attempt, rand::rng().random())
                } else {
                    Duration::ZERO
                }
            })
            .event_callback(move |event| {
                let (faults, status) = (fault_sender.clone(), noted.clone());
                async move { note(&event, &faults, &status) }
            });
        if let Some(path) = &settings.tls_ca {
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        if let (Some(certificate), Some(key)) = (&settings.tls_certificate, &settings.tls_key) {
            options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        if settings.tls_first {
            options = options.tls_first().require_tls(true);
        }

        let client = options
            .connect(settings.address.servers())
            .await
            .map_err(|source| failed_attempt::connect_error(source, settings))?;
        Ok((Self { client, request_timeout: settings.request_timeout, faults, status }, status_sender))
    }

    /// Complaints from now on: denied subjects, refused credentials, failed attempts to connect.
    pub fn server_faults(&self) -> broadcast::Receiver<ServerFault> {
        self.faults.subscribe()
    }

    /// The state at this moment.
    pub fn status(&self) -> ConnectionStatus {
        self.status.borrow().clone()
    }

    /// The state and each change of it.
    pub fn watch_status(&self) -> watch::Receiver<ConnectionStatus> {
        self.status.clone()
    }

    /// Yields once for each connection made from now on: what was missed meanwhile has to be read again.
    pub fn connected_again(&self) -> ConnectedAgain {
        let status = self.status.clone();
        let seen = status.borrow().connects;
        ConnectedAgain { status, seen }
    }

    /// Waits until the server can be spoken to; says whether it can.
    pub async fn wait_until_connected(&self, limit: Duration) -> bool {
        let mut status = self.status.clone();
        let connected = status.wait_for(|status| status.state == ConnectionState::Connected);
        matches!(timeout(limit, connected).await, Ok(Ok(_)))
    }

    /// How long one request may take.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Most bytes of one message, headers included, by the server's word.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Sends what is queued, ends all subscriptions and closes the connection; waits for that, but not for ever.
    pub async fn drain(&self) {
        if self.client.drain().await.is_err() {
            return;
        }
        let mut status = self.status.clone();
        let closed = status.wait_for(|status| status.state == ConnectionState::Closed);
        if timeout(self.request_timeout, closed).await.is_err() {
            tracing::warn!("the connection did not close in time");
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

/// Notices each new connection made after a lost one. See [`Connection::connected_again`].
#[derive(Debug)]
pub struct ConnectedAgain {
    status: watch::Receiver<ConnectionStatus>,
    seen: u64,
}

impl ConnectedAgain {
    /// Waits for the next connection; `None` once the connection is closed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<()> {
        let seen = self.seen;
        let changed = |status: &ConnectionStatus| status.connects > seen || status.state == ConnectionState::Closed;
        let status = self.status.wait_for(changed).await.ok()?;
        if status.state == ConnectionState::Closed {
            return None;
        }
        self.seen = status.connects;
        Some(())
    }
}

/// The client library does not name the file that it cannot read.
async fn readable(settings: &ConnectionSettings) -> Result<(), ConnectError> {
    for path in [&settings.tls_ca, &settings.tls_certificate, &settings.tls_key].into_iter().flatten() {
        tokio::fs::read(path).await.map_err(|source| ConnectError::TlsFile { path: path.clone(), source })?;
    }
    Ok(())
}

async fn with_login(options: ConnectOptions, settings: &ConnectionSettings) -> Result<ConnectOptions, ConnectError> {
    let unusable = |path: &PathBuf| {
        let path = path.clone();
        move |source| ConnectError::CredentialsFile { path, source }
    };
    if let Some(path) = &settings.credentials {
        return options.credentials_file(path).await.map_err(unusable(path));
    }
    if let Some(path) = &settings.nkey {
        let seed = tokio::fs::read_to_string(path).await.map_err(unusable(path))?;
        return Ok(options.nkey(seed.trim().to_owned()));
    }
    if let (Some(user), password) = (&settings.user, &settings.password) {
        let password = password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default();
        return Ok(options.user_and_password(user.clone(), password));
    }
    Ok(match settings.address.login() {
        Some(Login::Password { user, password }) => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
        Some(Login::Token(token)) => options.token(token.expose().to_owned()),
        None => options,
    })
}

fn note(event: &Event, faults: &broadcast::Sender<ServerFault>, status: &watch::Sender<ConnectionStatus>) {
    if let Some(fault) = ServerFault::of(event) {
        // One for each dropped message: said once, or a flood of messages becomes a flood of lines.
        if fault == ServerFault::SlowReader && status.borrow().last_fault.as_ref() == Some(&fault) {
            return;
        }
        match &fault {
            // Whoever sent it gets it as a typed error.
            ServerFault::PermissionDenied { operation: DeniedOperation::Publish, .. } => {
                tracing::debug!("nats: {fault}");
            }
            ServerFault::PermissionDenied { operation: DeniedOperation::Subscribe, .. }
            | ServerFault::CredentialsRefused { .. } => tracing::error!("nats: {fault}"),
            ServerFault::ConnectFailed { .. } | ServerFault::SlowReader | ServerFault::Other { .. } => {
                tracing::warn!("nats: {fault}");
            }
        }
        status.send_modify(|status| {
            if !status.last_fault.as_ref().is_some_and(|known| known.explains(&fault)) {
                status.last_fault = Some(fault.clone());
            }
        });
        // No listener is no mistake.
        let _ = faults.send(fault);
    }
    let state = match event {
        Event::Connected => ConnectionState::Connected,
        Event::Disconnected => ConnectionState::Disconnected,
        Event::Closed => ConnectionState::Closed,
        Event::LameDuckMode
        | Event::Draining
        | Event::SlowConsumer(_)
        | Event::ServerError(_)
        | Event::ClientError(_) => return,
    };
    tracing::debug!(?state, "nats connection");
    status.send_modify(|status| {
        status.state = state;
        if state == ConnectionState::Connected {
            status.connects += 1;
            status.last_fault = None;
        }
    });
}

/// Doubles with each attempt up to a limit; `fraction` (0 to 1) spreads a fleet over the whole span.
fn reconnect_delay(attempt: usize, fraction: f64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let longest = FIRST_RECONNECT_DELAY.saturating_mul(1 << doublings).min(LONGEST_RECONNECT_DELAY);
    longest.mul_f64(fraction.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_is_told_once_and_again_after_a_reconnect() {
        let (faults, mut heard) = broadcast::channel(8);
        let (status, _) =
            watch::channel(ConnectionStatus { state: ConnectionState::Connecting, connects: 0, last_fault: None });
        let mut told = || std::iter::from_fn(|| heard.try_recv().ok()).count();
        for _ in 0..3 {
            note(&Event::SlowConsumer(1), &faults, &status);
        }
        assert_eq!(told(), 1);
        note(&Event::Connected, &faults, &status);
        note(&Event::SlowConsumer(1), &faults, &status);
        assert_eq!(told(), 1);
    }

    #[test]
    fn the_reconnect_delay_grows_to_a_limit_and_is_spread() {
        assert_eq!(reconnect_delay(1, 1.0), FIRST_RECONNECT_DELAY);
        assert_eq!(reconnect_delay(3, 1.0), FIRST_RECONNECT_DELAY * 4);
        assert_eq!(reconnect_delay(usize::MAX, 1.0), LONGEST_RECONNECT_DELAY);
        assert_eq!(reconnect_delay(usize::MAX, 0.5), LONGEST_RECONNECT_DELAY / 2);
        assert_eq!(reconnect_delay(0, 0.0), Duration::ZERO);
    }

    /// How many of a fleet arrive within the busiest 100 ms, where all lose the server at once and it is back after a while.
    fn busiest_moment(fleet: u32, back_after: Duration) -> u32 {
        let mut arrivals: std::collections::BTreeMap<u128, u32> = std::collections::BTreeMap::new();
        for agent in 0..fleet {
            let (mut now, mut attempt) = (Duration::ZERO, 0_u32);
            while attempt == 0 || now < back_after {
                attempt += 1;
                // Evenly spread, and in another order for each attempt.
                let turn = agent.wrapping_mul(2 * attempt + 7919) % fleet;
                now += reconnect_delay(attempt as usize, (f64::from(turn) + 0.5) / f64::from(fleet));
            }
            *arrivals.entry(now.as_millis() / 100).or_default() += 1;
        }
        arrivals.into_values().max().unwrap_or(0)
    }

    #[test]
    fn a_fleet_does_not_return_all_at_once() {
        for (seconds, share) in [(0, 8), (1, 8), (10, 20), (60, 40), (600, 100)] {
            let busiest = busiest_moment(10_000, Duration::from_secs(seconds));
            assert!(busiest <= 10_000 / share, "back after {seconds} s: {busiest} in 100 ms");
        }
    }

    #[tokio::test]
    async fn each_reconnect_is_noticed_once() {
        let (faults, _) = broadcast::channel(4);
        let (sender, status) =
            watch::channel(ConnectionStatus { state: ConnectionState::Connecting, connects: 0, last_fault: None });
        note(&Event::Connected, &faults, &sender);
        let mut again = ConnectedAgain { seen: 1, status: status.clone() };
        note(&Event::Disconnected, &faults, &sender);
        assert_eq!(status.borrow().state, ConnectionState::Disconnected);
        note(&Event::Connected, &faults, &sender);
        assert_eq!(again.next().await, Some(()));
        note(&Event::Closed, &faults, &sender);
        assert_eq!(again.next().await, None);
    }
}
