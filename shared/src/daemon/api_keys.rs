//! Keys that a daemon's HTTP interface asks for: kept as digests, compared in constant time.

use subtle::ConstantTimeEq as _;
use thiserror::Error;

use crate::digest::Sha256Digest;

/// Shortest key that is accepted, in bytes: sixteen random letters and digits are out of reach of guessing.
pub const SHORTEST_KEY: usize = 16;
/// Longest key that is accepted, in bytes: longer ones are a mistake.
pub const LONGEST_KEY: usize = 512;
/// Keys that are valid at once: the old and the new one while they are changed.
pub const MOST_KEYS: usize = 2;

/// Keys that cannot be used. Never says what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ApiKeyError {
    /// A key is too short.
    #[error("a key has fewer than {SHORTEST_KEY} characters")]
    Short,
    /// A key is too long.
    #[error("a key has more than {LONGEST_KEY} characters")]
    Long,
    /// A key holds something that a header cannot carry.
    #[error("a key holds characters that no header can carry: use visible ASCII")]
    Unprintable,
    /// There are too many.
    #[error("more than {MOST_KEYS} keys: the old and the new one while you change them")]
    TooMany,
}

/// The keys that are valid now. `Debug` shows their number only, serialising them a mask.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeys(Vec<Sha256Digest>);

impl ApiKeys {
    /// Takes keys separated by commas, spaces or line ends; `None` where there are none.
    pub fn parse(text: &str) -> Result<Option<Self>, ApiKeyError> {
        let keys: Vec<&str> =
            text.split(|letter: char| letter == ',' || letter.is_whitespace()).filter(|key| !key.is_empty()).collect();
        if keys.len() > MOST_KEYS {
            return Err(ApiKeyError::TooMany);
        }
        for key in &keys {
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(ApiKeyError::Unprintable);
            }
            if key.len() < SHORTEST_KEY {
                return Err(ApiKeyError::Short);
            }
            if key.len() > LONGEST_KEY {
                return Err(ApiKeyError::Long);
            }
        }
        let digests: Vec<Sha256Digest> = keys.into_iter().map(|key| Sha256Digest::of(key.as_bytes())).collect();
        Ok((!digests.is_empty()).then_some(Self(digests)))
    }

    /// Whether a key is one of them. Takes as long for a wrong one as for a right one of the same length.
    pub fn accept(&self, given: &[u8]) -> bool {
        let given = Sha256Digest::of(given);
        let matches = self.0.iter().map(|key| key.as_bytes().ct_eq(given.as_bytes()));
        matches.fold(subtle::Choice::from(0), |any, one| any | one).into()
    }
}

impl serde::Serialize for ApiKeys {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ApiKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old-0123456789abcdef";
    const NEW: &str = "new-0123456789abcdef";

    #[test]
    fn two_keys_are_valid_while_they_are_changed() {
        let keys = ApiKeys::parse(&format!("{OLD}, {NEW}")).unwrap().unwrap();
        assert!(keys.accept(OLD.as_bytes()) && keys.accept(NEW.as_bytes()));
        assert!(!keys.accept(b"") && !keys.accept(&OLD.as_bytes()[1..]) && !keys.accept(b"old-0123456789abcdeF"));
        assert_eq!(format!("{keys:?}"), "ApiKeys(2)");
    }

    #[test]
    fn unusable_keys_are_refused_and_none_is_none() {
        assert_eq!(ApiKeys::parse(" ,\n"), Ok(None));
        assert_eq!(ApiKeys::parse("short"), Err(ApiKeyError::Short));
        assert_eq!(ApiKeys::parse("0123456789abcdé!"), Err(ApiKeyError::Unprintable));
        assert_eq!(ApiKeys::parse(&"x".repeat(LONGEST_KEY + 1)), Err(ApiKeyError::Long));
        assert_eq!(ApiKeys::parse(&[OLD, NEW, OLD].join(",")), Err(ApiKeyError::TooMany));
    }
}
