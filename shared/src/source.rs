//! Who writes events.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::identifiers::{ActorName, IdentifierError, NodeName};

/// Text that names no source.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SourceError {
    /// It is of no kind we know.
    #[error("source `{0}` does not begin with `/nodes/`, `/publishers/` or `/operators/`")]
    Kind(String),
    /// The name after the kind is none.
    #[error("source `{text}` holds no valid name")]
    Name {
        /// The text, shortened.
        text: String,
        /// Why.
        #[source]
        source: IdentifierError,
    },
}

/// Who wrote an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `/nodes/<name>`
    Node(NodeName),
    /// `/publishers/<name>`
    Publisher(ActorName),
    /// `/operators/<name>`
    Operator(ActorName),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Node(name) => format!("/nodes/{name}"),
            Self::Publisher(name) => format!("/publishers/{name}"),
            Self::Operator(name) => format!("/operators/{name}"),
        };
        formatter.pad(&text)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let name = |source| SourceError::Name { text: shortened(text), source };
        if let Some(rest) = text.strip_prefix("/nodes/") {
            rest.parse().map(Self::Node).map_err(name)
        } else if let Some(rest) = text.strip_prefix("/publishers/") {
            rest.parse().map(Self::Publisher).map_err(name)
        } else if let Some(rest) = text.strip_prefix("/operators/") {
            rest.parse().map(Self::Operator).map_err(name)
        } else {
            Err(SourceError::Kind(shortened(text)))
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["/nodes/edge-17", "/publishers/main", "/operators/ada"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for bad in ["", "edge-17", "/nodes/", "/nodes/a/b", "/robots/r2", "/operators/*", "nodes/a"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }
}
