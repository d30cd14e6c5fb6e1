//! Checked names: bundle, channel, node, tag, actor, incarnation, event id.
//!
//! Each is parsed once, at the border, and can then be used in a subject, an object name or a file name
//! without further checks: none of them can hold a separator of those.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::text_form;

/// Longest bundle, channel, node, actor name and tag, in bytes.
pub const MAX_NAME_LENGTH: usize = 64;

/// The bundle name that events about the log itself use; no bundle may have it.
pub const RESERVED_BUNDLE: &str = "log";

/// A name from outside that does not fit its rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{value}` is not a valid {kind}: {rule}")]
pub struct IdentifierError {
    /// What the value should have been, for example `node name`.
    pub kind: &'static str,
    /// The refused value, cut to 80 characters and with control characters escaped.
    pub value: String,
    /// The rule in words.
    pub rule: &'static str,
}

impl IdentifierError {
    fn new(kind: &'static str, value: &str, rule: &'static str) -> Self {
        Self { kind, value: value.chars().take(80).flat_map(char::escape_default).collect(), rule }
    }
}

const NAME_RULE: &str = "letters, digits, `_` and `-`, first a letter or digit, at most 64 characters";
const TAG_RULE: &str = "letters, digits, `_`, `-` and `.`, first a letter or digit, at most 64 characters";

fn fits(value: &str, dots: bool) -> bool {
    let mut bytes = value.bytes();
    value.len() <= MAX_NAME_LENGTH
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || (dots && byte == b'.'))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:ident, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(into = "String")]
        pub struct $type(String);

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text_form::deserialize(deserializer)
            }
        }

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = IdentifierError;

            fn from_str(value: &str) -> Result<Self, IdentifierError> {
                let accepts: fn(&str) -> bool = $accepts;
                if accepts(value) { Ok(Self(value.to_owned())) } else { Err(IdentifierError::new($kind, value, $rule)) }
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdentifierError;

            fn try_from(value: String) -> Result<Self, IdentifierError> {
                value.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({})", stringify!($type), self.0)
            }
        }
    };
}

const BUNDLE_RULE: &str =
    "letters, digits, `_` and `-`, first a letter or digit, at most 64 characters; `log` is reserved";

name_type!(
    /// Name of a bundle, for example `contracts`. Never `log`.
    BundleName, "bundle name", BUNDLE_RULE, |value| fits(value, false) && value != RESERVED_BUNDLE
);
name_type!(
    /// Name of a channel, for example `latest` or `production`.
    ChannelName, "channel name", NAME_RULE, |value| fits(value, false)
);
name_type!(
    /// Name of a node. Permissions, inbox and source of a node's events hang on it.
    NodeName, "node name", NAME_RULE, |value| fits(value, false)
);
name_type!(
    /// Name of a publisher or an operator, the last part of an event's source.
    ActorName, "actor name", NAME_RULE, |value| fits(value, false)
);
name_type!(
    /// Tag of a release, for example `contracts-20250921-0658fb8b`. May hold dots, but is never a path:
    /// it holds no separator and does not begin with a dot.
    Tag, "tag", TAG_RULE, |value| fits(value, true)
);

impl Tag {
    /// The tag as one subject token: `.` written `%2E`.
    pub fn to_subject_token(&self) -> String {
        self.0.replace('.', "%2E")
    }

    /// The inverse of [`Tag::to_subject_token`].
    pub fn from_subject_token(token: &str) -> Result<Self, IdentifierError> {
        token.replace("%2E", ".").parse()
    }
}

/// Random id of one continuous writer of events: a node's state directory, a publisher's, one run of an
/// operator's command. Written as 32 lowercase hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct Incarnation(Uuid);

impl Incarnation {
    /// Takes a random UUID made by the caller (this crate draws no randomness).
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

/// Id of an event: a `UUIDv7`, which is also its `Nats-Msg-Id`. Written in the hyphenated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct EventId(Uuid);

impl EventId {
    /// Takes a `UUIDv7` made by the caller.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

macro_rules! uuid_text {
    ($type:ident, $kind:literal, $rule:literal, $write:ident) => {
        impl FromStr for $type {
            type Err = IdentifierError;

            fn from_str(value: &str) -> Result<Self, IdentifierError> {
                let uuid = Uuid::try_parse(value).map_err(|_| IdentifierError::new($kind, value, $rule))?;
                // One text form each, so that equal ids are equal as text too.
                if *uuid.$write().encode_lower(&mut Uuid::encode_buffer()) == *value {
                    Ok(Self(uuid))
                } else {
                    Err(IdentifierError::new($kind, value, $rule))
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text_form::deserialize(deserializer)
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdentifierError;

            fn try_from(value: String) -> Result<Self, IdentifierError> {
                value.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0.$write().to_string())
            }
        }
    };
}

uuid_text!(Incarnation, "incarnation", "32 lowercase hex digits", simple);
uuid_text!(EventId, "event id", "a UUID in lowercase hyphenated form", hyphenated);

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_their_rule() {
        for good in ["a", "contracts", "edge-17", "A_b-9", &"x".repeat(64)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", ".a", "a.b", "a b", "a/b", "*", ">", "é", &"x".repeat(65)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_bundle_name_of_the_log_is_reserved() {
        assert!("log".parse::<BundleName>().is_err());
        assert!("logs".parse::<BundleName>().is_ok());
    }

    #[test]
    fn a_tag_may_hold_dots_but_not_begin_with_one() {
        let tag: Tag = "v1.2.3".parse().unwrap();
        assert_eq!(tag.to_subject_token(), "v1%2E2%2E3");
        assert_eq!(Tag::from_subject_token("v1%2E2%2E3").unwrap(), tag);
        assert!("..".parse::<Tag>().is_err());
        assert!(".a".parse::<Tag>().is_err());
    }

    #[test]
    fn an_error_names_kind_value_and_rule_without_control_characters() {
        let error = "a\nb".parse::<NodeName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`a\\nb` is not a valid node name: letters, digits, `_` and `-`, first a letter or digit, at most 64 characters"
        );
    }

    #[test]
    fn ids_have_one_text_form() {
        let text = "0193b1c2-7e1f-7a55-8c11-0242ac120002";
        assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
        assert!(text.to_uppercase().parse::<EventId>().is_err());
        assert!(text.parse::<Incarnation>().is_err());
    }

    proptest! {
        #[test]
        fn no_tag_escapes_its_directory(text in "\\PC{0,70}") {
            if let Ok(tag) = text.parse::<Tag>() {
                let mut components = Path::new(tag.as_str()).components();
                prop_assert!(matches!(components.next(), Some(Component::Normal(_))));
                prop_assert!(components.next().is_none());
            }
        }

        #[test]
        fn a_subject_token_is_one_token_and_reversible(tag in "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}") {
            let tag: Tag = tag.parse().unwrap();
            let token = tag.to_subject_token();
            prop_assert!(!token.contains(['.', '*', '>', ' ']));
            prop_assert_eq!(Tag::from_subject_token(&token).unwrap(), tag);
        }
    }
}
