//! What a server or the connection complains about outside any call.
//!
//! A denied publish is not an error on the call: the protocol answers it with a line of its own, which names
//! the subject in plain text and carries no code. That text is taken apart here and nowhere else.

use std::fmt;

use async_nats::{ClientError, ConnectErrorKind, Event, ServerError};

/// What a denied client wanted to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedOperation {
    /// Publish, or send a request.
    Publish,
    /// Subscribe.
    Subscribe,
}

/// A complaint that belongs to no call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFault {
    /// The credentials in use do not allow this.
    PermissionDenied {
        /// What was tried.
        operation: DeniedOperation,
        /// On which subject.
        subject: String,
    },
    /// The server refuses the credentials themselves, or they have expired; the client keeps trying.
    CredentialsRefused {
        /// What the server said.
        reason: String,
    },
    /// An attempt to connect failed; the client keeps trying.
    ConnectFailed {
        /// What went wrong.
        reason: String,
    },
    /// Messages were dropped because this process read them too slowly.
    SlowReader,
    /// Anything else.
    Other {
        /// What was said.
        reason: String,
    },
}

impl ServerFault {
    /// Takes a client event; `None` where it is no complaint.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::ServerError(ServerError::AuthorizationViolation) => {
                Some(Self::CredentialsRefused { reason: "authorization violation".to_owned() })
            }
            Event::ServerError(ServerError::Other(text)) => Some(Self::parse(text)),
            Event::ServerError(ServerError::SlowConsumer(_)) | Event::SlowConsumer(_) => Some(Self::SlowReader),
            Event::ClientError(ClientError::Other(text)) => Some(Self::of_connect_error(text)),
            Event::ClientError(error @ (ClientError::MaxReconnects | ClientError::ServerNotInPool)) => {
                Some(Self::ConnectFailed { reason: error.to_string() })
            }
            Event::Connected | Event::Disconnected | Event::LameDuckMode | Event::Draining | Event::Closed => None,
        }
    }

    /// The client library reports failed attempts as the text of an error kind: compared with that kind's own text.
    fn of_connect_error(text: &str) -> Self {
        let refused = [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication];
        if refused.iter().any(|kind| kind.to_string() == text) {
            Self::CredentialsRefused { reason: text.to_owned() }
        } else {
            Self::ConnectFailed { reason: text.to_owned() }
        }
    }

    /// Whether this says of a failed attempt all that another one says, and more: the client library repeats only the kind
    /// of the failure at each further attempt.
    pub(crate) fn explains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ConnectFailed { reason }, Self::ConnectFailed { reason: other }) => reason.contains(other.as_str()),
            _ => false,
        }
    }

    fn parse(text: &str) -> Self {
        let text = text.trim().trim_matches('\'');
        if let Some(rest) = text.strip_prefix("Permissions Violation for ") {
            let operation =
                if rest.starts_with("Subscription") { DeniedOperation::Subscribe } else { DeniedOperation::Publish };
            // The subject is the text between the first two quotation marks.
            if let Some(subject) = rest.split('"').nth(1) {
                return Self::PermissionDenied { operation, subject: subject.to_owned() };
            }
        }
        if text.ends_with("Authentication Expired") || text.starts_with("Authorization ") {
            return Self::CredentialsRefused { reason: text.to_owned() };
        }
        Self::Other { reason: text.to_owned() }
    }

    /// Whether this says that publishing to `subject` (a subject without wildcards) is denied.
    pub fn denies_publish(&self, subject: &str) -> bool {
        matches!(self, Self::PermissionDenied { operation: DeniedOperation::Publish, subject: denied } if denied == subject)
    }
}

impl fmt::Display for ServerFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PermissionDenied { operation: DeniedOperation::Publish, subject } => {
                write!(formatter, "Permissions Violation for Publish to `{subject}`")
            }
            Self::PermissionDenied { operation: DeniedOperation::Subscribe, subject } => {
                write!(formatter, "Permissions Violation for Subscription to `{subject}`")
            }
            Self::CredentialsRefused { reason } => write!(formatter, "the server refuses the credentials: {reason}"),
            Self::ConnectFailed { reason } => write!(formatter, "connecting failed: {reason}"),
            Self::SlowReader => formatter.write_str("messages were dropped because they were read too slowly"),
            Self::Other { reason } => formatter.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_attempt_does_not_hide_what_explained_the_first() {
        let failed = |reason: &str| ServerFault::ConnectFailed { reason: reason.to_owned() };
        let explained = failed("server `nats://a` cannot be reached: IO error: Connection refused");
        assert!(explained.explains(&failed("IO error")));
        assert!(!failed("IO error").explains(&explained));
        assert!(!explained.explains(&failed("timed out")));
        assert!(!explained.explains(&ServerFault::CredentialsRefused { reason: "IO error".to_owned() }));
    }

    #[test]
    fn a_permissions_violation_names_operation_and_subject() {
        let fault = ServerFault::parse("Permissions Violation for Publish to \"bundle.promoted.c.channel.latest\"");
        assert!(fault.denies_publish("bundle.promoted.c.channel.latest"));
        assert!(!fault.denies_publish("bundle.promoted.c.channel.other"));

        let fault = ServerFault::parse("'Permissions Violation for Subscription to \"live.>\" using queue \"q\"'");
        assert_eq!(
            fault,
            ServerFault::PermissionDenied { operation: DeniedOperation::Subscribe, subject: "live.>".to_owned() }
        );
    }

    #[test]
    fn refused_credentials_are_told_apart_from_an_unreachable_server() {
        let event = |kind: ConnectErrorKind| Event::ClientError(ClientError::Other(kind.to_string()));
        assert!(matches!(
            ServerFault::of(&event(ConnectErrorKind::AuthorizationViolation)),
            Some(ServerFault::CredentialsRefused { .. })
        ));
        assert!(matches!(ServerFault::of(&event(ConnectErrorKind::Io)), Some(ServerFault::ConnectFailed { .. })));
        assert!(matches!(ServerFault::parse("User Authentication Expired"), ServerFault::CredentialsRefused { .. }));
        assert_eq!(ServerFault::of(&Event::Connected), None);
    }

    #[test]
    fn unknown_text_is_kept() {
        assert_eq!(
            ServerFault::parse("Permissions Violation for something new"),
            ServerFault::Other { reason: "Permissions Violation for something new".to_owned() }
        );
    }
}
