//! The command line options and environment variables by which every binary reaches its server.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use thiserror::Error;

use crate::connection_settings::ConnectionSettings;
use crate::secret::Secret;
use crate::server_address::{ServerAddress, ServerAddressError};

/// How to reach NATS. A credentials file wins over an `NKey`, that over user and password, and those over a login
/// inside the URL.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS connection")]
pub struct ConnectionArguments {
    // Not parsed by clap, whose error would repeat a password inside the URL.
    /// Server or servers, separated by commas: `nats://[user:password@]host[:port]` or `tls://…`.
    #[arg(
        long,
        env = "NATS_URL",
        value_name = "URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true,
        value_parser = parse_secret,
        global = true
    )]
    pub nats_url: Secret,

    /// Credentials file (JWT and seed).
    #[arg(long = "creds", env = "NATS_CREDS_PATH", value_name = "FILE", global = true)]
    pub credentials: Option<PathBuf>,

    /// File with an `NKey` seed.
    #[arg(long = "nkey", env = "NATS_NKEY_PATH", value_name = "FILE", global = true)]
    pub nkey: Option<PathBuf>,

    /// User name.
    #[arg(long, env = "NATS_USER", value_name = "NAME", global = true)]
    pub nats_user: Option<String>,

    /// Password of that user; better given by its variable than on the command line, which others can see.
    #[arg(
        long,
        env = "NATS_PASSWORD",
        value_name = "TEXT",
        hide_env_values = true,
        value_parser = parse_secret,
        global = true
    )]
    pub nats_password: Option<Secret>,

    /// PEM file with the authorities to trust, instead of the system's; implies TLS.
    #[arg(long, env = "NATS_TLS_CA", value_name = "FILE", global = true)]
    pub tls_ca: Option<PathBuf>,

    /// PEM file with this client's certificate; needs `--tls-key`; implies TLS.
    #[arg(long, env = "NATS_TLS_CERT", value_name = "FILE", global = true)]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the key of that certificate.
    #[arg(long, env = "NATS_TLS_KEY", value_name = "FILE", global = true)]
    pub tls_key: Option<PathBuf>,

    /// Speak TLS before the server says anything (its `handshake_first`).
    #[arg(long, env = "NATS_TLS_FIRST", value_parser = clap::builder::BoolishValueParser::new(), global = true)]
    pub tls_first: bool,

    /// What subjects of replies begin with; by default `_INBOX_<node>` for an agent, `_INBOX` otherwise.
    #[arg(long, env = "NATS_INBOX_PREFIX", value_name = "SUBJECT", global = true)]
    pub inbox_prefix: Option<String>,

    /// How long one request may take: a number with `ms`, `s` or `m`.
    #[arg(
        long,
        env = "NATS_TIMEOUT",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_duration,
        global = true
    )]
    pub nats_timeout: Duration,
}

/// Options that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectionArgumentsError {
    /// The URL is none.
    #[error("`--nats-url` (`NATS_URL`) is not usable")]
    Address(#[source] ServerAddressError),
    /// A certificate without its key, or the reverse.
    #[error("`--tls-cert` and `--tls-key` are given together or not at all")]
    HalfACertificate,
    /// The prefix is no subject.
    #[error("inbox prefix `{0}` must be subject tokens without wildcards or spaces")]
    InboxPrefix(String),
}

impl ConnectionArguments {
    /// The settings these options amount to.
    pub fn settings(
        &self,
        connection_name: &str,
        default_inbox_prefix: &str,
    ) -> Result<ConnectionSettings, ConnectionArgumentsError> {
        let address: ServerAddress = self.nats_url.expose().parse().map_err(ConnectionArgumentsError::Address)?;
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(ConnectionArgumentsError::HalfACertificate);
        }
        let inbox_prefix = self.inbox_prefix.clone().unwrap_or_else(|| default_inbox_prefix.to_owned());
        let token = |token: &str| !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || "*>".contains(c));
        if !inbox_prefix.split('.').all(token) {
            return Err(ConnectionArgumentsError::InboxPrefix(inbox_prefix));
        }
        Ok(ConnectionSettings {
            address,
            credentials: self.credentials.clone(),
            nkey: self.nkey.clone(),
            user: self.nats_user.clone(),
            password: self.nats_password.clone(),
            tls_ca: self.tls_ca.clone(),
            tls_certificate: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            tls_first: self.tls_first,
            inbox_prefix,
            request_timeout: self.nats_timeout,
            connection_name: connection_name.to_owned(),
        })
    }
}

// clap asks for a `Result`.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn parse_secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// A duration as options write it: `500ms`, `5s`, `2m`. Zero is refused: nothing could ever be answered in time.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refused = || DurationError(text.chars().take(40).collect());
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    milliseconds.filter(|&value| value > 0).map(Duration::from_millis).ok_or_else(refused)
}

/// Text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no duration: a whole number above 0 with `ms`, `s`, `m` or `h`")]
pub struct DurationError(String);

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        connection: ConnectionArguments,
    }

    fn settings(arguments: &[&str]) -> Result<ConnectionSettings, ConnectionArgumentsError> {
        let program = Program::try_parse_from([&["program"], arguments].concat()).unwrap();
        program.connection.settings("program", "_INBOX_n1")
    }

    #[test]
    fn the_options_are_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn options_become_settings() {
        let settings = settings(&["--nats-url", "nats://a:b@host", "--nats-timeout", "250ms"]).unwrap();
        assert_eq!(settings.inbox_prefix, "_INBOX_n1");
        assert_eq!(settings.request_timeout, Duration::from_millis(250));
        assert_eq!(settings.address.to_string(), "nats://a:***@host:4222");
    }

    #[test]
    fn an_unusable_url_is_refused_without_being_repeated() {
        let error = settings(&["--nats-url", "http://a:geheim@host"]).unwrap_err();
        assert!(matches!(error, ConnectionArgumentsError::Address(_)));
        assert!(!format!("{error:?}").contains("geheim"));
    }

    #[test]
    fn half_a_certificate_and_a_wildcard_prefix_are_refused() {
        assert_eq!(settings(&["--tls-cert", "c"]).unwrap_err(), ConnectionArgumentsError::HalfACertificate);
        let error = settings(&["--inbox-prefix", "_INBOX.>"]).unwrap_err();
        assert_eq!(error, ConnectionArgumentsError::InboxPrefix("_INBOX.>".to_owned()));
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for bad in ["", "5", "s", "0s", "-1s", "1.5s", "5 s", "99999999999999999999s", "18446744073709551615m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
