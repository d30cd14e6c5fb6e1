//! The types of events: one line each.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $token:literal),+ $(,)?) => {
        /// Type of an event. Its text form is `bundle.<token>`.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $($(#[$doc])* $variant,)+
            /// A type this version does not know; kept, counted, never dropped.
            Other(String),
        }

        impl EventType {
            /// Every type this version knows.
            pub const KNOWN: &[Self] = &[$(Self::$variant),+];

            /// The second token of the event's subject, for example `loaded`.
            pub fn token(&self) -> &str {
                match self {
                    $(Self::$variant => $token,)+
                    Self::Other(token) => token,
                }
            }

            /// The type with this token; `None` if it could not be a token of ours at all.
            pub fn from_token(token: &str) -> Option<Self> {
                match token {
                    $($token => Some(Self::$variant),)+
                    _ => {
                        let valid = (1..=64).contains(&token.len())
                            && token.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
                        valid.then(|| Self::Other(token.to_owned()))
                    }
                }
            }
        }
    };
}

event_types! {
    /// A release is stored whole and verified, and can be fetched.
    Published = "published",
    /// A channel points at a release: the desired state of every node that follows it.
    Promoted = "promoted",
    /// A release must never run again.
    Withdrawn = "withdrawn",
    /// A node begins to fetch a release.
    RefreshAttempt = "refresh_attempt",
    /// A node holds a release, fetched and verified, not yet active.
    Staged = "staged",
    /// A node switched to a release.
    Loaded = "loaded",
    /// A node refused a release whose bytes are not what was announced.
    VerificationFailed = "verification_failed",
    /// A node could not fetch a release.
    DownloadFailed = "download_failed",
    /// A node runs something else than what is desired: its last good release, or the schemas compiled into it.
    FallbackActivated = "fallback_activated",
    /// The release that a node runs is older than its limit.
    StaleDetected = "stale_detected",
    /// A node keeps to a pinned release although a newer one exists.
    UpdateDetected = "update_detected",
    /// A node's files no longer are those of the release it runs, or are again.
    TamperDetected = "tamper_detected",
    /// A node went back from a release that failed its health check.
    Reverted = "reverted",
    /// A log begins, or begins again after a restore from backup.
    EpochStarted = "epoch_started",
    /// What the log holds so far, signed.
    Checkpointed = "checkpointed",
}

impl fmt::Display for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("bundle.{}", self.token()))
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl EventType {
    /// Name of the JSON Schema of the type's data in `contracts/schemas/`, without `.json`.
    pub fn schema_name(&self) -> String {
        format!("events.{self}.v1")
    }

    /// Whether [`EventType::schema_name`] is this, without building it.
    pub(crate) fn has_schema(&self, schema: &str) -> bool {
        let token = schema.strip_prefix("events.bundle.").and_then(|rest| rest.strip_suffix(".v1"));
        token == Some(self.token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_type_has_its_own_token() {
        for event_type in EventType::KNOWN {
            assert_eq!(EventType::from_token(event_type.token()).as_ref(), Some(event_type));
            assert!(event_type.has_schema(&event_type.schema_name()), "{event_type}");
            assert!(!event_type.has_schema(&event_type.schema_name().replace(".v1", ".v2")), "{event_type}");
        }
        assert_eq!(EventType::from_token("approved"), Some(EventType::Other("approved".to_owned())));
        for bad in ["", "A", "a.b", "a b", "*", ">"] {
            assert_eq!(EventType::from_token(bad), None, "{bad}");
        }
    }
}
