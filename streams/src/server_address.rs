//! Where the server is: one address or several, separated by commas, with the login that a URL may carry.
//!
//! The client library ignores the login inside a URL, so it is taken out here and handed over as a login.

use std::fmt;
use std::str::FromStr;

use async_nats::ServerAddr;
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::secret::Secret;

/// One or more server addresses. Printed and serialised with every password masked.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerAddress {
    servers: Vec<ServerAddr>,
    login: Option<Login>,
}

/// A login that an address carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// `user:password@`.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// `token@`.
    Token(Secret),
}

/// Text that is no server address. The text itself is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("server address {position} of {count} is not of the form `nats://[user:password@]host[:port]`")]
pub struct ServerAddressError {
    /// Which address of the list, counted from 1.
    pub position: usize,
    /// How many the list holds.
    pub count: usize,
}

impl ServerAddress {
    /// The login of the first address that carries one.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    pub(crate) fn servers(&self) -> &[ServerAddr] {
        &self.servers
    }
}

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let mut servers = Vec::with_capacity(parts.len());
        let mut login = None;
        for (index, part) in parts.iter().enumerate() {
            let refused = ServerAddressError { position: index + 1, count: parts.len() };
            let server: ServerAddr = part.parse().map_err(|_| refused.clone())?;
            if server.host().is_empty() || server.is_websocket() {
                return Err(refused);
            }
            if login.is_none()
                && let Some(user) = server.username()
            {
                let user = percent_decoded(user);
                login = Some(match server.password() {
                    Some(password) => Login::Password { user, password: percent_decoded(password).into() },
                    None => Login::Token(user.into()),
                });
            }
            servers.push(server);
        }
        Ok(Self { servers, login })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.servers.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            let login = match (server.username(), server.password()) {
                (Some(user), Some(_)) => format!("{user}:***@"),
                (Some(_token), None) => "***@".to_owned(),
                (None, _) => String::new(),
            };
            // An IPv6 address keeps its brackets in a URL.
            let host = server.host();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            write!(formatter, "{separator}{}://{login}{host}:{}", server.scheme(), server.port())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Decodes `%41` and the like; anything that is no such escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match after {
            [high, low, after @ ..] if first == b'%' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(hex_value(*high) << 4 | hex_value(*low));
                rest = after;
            }
            _ => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_address_is_used_and_never_shown() {
        let address: ServerAddress = "nats://operator:p%40ss@127.0.0.1:4222, tls://other".parse().unwrap();
        let login = Login::Password { user: "operator".to_owned(), password: "p@ss".into() };
        assert_eq!(address.login(), Some(&login));
        assert_eq!(address.to_string(), "nats://operator:***@127.0.0.1:4222,tls://other:4222");
        assert_eq!(format!("{address:?}"), address.to_string());
        assert!(!serde_json::to_string(&address).unwrap().contains("ss@"));
    }

    #[test]
    fn an_address_without_a_scheme_or_port_is_completed() {
        let address: ServerAddress = "localhost".parse().unwrap();
        assert_eq!(address.to_string(), "nats://localhost:4222");
        assert!(address.login().is_none());
    }

    #[test]
    fn a_refusal_counts_the_addresses_and_repeats_none() {
        let error = "nats://a,nats://operator:secret@:x".parse::<ServerAddress>().unwrap_err();
        assert_eq!(error, ServerAddressError { position: 2, count: 2 });
        assert!(!error.to_string().contains("secret"));
        assert!("".parse::<ServerAddress>().is_err());
    }

    #[test]
    fn a_lone_user_is_a_token_and_masked_whole() {
        let address: ServerAddress = "nats://s3cret@host".parse().unwrap();
        assert_eq!(address.login(), Some(&Login::Token("s3cret".into())));
        assert_eq!(address.to_string(), "nats://***@host:4222");
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for (text, expected) in [("%", "%"), ("%4", "%4"), ("%zz%41%", "%zzA%"), ("%+1", "%+1"), ("a%4Fb", "aOb")] {
            assert_eq!(percent_decoded(text), expected);
        }
    }
}
